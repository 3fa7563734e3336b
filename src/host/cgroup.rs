//! Memory limits of the control groups that the process is in.
//!
//! A limit holds for a group and all below it, so every ancestor counts. What the kernel can take
//! back at once, pages of files that were not used lately, is not held against the process: a group
//! that reads files is always full of them.
//!
//! Sources: `Documentation/admin-guide/cgroup-v2.rst` (`memory.max`, `memory.current`,
//! `memory.stat`), `cgroup-v1/memory.rst`, and `proc_pid_mountinfo(5)` for the escapes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Ceiling;

/// From here on a limit of version 1 is none: it says so by the largest number of pages.
const UNLIMITED: u64 = 1 << 60;

/// What the two versions call things.
struct Version {
    /// The file system, in `mountinfo`.
    filesystem: &'static str,
    /// Controllers in `cgroup`, and an option of the mount.
    controller: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with what can be taken back.
    idle: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        filesystem: "cgroup2",
        controller: "",
        limit: "memory.max",
        used: "memory.current",
        idle: "inactive_file",
    },
    Version {
        filesystem: "cgroup",
        controller: "memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        idle: "total_inactive_file",
    },
];

/// The limits of all groups that can be seen, the innermost first. What cannot be read is none.
pub(super) fn ceilings(root: &Path) -> Vec<Ceiling> {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut all = Vec::new();
    for version in &VERSIONS {
        let group = groups.lines().find_map(|line| version.group_of(line));
        let mount = mounts.lines().find_map(|line| version.mount_of(line));
        if let (Some(group), Some((top, place))) = (group, mount) {
            version.collect(root, &place, below(&top, group), &mut all);
        }
    }
    all
}

impl Version {
    /// The path in a line such as `0::/a/b` or `4:cpu,memory:/a/b`.
    fn group_of<'a>(&self, line: &'a str) -> Option<&'a str> {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = controllers.split(',').any(|one| one == self.controller);
        is_it.then_some(path)
    }

    /// What is mounted where, if a line of `mountinfo` is of this version.
    fn mount_of(&self, line: &str) -> Option<(String, String)> {
        let (about, system) = line.split_once(" - ")?;
        let mut about = about.split(' ').skip(3);
        let (top, place) = (about.next()?, about.next()?);
        let mut system = system.split(' ');
        let filesystem = system.next()?;
        let options = system.nth(1).unwrap_or_default();
        let has_it = self.controller.is_empty()
            || options.split(',').any(|option| option == self.controller);
        (filesystem == self.filesystem && has_it).then(|| (unescape(top), unescape(place)))
    }

    /// Walks from a group to the top of what is mounted.
    fn collect(&self, root: &Path, place: &str, group: &str, all: &mut Vec<Ceiling>) {
        let top = PathBuf::from(place);
        let mut folder = top.join(group.trim_start_matches('/'));
        loop {
            all.extend(self.ceiling(root, &folder));
            if folder == top || !folder.pop() || !folder.starts_with(&top) {
                return;
            }
        }
    }

    fn ceiling(&self, root: &Path, folder: &Path) -> Option<Ceiling> {
        let origin = folder.join(self.limit);
        let read = |file: &Path| {
            let file = file.strip_prefix("/").unwrap_or(file);
            fs::read_to_string(root.join(file)).ok()
        };
        let number = |file: &Path| read(file)?.trim().parse::<u64>().ok();
        let limit = number(&origin).filter(|limit| *limit < UNLIMITED)?;
        let used = number(&folder.join(self.used)).unwrap_or(0);
        let stat = read(&folder.join("memory.stat")).unwrap_or_default();
        let mut pairs = stat.lines().filter_map(|line| line.split_once(' '));
        let idle = pairs.find(|(name, _)| *name == self.idle);
        let idle = idle.and_then(|(_, bytes)| bytes.trim().parse().ok());
        Some(Ceiling {
            origin: origin.display().to_string(),
            limit,
            used: used.saturating_sub(idle.unwrap_or(0)),
        })
    }
}

/// The part of a group's path below the one that is mounted. A process outside of what is mounted,
/// as in a container without a name space of its own for groups, sees the top alone.
fn below<'a>(top: &str, group: &'a str) -> &'a str {
    let rest = group.strip_prefix(top.trim_end_matches('/'));
    let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    rest.filter(|rest| !rest.split('/').any(|part| part == ".."))
        .unwrap_or("")
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

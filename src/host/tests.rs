//! Limits of hosts that are folders.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

const MIB: u64 = 1 << 20;

/// A host without limits, in a folder of its own.
struct Folder(Host);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nebnet-host-{}-{count}", std::process::id());
        let host = Host {
            root: env::temp_dir().join(name),
            address_space: None,
            data: None,
            arenas: u64::MAX,
        };
        let folder = Self(host);
        folder.with(
            "proc/self/status",
            "VmSize:\t  10240 kB\nVmData:\t  4096 kB\n",
        )
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.0.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// In the group `/a b/c` of a tree that is mounted at `/sys/fs/cgroup`.
    fn grouped() -> Self {
        let mount = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        Self::new()
            .with("proc/self/cgroup", "0::/a b/c\n")
            .with("proc/self/mountinfo", mount)
    }

    /// Sets the limit and the use of a group.
    fn group(self, path: &str, limit: &str, used: u64) -> Self {
        let folder = format!("sys/fs/cgroup{path}");
        self.with(&format!("{folder}/memory.max"), &format!("{limit}\n"))
            .with(&format!("{folder}/memory.current"), &format!("{used}\n"))
    }

    fn fit(&self, config: Config) -> (Config, Result<Option<Lowered>, MemoryError>) {
        let mut config = config;
        let result = self.0.fit(&mut config);
        (config, result)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.root);
    }
}

fn ceiling(origin: &str, limit: u64, used: u64) -> Ceiling {
    let origin = origin.to_owned();
    Ceiling {
        origin,
        limit,
        used,
    }
}

#[test]
fn without_limits_the_settings_stay() {
    for folder in [
        Folder::new(),
        Folder::grouped().group("/a b/c", "max", 5 * MIB),
    ] {
        let (config, result) = folder.fit(Config::default());
        assert_eq!(result, Ok(None));
        assert_eq!(config, Config::default());
    }
    let mut folder = Folder::new();
    folder.0.address_space = Some(4096 * MIB);
    assert_eq!(folder.fit(Config::default()).1, Ok(None));
}

#[test]
fn the_budget_is_half_of_what_the_address_space_leaves() {
    let mut folder = Folder::new();
    folder.0.address_space = Some(400 * MIB);
    // Two stacks, and a reserve for the dispatcher.
    let used = (10 + 2 * 2 + 64) * MIB;
    let (config, result) = folder.fit(Config::default().outbox_bytes(32 << 20));
    let to = usize::try_from((400 * MIB - used) / 2).unwrap();
    let lowered = Lowered {
        from: 256 << 20,
        to,
        ceiling: ceiling("RLIMIT_AS", 400 * MIB, used),
    };
    assert_eq!(result, Ok(Some(lowered)));
    assert_eq!(config.memory_budget, to);
    assert_eq!(config.dispatch_bytes, to / 4);
    assert_eq!(config.outbox_bytes, 32 << 20);
    assert_eq!(config.problems(), []);
    // No reserve if the allocator makes no more arenas, or there is no dispatcher.
    folder.0.arenas = 1;
    let (config, _) = folder.fit(Config::default());
    assert_eq!(config.memory_budget, (400 - 14) << 19);
    folder.0.arenas = u64::MAX;
    let (config, _) = folder.fit(Config::default().dispatch(Dispatch::Inline));
    assert_eq!(config.memory_budget, (400 - 12) << 19);
    // With several loops, all but one reserve are as good as lost.
    folder.0.address_space = Some(800 * MIB);
    let inline = Config::default().dispatch(Dispatch::Inline).shards(8);
    let (config, _) = folder.fit(inline);
    assert_eq!(config.memory_budget, (800 - 10 - 8 * 2 - 7 * 64) << 19);
    folder.0.address_space = Some(400 * MIB);
    // Reserves are no data.
    folder.0.data = Some(300 * MIB);
    let (config, result) = folder.fit(Config::default());
    assert_eq!(config.memory_budget, (300 - 4 - 4) << 19);
    assert_eq!(result.unwrap().unwrap().ceiling.origin, "RLIMIT_DATA");
}

#[test]
fn the_tightest_ancestor_counts() {
    let folder = Folder::grouped()
        .group("/a b/c", "max", 2 * MIB)
        .group("/a b", "209715200", 150 * MIB)
        .group("", "1073741824", 900 * MIB);
    let (config, result) = folder.fit(Config::default());
    let found = ceiling("/sys/fs/cgroup/a b/memory.max", 200 * MIB, 150 * MIB);
    assert_eq!(result.unwrap().unwrap().ceiling, found);
    assert_eq!(config.memory_budget, 25 << 20);
    // What can be taken back at once is not in use.
    let stat = "anon 5\nfile 104857600\ninactive_file 104857600\n";
    let folder = folder.with("sys/fs/cgroup/a b/memory.stat", stat);
    let (config, result) = folder.fit(Config::default());
    let found = ceiling("/sys/fs/cgroup/memory.max", 1024 * MIB, 900 * MIB);
    assert_eq!(result.unwrap().unwrap().ceiling, found);
    assert_eq!(config.memory_budget, 62 << 20);
}

#[test]
fn groups_are_found_where_they_are_mounted() {
    let found = |groups: &str, mounts: &str, folder: &str| {
        let host = Folder::new()
            .with("proc/self/cgroup", groups)
            .with("proc/self/mountinfo", mounts)
            .with(&format!("{folder}/memory.max"), "104857600\n")
            .with(&format!("{folder}/memory.limit_in_bytes"), "209715200\n");
        let ceilings = cgroup::ceilings(&host.0.root);
        let named = |one: Ceiling| (one.origin, one.limit / MIB);
        ceilings.into_iter().map(named).collect::<Vec<_>>()
    };
    let line = |top: &str, place: &str| format!("1 2 0:3 {top} {place} rw - cgroup2 none rw\n");
    let one = |origin: &str, limit| vec![(origin.to_owned(), limit)];
    // A name space of its own; a part of the tree; a part that the process is outside of.
    assert_eq!(
        found("0::/\n", &line("/", "/cg"), "cg"),
        one("/cg/memory.max", 100)
    );
    assert_eq!(
        found("0::/a/b/c\n", &line("/a/b", "/cg"), "cg/c"),
        one("/cg/c/memory.max", 100)
    );
    assert_eq!(
        found("0::/ab\n", &line("/a", "/cg"), "cg"),
        one("/cg/memory.max", 100)
    );
    assert_eq!(
        found("0::/../d\n", &line("/", "/cg"), "cg"),
        one("/cg/memory.max", 100)
    );
    // A folder with a space in its name.
    assert_eq!(
        found("0::/\n", &line("/", "/c\\040g"), "c g"),
        one("/c g/memory.max", 100)
    );
    // Version 1, alone or with an empty tree of version 2 beside it.
    let mounts = "1 2 0:3 / /u rw - cgroup2 none rw\n\
        2 2 0:4 / /cpu rw - cgroup none rw,cpu\n\
        3 2 0:5 / /m rw - cgroup none rw,memory\n";
    let groups = "5:cpu:/x\n4:memory:/x/y\n0::/\n";
    assert_eq!(
        found(groups, mounts, "m/x"),
        one("/m/x/memory.limit_in_bytes", 200)
    );
    for nothing in ["", "0::/\n", "garbage\n:::\n"] {
        assert_eq!(found(nothing, "", "cg"), []);
        assert_eq!(found(nothing, "- \n1 2 3 - cgroup2\n", "cg"), []);
    }
}

#[test]
fn numbers_that_mean_no_limit_are_none() {
    for text in [
        "max",
        "9223372036854771712",
        "",
        "-1",
        "99999999999999999999999",
    ] {
        let folder = Folder::grouped().group("/a b/c", text, MIB);
        assert_eq!(folder.fit(Config::default()).1, Ok(None), "{text}");
    }
}

#[test]
fn what_cannot_fit_is_refused_with_its_reason() {
    let text = |folder: &Folder, config| folder.fit(config).1.unwrap_err().to_string();
    let folder = Folder::grouped().group("", "104857600", 10 * MIB);
    // Asked for outright, and more than there is.
    assert_eq!(
        text(&folder, Config::default().memory_budget(200 << 20)),
        "memory_budget is 209715200 bytes, above the whole limit of 104857600 bytes in \
         /sys/fs/cgroup/memory.max"
    );
    // Above what is left, and not above the limit.
    let (config, result) = folder.fit(Config::default().memory_budget(100 << 20));
    assert!(result.unwrap().is_some());
    assert_eq!(config.memory_budget, 45 << 20);
    assert_eq!(
        text(&folder, Config::default().outbox_bytes(50 << 20)),
        "outbox_bytes is 52428800 bytes, above the memory budget of 47185920 bytes, which is half \
         of what /sys/fs/cgroup/memory.max leaves: 104857600 bytes, 10485760 of them in use"
    );
    let folder = folder.group("/a b", "41943040", 10 * MIB);
    assert_eq!(
        text(&folder, Config::default()),
        "the memory budget would be 15728640 bytes, below 16777216: it is half of what \
         /sys/fs/cgroup/a b/memory.max leaves: 41943040 bytes, 10485760 of them in use"
    );
    // A budget that is as small by choice is no news.
    let small = Config::default()
        .memory_budget(12 << 20)
        .dispatch_bytes(1 << 20);
    assert_eq!(folder.fit(small).1, Ok(None));
    // More in use than allowed.
    let folder = folder.group("/a b", "41943040", 50 * MIB);
    assert!(text(&folder, Config::default()).contains("would be 0 bytes"));
}

#[test]
fn this_host_can_be_read() {
    let host = Host::this();
    assert_eq!(host.root, Path::new("/"));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    assert!(status_bytes(&status, "VmSize:").unwrap() > MIB);
    assert!(status_bytes(&status, "VmData:").unwrap() > 0);
    assert_eq!(status_bytes(&status, "None:"), None);
    // Whatever it is, it is found without a panic.
    let _ = host.ceilings(&Config::default());
}

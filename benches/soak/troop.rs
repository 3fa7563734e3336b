//! The children: started, stopped and continued, and looked after.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    histogram::Histogram,
    kinds::{CANARY, FAR, KINDS, Kind, VARIABLE},
    util::Random,
};

/// All children, in the order of their kinds.
pub(crate) struct Troop {
    addrs: (SocketAddr, SocketAddr),
    seed: u64,
    members: Vec<Member>,
    latencies: Arc<Mutex<Histogram>>,
    /// What children said that ended by themselves, which none is to do.
    lost: Vec<String>,
}

struct Member {
    kind: &'static Kind,
    child: Child,
    /// Stopped until then.
    stopped: Option<Instant>,
}

impl Troop {
    pub(crate) fn start(addr: SocketAddr, far: SocketAddr, seed: u64) -> Self {
        let mut troop = Self {
            addrs: (addr, far),
            seed,
            members: Vec::new(),
            latencies: Arc::default(),
            lost: Vec::new(),
        };
        for kind in KINDS {
            let child = troop.spawn(kind);
            troop.members.push(Member {
                kind,
                child,
                stopped: None,
            });
        }
        troop
    }

    fn spawn(&mut self, kind: &'static Kind) -> Child {
        self.seed += 1;
        let (addr, far) = self.addrs;
        let spec = format!("{};{addr};{far};{}", kind.name, self.seed);
        let mut child = Command::new(env::current_exe().unwrap())
            .env(VARIABLE, spec)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if kind.name == CANARY {
            let lines = child.stdout.take().unwrap();
            let latencies = Arc::clone(&self.latencies);
            thread::spawn(move || listen(lines, &latencies));
        }
        child
    }

    /// Stops a random child for a random time, if its kind may be.
    pub(crate) fn stop_one(&mut self, random: &mut Random) {
        let index = random.below(self.members.len());
        let member = &mut self.members[index];
        let max = Duration::from_millis(member.kind.stop_max_ms as u64);
        if member.stopped.is_none() && !max.is_zero() {
            signal(&member.child, Signal::STOP);
            member.stopped = Some(Instant::now() + random.time(max));
        }
    }

    /// Continues those that were stopped for long enough, and replaces those that ended.
    pub(crate) fn look(&mut self) {
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if member.stopped.is_some_and(|until| until <= Instant::now()) {
                signal(&member.child, Signal::CONT);
                member.stopped = None;
            }
            let Some(status) = member.child.try_wait().unwrap() else {
                continue;
            };
            let mut text = String::new();
            let mut errors = member.child.stderr.take().unwrap();
            let _ = errors.read_to_string(&mut text);
            let kind = member.kind;
            self.lost.push(format!("{}: {status}: {text}", kind.name));
            self.members[index].child = self.spawn(kind);
        }
    }

    /// Kills the linked service, and starts it again in the same place.
    pub(crate) fn restart_far(&mut self) {
        let found = self.members.iter().position(|one| one.kind.name == FAR);
        let index = found.unwrap();
        let kind = self.members[index].kind;
        end(&mut self.members[index].child);
        let child = self.spawn(kind);
        let member = &mut self.members[index];
        (member.child, member.stopped) = (child, None);
    }

    /// The canary's round trips since the last time.
    pub(crate) fn take_latencies(&self) -> Histogram {
        std::mem::take(&mut self.latencies.lock().unwrap())
    }

    /// Ends them all; gives what those said that had ended before.
    pub(crate) fn end(mut self) -> Vec<String> {
        self.look();
        std::mem::take(&mut self.lost)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn listen(lines: ChildStdout, latencies: &Mutex<Histogram>) {
    for line in BufReader::new(lines).lines() {
        let Ok(micros) = line.unwrap_or_default().parse() else {
            return;
        };
        latencies.lock().unwrap().add(Duration::from_micros(micros));
    }
}

fn signal(child: &Child, signal: Signal) {
    // It may have ended just now.
    let _ = kill_process(Pid::from_child(child), signal);
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

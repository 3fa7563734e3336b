//! One run: draws its people and their wishes, disturbs them, heals, looks who is connected, stops.

use std::{cell::RefCell, collections::HashSet, rc::Rc, time::Duration};

use super::{
    super::random::Random,
    machine::Machine,
    net::{Fabric, Rates},
    plan::{Times, Who, Wish, draw_node_id, draw_people, draw_wishes},
};
use crate::{clock::Tick, id::PeerId};

/// What happened in a run, so that it is seen that it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) time: Tick,
    pub(super) steps: u64,
    pub(super) conns: usize,
    pub(super) attempts: usize,
    pub(super) dialled: u64,
    pub(super) messages: u64,
    pub(super) pairs: u64,
    /// Connections of which the ledgers of both ends were compared.
    pub(super) sums: u64,
    pub(super) cuts_noticed: u64,
    pub(super) pauses_survived: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.time += other.time;
        self.steps += other.steps;
        self.conns += other.conns;
        self.attempts += other.attempts;
        self.dialled += other.dialled;
        self.messages += other.messages;
        self.pairs += other.pairs;
        self.sums += other.sums;
        self.cuts_noticed += other.cuts_noticed;
        self.pauses_survived += other.pauses_survived;
    }
}

/// The place where a process runs, or ran.
struct Connection {
    who: Who,
    machine: Option<Machine>,
    restart_at: Tick,
    paused_until: Tick,
    /// When it last died, or stood still.
    disturbed_at: Tick,
}

/// A pair that is cut off, and who has to notice by when.
struct Cut {
    pair: (usize, usize),
    since: Tick,
    until: Tick,
    watched: Vec<(usize, u64, PeerId)>,
    noticed: bool,
}

pub(super) struct Run {
    fabric: Rc<RefCell<Fabric>>,
    connections: Vec<Connection>,
    people: Vec<Who>,
    wishes: Vec<Wish>,
    times: Times,
    cuts: Vec<Cut>,
    /// Connections that a fault may have ended.
    excused: HashSet<usize>,
    next_fault: Tick,
    fault_ms: usize,
    faults: [usize; 6],
    steps: u64,
    tally: Tally,
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let times = Times::draw(&mut random);
        let people = draw_people(&mut random);
        let wishes = draw_wishes(&mut random, &people);
        let faults = [(); 6].map(|()| random.pick(&[0, 1, 5]));
        let fault_ms = random.pick(&[300, 2_000, 10_000]);
        let mut fabric = Fabric::new(random);
        draw_rates(&mut fabric);
        let fabric = Rc::new(RefCell::new(fabric));
        let connections: Vec<Connection> = people
            .iter()
            .enumerate()
            .map(|(host, who)| Connection {
                who: who.clone(),
                machine: Some(Machine::boot(&fabric, host, who, times, &wishes)),
                restart_at: 0,
                paused_until: 0,
                disturbed_at: 0,
            })
            .collect();
        fabric
            .borrow()
            .say(|| format!("{times:?} {people:#?} {wishes:#?}"));
        Self {
            fabric,
            connections,
            people,
            wishes,
            times,
            cuts: Vec::new(),
            excused: HashSet::new(),
            next_fault: 0,
            fault_ms,
            faults,
            steps: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn run(mut self) -> Tally {
        let length = self.draw(|random| random.pick(&[1_000, 5_000, 15_000]));
        self.run_until(length, true, false);
        self.heal();
        let healed = self.now();
        self.check_attempts(0, healed);
        let times = self.times;
        let settle = times.heartbeat_timeout
            + times.heartbeat
            + 2 * times.reconnect_max
            + times.connect
            + 3_000;
        self.run_until(healed + settle, false, false);
        self.check_attempts(healed, self.now());
        self.check_pairs();
        self.check_closed();
        self.stop();
        self.tally.time = self.now();
        self.tally.steps = self.steps;
        let fabric = self.fabric.borrow();
        self.tally.conns = fabric.conns.len();
        self.tally.attempts = fabric.attempts.len();
        self.tally.clone()
    }

    fn draw<T>(&self, from: impl FnOnce(&mut Random) -> T) -> T {
        from(&mut self.fabric.borrow_mut().random)
    }

    fn now(&self) -> Tick {
        self.fabric.borrow().now
    }

    // ----- time ------------------------------------------------------------------------------

    /// Runs until a time; with `all`, applications write to everybody.
    fn run_until(&mut self, until: Tick, faults: bool, all: bool) {
        while self.now() < until {
            self.step(until, faults, all);
        }
    }

    /// Lets everybody do what is due, or time go on.
    fn step(&mut self, until: Tick, faults: bool, all: bool) {
        self.steps += 1;
        assert!(self.steps < 5_000_000, "no end of steps");
        let now = self.now();
        let mut moved = self.fabric.borrow_mut().pass();
        let first = self.draw(|random| random.below(self.connections.len()));
        for offset in 0..self.connections.len() {
            let place = (first + offset) % self.connections.len();
            let connection = &mut self.connections[place];
            if let Some(machine) = connection
                .machine
                .as_mut()
                .filter(|_| connection.paused_until <= now)
            {
                moved |= machine.step(&self.wishes, &self.people);
                if machine.next_act <= now && !machine.has_ended() {
                    machine.act(all);
                    moved = true;
                }
            } else if connection.machine.is_none() && connection.restart_at <= now {
                self.restart(place);
                moved = true;
            }
        }
        if faults && self.next_fault <= now {
            self.disturb();
            moved = true;
        }
        self.mend(now);
        if !moved {
            let next = self.next_tick(faults).max(now + 1).min(until.max(now + 1));
            self.fabric.borrow_mut().now = next;
        }
    }

    fn next_tick(&self, faults: bool) -> Tick {
        let mut next = self.fabric.borrow().next_due();
        for connection in &self.connections {
            next = next.min(match &connection.machine {
                None => connection.restart_at,
                Some(machine) if machine.has_ended() => Tick::MAX,
                Some(machine) => {
                    let own = machine.sleeps_until().min(machine.next_act);
                    own.max(connection.paused_until)
                }
            });
        }
        for cut in &self.cuts {
            next = next.min(cut.until);
            if !cut.noticed {
                next = next.min(self.notice_by(cut));
            }
        }
        if faults {
            next = next.min(self.next_fault);
        }
        next
    }

    // ----- faults ----------------------------------------------------------------------------

    fn disturb(&mut self) {
        let (now, pause) = (self.now(), self.draw(|random| random.below(self.fault_ms)));
        self.next_fault = now + 1 + pause as u64;
        let total: usize = self.faults.iter().sum();
        let mut drawn = self.draw(|random| random.below(total));
        let kind = self.faults.iter().position(|weight| {
            let hit = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            hit
        });
        let place = self.draw(|random| random.below(self.connections.len()));
        match kind {
            Some(0) => self.cut_off(place),
            Some(1) => self.kill(place),
            Some(2) => self.pause(place),
            Some(3) => self.fabric.borrow_mut().reset_one(),
            Some(4) => {
                if let Some(machine) = &self.connections[place].machine {
                    machine.close_one();
                }
            }
            Some(5) if self.draw(|random| random.chance(100)) => self.give_up(),
            _ => {}
        }
    }

    fn cut_off(&mut self, one: usize) {
        let other = self.draw(|random| random.below(self.connections.len()));
        let pair = (one.min(other), one.max(other));
        if one == other || self.cuts.iter().any(|cut| cut.pair == pair) {
            return;
        }
        let since = self.now();
        let timeout = self.times.heartbeat_timeout;
        let length = self.draw(|random| random.pick(&[50, 1_000, 2 * timeout, 3 * timeout]));
        self.fabric.borrow_mut().cut(one, other);
        let mut cut = Cut {
            pair,
            since,
            until: since + length,
            watched: Vec::new(),
            noticed: false,
        };
        for (host, far) in [(one, other), (other, one)] {
            let Some(machine) = &mut self.connections[host].machine else {
                continue;
            };
            for (index, _) in machine.introduced() {
                let fabric = self.fabric.borrow();
                let ends = &fabric.conns[index].ends;
                let Some(end) = (0..2).find(|side| ends[*side].host == host) else {
                    continue;
                };
                if ends[1 - end].host == far {
                    self.excused.insert(index);
                    cut.watched
                        .extend(ends[end].peer.map(|peer| (host, machine.epoch, peer)));
                }
            }
        }
        self.excuse(|one, other| (one.min(other), one.max(other)) == pair);
        self.cuts.push(cut);
    }

    /// No connection between these hosts has to live.
    fn excuse(&mut self, between: impl Fn(usize, usize) -> bool) {
        let fabric = self.fabric.borrow();
        for (index, conn) in fabric.conns.iter().enumerate() {
            if between(conn.ends[0].host, conn.ends[1].host) {
                self.excused.insert(index);
            }
        }
    }

    /// When a cut has to be noticed, at the latest.
    fn notice_by(&self, cut: &Cut) -> Tick {
        // What the system takes of a message before the PING passes for a sign of life until its
        // buffers are full.
        cut.since + self.times.heartbeat_timeout + self.times.heartbeat + 150
    }

    /// Ends cuts that have lasted, and looks whether they were noticed.
    fn mend(&mut self, now: Tick) {
        for place in 0..self.cuts.len() {
            if !self.cuts[place].noticed && now >= self.notice_by(&self.cuts[place]) {
                self.cuts[place].noticed = true;
                self.check_noticed(place);
            }
        }
        for cut in self.cuts.iter().filter(|cut| cut.until <= now) {
            self.fabric.borrow_mut().join(cut.pair.0, cut.pair.1);
        }
        self.cuts.retain(|cut| cut.until > now);
    }

    fn check_noticed(&mut self, place: usize) {
        let cut = &self.cuts[place];
        let slack = self.times.heartbeat_timeout;
        // Whoever is told of room that is hardly there fills the system's buffers late.
        if self.fabric.borrow().rates.spurious > 0 {
            return;
        }
        for (host, epoch, peer) in &cut.watched {
            let connection = &mut self.connections[*host];
            let disturbed = connection.disturbed_at + slack > cut.since;
            let Some(machine) = connection.machine.as_mut().filter(|_| !disturbed) else {
                continue;
            };
            if machine.epoch == *epoch {
                let since = cut.since;
                assert!(
                    !machine.is_open(*peer),
                    "host {host} has not noticed since {since} that {peer} is cut off: {:?}",
                    machine.inside(*peer)
                );
                self.tally.cuts_noticed += 1;
            }
        }
    }

    fn kill(&mut self, place: usize) {
        let now = self.now();
        let wait = self.draw(|random| random.pick(&[0, 30, 1_000, 6_000]));
        if self.connections[place].machine.is_none() {
            return;
        }
        self.excuse(|one, other| one == place || other == place);
        let connection = &mut self.connections[place];
        if let Some(mut machine) = connection.machine.take() {
            machine.check_closed(&|index| self.excused.contains(&index), false);
        }
        self.fabric.borrow_mut().kill(place);
        let connection = &mut self.connections[place];
        connection.restart_at = now + wait;
        connection.disturbed_at = now + wait;
        if self.fabric.borrow_mut().random.chance(300) && !connection.who.node_id.is_anonymous() {
            connection.who.node_id = draw_node_id(&mut self.fabric.borrow_mut().random);
            self.people[place] = connection.who.clone();
        }
    }

    fn restart(&mut self, place: usize) {
        let who = &self.connections[place].who;
        let machine = Machine::boot(&self.fabric, place, who, self.times, &self.wishes);
        self.connections[place].machine = Some(machine);
    }

    fn pause(&mut self, place: usize) {
        let now = self.now();
        let latency = self.fabric.borrow().latency_max as u64;
        let times = self.times;
        // Who answers the last PING late is dead, whatever kept it from answering.
        let spare = times.heartbeat_timeout - times.heartbeat;
        let longest = spare.saturating_sub(4 * latency + 50).min(2_000);
        if longest == 0 || self.connections[place].paused_until + 4 * latency + 200 > now {
            return;
        }
        let length = self.draw(|random| random.next() % longest + 1);
        let connection = &mut self.connections[place];
        connection.paused_until = now + length;
        connection.disturbed_at = now + length;
        if connection.machine.is_some() {
            self.tally.pauses_survived += 1;
        }
        self.fabric
            .borrow()
            .say(|| format!("host {place} stands still for {length} ms"));
    }

    /// Somebody does not want to be connected any more.
    fn give_up(&mut self) {
        if self.wishes.is_empty() {
            return;
        }
        let place = self.draw(|random| random.below(self.wishes.len()));
        let wish = &mut self.wishes[place];
        wish.active = false;
        if let Some(machine) = &mut self.connections[wish.from].machine {
            machine.disconnect(place);
        }
        self.fabric
            .borrow()
            .say(|| format!("wish {place} is given up"));
    }

    fn heal(&mut self) {
        let now = self.now();
        self.fabric.borrow().say(|| "heal".to_owned());
        for cut in std::mem::take(&mut self.cuts) {
            self.fabric.borrow_mut().join(cut.pair.0, cut.pair.1);
        }
        let fabric = &mut *self.fabric.borrow_mut();
        fabric.rates = Rates::default();
        fabric.widen();
        for connection in &mut self.connections {
            connection.paused_until = connection.paused_until.min(now);
            connection.restart_at = connection.restart_at.min(now);
        }
    }

    // ----- what has to hold ------------------------------------------------------------------

    /// Nobody dials more often than its pauses allow.
    fn check_attempts(&self, from: Tick, to: Tick) {
        let times = self.times;
        let ramp = u64::from((times.reconnect_max / times.reconnect_min).ilog2()) + 2;
        let deaths = u64::from(
            self.fabric
                .borrow()
                .hosts
                .iter()
                .map(|one| one.epoch)
                .sum::<u32>(),
        );
        for (index, wish) in self.wishes.iter().enumerate() {
            let fabric = self.fabric.borrow();
            let tries = fabric.attempts.iter();
            let count = tries
                .filter(|one| one.wish == index && (from..to).contains(&one.at))
                .count() as u64;
            let fresh = 1 + deaths + (to - from) / 10_000;
            let most = fresh * ramp + 4 * (to - from) / times.reconnect_max + 10;
            assert!(
                count <= most * (1 + u64::from(wish.detour)),
                "wish {index} was tried {count} times in {} ms, and not {most}",
                to - from
            );
        }
    }

    fn check_closed(&mut self) {
        for connection in &mut self.connections {
            if let Some(machine) = &mut connection.machine {
                machine.check_closed(&|index| self.excused.contains(&index), true);
            }
        }
        self.tally.sums += self.fabric.borrow().check_sums();
    }

    /// Everybody who wants to be connected and may be is connected, once, both ways.
    fn check_pairs(&mut self) {
        let mut expected = Vec::new();
        for one in 0..self.connections.len() {
            for other in one + 1..self.connections.len() {
                expected.extend(self.check_pair(one, other));
            }
        }
        for (index, wish) in self.wishes.clone().iter().enumerate() {
            expected.extend(self.check_plain(index, *wish));
        }
        let counts = |run: &Self| -> Vec<(u64, u64)> {
            let fabric = run.fabric.borrow();
            let ends = expected.iter().map(|index| &fabric.conns[*index].ends);
            ends.map(|[one, other]| (one.received, other.received))
                .collect()
        };
        let before = counts(self);
        self.run_until(self.now() + 3_000, false, true);
        for ((before, after), index) in before.iter().zip(counts(self)).zip(&expected) {
            assert!(
                before.0 < after.0 && before.1 < after.1,
                "conn {index} brings nothing: {before:?} and {after:?} messages: {}",
                self.describe(*index)
            );
        }
    }

    /// All that is known of a connection.
    fn describe(&mut self, index: usize) -> String {
        let hosts = [0, 1].map(|side| self.fabric.borrow().conns[index].ends[side].host);
        let inside = hosts.map(|host| {
            let machine = self.connections[host].machine.as_mut();
            machine.map(|machine| machine.describe(index))
        });
        format!("{inside:#?} {:?}", self.fabric.borrow().conns[index])
    }

    fn check_pair(&mut self, one: usize, other: usize) -> Option<usize> {
        let ids = [one, other].map(|host| self.people[host].node_id);
        if ids.iter().any(|id| id.is_anonymous()) {
            return None;
        }
        let wishes = self.wishes.iter().filter(|wish| {
            wish.active
                && wish.hello
                && [(one, other), (other, one)].contains(&(wish.from, wish.to))
        });
        let (mut possible, mut kept, mut vain) = (0, 0, 0);
        for wish in wishes {
            let may = self.people[wish.from].may_dial(&self.people[wish.to]);
            possible += u32::from(may);
            kept += u32::from(may && wish.keep);
            vain += u32::from(!may);
        }
        // A vain attempt may displace the connection that there is.
        if possible > 0 && vain > 0 {
            return None;
        }
        let [mut here, mut there] = [(one, ids[1]), (other, ids[0])].map(|(host, id)| {
            let machine = self.connections[host].machine.as_mut().unwrap();
            let found = machine
                .introduced()
                .into_iter()
                .filter(|found| found.1 == id);
            found.map(|found| found.0).collect::<Vec<_>>()
        });
        here.sort_unstable();
        there.sort_unstable();
        if possible == 0 {
            // One side may have taken in the other, which is about to refuse it.
            assert!(!here.iter().any(|conn| there.contains(conn)));
            return None;
        }
        assert_eq!(here, there, "hosts {one} and {other} disagree");
        if kept > 0 && here.len() != 1 {
            let links = [one, other].map(|host| {
                let machine = self.connections[host].machine.as_mut().unwrap();
                machine.describe_links()
            });
            panic!("hosts {one} and {other} have {here:?} and not one: {links:#?}");
        }
        assert!(here.len() <= 1);
        self.tally.pairs += 1;
        here.first().copied()
    }

    /// A link without HELLO has a connection of its own.
    fn check_plain(&mut self, index: usize, wish: Wish) -> Option<usize> {
        let takes = self
            .people
            .get(wish.to)
            .is_some_and(|who| !who.requires_hello());
        if wish.hello || !wish.active || !wish.keep || !takes || wish.from == wish.to {
            return None;
        }
        let [here, there] = [wish.from, wish.to].map(|host| {
            let open = self.connections[host].machine.as_mut().unwrap().open();
            let fabric = self.fabric.borrow();
            let own = open
                .into_iter()
                .filter(|conn| fabric.conns[*conn].wish == index);
            own.collect::<Vec<_>>()
        });
        assert_eq!(here, there, "wish {index} without HELLO");
        assert_eq!(here.len(), 1, "wish {index} without HELLO");
        here.first().copied()
    }

    fn stop(&mut self) {
        self.fabric.borrow().say(|| "stop".to_owned());
        let mut latest = self.now();
        for place in 0..self.connections.len() {
            let wait = self.draw(|random| random.pick(&[0, 0, 10, 700]));
            let timeout = self.draw(|random| random.pick(&[0, 300, 5_000]));
            self.run_until(self.now() + wait, false, false);
            let machine = self.connections[place].machine.as_ref().unwrap();
            machine.stop(Duration::from_millis(timeout));
            latest = latest.max(self.now() + timeout);
        }
        while self.connections.iter().any(|connection| {
            let machine = connection.machine.as_ref();
            machine.is_some_and(|machine| !machine.has_ended())
        }) {
            self.step(Tick::MAX, false, false);
            assert!(self.now() < latest + 1_500, "a stop takes too long");
        }
        for connection in &mut self.connections {
            if let Some(machine) = connection.machine.take() {
                let ended = machine.finish();
                self.tally.dialled += ended.dialled;
                self.tally.messages += ended.inbound;
            }
        }
    }
}

fn draw_rates(fabric: &mut Fabric) {
    let random = &mut fabric.random;
    let mut rate = |values: &[usize]| random.pick(values);
    fabric.rates = Rates {
        spurious: rate(&[0, 0, 30]),
        stale: rate(&[0, 0, 100]),
        short_write: rate(&[0, 100, 600]),
        short_read: rate(&[0, 200, 700]),
        unsure: rate(&[0, 300]),
        connect_error: rate(&[0, 0, 100]),
        connect_never: rate(&[0, 0, 100]),
        connect_slow: rate(&[0, 200]),
    };
    fabric.latency_max = rate(&[0, 2, 20, 60]);
    let narrow = rate(&[200, 3_000, 50_000]);
    fabric.capacities = [narrow, 20_000, 100_000];
}

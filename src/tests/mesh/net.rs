//! A network of several hosts in memory: pipes with latency and a bounded size, connections that
//! are made late or never, pairs that are cut off from each other, hosts that die.
//!
//! Edges come once, as in the other simulator. A poll never blocks: it gives what is pending and
//! notes how long the loop wanted to sleep, and whoever drives the hosts decides who goes on.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use super::super::{random::Random, read_vectored};
use crate::{
    clock::Tick,
    id::PeerId,
    ledger::ClosedRow,
    socket::{AcceptFault, Event, Listener, Net, Ready, Unacknowledged},
};

/// Polls without a wait and without progress that are taken for a busy loop.
const IDLE_POLLS_MAX: u32 = 50;

/// How often faults happen, per thousand.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) spurious: usize,
    pub(super) stale: usize,
    pub(super) short_write: usize,
    pub(super) short_read: usize,
    pub(super) unsure: usize,
    pub(super) connect_error: usize,
    pub(super) connect_never: usize,
    pub(super) connect_slow: usize,
}

impl End {
    /// How much more may be sent to it.
    fn room(&self) -> usize {
        let held = self.travelling_bytes + self.arrived.len() + self.unwanted_bytes;
        self.capacity.saturating_sub(held)
    }
}

/// What travels to an end.
#[derive(Clone, Debug)]
enum Parcel {
    Bytes(Vec<u8>),
    Fin,
    Rst,
}

/// One end of a connection.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) host: usize,
    pub(super) epoch: u32,
    pub(super) peer: Option<PeerId>,
    arrived: VecDeque<u8>,
    /// What is under way to this end, or still with the system of the other: not acknowledged.
    travelling: VecDeque<(Tick, Parcel)>,
    travelling_bytes: usize,
    /// Bytes that came when the other end was gone.
    unwanted_bytes: usize,
    fin: bool,
    rst: bool,
    rst_told: bool,
    shut: bool,
    pub(super) closed: bool,
    pending: Ready,
    read_armed: bool,
    write_blocked: Option<Tick>,
    /// Bytes that may be under way to this end or wait there.
    capacity: usize,
    /// Numbers of messages: accepted for sending here, and taken by this end's application.
    pub(super) accepted: u64,
    pub(super) received: u64,
    /// What the row of this end says, once it has ended.
    pub(super) row: Option<ClosedRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting {
        due: Tick,
        fate: Fate,
    },
    Made,
    Failed(ErrorKind),
    /// The dialling side gave up.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Made,
    Refused,
    Never,
}

#[derive(Debug)]
pub(super) struct Conn {
    /// Which wish it was dialled for.
    pub(super) wish: usize,
    pub(super) stage: Stage,
    /// The end that dialled, and the other.
    pub(super) ends: [End; 2],
    latency: usize,
}

#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) alive: bool,
    pub(super) epoch: u32,
    listening: bool,
    backlog: VecDeque<usize>,
    listener_armed: bool,
    listener_pending: bool,
    /// Whatever was done, counted.
    pub(super) work: u64,
    work_before: u64,
    idle_polls: u32,
    /// Something happened since the last poll.
    pub(super) stirred: bool,
    /// Set if the last poll would have slept, until then.
    pub(super) sleeps_until: Option<Tick>,
    /// Ends of connections by the peer's id, of this life of the host.
    pub(super) ids: BTreeMap<PeerId, (usize, usize)>,
    stale: Vec<PeerId>,
}

/// A try to connect, as the network saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) wish: usize,
    pub(super) at: Tick,
}

pub(super) struct Fabric {
    pub(super) random: Random,
    pub(super) now: Tick,
    pub(super) rates: Rates,
    pub(super) hosts: Vec<Host>,
    pub(super) conns: Vec<Conn>,
    /// Connections with something left to happen.
    live: Vec<usize>,
    pub(super) cuts: Vec<(usize, usize)>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) latency_max: usize,
    pub(super) capacities: [usize; 3],
    trace: bool,
}

/// Addresses of listeners name the host, and the wish that is meant by whoever dials.
pub(super) fn addr_of(host: usize, wish: usize) -> SocketAddr {
    let (wish, host) = (u8::try_from(wish).unwrap(), u8::try_from(host).unwrap());
    SocketAddr::from(([10, 1, wish, host], 1000))
}

fn parts_of(addr: SocketAddr) -> (usize, usize) {
    match addr {
        SocketAddr::V4(addr) => {
            let octets = addr.ip().octets();
            (usize::from(octets[3]), usize::from(octets[2]))
        }
        SocketAddr::V6(_) => unreachable!("no such address is given"),
    }
}

impl Fabric {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            now: 0,
            rates: Rates::default(),
            hosts: Vec::new(),
            conns: Vec::new(),
            live: Vec::new(),
            cuts: Vec::new(),
            attempts: Vec::new(),
            latency_max: 0,
            capacities: [100_000; 3],
            trace: std::env::var_os("NEBNET_TRACE").is_some(),
        }
    }

    pub(super) fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} {}", self.now, text());
        }
    }

    // ----- hosts -----------------------------------------------------------------------------

    /// Brings a host up; it listens from now on.
    pub(super) fn boot(&mut self, host: usize) {
        while self.hosts.len() <= host {
            self.hosts.push(Host::default());
        }
        let epoch = self.hosts[host].epoch + 1;
        self.hosts[host] = Host {
            alive: true,
            epoch,
            listening: true,
            listener_armed: true,
            stirred: true,
            ..Host::default()
        };
    }

    /// Ends a host at once. Those that it is not cut off from learn of it.
    pub(super) fn kill(&mut self, host: usize) {
        self.say(|| format!("host {host} dies"));
        self.hosts[host].alive = false;
        self.hosts[host].listening = false;
        self.hosts[host].backlog.clear();
        self.hosts[host].ids.clear();
        for index in self.live.clone() {
            for side in 0..2 {
                let end = &self.conns[index].ends[side];
                if end.host != host || end.closed {
                    continue;
                }
                match self.conns[index].stage {
                    Stage::Made => {}
                    // Whoever comes back finds out.
                    Stage::Connecting { .. } if side == 1 => continue,
                    Stage::Connecting { .. } | Stage::Failed(_) | Stage::Gone => {
                        self.conns[index].stage = Stage::Gone;
                        continue;
                    }
                }
                self.conns[index].ends[side].closed = true;
                let other = self.conns[index].ends[1 - side].host;
                if !self.is_cut(host, other) {
                    let parcel = self.random.pick(&[0, 1]);
                    let parcel = [Parcel::Rst, Parcel::Fin][parcel].clone();
                    self.send(index, 1 - side, parcel);
                }
            }
        }
    }

    pub(super) fn is_cut(&self, one: usize, other: usize) -> bool {
        let pair = (one.min(other), one.max(other));
        self.cuts.contains(&pair)
    }

    pub(super) fn cut(&mut self, one: usize, other: usize) {
        self.say(|| format!("hosts {one} and {other} are cut off"));
        let pair = (one.min(other), one.max(other));
        if !self.cuts.contains(&pair) {
            self.cuts.push(pair);
        }
    }

    pub(super) fn join(&mut self, one: usize, other: usize) {
        self.say(|| format!("hosts {one} and {other} are joined"));
        let pair = (one.min(other), one.max(other));
        self.cuts.retain(|cut| *cut != pair);
    }

    /// No pipe is narrow from now on.
    pub(super) fn widen(&mut self) {
        self.capacities = [100_000; 3];
        for index in &self.live {
            for end in &mut self.conns[*index].ends {
                end.capacity = 100_000;
            }
        }
    }

    /// Resets one of the connections from the middle of the network.
    pub(super) fn reset_one(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let index = self.live[self.random.below(self.live.len())];
        let [one, other] = &self.conns[index].ends;
        if self.conns[index].stage == Stage::Made && !self.is_cut(one.host, other.host) {
            self.say(|| format!("conn {index} is reset"));
            self.send(index, 0, Parcel::Rst);
            self.send(index, 1, Parcel::Rst);
        }
    }

    // ----- time ------------------------------------------------------------------------------

    fn send(&mut self, index: usize, side: usize, parcel: Parcel) {
        let latency = self.random.below(self.conns[index].latency + 1) as u64;
        let end = &mut self.conns[index].ends[side];
        let last = end.travelling.back().map_or(0, |(due, _)| *due);
        if let Parcel::Bytes(bytes) = &parcel {
            end.travelling_bytes += bytes.len();
        }
        end.travelling
            .push_back((last.max(self.now + latency), parcel));
    }

    /// Lets arrive what is due. True if anything did.
    pub(super) fn pass(&mut self) -> bool {
        let mut moved = false;
        for place in 0..self.live.len() {
            let index = self.live[place];
            // What was cut short has room whether anything arrives or not.
            moved |= self.give_room(index, 0);
            moved |= self.give_room(index, 1);
            let [one, other] = &self.conns[index].ends;
            if self.is_cut(one.host, other.host) {
                continue;
            }
            if let Stage::Connecting { due, fate } = self.conns[index].stage {
                if due <= self.now && fate != Fate::Never {
                    self.make(index, fate);
                    moved = true;
                }
            }
            for side in 0..2 {
                while self.deliver(index, side) {
                    moved = true;
                }
            }
        }
        self.live.retain(|index| {
            !is_over(&self.conns[*index]) && self.conns[*index].stage != Stage::Gone
        });
        moved
    }

    fn make(&mut self, index: usize, fate: Fate) {
        let to = self.conns[index].ends[1].host;
        let host = self.hosts.get_mut(to);
        let listens = host.as_ref().is_some_and(|host| host.listening);
        let conn = &mut self.conns[index];
        if let (Some(host), true, true) = (host, listens, fate == Fate::Made) {
            conn.stage = Stage::Made;
            conn.ends[1].epoch = host.epoch;
            host.backlog.push_back(index);
            host.listener_pending |= std::mem::take(&mut host.listener_armed);
            host.stirred = true;
            conn.ends[0].pending.set(Ready::WRITE);
        } else {
            conn.stage = Stage::Failed(ErrorKind::ConnectionRefused);
            conn.ends[1].closed = true;
            conn.ends[0]
                .pending
                .set(Ready::READ | Ready::WRITE | Ready::ERROR);
        }
        let from = conn.ends[0].host;
        self.hosts[from].stirred = true;
    }

    /// Delivers one parcel to an end, if one is due.
    fn deliver(&mut self, index: usize, side: usize) -> bool {
        let now = self.now;
        let end = &mut self.conns[index].ends[side];
        if end.travelling.front().is_none_or(|(due, _)| *due > now) {
            return false;
        }
        let Some((_, parcel)) = end.travelling.pop_front() else {
            return false;
        };
        match parcel {
            Parcel::Bytes(bytes) => {
                end.travelling_bytes -= bytes.len();
                if end.closed || end.rst {
                    end.unwanted_bytes += bytes.len();
                }
                if end.closed {
                    // Nobody is there any more, which the sender learns.
                    if !self.conns[index].ends[1 - side].closed {
                        self.send(index, 1 - side, Parcel::Rst);
                    }
                    return true;
                }
                if end.rst {
                    return true;
                }
                end.arrived.extend(bytes);
                if std::mem::take(&mut end.read_armed) {
                    end.pending.set(Ready::READ);
                }
            }
            Parcel::Fin => {
                end.fin = true;
                end.pending.set(Ready::READ | Ready::READ_CLOSED);
                if end.shut {
                    end.pending.set(Ready::WRITE | Ready::ERROR);
                }
            }
            Parcel::Rst => {
                if !end.rst {
                    end.rst = true;
                    end.pending
                        .set(Ready::READ | Ready::WRITE | Ready::READ_CLOSED | Ready::ERROR);
                    self.destroy_queue(index, 1 - side, 0);
                }
            }
        }
        let host = self.conns[index].ends[side].host;
        self.hosts[host].stirred = true;
        true
    }

    /// A RST destroys what was to be sent to an end, but for so many parcels that are under way.
    fn destroy_queue(&mut self, index: usize, to: usize, under_way: usize) {
        let end = &mut self.conns[index].ends[to];
        let (mut place, mut left) = (0, 0);
        end.travelling.retain(|(_, parcel)| {
            place += 1;
            let stays = place <= under_way || matches!(parcel, Parcel::Rst);
            if let (Parcel::Bytes(bytes), true) = (parcel, stays) {
                left += bytes.len();
            }
            stays
        });
        end.unwanted_bytes += end.travelling_bytes - left;
        end.travelling_bytes = left;
    }

    /// An end that found no room has some again.
    fn give_room(&mut self, index: usize, side: usize) -> bool {
        let other = &self.conns[index].ends[1 - side];
        let room = other.room();
        let enough = room * 3 >= other.capacity;
        let now = self.now;
        let end = &mut self.conns[index].ends[side];
        if end.write_blocked.is_some_and(|tick| tick <= now) && enough {
            end.write_blocked = None;
            end.pending.set(Ready::WRITE);
            let host = end.host;
            self.hosts[host].stirred = true;
            return true;
        }
        false
    }

    /// When something arrives next.
    pub(super) fn next_due(&self) -> Tick {
        let mut next = Tick::MAX;
        for index in &self.live {
            let conn = &self.conns[*index];
            for end in &conn.ends {
                let blocked = end.write_blocked.filter(|tick| *tick > self.now);
                next = next.min(blocked.unwrap_or(Tick::MAX));
            }
            let [one, other] = &conn.ends;
            if self.is_cut(one.host, other.host) {
                continue;
            }
            if let Stage::Connecting { due, fate } = conn.stage {
                if fate != Fate::Never {
                    next = next.min(due);
                }
            }
            for end in &conn.ends {
                next = next.min(end.travelling.front().map_or(Tick::MAX, |(due, _)| *due));
            }
        }
        next
    }

    /// Takes the edges of a host.
    fn collect(&mut self, host: usize, events: &mut Vec<Event>) {
        let before = events.len();
        if std::mem::take(&mut self.hosts[host].listener_pending) && self.hosts[host].listening {
            events.push(Event::Listener(0));
        }
        let epoch = self.hosts[host].epoch;
        for index in &self.live {
            for end in &mut self.conns[*index].ends {
                let (Some(id), false) = (end.peer, end.closed) else {
                    continue;
                };
                if end.host != host || end.epoch != epoch {
                    continue;
                }
                if self.random.chance(self.rates.spurious) {
                    let ready = self.random.pick(&[Ready::READ, Ready::WRITE]);
                    events.push(Event::Peer(id, ready));
                }
                if end.pending != Ready::default() {
                    events.push(Event::Peer(id, std::mem::take(&mut end.pending)));
                }
            }
        }
        let stale = &self.hosts[host].stale;
        if !stale.is_empty() && self.random.chance(self.rates.stale) {
            let id = stale[self.random.below(stale.len())];
            events.push(Event::Peer(id, Ready::READ | Ready::WRITE | Ready::ERROR));
        }
        self.random.shuffle(&mut events[before..]);
    }

    /// Of each connection of which both ends have their row: what was written has come, or was
    /// discarded, or is unconfirmed. Returns how many there were.
    pub(super) fn check_sums(&self) -> u64 {
        let mut looked_at = 0;
        for (index, conn) in self.conns.iter().enumerate() {
            let [Some(one), Some(other)] = conn.ends.each_ref().map(|end| end.row.as_ref()) else {
                continue;
            };
            looked_at += 1;
            for (from, to) in [(one, other), (other, one)] {
                let unconfirmed = from.unconfirmed.expect("the network tells").messages;
                let (written, came) = (from.outbound.messages, to.inbound.messages);
                let discarded = to.discarded_after_close;
                assert!(
                    came + discarded.messages <= written,
                    "conn {index}: {from:?} {to:?}"
                );
                assert!(
                    discarded.bytes > 0 || written <= came + unconfirmed,
                    "conn {index}: {from:?} {to:?}"
                );
            }
        }
        looked_at
    }

    fn end(&mut self, stream: &MeshStream) -> &mut End {
        let end = &mut self.conns[stream.0].ends[stream.1];
        assert!(!end.closed, "a call on a stream that is closed");
        end
    }
}

/// Nothing is left to happen to it.
fn is_over(conn: &Conn) -> bool {
    conn.ends
        .iter()
        .all(|end| end.closed && end.travelling.is_empty())
}

/// The network as the loop of one host sees it.
pub(super) struct MeshNet {
    pub(super) fabric: Rc<RefCell<Fabric>>,
    pub(super) host: usize,
}

/// A connection, and which of its ends.
#[derive(Debug)]
pub(super) struct MeshStream(usize, usize);

impl Net for MeshNet {
    type Stream = MeshStream;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        let fabric = &mut *self.fabric.borrow_mut();
        let wait = timeout.map_or(Tick::MAX, |time| u64::try_from(time.as_millis()).unwrap());
        fabric.collect(self.host, events);
        let now = fabric.now;
        let host = &mut fabric.hosts[self.host];
        host.stirred = false;
        if !events.is_empty() {
            host.work += 1;
        }
        host.sleeps_until = (wait > 0 && events.is_empty()).then(|| now.saturating_add(wait));
        if wait == 0 {
            let progress = host.work != std::mem::replace(&mut host.work_before, host.work);
            host.idle_polls = if progress { 0 } else { host.idle_polls + 1 };
            if host.idle_polls >= IDLE_POLLS_MAX {
                return Err(io::Error::other("the loop is busy with nothing"));
            }
        } else {
            host.idle_polls = 0;
        }
        Ok(false)
    }

    fn accept(&mut self, _: usize) -> Result<(MeshStream, SocketAddr), AcceptFault> {
        let fabric = &mut *self.fabric.borrow_mut();
        let host = &mut fabric.hosts[self.host];
        let Some(index) = host.backlog.pop_front() else {
            host.listener_armed = true;
            return Err(AcceptFault::WouldBlock);
        };
        host.work += 1;
        let port = u16::try_from(2_000 + index).unwrap();
        let from = u8::try_from(fabric.conns[index].ends[0].host).unwrap();
        Ok((
            MeshStream(index, 1),
            SocketAddr::from(([10, 2, 0, from], port)),
        ))
    }

    fn register(&mut self, stream: &mut MeshStream, peer: PeerId) -> io::Result<()> {
        let fabric = &mut *self.fabric.borrow_mut();
        let place = (stream.0, stream.1);
        fabric.hosts[self.host].ids.insert(peer, place);
        fabric.hosts[self.host].stirred = true;
        let host = self.host;
        fabric.say(|| format!("host {host} accepts conn {} as {peer}", place.0));
        let end = fabric.end(stream);
        assert!(end.peer.is_none(), "registered once");
        end.peer = Some(peer);
        end.pending.set(Ready::WRITE);
        if !end.arrived.is_empty() {
            end.pending.set(Ready::READ);
            end.read_armed = false;
        }
        Ok(())
    }

    fn connect(&mut self, addr: SocketAddr, peer: PeerId) -> io::Result<MeshStream> {
        let fabric = &mut *self.fabric.borrow_mut();
        let (to, wish) = parts_of(addr);
        let at = fabric.now;
        fabric.attempts.push(Attempt { wish, at });
        fabric.hosts[self.host].work += 1;
        let index = fabric.conns.len();
        let host = self.host;
        fabric.say(|| format!("host {host} dials host {to} for wish {wish}: conn {index}, {peer}"));
        if fabric.random.chance(fabric.rates.connect_error) {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        let exists = to < fabric.hosts.len();
        let fate = if fabric.random.chance(fabric.rates.connect_never) {
            Fate::Never
        } else if exists {
            Fate::Made
        } else {
            Fate::Refused
        };
        let slow = fabric.random.chance(fabric.rates.connect_slow);
        let latency = fabric.random.below(fabric.latency_max + 1);
        let delay = if slow {
            fabric.random.below(3_000)
        } else {
            2 * latency
        };
        let due = at + delay as u64;
        let epoch = fabric.hosts[host].epoch;
        let mut end = |host, epoch, peer| End {
            host,
            epoch,
            peer,
            read_armed: true,
            capacity: fabric.random.pick(&fabric.capacities),
            ..End::default()
        };
        let ends = [end(host, epoch, Some(peer)), end(to, 0, None)];
        fabric.conns.push(Conn {
            wish,
            stage: Stage::Connecting { due, fate },
            ends,
            latency,
        });
        fabric.live.push(index);
        fabric.hosts[host].ids.insert(peer, (index, 0));
        Ok(MeshStream(index, 0))
    }

    fn is_connected(&mut self, stream: &mut MeshStream) -> io::Result<bool> {
        let fabric = &mut *self.fabric.borrow_mut();
        let unsure = fabric.random.chance(fabric.rates.unsure);
        fabric.hosts[self.host].work += 1;
        match fabric.conns[stream.0].stage {
            Stage::Connecting { .. } => Ok(false),
            Stage::Failed(kind) => Err(kind.into()),
            Stage::Gone => panic!("asked about a connection that was given up"),
            Stage::Made if unsure => {
                fabric.hosts[self.host].stirred = true;
                fabric.end(stream).pending.set(Ready::WRITE);
                Ok(false)
            }
            Stage::Made => {
                let end = fabric.end(stream);
                if end.rst && !std::mem::replace(&mut end.rst_told, true) {
                    return Err(ErrorKind::ConnectionReset.into());
                }
                Ok(true)
            }
        }
    }

    fn add_listener(&mut self, _: usize, _: Listener) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn remove_listener(&mut self, _: usize) {}

    fn read(
        &mut self,
        stream: &mut MeshStream,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        let space = (buffer.capacity() - buffer.len()).min(limit);
        self.receive(stream, space, buffer)
    }

    fn read_vectored(
        &mut self,
        stream: &mut MeshStream,
        slices: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize> {
        read_vectored(slices, |space, bytes| self.receive(stream, space, bytes))
    }

    fn write(&mut self, stream: &mut MeshStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let fabric = &mut *self.fabric.borrow_mut();
        assert_eq!(fabric.conns[stream.0].stage, Stage::Made);
        let short = fabric.random.chance(fabric.rates.short_write);
        let now = fabric.now;
        let other = &fabric.conns[stream.0].ends[1 - stream.1];
        let room = other.room();
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "a write of nothing");
        let mut count = offered.min(room);
        if short {
            count = fabric.random.below(count + 1);
        }
        let end = fabric.end(stream);
        assert!(!end.shut, "a write after the end");
        if end.rst {
            let was_told = std::mem::replace(&mut end.rst_told, true);
            let kind = if was_told || end.fin {
                ErrorKind::BrokenPipe
            } else {
                ErrorKind::ConnectionReset
            };
            return Err(kind.into());
        }
        if count < offered {
            end.write_blocked = Some(now + u64::from(short) * 3);
        }
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut bytes = Vec::with_capacity(count);
        for slice in slices {
            let part = slice.len().min(count - bytes.len());
            bytes.extend_from_slice(&slice[..part]);
        }
        fabric.hosts[self.host].work += 1;
        // What is written in one piece may come in several.
        while !bytes.is_empty() {
            let split = fabric.random.chance(fabric.rates.short_read);
            let size = if split {
                fabric.random.between(1, bytes.len())
            } else {
                bytes.len()
            };
            let rest = bytes.split_off(size);
            let piece = std::mem::replace(&mut bytes, rest);
            fabric.send(stream.0, 1 - stream.1, Parcel::Bytes(piece));
        }
        Ok(count)
    }

    fn unacknowledged(&mut self, stream: &MeshStream, last: bool) -> Unacknowledged {
        let fabric = &mut *self.fabric.borrow_mut();
        let other = &fabric.conns[stream.0].ends[1 - stream.1];
        let waiting = (other.travelling_bytes + other.unwanted_bytes) as u64;
        let at_most = other.capacity as u64;
        let end = fabric.end(stream);
        match (end.rst, last) {
            (true, true) => Unacknowledged::Ended {
                failed: !end.rst_told,
                at_most,
            },
            (true, false) => Unacknowledged::Unknown,
            (false, _) => Unacknowledged::Bytes(waiting),
        }
    }

    fn shutdown(&mut self, stream: &mut MeshStream) -> io::Result<()> {
        let fabric = &mut *self.fabric.borrow_mut();
        let end = fabric.end(stream);
        assert!(!end.shut, "a second FIN");
        end.shut = true;
        if end.rst {
            return Err(ErrorKind::NotConnected.into());
        }
        fabric.send(stream.0, 1 - stream.1, Parcel::Fin);
        Ok(())
    }

    fn unread(&mut self, stream: &mut MeshStream) -> u64 {
        self.fabric.borrow_mut().end(stream).arrived.len() as u64
    }

    fn close(&mut self, stream: MeshStream, abort: bool) {
        let fabric = &mut *self.fabric.borrow_mut();
        let host = self.host;
        fabric.say(|| format!("host {host} closes conn {}, abort {abort}", stream.0));
        let end = fabric.end(&stream);
        end.closed = true;
        let (unread, was_shut, rst) = (!end.arrived.is_empty(), end.shut, end.rst);
        let id = end.peer;
        fabric.hosts[host].stale.extend(id);
        fabric.hosts[host].work += 1;
        match fabric.conns[stream.0].stage {
            Stage::Made if rst => {}
            // Unread input turns the FIN into a RST, which goes out at once.
            Stage::Made if abort || unread => {
                let to = 1 - stream.1;
                let queued = fabric.conns[stream.0].ends[to].travelling.len();
                let under_way = fabric.random.below(queued + 1);
                fabric.destroy_queue(stream.0, to, under_way);
                fabric.send(stream.0, to, Parcel::Rst);
            }
            Stage::Made if !was_shut => fabric.send(stream.0, 1 - stream.1, Parcel::Fin),
            Stage::Made | Stage::Failed(_) => {}
            Stage::Connecting { .. } | Stage::Gone => fabric.conns[stream.0].stage = Stage::Gone,
        }
    }

    fn close_listeners(&mut self) {
        let fabric = &mut *self.fabric.borrow_mut();
        fabric.hosts[self.host].listening = false;
        for index in std::mem::take(&mut fabric.hosts[self.host].backlog) {
            fabric.conns[index].ends[1].closed = true;
            fabric.send(index, 0, Parcel::Rst);
        }
    }
}

impl MeshNet {
    /// Moves what has arrived behind `buffer`, at most `space` bytes.
    fn receive(
        &mut self,
        stream: &MeshStream,
        space: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let fabric = &mut *self.fabric.borrow_mut();
        assert_eq!(fabric.conns[stream.0].stage, Stage::Made);
        let end = fabric.end(stream);
        assert!(space > 0, "a read without space");
        if end.arrived.is_empty() {
            // Behind a FIN no read fails.
            if end.rst && !end.fin && !std::mem::replace(&mut end.rst_told, true) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if end.fin || end.rst {
                return Ok(0);
            }
            end.read_armed = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = space.min(end.arrived.len());
        let (front, back) = end.arrived.as_slices();
        let part = front.len().min(count);
        buffer.extend_from_slice(&front[..part]);
        buffer.extend_from_slice(&back[..count - part]);
        end.arrived.drain(..count);
        if count < space {
            end.read_armed = true;
        }
        fabric.hosts[self.host].work += 1;
        Ok(count)
    }
}

//! Scripted peers: what they send, how they read, how they end.

use std::net::SocketAddr;

use super::{
    askers::{self, Asked, QUESTION},
    world::{Backoff, Conn, Sent, World},
};
use crate::{
    clock::Tick,
    frame::{Bye, Decoder, Frame, Hello, encode_whole},
    id::MessageType,
};

/// Types below this one are echoed.
pub(super) const ECHO_BELOW: u16 = 4;
/// What the application sends of its own accord.
pub(super) const UNASKED: MessageType = MessageType(0x7000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sends whole frames, reads at once, half-closes, waits for the end.
    Healthy,
    SlowReader,
    /// Reads nothing until faults are healed.
    NeverReads,
    /// Breaks the protocol, cuts frames, resets.
    Hostile,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) next_at: Tick,
    pub(super) conn: Option<usize>,
    pub(super) frames_left: usize,
    pub(super) connects_left: usize,
    out: Vec<u8>,
    out_at: usize,
    pub(super) ended: bool,
    hello_said: bool,
    pub(super) types: u16,
    pub(super) size_max: usize,
    pub(super) patience: usize,
    /// Most frames that it writes at once, if it floods.
    pub(super) flood: usize,
    pub(super) backoff: Backoff,
    pub(super) addr: u8,
}

impl Client {
    pub(super) fn new(kind: Kind, addr: u8) -> Self {
        Self {
            kind,
            next_at: 0,
            conn: None,
            frames_left: 0,
            connects_left: 0,
            out: Vec::new(),
            out_at: 0,
            ended: false,
            hello_said: false,
            types: 1,
            size_max: 10,
            patience: 1,
            flood: 0,
            backoff: Backoff::default(),
            addr,
        }
    }

    pub(super) fn act(world: &mut World, index: usize) {
        let mut client = std::mem::replace(&mut world.clients[index], Self::new(Kind::Healthy, 0));
        let (now, patience) = (world.now, client.patience);
        let pause = match (world.healed, client.ended) {
            (true, true) => 20,
            (true, false) => 1,
            (false, _) => world.random.below(patience + 1),
        };
        client.next_at = now + pause as u64;
        match client.conn {
            None if client.connects_left == 0 => client.next_at = Tick::MAX,
            None => client.connect(world),
            Some(conn) => client.go_on(world, conn),
        }
        world.clients[index] = client;
    }

    fn connect(&mut self, world: &mut World) {
        world.work += 1;
        self.connects_left -= 1;
        let port = u16::try_from(world.conns.len()).unwrap();
        let conn = world.connect(SocketAddr::from(([10, 0, 0, self.addr], port)));
        self.conn = Some(conn);
        world.conns[conn].hostile = self.kind == Kind::Hostile;
        if self.flood > 0 {
            world.conns[conn].arrived_max = 1_000_000;
        }
        self.ended = false;
        self.hello_said = false;
        self.out.clear();
        self.out_at = 0;
        if world.hello_required && !(self.kind == Kind::Hostile && world.random.chance(300)) {
            self.say_hello(world);
        }
        world.say(|| format!("connect conn {conn} {:?}", self.kind));
    }

    fn say_hello(&mut self, world: &World) {
        self.hello_said = true;
        let hello = Hello {
            payload_size_max: 1 << 28,
            agent: "sim",
            ..Hello::default()
        };
        let _ = world;
        encode_whole(
            &Frame::new(MessageType::HELLO, &hello.to_payload()),
            &mut self.out,
        );
    }

    fn go_on(&mut self, world: &mut World, index: usize) {
        self.read(world, index);
        let conn = &world.conns[index];
        let all_taken = conn.sent.is_empty() && conn.queue.is_empty();
        let over = all_taken && conn.server_fin && (self.reads(world) || conn.aborted);
        if conn.refused || conn.rst || conn.aborted || over {
            world.say(|| format!("client leaves conn {index}"));
            // One that left without a word before may do so now, too.
            let is_silent = self.ended && self.kind == Kind::Hostile && !world.healed;
            if over && !is_silent {
                world.finish(index);
            } else if over {
                world.silent.push(index);
            }
            self.conn = None;
            world.work += 1;
            return;
        }
        if self.out.is_empty() && !self.ended {
            for _ in 0..std::mem::take(&mut world.conns[index].pings) {
                encode_whole(&Frame::new(MessageType::PONG, b""), &mut self.out);
            }
            let questions = &mut world.conns[index].questions;
            askers::answer(&mut world.random, questions, &mut self.out);
        }
        if self.out_at < self.out.len() {
            self.push(world, index);
        } else if self.ended {
            // Waits for the end of the other side, or is silent for ever.
            if self.kind == Kind::Hostile && (world.healed || world.random.chance(50)) {
                world.reset(index);
            }
            if world.healed {
                world.finish(index);
            }
        } else if self.frames_left == 0 {
            self.end(world, index);
        } else {
            self.write(world, index);
        }
        if self.kind == Kind::Hostile && world.random.chance(5) {
            world.reset(index);
        }
        if world.rare.chance(world.rates.reset) {
            // Its host is gone, say: nothing is expected of it any more.
            world.conns[index].hostile = true;
            world.reset(index);
        }
    }

    fn reads(&self, world: &World) -> bool {
        world.healed || self.kind != Kind::NeverReads
    }

    fn read(&mut self, world: &mut World, index: usize) {
        let size = match self.kind {
            _ if world.healed => usize::MAX,
            Kind::Healthy | Kind::Hostile => usize::MAX,
            Kind::SlowReader => world.random.below(40),
            Kind::NeverReads => 0,
        };
        let taken = world.take(index, size);
        world.work += u64::from(taken > 0);
        if taken > 0 {
            let dressed = world.slots.dress(Frame::new(UNASKED, b"")).checksum;
            check_received(&mut world.conns[index], index, world.handled, dressed);
        }
    }

    /// Pushes some of the bytes that wait, cut anywhere.
    fn push(&mut self, world: &mut World, index: usize) {
        let conn = &world.conns[index];
        let room = conn.arrived_max.saturating_sub(conn.arrived.len());
        let rest = self.out.len() - self.out_at;
        let size = if world.random.chance(300) {
            world.random.between(1, rest)
        } else {
            rest
        };
        let size = size.min(room);
        if size == 0 {
            self.next_at = self.next_at.max(world.now + 5);
            return;
        }
        let bytes = self.out[self.out_at..self.out_at + size].to_vec();
        world.arrive(index, &bytes);
        world.work += 1;
        self.out_at += size;
        if self.kind == Kind::Hostile && world.random.chance(20) {
            world.urge(index);
        }
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
        }
    }

    fn write(&mut self, world: &mut World, index: usize) {
        let most = world.random.pick(&[1, 3, 40]);
        let count = world.random.between(1, most).max(self.flood);
        let count = count.min(self.frames_left);
        for _ in 0..count {
            self.frames_left -= 1;
            self.write_frame(world, index);
        }
        if world.random.chance(30) {
            let size = world.random.below(65);
            encode_whole(
                &Frame::new(MessageType::PING, &vec![7; size]),
                &mut self.out,
            );
        }
        if world.random.chance(20) {
            encode_whole(
                &Frame::new(MessageType::PONG, b"nobody asked"),
                &mut self.out,
            );
        }
        if !self.hello_said && world.random.chance(20) {
            self.say_hello(world);
        }
        if self.kind == Kind::Hostile && world.random.chance(30) {
            self.write_garbage(world);
        }
    }

    fn write_frame(&mut self, world: &mut World, index: usize) {
        let message_type =
            MessageType(u16::try_from(world.random.below(self.types.into())).unwrap());
        let size = match world.random.below(10) {
            _ if self.flood > 0 => world.random.below(self.size_max + 1),
            0 => world.random.below(self.size_max + 1),
            1 => world.random.below(self.size_max / 8 + 1),
            _ => world.random.below(self.size_max.min(40) + 1),
        };
        let size = size.min(world.payload_max);
        let conn = &mut world.conns[index];
        let mut payload = vec![u8::try_from(conn.log.len() % 251).unwrap(); size];
        for (place, byte) in payload.iter_mut().zip(conn.log.len().to_le_bytes()) {
            *place = byte;
        }
        let sent = Sent {
            message_type,
            correlation: world.random.chance(300).then_some(conn.log.len() as u64),
            checksum: world.random.chance(200),
            payload,
        };
        let frame = Frame {
            message_type,
            correlation: sent.correlation,
            checksum: sent.checksum,
            payload: &sent.payload,
        };
        encode_whole(&frame, &mut self.out);
        world.conns[index].log.push(sent);
    }

    /// Bytes that end every conversation.
    fn write_garbage(&mut self, world: &mut World) {
        let mut bye = vec![0, 2, 1, b'x'];
        let bad: &[u8] = match world.random.below(9) {
            0 => b"GET / HTTP/1.1\r\n\r\n",
            1 => b"\0\0\0\x03\0\x07\0\x01",
            2 => b"\0\0\0\x04\0\x07\0\x02",
            3 => b"\0\0\0\x04\0\x07\x80\x01",
            4 => b"\0\0\0\x0a\0\x07\x01\x01\x68\x69\0\0\0\0",
            5 => b"\0\0\0\x04\xff\xfe\0\x01",
            6 => b"\0\0\0\x04\xff\x01\0\x01",
            7 => &[0, 0, 0, 69, 0xff, 3, 0, 1],
            _ => {
                encode_whole(&Frame::new(MessageType::BYE, &bye), &mut self.out);
                bye.clear();
                &bye
            }
        };
        self.out.extend_from_slice(bad);
        if bad.len() == 8 && bad[3] == 69 {
            self.out.extend_from_slice(&[0; 65]);
        }
        self.frames_left = 0;
        world.work += 1;
    }

    fn end(&mut self, world: &mut World, index: usize) {
        self.ended = true;
        world.work += 1;
        world.say(|| format!("client ends conn {index}"));
        match self.kind {
            Kind::Hostile => match world.random.below(4) {
                0 => world.reset(index),
                1 => {
                    world.arrive(index, b"\0\0\0\x10\0\x01");
                    world.finish(index);
                }
                2 => {}
                _ => world.finish(index),
            },
            Kind::Healthy | Kind::SlowReader | Kind::NeverReads => {
                if world.healed || world.punctual || world.random.chance(700) {
                    world.finish(index);
                }
            }
        }
    }
}

/// What a client gets is whole frames; echoes are those of its own frames, in order. All of the
/// application's have a checksum if they are `dressed`.
pub(super) fn check_received(
    conn: &mut Conn,
    index: usize,
    handled: Option<MessageType>,
    dressed: bool,
) {
    let decoder = Decoder::new(1 << 28);
    let mut at = 0;
    while let Some((frame, size)) = decoder.decode(&conn.got[at..]).expect("whole frames") {
        at += size;
        conn.received += u64::from(!frame.message_type.is_protocol());
        assert!(conn.bye.is_none(), "conn {index}: a frame behind BYE");
        match frame.message_type {
            MessageType::BYE => conn.bye = Some(Bye::parse(frame.payload).unwrap().code),
            UNASKED => assert_eq!(frame.checksum, dressed, "conn {index}"),
            MessageType::PING => conn.pings += 1,
            QUESTION => conn.questions.push(Asked {
                correlation: frame.correlation.expect("a question has a number"),
                payload: frame.payload.to_vec(),
            }),
            one if one.is_protocol() => {}
            _ => {
                let is_echo = |sent: &Sent| {
                    sent.message_type == frame.message_type
                        && sent.correlation == frame.correlation
                        && (sent.checksum || dressed) == frame.checksum
                        && sent.payload == frame.payload
                };
                let by_handler = handled == Some(frame.message_type);
                let at = &mut conn.echo_at[usize::from(by_handler)];
                let next = conn.log[*at..]
                    .iter()
                    .position(is_echo)
                    .unwrap_or_else(|| panic!("conn {index} got what it did not send: {frame:?}"));
                let mut skipped = conn.log[*at..*at + next].iter();
                let missing = skipped.any(|sent| sent.is_echoed(handled, by_handler));
                assert!(
                    conn.echo_lossy || !missing,
                    "conn {index}: an echo is missing"
                );
                *at += next + 1;
                conn.echoes += 1;
            }
        }
    }
    conn.got.drain(..at);
}

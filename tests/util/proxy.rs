//! A bad network in user space: it sits between two ends over loopback and does to their bytes what
//! its faults say, drawn from a seed.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::Random;

/// How long a direction waits for bytes before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);
/// The most bytes that a direction takes at a time.
const PIECE: usize = 16 << 10;

/// What happens to the bytes of a direction. Chances are per thousand pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The longest time that a piece is held back; how long is drawn for each.
    pub delay: Duration,
    /// Chance to pass a piece on byte by byte.
    pub split: usize,
    /// Chance to wait for more, and to pass it on together.
    pub coalesce: usize,
    /// Bytes per second, if not zero.
    pub throttle: usize,
    /// Chance to stop for up to [`stop_time`](Self::stop_time).
    pub stop: usize,
    pub stop_time: Duration,
    /// Chance to end both connections by a RST.
    pub cut: usize,
    /// Chance to end this direction by a FIN, whatever still comes.
    pub half_close: usize,
    /// Chance to flip a bit under a checksum, once per direction of a connection: to the target,
    /// and back.
    pub corrupt: [usize; 2],
    /// Chance that nothing comes through any more, and nobody is told.
    pub silence: usize,
}

/// How often each fault that ends something has struck.
#[derive(Debug, Default)]
pub struct Struck {
    pub cut: AtomicU64,
    pub half_closed: AtomicU64,
    pub corrupted: AtomicU64,
    pub silenced: AtomicU64,
    pub stopped: AtomicU64,
    pub connections: AtomicU64,
}

impl Struck {
    /// Of the four that end a connection, how often the one that came least.
    pub fn least(&self) -> u64 {
        [
            &self.cut,
            &self.half_closed,
            &self.corrupted,
            &self.silenced,
        ]
        .map(|count| count.load(Ordering::Relaxed))
        .into_iter()
        .min()
        .unwrap()
    }
}

/// A running proxy. Dropping it cuts what is connected through it.
#[derive(Debug)]
pub struct Proxy {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    seed: u64,
    faults: Mutex<Faults>,
    struck: Struck,
    stop: AtomicBool,
    /// Goes up when the network heals: what was silent is cut then.
    healed: AtomicU64,
}

/// One connection through the proxy, as both directions see it.
#[derive(Debug, Default)]
struct Pair {
    silent: AtomicBool,
    cut: AtomicBool,
}

impl Proxy {
    pub fn start(target: SocketAddr, seed: u64, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            seed,
            faults: Mutex::new(faults),
            struck: Struck::default(),
            stop: AtomicBool::new(false),
            healed: AtomicU64::new(0),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept_all(&listener, &shared)
        });
        Self {
            addr,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub fn struck(&self) -> &Struck {
        &self.shared.struck
    }

    /// No more faults; connections that were silent are cut.
    pub fn heal(&self) {
        self.set(Faults::default());
        self.shared.healed.fetch_add(1, Ordering::Release);
    }

    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap() = faults;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Ends the accept that waits.
        drop(TcpStream::connect(self.addr));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut directions: Vec<JoinHandle<()>> = Vec::new();
    for number in 1.. {
        let Ok((near, _)) = listener.accept() else {
            continue;
        };
        if shared.stop.load(Ordering::Acquire) {
            break;
        }
        // With nobody there, whoever connected is left at once.
        let Ok(far) = TcpStream::connect(shared.target) else {
            continue;
        };
        shared.struck.connections.fetch_add(1, Ordering::Relaxed);
        directions.retain(|one| !one.is_finished());
        let pair = Arc::new(Pair::default());
        for (which, from, to) in [(0, &near, &far), (1, &far, &near)] {
            let mut seed = Random((shared.seed + number * 2 + which as u64) << 20 | 1);
            seed.next();
            let direction = Direction {
                shared: Arc::clone(shared),
                pair: Arc::clone(&pair),
                random: seed,
                from: from.try_clone().unwrap(),
                to: to.try_clone().unwrap(),
                which,
                corrupted: false,
                place: Place::default(),
            };
            directions.push(thread::spawn(|| direction.run()));
        }
    }
    for direction in directions {
        let _ = direction.join();
    }
}

/// The bytes from one end to the other.
struct Direction {
    shared: Arc<Shared>,
    pair: Arc<Pair>,
    random: Random,
    from: TcpStream,
    to: TcpStream,
    /// 0 to the target, 1 back.
    which: usize,
    corrupted: bool,
    place: Place,
}

/// What became of a direction.
enum Outcome {
    GoesOn,
    Ended,
}

impl Direction {
    fn run(mut self) {
        self.from.set_read_timeout(Some(LOOK)).unwrap();
        self.to.set_write_timeout(Some(LOOK)).unwrap();
        self.to.set_nodelay(true).unwrap();
        let healed = self.shared.healed.load(Ordering::Acquire);
        let mut buffer = vec![0; PIECE];
        loop {
            let over = self.is_over();
            let silent = self.pair.silent.load(Ordering::Acquire);
            if over || (silent && self.shared.healed.load(Ordering::Acquire) != healed) {
                return self.cut();
            }
            match self.from.read(&mut buffer) {
                Ok(0) if self.is_over() => return self.cut(),
                Ok(0) if silent => thread::sleep(LOOK),
                Ok(0) => {
                    let _ = self.to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(_) if silent => {}
                Ok(count) => match self.pass(&mut buffer, count) {
                    Ok(Outcome::GoesOn) => {}
                    Ok(Outcome::Ended) => return,
                    Err(_) => return self.cut(),
                },
                Err(error) if is_timeout(&error) => {}
                Err(_) => return self.cut(),
            }
        }
    }

    /// Passes a piece on, with whatever befalls it.
    fn pass(&mut self, buffer: &mut [u8], mut count: usize) -> std::io::Result<Outcome> {
        let faults = *self.shared.faults.lock().unwrap();
        let struck = &self.shared.struck;
        let mut random = self.random.clone();
        let mut happens = |chance: usize| chance > 0 && random.below(1000) < chance;
        let (cut, half_close) = (happens(faults.cut), happens(faults.half_close));
        let (silence, corrupt) = (happens(faults.silence), happens(faults.corrupt[self.which]));
        let (stop, split) = (happens(faults.stop), happens(faults.split));
        let coalesce = happens(faults.coalesce);
        self.random = random;
        if silence {
            if !self.pair.silent.swap(true, Ordering::AcqRel) {
                struck.silenced.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(Outcome::GoesOn);
        }
        if coalesce {
            thread::sleep(faults.delay.max(LOOK));
            if count < buffer.len() {
                count += self.from.read(&mut buffer[count..]).unwrap_or(0);
            }
        }
        let bytes = &mut buffer[..count];
        if stop {
            struck.stopped.fetch_add(1, Ordering::Relaxed);
            thread::sleep(self.random.time(faults.stop_time));
        }
        if faults.delay > Duration::ZERO {
            thread::sleep(self.random.time(faults.delay));
        }
        let places = self.place.walk(bytes);
        if corrupt && !self.corrupted && !places.is_empty() {
            let (at, bits) = places[self.random.below(places.len())];
            let bit = 1 << self.random.below(8);
            bytes[at] ^= if bits & bit == 0 { 2 } else { bit };
            self.corrupted = true;
            struck.corrupted.fetch_add(1, Ordering::Relaxed);
        }
        // A cut or a FIN comes in the middle of a piece.
        let kept = if cut || half_close {
            self.random.below(count + 1)
        } else {
            count
        };
        self.write(&buffer[..kept], split, faults.throttle)?;
        if cut {
            self.shared.struck.cut.fetch_add(1, Ordering::Relaxed);
            self.cut();
            return Ok(Outcome::Ended);
        }
        if half_close {
            let count = &self.shared.struck.half_closed;
            count.fetch_add(1, Ordering::Relaxed);
            let _ = self.to.shutdown(Shutdown::Write);
            self.discard(buffer);
            return Ok(Outcome::Ended);
        }
        Ok(Outcome::GoesOn)
    }

    fn write(&mut self, bytes: &[u8], split: bool, throttle: usize) -> std::io::Result<()> {
        // Not a whole piece of them: each is a segment, and two wake-ups.
        let singles = if split { bytes.len().min(200) } else { 0 };
        for byte in bytes[..singles].chunks(1) {
            self.write_all(byte)?;
        }
        let step = if throttle > 0 {
            throttle / 50 + 1
        } else {
            PIECE
        };
        for part in bytes[singles..].chunks(step) {
            self.write_all(part)?;
            if throttle > 0 {
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Writes for as long as the proxy runs.
    fn write_all(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if self.is_over() {
                return Err(ErrorKind::TimedOut.into());
            }
            match self.to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what still comes, for nobody.
    fn discard(&mut self, buffer: &mut [u8]) {
        while !self.is_over() {
            match self.from.read(buffer) {
                Ok(1..) => {}
                Err(error) if is_timeout(&error) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Ends both connections by a RST, which goes out when the other direction has let go too.
    fn cut(&self) {
        self.pair.cut.store(true, Ordering::Release);
        for stream in [&self.from, &self.to] {
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire) || self.pair.cut.load(Ordering::Acquire)
    }
}

/// Where the bytes are within a stream of good frames.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Bytes of the frame so far.
    offset: usize,
    length: usize,
    has_checksum: bool,
}

impl Place {
    /// Goes on by these bytes, and gives the places of those under a checksum, each with the bits
    /// that may be flipped there: without the flag, nobody knows that there is a checksum.
    fn walk(&mut self, bytes: &[u8]) -> Vec<(usize, u8)> {
        let mut found = Vec::new();
        // Of a header, before its flags say what it is.
        let mut undecided = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            match self.offset {
                0 => self.length = usize::from(*byte),
                1..4 => self.length = self.length << 8 | usize::from(*byte),
                6 => {
                    self.has_checksum = byte & 1 != 0;
                    if self.has_checksum {
                        found.append(&mut undecided);
                        found.push((at, 0xFE));
                    }
                    undecided.clear();
                }
                _ => {}
            }
            match self.offset {
                0..=5 => undecided.push((at, 0xFF)),
                6 => {}
                _ if self.has_checksum => found.push((at, 0xFF)),
                _ => {}
            }
            self.offset += 1;
            if self.offset >= 4 && self.offset == self.length + 4 {
                self.offset = 0;
            }
        }
        found
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    [
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::Interrupted,
    ]
    .contains(&error.kind())
}

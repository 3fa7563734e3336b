//! Programs, peers and files for the tests.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than any test may take on a busy machine.
const WATCHDOG: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "tests measure time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at something that has no event"
)]
fn pause() {
    thread::sleep(Duration::from_millis(5));
}

/// Looks until the condition holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = now() + WATCHDOG / 2;
    while !condition() {
        assert!(now() < deadline, "waited in vain for {what}");
        pause();
    }
}

pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new()
        .spawn(work)
        .expect("threads can be started")
}

pub(crate) fn nebnet() -> Command {
    piped(Command::new(env!("CARGO_BIN_EXE_nebnet")))
}

/// The program in an address space of so many MiB.
#[allow(dead_code, reason = "not every file that uses this one limits memory")]
pub(crate) fn nebnet_within(mebibytes: u32) -> Command {
    let kibibytes = (mebibytes << 10).to_string();
    let program = env!("CARGO_BIN_EXE_nebnet");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v \"$0\" && exec \"$@\"", &kibibytes, program]);
    piped(command)
}

fn piped(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Kills a program that outlives [`WATCHDOG`], so that whoever waits for it gets to know.
/// Dropping it calls it off, which has to happen before the program is reaped.
fn watchdog(child: &Child) -> SyncSender<()> {
    let pid = Pid::from_child(child);
    let (sender, receiver) = sync_channel(0);
    spawn(move || {
        if receiver.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    sender
}

/// Runs a program to its end.
pub(crate) fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = nebnet()
        .args(args)
        .stdin(Stdio::piped())
        .spawn()
        .expect("nebnet runs");
    let watchdog = watchdog(&child);
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_vec();
    // A program may end without reading its input.
    let writer = spawn(move || drop(stdin.write_all(&input)));
    let mut stderr = child.stderr.take().expect("stderr is a pipe");
    let errors = spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).map(|_| bytes)
    });
    let mut stdout = Vec::new();
    let mut pipe = child.stdout.take().expect("stdout is a pipe");
    pipe.read_to_end(&mut stdout).expect("stdout can be read");
    let stderr = errors
        .join()
        .expect("no panic")
        .expect("stderr can be read");
    drop(watchdog);
    let status = child.wait().expect("nebnet can be waited for");
    writer.join().expect("no panic");
    Output {
        status,
        stdout,
        stderr,
    }
}

/// The exit code and the one line on standard error of a failed program.
#[track_caller]
pub(crate) fn failure(output: &Output) -> (i32, String) {
    let text = String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8");
    assert_eq!(text.lines().count(), 1, "one line, not {text:?}");
    assert!(text.starts_with("nebnet: "), "{text:?}");
    (output.status.code().expect("an exit code"), text)
}

/// A running `nebnet serve`.
pub(crate) struct Service {
    child: Child,
    watchdog: Option<SyncSender<()>>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) addr: SocketAddr,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts a service on a free port and waits until it listens.
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut all = vec!["--listen", "127.0.0.1:0"];
        all.extend(args);
        Self::start_with(&all)
    }

    /// Starts a service with exactly these arguments.
    #[track_caller]
    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::start_of(nebnet(), args)
    }

    /// Starts a service by a command that takes the arguments of `nebnet`.
    #[track_caller]
    pub(crate) fn start_of(mut command: Command, args: &[&str]) -> Self {
        let shards = std::env::var("NEBNET_SHARDS").unwrap_or_default();
        let more = ["--shards", &shards].into_iter().filter(|_| {
            // As the library's tests have it, unless a test says otherwise.
            !shards.is_empty() && !args.contains(&"--shards")
        });
        let child = command
            .arg("serve")
            .args(args)
            .args(more)
            .spawn()
            .expect("nebnet runs");
        Self::of(child)
    }

    /// A service that was started; waits until it listens.
    #[track_caller]
    pub(crate) fn of(mut child: Child) -> Self {
        let watchdog = Some(watchdog(&child));
        let stdout = child.stdout.take();
        let mut pipe = child.stderr.take().expect("stderr is a pipe");
        let stderr = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&stderr);
        let stderr_reader = Some(spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(size @ 1..) = pipe.read(&mut piece) {
                let piece = String::from_utf8_lossy(&piece[..size]);
                text.lock().expect("no panic").push_str(&piece);
            }
        }));
        let addr = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut service = Self {
            child,
            watchdog,
            stdout,
            addr,
            stderr,
            stderr_reader,
        };
        service.addr = service.announced("listening on ");
        service
    }

    /// The address in the next line of standard output, which has to begin like this.
    #[track_caller]
    pub(crate) fn announced(&mut self, prefix: &str) -> SocketAddr {
        let line = self.line();
        let Some(addr) = line.strip_prefix(prefix) else {
            panic!("{line:?} does not begin with {prefix:?}: {}", self.stderr());
        };
        addr.parse().expect("an address follows")
    }

    /// The next line of standard output.
    pub(crate) fn line(&mut self) -> String {
        let stdout = self.stdout.as_mut().expect("stdout is open");
        let mut line = Vec::new();
        let mut byte = [0];
        // Byte by byte, since nothing behind the line may be taken.
        while stdout.read(&mut byte).expect("stdout can be read") == 1 && byte != [b'\n'] {
            line.extend(byte);
        }
        String::from_utf8(line).expect("stdout is UTF-8")
    }

    /// What standard error said until now.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("no panic").clone()
    }

    #[allow(dead_code, reason = "for the tests that trace it")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the service runs");
    }

    /// Waits for the end; returns the exit code and all of standard error.
    #[track_caller]
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_until("the end of the service", || {
            status = self
                .child
                .try_wait()
                .expect("the service can be waited for");
            status.is_some()
        });
        self.watchdog = None;
        let reader = self.stderr_reader.take().expect("read once");
        reader.join().expect("no panic");
        (status.and_then(|status| status.code()), self.stderr())
    }

    /// Stops it with SIGTERM; it has to end well. Returns the rest of standard output.
    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let mut rest = String::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut rest).expect("stdout is UTF-8");
        }
        let (code, stderr) = self.wait();
        assert_eq!(code, Some(0), "{stderr}");
        rest
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.addr)
    }

    /// Runs `nebnet send` to this service.
    pub(crate) fn send(&self, args: &[&str], input: &[u8]) -> Output {
        let addr = self.addr.to_string();
        let mut all = vec!["send", &addr];
        all.extend(args);
        run(&all, input)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.watchdog = None;
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that speaks the wire format with nothing but the standard library.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
}

/// Type, flags, and what follows the header.
pub(crate) type Raw = (u16, u8, Vec<u8>);

impl Peer {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).expect("the service listens"))
    }

    pub(crate) fn accept(listener: &TcpListener) -> Self {
        Self::over(listener.accept().expect("a client connects").0)
    }

    fn over(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(WATCHDOG / 2))
            .expect("sockets have timeouts");
        Self { stream }
    }

    pub(crate) fn send(&mut self, message_type: u16, body: &[u8]) {
        self.stream
            .write_all(&frame(message_type, 0, body))
            .expect("the other side reads");
    }

    /// The next frame; `None` at the end of the connection, orderly or not.
    pub(crate) fn recv(&mut self) -> Option<Raw> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).ok()?;
        let [l0, l1, l2, l3, t0, t1, flags, version] = head;
        assert_eq!(version, 1);
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some((u16::from_be_bytes([t0, t1]), flags, body))
    }

    /// The reason of the BYE that has to come next, before the end.
    #[track_caller]
    pub(crate) fn recv_bye(&mut self) -> u16 {
        let Some((0xFF02, _, body)) = self.recv() else {
            panic!("no BYE")
        };
        assert_eq!(self.recv(), None, "nothing follows a BYE");
        u16::from_be_bytes([body[0], body[1]])
    }
}

pub(crate) fn frame(message_type: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("tests send little");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message_type.to_be_bytes());
    bytes.extend([flags, 1]);
    bytes.extend(body);
    bytes
}

/// The payload of a BYE.
pub(crate) fn bye(code: u16, text: &str) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    body.push(u8::try_from(text.len()).expect("texts are short"));
    body.extend(text.as_bytes());
    body
}

/// A file that is removed at the end of the test.
pub(crate) struct TempFile {
    pub(crate) path: PathBuf,
}

impl TempFile {
    pub(crate) fn new(content: impl AsRef<[u8]>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nebnet-cli-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).expect("the temporary directory can be written");
        Self { path }
    }

    pub(crate) fn name(&self) -> &str {
        self.path.to_str().expect("the name is UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

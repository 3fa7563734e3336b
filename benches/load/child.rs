//! The two ends of the pipe: [`Load`] in the benchmark, [`run_if_child`] in the client.

use super::flood::Flood;
use super::idle::Idle;
use super::paced::Paced;
use super::receive::Receive;
use super::round_trip::RoundTrip;
use super::taker::Takers;
use super::{Mode, Report, SPEC_VARIABLE, Spec};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Congestion control of the client's sockets. Under bbr, loopback is paced by timers, and the
/// timer is what is measured.
const CONGESTION_CONTROL: &str = "reno";

/// A running client. Dropping it ends it and waits for it.
#[derive(Debug)]
pub(crate) struct Load {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Load {
    /// Starts a client and returns when all its connections are open.
    pub(crate) fn start(spec: Spec) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .env(SPEC_VARIABLE, spec.to_text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut load = Self {
            child,
            input,
            output,
        };
        assert_eq!(load.line(), "ready", "the client could not connect");
        load
    }

    /// Sends exactly that many messages, or makes that many round trips; [`Self::report`] waits for
    /// the end.
    pub(crate) fn go(&mut self, messages: u64) {
        self.command(&format!("go {messages}"));
    }

    /// Sends whole messages for a time; [`Self::report`] waits for the end.
    pub(crate) fn go_for(&mut self, time: Duration) {
        self.command(&format!("for {}", time.as_millis()));
    }

    /// Forgets the round trips measured so far.
    pub(crate) fn clear(&mut self) {
        self.command("clear");
        self.report();
    }

    /// The percentiles of all round trips since [`Self::clear`].
    pub(crate) fn stats(&mut self) -> Report {
        self.command("stats");
        self.report()
    }

    /// Of a client that floods: how many messages of its last command had the type that many after
    /// the first, and their sum.
    pub(crate) fn sent_of(&mut self, offset: usize) -> Report {
        self.command(&format!("of {offset}"));
        self.report()
    }

    /// Of an idle client: when it began to connect, on the machine's monotonic clock, and what its
    /// connections have cost it.
    pub(crate) fn since(&mut self) -> Report {
        self.command("since");
        self.report()
    }

    /// Waits for the answer to the last command.
    pub(crate) fn report(&mut self) -> Report {
        self.line().parse().unwrap()
    }

    fn command(&mut self, line: &str) {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Not by closing its input: it may be stuck in a write that nobody takes any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes the client if this process was started as one, and says so; the caller then returns from
/// `main`.
pub(crate) fn run_if_child() -> bool {
    let Ok(text) = env::var(SPEC_VARIABLE) else {
        return false;
    };
    let spec = Spec::from_text(&text);
    match spec.mode {
        Mode::Flood => {
            let mut flood = Flood::connect(spec);
            serve(|command, count| match command {
                "go" => flood.send(count),
                "for" => flood.send_for(Duration::from_millis(count)),
                "of" => flood.sent_of(count),
                _ => Report::default(),
            });
        }
        Mode::Paced => {
            let mut client = Paced::connect(spec);
            serve(|_, count| client.send_for(Duration::from_millis(count)));
        }
        Mode::RoundTrip => {
            let mut client = RoundTrip::connect(spec);
            serve(|command, count| match command {
                "go" => client.run(count),
                "clear" => client.clear(),
                _ => client.stats(),
            });
        }
        Mode::Never | Mode::Trickle | Mode::Pausing => {
            let takers = Takers::connect(spec);
            serve(|_, _| Report {
                messages: takers.len() as u64,
                ..Report::default()
            });
        }
        Mode::Receive => {
            let mut client = Receive::connect(spec);
            serve(|_, count| client.run(count));
        }
        Mode::Idle => {
            let client = Idle::connect(spec);
            serve(|_, _| client.report());
        }
    }
    true
}

fn serve(mut answer: impl FnMut(&str, u64) -> Report) {
    println!("ready");
    for line in io::stdin().lines() {
        let line = line.unwrap();
        let (command, count) = line.split_once(' ').unwrap_or((&line, "0"));
        println!("{}", answer(command, count.parse().unwrap()));
    }
}

/// A connection under [`CONGESTION_CONTROL`], which must be set before connecting: bbr leaves its
/// pacing switched on.
pub(super) fn connect(addr: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, socket, sockopt};
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket(family, SocketType::STREAM, None).unwrap();
    sockopt::set_tcp_congestion(&socket, CONGESTION_CONTROL).unwrap();
    sockopt::set_tcp_nodelay(&socket, true).unwrap();
    rustix::net::connect(&socket, &addr).unwrap();
    TcpStream::from(socket)
}

//! What `serve` does with messages, and where it listens.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
};

use crate::harness::{Peer, Service, TempFile, failure, frame, run, wait_until};

/// The vectors of docs/wire.md: plain, with checksum, with checksum and correlation.
const VECTORS: [&[u8]; 3] = [
    b"\x00\x00\x00\x06\x00\x07\x00\x01hi",
    b"\x00\x00\x00\x0a\x00\x07\x01\x01hi\x83\xa4\xe4\x18",
    b"\x00\x00\x00\x12\x00\x07\x03\x01\x01\x02\x03\x04\x05\x06\x07\x08hi\x90\xda\xe3\xbe",
];

#[track_caller]
fn assert_echoes(peer: &mut Peer) {
    let sent = VECTORS.concat();
    peer.stream.write_all(&sent).unwrap();
    let mut came = vec![0; sent.len()];
    peer.stream.read_exact(&mut came).unwrap();
    assert_eq!(came, sent);
}

#[test]
fn echo_returns_type_correlation_payload_and_checksum() {
    let service = Service::start(&["--echo"]);
    assert_echoes(&mut service.connect());
    let rest = service.stop();
    assert_eq!(rest, "");
}

#[test]
fn echo_works_with_inline_dispatch_and_small_bounds() {
    let service = Service::start(&[
        "--echo",
        "--dispatch",
        "inline",
        "--outbox-bytes",
        "64K",
        "--outbox-messages",
        "16",
        "--memory-budget",
        "32M",
    ]);
    assert_echoes(&mut service.connect());
    let lines: String = (0..5000).map(|number| format!("line {number}\n")).collect();
    let output = service.send(&["--type", "7", "--replies"], lines.as_bytes());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(payloads(&output.stdout), lines);
    service.stop();
}

#[test]
fn several_loops_share_a_port() {
    let service = Service::start(&["--echo", "--print", "--shards", "2"]);
    let mut peers: Vec<Peer> = (0..40).map(|_| service.connect()).collect();
    peers.iter_mut().for_each(assert_echoes);
    let lines = service.stop();
    let count = |loop_of| {
        lines
            .lines()
            .filter(|line| line.starts_with(loop_of))
            .count()
    };
    assert_eq!(count("0.") + count("1."), 40 * VECTORS.len());
    assert!(count("0.") > 0 && count("1.") > 0, "{lines}");
    let (code, text) = failure(&run(&["serve", "--shards", "65"], b""));
    assert_eq!(code, 2);
    assert!(text.contains("shards is 65"), "{text}");
}

/// An unfinished message of more than half the credit must not keep its peer from being read.
#[test]
fn echo_returns_messages_as_large_as_the_credit() {
    for (args, size) in [
        (&["--echo", "--outbox-bytes", "1M"], "1M"),
        (&["--echo", "--max-payload", "8M"], "5M"),
    ] {
        let service = Service::start(args);
        let send = ["--type", "7", "--size", size, "--count", "20", "--replies"];
        let output = service.send(&[&send[..], &["--timeout", "5s"]].concat(), b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        assert_eq!(payloads(&output.stdout).lines().count(), 20);
        service.stop();
    }
}

/// What `cut -f5-` leaves of printed lines.
fn payloads(printed: &[u8]) -> String {
    let printed = std::str::from_utf8(printed).unwrap();
    printed
        .lines()
        .map(|line| line.splitn(5, '\t').nth(4).unwrap().to_owned() + "\n")
        .collect()
}

#[test]
fn print_gives_a_text_file_back() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    let text = fs::read(path).unwrap();
    let service = Service::start(&["--print"]);
    let output = service.send(&["--type", "9"], &text);
    assert!(output.status.success(), "{output:?}");
    let printed = service.stop();
    assert_eq!(payloads(printed.as_bytes()).as_bytes(), text);
    assert!(
        printed
            .lines()
            .all(|line| line.split('\t').nth(1) == Some("9"))
    );
}

#[test]
fn print_shows_a_message_while_its_sender_stays() {
    let mut service = Service::start(&["--print", "--echo"]);
    let mut peer = service.connect();
    peer.send(7, b"hi");
    let line = service.line();
    assert!(line.ends_with("\t7\t2\ttext\thi"), "{line}");
    peer.send(0xFEFF, b"a\tb");
    let line = service.line();
    assert!(line.ends_with("\t65279\t3\thex\t610962"), "{line}");
    // Both subscribers get everything.
    assert_eq!(peer.recv(), Some((7, 0, b"hi".to_vec())));
    assert_eq!(peer.recv(), Some((0xFEFF, 0, b"a\tb".to_vec())));
    service.stop();
}

#[test]
fn without_echo_and_print_messages_are_counted_and_discarded() {
    let service = Service::start(&[]);
    let output = service.send(&["--type", "1", "--text", "x", "--count", "1000"], b"");
    assert!(output.status.success(), "{output:?}");
    service.signal(rustix::process::Signal::TERM);
    let (code, stderr) = service.wait();
    assert_eq!(code, Some(0));
    assert!(stderr.contains("tap: 1000 messages discarded"), "{stderr}");
}

#[test]
fn listeners_are_announced_in_the_order_of_their_options() {
    let mut service =
        Service::start_with(&["--listen", "[::1]:0", "--listen", "127.0.0.1:0", "--echo"]);
    let first = service.addr;
    let second = service.announced("listening on ");
    assert!(first.is_ipv6() && second.is_ipv4());
    assert_echoes(&mut Peer::connect(first));
    assert_echoes(&mut Peer::connect(second));
    service.stop();
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let service = Service::start(&[]);
    let addr = service.addr.to_string();
    let (code, line) = failure(&run(
        &["serve", "--listen", &addr, "--log-level", "off"],
        b"",
    ));
    assert_eq!(code, 1);
    assert!(line.contains(&addr) && line.contains("in use"), "{line}");
    let output = run(
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            &addr,
            "--log-level",
            "off",
        ],
        b"",
    );
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains(&addr) && line.contains("in use"), "{line}");
    service.stop();
}

/// How a service fails that is given these addresses; a port that another test has taken meanwhile
/// is no answer.
#[track_caller]
fn conflict(flags: [&str; 2], ips: [&str; 2]) -> (String, [String; 2]) {
    for _ in 0..10 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let addrs = ips.map(|ip| format!("{ip}:{port}"));
        let args = ["serve", flags[0], &addrs[0], flags[1], &addrs[1]];
        let (code, line) = failure(&run(&args, b""));
        assert_eq!(code, 1);
        if !line.ends_with("(os error 98)\n") {
            return (line, addrs);
        }
    }
    panic!("ten ports were taken by others");
}

#[test]
fn a_port_that_the_service_has_itself_is_explained() {
    let has_ipv6 = TcpListener::bind("[::]:0").is_ok();
    for (first, second, how) in [
        ("[::]", "0.0.0.0", "takes IPv4 as well"),
        ("0.0.0.0", "127.0.0.1", "covers it"),
        ("127.0.0.1", "127.0.0.1", "is the same"),
    ] {
        if first == "[::]" && !has_ipv6 {
            continue;
        }
        let (line, [first, second]) = conflict(["--listen"; 2], [first, second]);
        let said = format!(
            "nebnet: cannot listen on {second}: Address already in use (os error 98): \
             {first}, which this service listens on, {how}\n"
        );
        assert_eq!(line, said);
    }
    let (line, [addr, _]) = conflict(["--listen", "--metrics"], ["127.0.0.1"; 2]);
    assert!(
        line.ends_with(&format!(": {addr} is that of --metrics\n")),
        "{line}"
    );
}

#[test]
fn http_on_the_message_port_is_told_why_and_hurts_nobody() {
    let service = Service::start(&["--echo"]);
    let mut neighbour = service.connect();
    assert_echoes(&mut neighbour);
    let mut browser = service.connect();
    browser
        .stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(browser.recv_bye(), 4);
    assert_echoes(&mut neighbour);
    service.stop();
}

#[test]
fn a_peer_that_takes_no_echoes_does_not_stop_the_others() {
    let service = Service::start(&["--echo", "--write-stall-timeout", "0", "--drain", "100ms"]);
    let mut deaf = service.connect();
    deaf.stream
        .set_write_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let message = frame(1, 0, &[b'x'; 60_000]);
    // Until the service reads no more.
    while deaf.stream.write_all(&message).is_ok() {}
    assert_echoes(&mut service.connect());
    service.stop();
}

#[test]
fn stats_show_a_line_a_second() {
    let service = Service::start(&["--stats"]);
    wait_until("two status lines", || {
        service.stderr().matches("peers 0 | in ").count() >= 2
    });
    assert!(
        !service.stderr().contains('\r'),
        "no terminal, no carriage returns"
    );
    service.stop();
}

#[test]
fn log_levels_choose_what_is_logged() {
    for (level, expected) in [("debug", true), ("off", false)] {
        let service = Service::start(&["--log-level", level, "--echo"]);
        assert_echoes(&mut service.connect());
        service.signal(rustix::process::Signal::TERM);
        let (_, stderr) = service.wait();
        assert_eq!(stderr.contains(" DEBUG "), expected, "{level}: {stderr}");
        assert_eq!(stderr.contains(" INFO "), expected, "{level}: {stderr}");
    }
}

#[test]
fn threads_that_spin_on_one_processor_are_warned_of() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.unwrap().trim().split([',', '-']).next().unwrap();
    for (shards, spinning) in [("1", 2), ("2", 4)] {
        let args = ["--echo", "--idle", "spin", "--thread-name", "core"];
        let places = ["--loop-cpus", first, "--dispatcher-cpus", first];
        let shards = ["--shards", shards];
        let service = Service::start(&[&args[..], &places, &shards].concat());
        assert_echoes(&mut service.connect());
        let warning = format!("{spinning} threads that never sleep on 1 processor");
        service.signal(rustix::process::Signal::TERM);
        let (_, stderr) = service.wait();
        assert_eq!(stderr.matches(&warning).count(), 1, "{stderr}");
    }

    let output = run(
        &["serve", "--listen", "127.0.0.1:0", "--loop-cpus", "1023"],
        b"",
    );
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(
        line.contains("loop_cpus: cannot run on processor 1023"),
        "{line}"
    );
}

#[test]
fn the_configuration_file_is_used_and_flags_win() {
    let file = TempFile::new("echo = true\nmax_payload = 10\nlisten = \"127.0.0.1:0\"\n");
    let service = Service::start_with(&["--config", file.name(), "--max-payload", "20"]);
    let mut peer = service.connect();
    peer.send(1, &[0; 20]);
    assert_eq!(peer.recv(), Some((1, 0, vec![0; 20])));
    service.stop();

    let service = Service::start_with(&["--config", file.name(), "--echo=false"]);
    let mut peer = service.connect();
    peer.send(1, &[0; 10]);
    peer.send(1, &[0; 27]);
    assert_eq!(peer.recv_bye(), 4, "no echo comes first");
    service.stop();
}

//! `send`, against services that this file plays, and against a real one.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener},
    process::{Output, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use crate::harness::{Peer, Raw, Service, TempFile, bye, failure, frame, nebnet, now, run, spawn};

/// Accepts one connection and does what it is told with it.
fn play<T: Send + 'static>(
    part: impl FnOnce(Peer) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, spawn(move || part(Peer::accept(&listener))))
}

fn send(addr: SocketAddr, args: &[&str], input: &[u8]) -> Output {
    let addr = addr.to_string();
    run(&[&["send", &addr, "--type", "7"], args].concat(), input)
}

/// What arrives when `send` is run like this.
#[track_caller]
fn received(args: &[&str], input: &[u8]) -> Vec<Raw> {
    let (addr, service) = play(|mut peer| std::iter::from_fn(|| peer.recv()).collect::<Vec<_>>());
    let output = send(addr, args, input);
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    service.join().unwrap()
}

fn message(payload: &[u8]) -> Raw {
    (7, 0, payload.to_vec())
}

#[test]
fn payloads_come_from_text_file_size_or_lines() {
    assert_eq!(received(&["--text", "hi"], b"unread"), [message(b"hi")]);
    assert_eq!(received(&["--text", "--x"], b""), [message(b"--x")]);
    assert_eq!(
        received(&["--text", "", "--count", "2"], b""),
        vec![message(b""); 2]
    );
    let file = TempFile::new(b"a\nb\0\xff");
    assert_eq!(
        received(&["--file", file.name()], b""),
        [message(b"a\nb\0\xff")]
    );
    let sized = received(&["--size", "2K"], b"");
    assert_eq!((sized.len(), sized[0].2.len()), (1, 2048));
    assert_eq!(
        received(&[], b"one\r\n\n two\t\nlast"),
        [
            message(b"one\r"),
            message(b""),
            message(b" two\t"),
            message(b"last"),
        ]
    );
    assert_eq!(received(&[], b"x\n"), [message(b"x")]);
    assert_eq!(
        received(&["--count", "2"], b"a\nb\n"),
        [message(b"a"), message(b"a"), message(b"b"), message(b"b"),]
    );
    assert_eq!(received(&[], b""), []);
}

#[test]
fn checksums_are_those_of_the_wire_format() {
    let raw = received(&["--text", "hi", "--checksum"], b"");
    assert_eq!(raw, [(7, 1, b"hi\x83\xa4\xe4\x18".to_vec())]);
}

#[test]
fn a_rate_paces() {
    let start = now();
    let raw = received(&["--text", "x", "--count", "6", "--rate", "20"], b"");
    assert_eq!(raw.len(), 6);
    // The first goes at once, each other after 50 ms more.
    assert!(start.elapsed() >= Duration::from_millis(250));
}

#[test]
fn a_line_goes_out_before_the_next_is_typed() {
    let (addr, service) = play(|mut peer| peer.recv());
    let addr = addr.to_string();
    let mut child = nebnet()
        .args(["send", &addr, "--type", "7"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"first\nsec").unwrap();
    assert_eq!(service.join().unwrap(), Some(message(b"first")));
    drop(stdin);
    child.wait().unwrap();
}

#[test]
fn hello_comes_first_and_waits_for_the_ok() {
    let (addr, service) = play(|mut peer| {
        let hello = peer.recv().unwrap();
        let mut ok = b"NEBN\0\x01\0\0\0\0\0\x05".to_vec();
        ok.extend([0; 16]);
        ok.extend(1_000_000_u32.to_be_bytes());
        ok.extend([0, 0]);
        peer.send(0xFF01, &ok);
        (hello, peer.recv(), peer.recv())
    });
    let output = send(addr, &["--text", "x", "--hello", "--network-id", "5"], b"");
    assert!(output.status.success(), "{output:?}");
    let (hello, first, end) = service.join().unwrap();
    assert_eq!(
        (hello.0, &hello.2[..12]),
        (0xFF00, &b"NEBN\0\x01\0\0\0\0\0\x05"[..])
    );
    assert_eq!((first, end), (Some(message(b"x")), None));
}

#[test]
fn no_ok_in_time_is_a_failure() {
    let (addr, service) = play(|mut peer| (peer.recv().map(|raw| raw.0), peer.recv()));
    let output = send(addr, &["--text", "x", "--hello", "--timeout", "300ms"], b"");
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains("no OK came"), "{line}");
    assert_eq!(service.join().unwrap(), (Some(0xFF00), None));
}

#[test]
fn pings_are_answered_and_unknown_protocol_messages_skipped() {
    let (addr, service) = play(|mut peer| {
        peer.send(0xFFFE, b"?");
        peer.send(0xFF03, b"alive");
        peer.recv()
    });
    let addr = addr.to_string();
    let mut child = nebnet()
        .args(["send", &addr, "--type", "7"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // Standard input stays open, so that it is a living client that answers.
    assert_eq!(
        service.join().unwrap(),
        Some((0xFF04, 0, b"alive".to_vec()))
    );
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn replies_are_any_messages_and_as_many_as_went_out() {
    let (addr, service) = play(|mut peer| {
        while peer.recv().is_some() {}
        for payload in [&b"one"[..], b"a\x1b[2J", b"too many"] {
            peer.send(9, payload);
        }
    });
    let output = send(addr, &["--text", "x", "--count", "2", "--replies"], b"");
    assert!(output.status.success(), "{output:?}");
    let expected = format!("{addr}\t9\t3\ttext\tone\n{addr}\t9\t5\thex\t611b5b324a\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    service.join().unwrap();
}

#[test]
fn missing_replies_are_a_failure() {
    let (addr, service) = play(|mut peer| {
        while peer.recv().is_some() {}
        peer.send(9, b"one");
    });
    let output = send(addr, &["--text", "x", "--count", "2", "--replies"], b"");
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains("1 of 2 answers"), "{line}");
    assert!(output.stdout.ends_with(b"one\n"), "what came is shown");
    service.join().unwrap();
}

/// A service that reads everything and then says BYE with this reason.
#[track_caller]
fn after_bye(code: u16, args: &[&str]) -> Output {
    let (addr, service) = play(move |mut peer| {
        while peer.recv().is_some() {}
        peer.send(0xFF02, &bye(code, "be\nwell"));
    });
    let output = send(addr, args, b"");
    service.join().unwrap();
    output
}

#[test]
fn a_bye_with_an_error_is_a_failure() {
    let (code, line) = failure(&after_bye(7, &["--text", "x"]));
    assert_eq!(code, 1);
    assert!(line.contains("bad_checksum (7): be\\nwell"), "{line}");
    let (_, line) = failure(&after_bye(999, &["--text", "x"]));
    assert!(line.contains("unknown reason (999)"), "{line}");
    // Reasons that are no error, unless something is missing.
    assert!(after_bye(1, &["--text", "x"]).status.success());
    assert!(after_bye(2, &["--text", "x"]).status.success());
    let (_, line) = failure(&after_bye(1, &["--text", "x", "--replies"]));
    assert!(
        line.contains("shutdown (1)") && line.contains("0 of 1 answers"),
        "{line}"
    );
}

#[test]
fn a_connection_that_ends_early_or_never_is_a_failure() {
    // Early: while standard input is still open.
    let (addr, service) = play(|peer| peer.stream.shutdown(Shutdown::Both));
    let mut child = nebnet()
        .args(["send", &addr.to_string(), "--type", "7"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    service.join().unwrap().unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains("before everything was sent"), "{line}");
    // Never: until the client gives up.
    let (addr, service) = play(|mut peer| {
        while peer.recv().is_some() {}
        peer
    });
    let (code, line) = failure(&send(addr, &["--text", "x", "--timeout", "200ms"], b""));
    assert_eq!(code, 1);
    assert!(line.contains("did not end"), "{line}");
    drop(service.join().unwrap());
}

#[test]
fn a_service_that_reads_nothing_is_a_failure() {
    let (addr, service) = play(|peer| peer);
    let args = ["--size", "1M", "--count", "64", "--timeout", "300ms"];
    let (code, line) = failure(&send(addr, &args, b""));
    assert_eq!(code, 1);
    assert!(line.contains("took nothing for 300ms"), "{line}");
    drop(service.join().unwrap());
}

#[test]
fn bytes_that_are_no_frame_are_a_failure() {
    let (addr, service) = play(|mut peer| {
        while peer.recv().is_some() {}
        peer.stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    let (code, line) = failure(&send(addr, &["--text", "x"], b""));
    assert_eq!(code, 1);
    assert!(line.contains("frame length"), "{line}");
    service.join().unwrap();
    let (addr, service) = play(|mut peer| {
        while peer.recv().is_some() {}
        peer.stream.write_all(&frame(1, 0, b"hi")[..9]).unwrap();
    });
    let (_, line) = failure(&send(addr, &["--text", "x"], b""));
    assert!(line.contains("inside a message"), "{line}");
    service.join().unwrap();
}

#[test]
fn what_cannot_be_reached_or_read_is_named() {
    // Bound and let go, so that nothing listens there.
    let addr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (code, line) = failure(&send(addr, &["--text", "x"], b""));
    assert_eq!(code, 1);
    assert!(
        line.contains(&addr.to_string()) && line.contains("refused"),
        "{line}"
    );
}

/// What can be known before the service is asked is found out before it sees a connection.
#[test]
fn what_cannot_be_sent_does_not_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let folder = std::env::temp_dir();
    let folder = folder.to_str().unwrap();
    for args in [
        &["--file", "/nonexistent/x"][..],
        &["--file", folder],
        &["--hello", "--file", "/nonexistent/x"],
    ] {
        let (code, line) = failure(&send(addr, args, b""));
        assert_eq!(code, 1);
        assert!(line.contains("cannot read /"), "{line}");
    }
    let output = nebnet()
        .args(["send", &addr.to_string(), "--type", "7"])
        .stdin(std::fs::File::open(folder).unwrap())
        .output()
        .unwrap();
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains("standard input: it is a directory"), "{line}");
    let accepted = listener.accept();
    assert_eq!(accepted.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_closed_standard_output_ends_the_replies() {
    let (addr, service) = play(|mut peer| {
        assert!(peer.recv().is_some());
        let answer = frame(1, 0, b"hi");
        while peer.stream.write_all(&answer).is_ok() {}
    });
    let mut child = nebnet()
        .args(["send", &addr.to_string(), "--type", "7", "--replies"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"x\n").unwrap();
    let mut first = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains("standard output"), "{line}");
    service.join().unwrap();
}

#[test]
fn host_names_are_resolved() {
    let service = Service::start(&["--echo"]);
    let addr = format!("localhost:{}", service.addr.port());
    let output = run(
        &["send", &addr, "--type", "7", "--text", "x", "--replies"],
        b"",
    );
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, format!("{addr}\t7\t1\ttext\tx\n").as_bytes());
    service.stop();
}

#[test]
fn many_lines_come_back_in_order() {
    let service = Service::start(&["--echo"]);
    let lines: String = (0..100_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let output = service.send(&["--type", "7", "--replies"], lines.as_bytes());
    assert!(
        output.status.success(),
        "{:?}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let back: String = printed
        .lines()
        .map(|line| line.splitn(5, '\t').nth(4).unwrap().to_owned() + "\n")
        .collect();
    assert!(back == lines, "lines are missing or changed");
    service.stop();
}

#[test]
fn the_service_refuses_what_is_too_long() {
    let service = Service::start(&["--echo"]);
    let output = service.send(&["--type", "7", "--size", "2M"], b"");
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains("frame_too_long (4)"), "{line}");
    service.stop();
}

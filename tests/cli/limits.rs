//! Each limit of `serve`, as a peer meets it: the reason of the BYE.

use std::{io::Write as _, time::Duration};

use crate::harness::{Service, frame, now};

#[test]
fn max_payload() {
    let service = Service::start(&["--echo", "--max-payload", "1K"]);
    let mut peer = service.connect();
    peer.send(1, &[7; 1024]);
    assert_eq!(peer.recv(), Some((1, 0, vec![7; 1024])));
    peer.send(1, &[7; 1025]);
    assert_eq!(peer.recv_bye(), 4);
    service.stop();
}

#[test]
fn max_peers() {
    let service = Service::start(&["--echo", "--max-peers", "1"]);
    let mut first = service.connect();
    first.send(1, b"x");
    assert!(first.recv().is_some());
    assert_eq!(service.connect().recv_bye(), 17);
    service.stop();
}

#[test]
fn max_peers_per_addr() {
    let service = Service::start(&["--echo", "--max-peers-per-addr", "1"]);
    let mut first = service.connect();
    first.send(1, b"x");
    assert!(first.recv().is_some());
    assert_eq!(service.connect().recv_bye(), 18);
    service.stop();
}

#[test]
fn timeouts() {
    for (flag, bytes, reason) in [
        ("--first-frame-timeout", &b""[..], 12),
        ("--frame-timeout", &b"\0\0\0\x06\0"[..], 13),
        ("--idle-timeout", &b"\0\0\0\x06\0\x07\0\x01hi"[..], 14),
    ] {
        let service = Service::start(&[flag, "300ms"]);
        let start = now();
        let mut peer = service.connect();
        peer.stream.write_all(bytes).unwrap();
        assert_eq!(peer.recv_bye(), reason, "{flag}");
        let elapsed = start.elapsed();
        // The service counts in ticks of a millisecond, and may begin inside of one.
        assert!(elapsed >= Duration::from_millis(299), "{flag}: {elapsed:?}");
        service.stop();
    }
}

#[test]
fn write_stall_timeout() {
    let service = Service::start(&["--echo", "--write-stall-timeout", "300ms"]);
    let mut deaf = service.connect();
    let message = frame(1, 0, &[b'x'; 60_000]);
    // Ends only because the service resets the connection.
    while deaf.stream.write_all(&message).is_ok() {}
    service.stop();
}

#[test]
fn require_hello() {
    let service = Service::start(&["--echo", "--require-hello"]);
    let mut peer = service.connect();
    peer.send(1, b"x");
    assert_eq!(peer.recv_bye(), 9);
    let output = service.send(&["--type", "1", "--text", "x", "--hello", "--replies"], b"");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.ends_with(b"\t1\t1\ttext\tx\n"), "{output:?}");
    service.stop();
}

#[test]
fn network_id() {
    let service = Service::start(&["--echo", "--network-id", "0x2a"]);
    let send = ["--type", "1", "--text", "x", "--replies", "--hello"];
    let output = service.send(&[&send[..], &["--network-id", "42"]].concat(), b"");
    assert!(output.status.success(), "{output:?}");
    let output = service.send(&send, b"");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("hello_mismatch (10)"), "{stderr}");
    service.stop();
}

//! Each limit of `serve`, as a peer meets it: the reason of the BYE.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use crate::{
    harness::{Service, failure, frame, nebnet_within, now, run, spawn, wait_until},
    metrics::get,
};

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
fn max_pending() {
    let args = ["--echo", "--max-pending", "1", "--metrics", "127.0.0.1:0"];
    let mut service = Service::start(&args);
    let metrics = service.announced("metrics on ");
    let mut silent = service.connect();
    // The next one may be another loop's, which would take it before this one is there.
    wait_until("it is there", || {
        get(metrics, "/metrics").contains("\nnebnet_peers 1\n")
    });
    assert_eq!(service.connect().recv_bye(), 17);
    // Whoever has spoken is not pending any more.
    silent.send(1, b"x");
    assert!(silent.recv().is_some());
    let mut second = service.connect();
    second.send(1, b"y");
    assert_eq!(second.recv(), Some((1, 0, b"y".to_vec())));
    service.stop();
}

#[test]
fn checksums() {
    let service = Service::start(&["--echo", "--checksums"]);
    let mut peer = service.connect();
    peer.send(7, b"hi");
    // The vector of docs/wire.md.
    let mut came = [0; 14];
    peer.stream.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"\x00\x00\x00\x0a\x00\x07\x01\x01hi\x83\xa4\xe4\x18");
    service.stop();
}

#[test]
fn require_checksums() {
    let service = Service::start(&["--echo", "--checksums", "--require-checksums"]);
    let mut peer = service.connect();
    let vector = b"\x00\x00\x00\x0a\x00\x07\x01\x01hi\x83\xa4\xe4\x18";
    peer.stream.write_all(vector).unwrap();
    let mut came = [0; 14];
    peer.stream.read_exact(&mut came).unwrap();
    assert_eq!(&came, vector);
    peer.send(7, b"hi");
    // BYE, with a checksum: reason 7.
    let mut head = [0; 10];
    peer.stream.read_exact(&mut head).unwrap();
    assert_eq!(head[4..], *b"\xff\x02\x01\x01\x00\x07");
    for options in [&["--checksum"][..], &["--checksum", "--hello"]] {
        let addr = service.addr.to_string();
        let args = [
            &["send", &addr, "--type", "7", "--text", "x", "--replies"],
            options,
        ];
        assert!(run(&args.concat(), b"").status.success(), "{options:?}");
    }
    service.stop();
}

/// A peer that reads nothing is in the way of what a relay passes on to it.
#[test]
fn outbox_full() {
    for policy in ["refuse", "close", "drop-oldest"] {
        let mut service = Service::start(&[
            "--relay",
            "--outbox-full",
            policy,
            "--outbox-messages",
            "16",
            "--write-stall-timeout",
            "0",
            "--metrics",
            "127.0.0.1:0",
        ]);
        let metrics = service.announced("metrics on ");
        let count = |line: &str| {
            let page = get(metrics, "/metrics");
            let value = page.lines().find_map(|found| found.strip_prefix(line));
            value
                .unwrap_or_else(|| panic!("no {line}: {page}"))
                .trim()
                .to_owned()
        };
        let mut deaf = service.connect();
        deaf.send(1, b"I am here");
        let mut speaker = service.connect();
        wait_until("both are there", || count("nebnet_peers ") == "2");
        let end = match policy {
            "close" => "nebnet_peers_closed_total{reason=\"slow_peer\"} ",
            "drop-oldest" => "nebnet_outbound_overflowed_messages_total ",
            _ => "nebnet_inbound_messages_total ",
        };
        // More than the kernel's buffers on the way to a deaf peer hold.
        let message = frame(1, 0, &[b'x'; 60_000]);
        for _ in 0..1_000 {
            speaker.stream.write_all(&message).unwrap();
        }
        wait_until("the full outbox shows", || match policy {
            "refuse" => count(end) == "1001",
            _ => count(end) != "0",
        });
        let lost = count("nebnet_outbound_overflowed_messages_total ");
        assert_eq!(lost != "0", policy == "drop-oldest");
        let here = count("nebnet_peers ");
        assert_eq!(here, if policy == "close" { "1" } else { "2" }, "{policy}");
        drop((deaf, speaker));
        service.stop();
    }
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
        // The service counts from the beginning of the turn in which it saw them.
        assert!(elapsed >= Duration::from_millis(200), "{flag}: {elapsed:?}");
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

/// The value of a sample on the page of metrics.
fn metric(page: &str, name: &str) -> u64 {
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

/// Peers that do not read, with bounds that together are far above what the process may have.
#[test]
fn no_peer_makes_a_service_exceed_its_address_space() {
    let args = [
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--echo",
    ];
    let more = ["--outbox-bytes", "32M", "--drain", "0"];
    let mut service = Service::start_of(nebnet_within(400), &[&args[..], &more].concat());
    let metrics = service.announced("metrics on ");
    let peers: Vec<_> = (0..12)
        .map(|_| {
            let mut peer = service.connect();
            let bytes = frame(7, 0, &[0; 1000]).repeat(100);
            spawn(move || while peer.stream.write_all(&bytes).is_ok() {})
        })
        .collect();
    let mut page = String::new();
    wait_until("the budget to be short", || {
        page = get(metrics, "/metrics");
        metric(&page, "nebnet_reads_paused_total{cause=\"budget\"}") > 0
    });
    let budget = metric(&page, "nebnet_memory_budget_bytes");
    assert!((100 << 20..200 << 20).contains(&budget), "{budget}");
    let lowered =
        format!("memory_budget is lowered from 268435456 to {budget} bytes, half of what");
    assert_eq!(service.stderr().matches(&lowered).count(), 1);
    assert!(
        service
            .stderr()
            .contains("RLIMIT_AS leaves: 419430400 bytes, ")
    );
    service.stop();
    for peer in peers {
        peer.join().unwrap();
    }
}

/// Many loops, each of which would keep storage of long frames beside the budget.
#[test]
fn many_loops_do_not_exceed_the_address_space() {
    let listen = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let more = ["--echo", "--outbox-bytes", "16M", "--shards", "16"];
    let args = [&listen[..], &more, &["--drain", "0"]].concat();
    let mut service = Service::start_of(nebnet_within(400), &args);
    let metrics = service.announced("metrics on ");
    let peers: Vec<_> = (0..60)
        .map(|_| {
            let mut peer = service.connect();
            let bytes = frame(7, 0, &[0; 1_000_000]);
            spawn(move || while peer.stream.write_all(&bytes).is_ok() {})
        })
        .collect();
    wait_until("the budget to be short", || {
        let page = get(metrics, "/metrics");
        metric(&page, "nebnet_reads_paused_total{cause=\"budget\"}") > 0
    });
    service.stop();
    for peer in peers {
        peer.join().unwrap();
    }
}

#[test]
fn a_budget_that_the_host_does_not_allow_is_one_line() {
    let start = |mebibytes, args: &[&str]| {
        let mut command = nebnet_within(mebibytes);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args);
        let (code, line) = failure(&command.output().unwrap());
        assert_eq!(code, 1, "{line}");
        line
    };
    let line = start(100, &["--memory-budget", "200M"]);
    let above = "memory_budget is 209715200 bytes, above the whole limit of 104857600 bytes in ";
    assert!(line.contains(above), "{line}");
    let line = start(80, &[]);
    assert!(
        line.contains("bytes, below 16777216: it is half of what RLIMIT_AS"),
        "{line}"
    );
    let line = start(400, &["--outbox-bytes", "200M"]);
    assert!(
        line.contains("outbox_bytes is 209715200 bytes, above the memory"),
        "{line}"
    );
}

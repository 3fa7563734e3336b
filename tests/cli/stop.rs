//! How `serve` ends.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{Service, frame, now, spawn, wait_until};

#[test]
fn sigterm_and_sigint_drain_and_report() {
    for signal in [Signal::TERM, Signal::INT] {
        let service = Service::start(&["--echo"]);
        let mut peer = service.connect();
        peer.send(1, b"x");
        assert!(peer.recv().is_some());
        service.signal(signal);
        assert_eq!(peer.recv_bye(), 1);
        let (code, stderr) = service.wait();
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stderr.contains("echo: 1 messages returned, 0 undeliverable"),
            "{stderr}"
        );
    }
}

#[test]
fn what_was_sent_before_the_signal_is_answered() {
    let service = Service::start(&["--echo"]);
    let mut peer = service.connect();
    for number in 0..1000_u32 {
        peer.send(1, &number.to_be_bytes());
    }
    // The first answer shows that the service has begun to read.
    assert_eq!(peer.recv().unwrap().2, 0_u32.to_be_bytes());
    service.signal(Signal::TERM);
    // Every answer that comes is the next one; then BYE Shutdown.
    let mut expected = 1_u32;
    let last = loop {
        match peer.recv() {
            Some((1, _, body)) => assert_eq!(body, expected.to_be_bytes()),
            other => break other,
        }
        expected += 1;
    };
    assert_eq!(last.map(|(message_type, ..)| message_type), Some(0xFF02));
    let (code, stderr) = service.wait();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.contains(&format!("echo: {expected} messages returned")),
        "{stderr}"
    );
}

/// A peer whose echoes have nowhere to go, so that a drain takes as long as it may.
fn fill(service: &Service) -> crate::harness::Peer {
    let mut deaf = service.connect();
    deaf.stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let message = frame(1, 0, &[b'x'; 60_000]);
    while deaf.stream.write_all(&message).is_ok() {}
    deaf
}

#[test]
fn a_drain_ends_at_its_deadline_with_exit_code_0() {
    let service = Service::start(&["--echo", "--write-stall-timeout", "0", "--drain", "300ms"]);
    let _deaf = fill(&service);
    let start = now();
    service.signal(Signal::TERM);
    let (code, stderr) = service.wait();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_second_signal_stops_at_once() {
    let service = Service::start(&["--echo", "--write-stall-timeout", "0", "--drain", "1h"]);
    let _deaf = fill(&service);
    service.signal(Signal::TERM);
    // Two pending signals of one kind are one, so the first has to be seen to have come.
    wait_until("the drain", || service.stderr().contains("stopping"));
    service.signal(Signal::TERM);
    let (code, _) = service.wait();
    assert_eq!(code, Some(130));
}

#[test]
fn a_closed_standard_output_stops_print() {
    let mut service = Service::start(&["--print"]);
    let mut peer = service.connect();
    peer.send(1, b"first");
    assert!(service.line().ends_with("\tfirst"));
    service.stdout = None;
    // Also if there is nothing to print.
    let (code, stderr) = service.wait();
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(peer.recv_bye(), 1);
}

#[test]
fn a_full_standard_output_pauses_and_loses_nothing() {
    let mut service = Service::start(&["--print"]);
    let addr = service.addr;
    // More than the pipe, the buffer and the subscriber's queue hold together.
    let sender = spawn(move || {
        let addr = addr.to_string();
        let args = [
            "send", &addr, "--type", "1", "--size", "1K", "--count", "40000",
        ];
        crate::harness::run(&args, b"")
    });
    // Nobody reads yet; the sender cannot be done.
    wait_until("the first line", || {
        service.line().contains("\t1024\ttext\t")
    });
    assert!(!sender.is_finished());
    let mut rest = String::new();
    let mut stdout = service.stdout.take().unwrap();
    let reader = spawn(move || {
        stdout.read_to_string(&mut rest).unwrap();
        rest
    });
    let output = sender.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    service.stop();
    assert_eq!(reader.join().unwrap().lines().count(), 39_999);
}

/// A client that asks faster than it reads, and goes on after the signal: every answer that the
/// report says was written is read, and the BYE behind them.
#[test]
fn a_client_that_reads_slowly_gets_every_answer_that_was_written() {
    let mut service = Service::start(&["--echo", "--drain", "60s", "--metrics", "127.0.0.1:0"]);
    let metrics = service.announced("metrics on ");
    let mut peer = service.connect();
    let mut stream = peer.stream.try_clone().unwrap();
    let writer = spawn(move || {
        let questions = frame(1, 0, &[b'q'; 64]).repeat(200);
        let mut asked = 0_usize;
        while stream.write_all(&questions).is_ok() {
            asked += 200;
            std::thread::park_timeout(Duration::from_micros(300));
        }
        // Of the last piece some may have gone.
        asked + 200
    });
    wait_until("answers wait", || {
        let page = crate::metrics::get(metrics, "/metrics");
        !page.contains("nebnet_reads_paused_total{cause=\"credit\"} 0\n")
    });
    service.signal(Signal::TERM);
    wait_until("the drain", || service.stderr().contains("stopping"));
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    while let Ok(size @ 1..) = peer.stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..size]);
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let _ = peer.stream.shutdown(std::net::Shutdown::Both);
    let asked = writer.join().unwrap();
    let answers = bytes.len() / 72;
    let rest = &bytes[72 * answers..];
    assert!(rest.len() > 10, "no BYE after {answers} answers");
    assert_eq!(&rest[4..6], [0xFF, 0x02], "a BYE is last");
    assert_eq!(&rest[8..10], [0, 1]);
    let (code, report) = service.wait();
    assert_eq!(code, Some(0), "{report}");
    let ledger = crate::ledgers::Ledger::of_report(&report);
    assert_eq!(ledger.written, answers as u64, "{report}");
    assert!(
        ledger.received + ledger.discarded <= asked as u64,
        "{report}"
    );
}

//! The main job over real sockets: frames in, messages out, answers back.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "tests wait by the clock"
)]

mod util;

use std::{io::Write, net::Shutdown, time::Duration};

use nebnet::{Config, Dispatch, MessageType, NetService, StartError, TypeFilter, frame::Frame};
use util::{Client, assert_balanced, config, encoded, start_echo};

fn modes() -> [Config; 2] {
    [
        config().dispatch(Dispatch::Thread),
        config().dispatch(Dispatch::Inline),
    ]
}

#[test]
fn frames_come_back_whole_in_order_and_with_their_options() {
    for config in modes() {
        let (mut service, echo) = start_echo(config);
        let mut client = Client::connect(service.local_addrs()[0]);
        let frames = [
            Frame::new(MessageType(7), b"hi"),
            Frame::new(MessageType(0), b""),
            Frame::new(MessageType(9), b"with a checksum").with_checksum(true),
            Frame::new(MessageType(0xFEFF), b"correlated").with_correlation(u64::MAX),
            Frame::new(MessageType(9), b"both")
                .with_correlation(1)
                .with_checksum(true),
        ];
        for frame in &frames {
            client.send(frame);
        }
        for frame in &frames {
            let answer = client.receive().unwrap();
            assert_eq!(answer.message_type, frame.message_type);
            assert_eq!(answer.payload, frame.payload);
            assert_eq!(answer.correlation, frame.correlation);
            assert_eq!(answer.checksum, frame.checksum);
        }
        drop(client);
        let report = util::stop_within(&mut service, Duration::from_secs(5));
        assert!(report.drained, "{report}");
        assert_balanced(&report.snapshot);
        assert_eq!(echo.join().unwrap(), frames.len() as u64);
    }
}

#[test]
fn frames_cut_at_every_byte_come_back() {
    let (mut service, echo) = start_echo(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    for size in [0, 1, 7, 300] {
        let payload = vec![b'x'; size];
        for byte in encoded(&Frame::new(MessageType(7), &payload).with_checksum(true)) {
            client.stream.write_all(&[byte]).unwrap();
        }
        client.expect(7, &payload);
    }
    drop(client);
    let report = util::stop_within(&mut service, Duration::from_secs(5));
    assert_balanced(&report.snapshot);
    echo.join().unwrap();
}

#[test]
fn a_pipeline_of_100_000_frames_comes_back_after_the_last_was_sent() {
    for config in modes() {
        let (mut service, echo) = start_echo(config);
        let mut client = Client::connect(service.local_addrs()[0]);
        let mut bytes = Vec::new();
        for number in 0..100_000_u32 {
            let payload = number.to_be_bytes();
            Frame::new(MessageType(7), &payload)
                .encode(&mut bytes)
                .unwrap();
        }
        client.stream.write_all(&bytes).unwrap();
        client.stream.shutdown(Shutdown::Write).unwrap();
        for number in 0..100_000_u32 {
            client.expect(7, &number.to_be_bytes());
        }
        assert_eq!(client.receive(), None);
        let report = util::stop_within(&mut service, Duration::from_secs(5));
        assert!(report.drained, "{report}");
        assert_balanced(&report.snapshot);
        assert_eq!(echo.join().unwrap(), 100_000);
    }
}

#[test]
fn large_frames_come_back() {
    let (mut service, echo) = start_echo(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    for size in [4096, 65_000, 65_536, 100_000, 1 << 20] {
        let payload: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
        client.send_message(3, &payload);
        client.expect(3, &payload);
    }
    drop(client);
    assert_balanced(&util::stop_within(&mut service, Duration::from_secs(5)).snapshot);
    echo.join().unwrap();
}

#[test]
fn a_port_in_use_is_an_error_and_leaves_no_thread() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let mut service = NetService::new(Config::default().listen(addr)).unwrap();
    let mut messages = service.handle().subscribe(TypeFilter::all()).unwrap();
    let error = service.start().unwrap_err();
    assert!(
        matches!(error, StartError::Listen { addr: bad, .. } if bad == addr),
        "{error}"
    );
    assert!(error.to_string().contains(&addr.to_string()));
    // The dispatcher has ended: its subscriber finds the end of its queue.
    assert!(messages.recv().is_err());
    assert!(matches!(service.start(), Err(StartError::AlreadyStarted)));
}

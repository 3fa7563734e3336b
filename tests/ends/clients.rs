//! A service and a client on the standard library alone, which keeps its own count: every answer
//! that the service says it wrote is read, up to the BYE and the FIN.

use std::{
    io::Write as _,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, ClosedRow, Dispatch, MessageType, Outgoing, Priority, SendError, ServiceState,
    frame::{Frame, Hello},
};

use crate::{
    util::{
        self, BYE, Client, End, HELLO, OK, config, encoded, only_peer, start_echo, start_tap,
        stop_echo, stop_tap, wait_for_row, wait_until,
    },
    world::{DRAIN, T},
};

const MODES: [Dispatch; 2] = [Dispatch::Thread, Dispatch::Inline];

fn questions(count: u32, size: usize) -> Vec<u8> {
    let (mut bytes, mut payload) = (Vec::new(), vec![b'q'; size.max(4)]);
    for number in 0..count {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        Frame::new(T, &payload).encode(&mut bytes).unwrap();
    }
    bytes
}

/// A BYE with this code.
fn bye(code: u16) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    encoded(&Frame::new(BYE, &[high, low, 0]))
}

/// Reads answers in order until something else comes, which it gives with their number.
#[track_caller]
fn read_answers(client: &mut Client) -> (u32, Option<util::Answer>) {
    let mut count = 0_u32;
    while let Some(answer) = client.receive() {
        if answer.message_type != T {
            return (count, Some(answer));
        }
        assert_eq!(answer.payload[..4], count.to_be_bytes());
        count += 1;
    }
    (count, None)
}

/// Reads answers in order, a BYE with this code and the FIN; gives the number of answers.
#[track_caller]
fn read_to_bye(client: &mut Client, code: u16) -> u32 {
    let (count, last) = read_answers(client);
    let last = last.unwrap_or_else(|| panic!("no BYE after {count} answers: {:?}", client.end()));
    assert_eq!(
        (last.message_type, &last.payload[..2]),
        (BYE, &code.to_be_bytes()[..])
    );
    client.expect_end(End::Fin);
    count
}

/// Everything that came is answered, or the answer is counted as refused.
#[track_caller]
fn assert_answered(row: &ClosedRow, answers: u32) {
    assert_eq!(row.outbound.messages, u64::from(answers), "{row:?}");
    assert_eq!(
        (row.lost.messages, row.overflowed.messages),
        (0, 0),
        "{row:?}"
    );
}

/// A client that leaves says so behind its last question, and still gets every answer.
#[test]
fn a_bye_behind_the_questions_costs_no_answer() {
    for dispatch in MODES {
        // Shutdown, AppClosed, DuplicateNode: whoever says these reads on.
        for code in [1, 2, 21] {
            let (service, echo) = start_echo(config().dispatch(dispatch));
            let mut client = Client::connect(service.local_addrs()[0]);
            let peer = only_peer(&service);
            client.stream.write_all(&questions(1_000, 500)).unwrap();
            client.stream.write_all(&bye(code)).unwrap();
            let (answers, last) = read_answers(&mut client);
            assert_eq!((answers, last), (1_000, None), "no BYE answers a BYE");
            assert_eq!(client.end(), Some(End::Fin));
            drop(client);
            let row = wait_for_row(&service, peer);
            assert_eq!(
                (row.reason, row.bye_received),
                (CloseReason::PeerBye, Some(code))
            );
            assert_answered(&row, answers);
            stop_echo(service, echo);
        }
    }
}

/// After a BYE that names a fault that side does not read on, and nothing is written for it.
#[test]
fn a_bye_that_names_a_fault_ends_the_sending() {
    let (service, tap) = start_tap(config().outbox_bytes(64 << 20));
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let (peer, handle) = (only_peer(&service), service.handle());
    let mut accepted = 0;
    while handle.peers().unwrap()[0].queued.bytes < 4 << 20 {
        handle.send(peer, (T, vec![0; 100_000])).unwrap();
        accepted += 1;
    }
    client.stream.write_all(&bye(7)).unwrap();
    wait_until("sends are refused", || {
        handle
            .send(peer, (T, b"late"))
            .inspect(|()| accepted += 1)
            .is_err()
    });
    while client.receive().is_some() {}
    let row = wait_for_row(&service, peer);
    assert_eq!(
        (row.reason, row.bye_received),
        (CloseReason::PeerBye, Some(7))
    );
    assert!(row.lost.messages > 0, "{row:?}");
    assert_eq!(
        row.outbound.messages + row.lost.messages,
        accepted,
        "{row:?}"
    );
    drop(client);
    stop_tap(service, tap);
}

/// What was seen: 100,800 of 148,400 answers came, and no BYE, of a stop that reported no loss.
#[test]
fn a_client_that_asks_on_and_reads_slowly_gets_every_answer_and_the_bye() {
    for dispatch in MODES {
        let (mut service, echo) = start_echo(config().dispatch(dispatch));
        let mut client = Client::connect_small(service.local_addrs()[0]);
        let peer = only_peer(&service);
        let mut stream = client.stream.try_clone().unwrap();
        // Goes on asking until the service is gone.
        let writer = thread::spawn(move || {
            let bytes = questions(200, 64);
            while stream.write_all(&bytes).is_ok() {
                thread::park_timeout(Duration::from_micros(300));
            }
        });
        wait_until("answers wait for it", || {
            service.handle().snapshot().pauses.credit > 0
        });
        let handle = service.handle();
        let stopping = thread::spawn(move || {
            let report = util::stop_within(&mut service, DRAIN);
            (service, report)
        });
        wait_until("it stops", || {
            handle.snapshot().state == ServiceState::Stopping
        });
        let mut answers = 0;
        let last = loop {
            match client.receive() {
                Some(answer) if answer.message_type == T => answers += 1,
                other => break other,
            }
        };
        assert_eq!(last.map(|last| last.message_type), Some(BYE));
        client.expect_end(End::Fin);
        client.stream.shutdown(Shutdown::Both).unwrap();
        writer.join().unwrap();
        let (service, report) = stopping.join().unwrap();
        let row = &report
            .peers
            .iter()
            .find(|row| row.closed.peer == peer)
            .unwrap()
            .closed;
        assert_answered(row, answers);
        assert_eq!(row.reason, CloseReason::Shutdown);
        stop_echo(service, echo);
    }
}

/// Frames before a bad one are answered, for which there are 500 ms, and the BYE comes although its
/// peer talks on.
#[test]
fn a_protocol_error_costs_no_answer_of_what_came_before() {
    let (service, echo) = start_echo(config());
    for count in [0, 1, 1_000] {
        let mut client = Client::connect(service.local_addrs()[0]);
        let peer = only_peer(&service);
        // A frame of version 2.
        let bytes = [&questions(count, 100)[..], b"\0\0\0\x04\0\x07\0\x02"].concat();
        let started = Instant::now();
        client.stream.write_all(&bytes).unwrap();
        client.try_write(&questions(100, 1_000));
        let answers = read_to_bye(&mut client, 5);
        let waited = started.elapsed();
        // From the beginning of the turn in which the loop saw it.
        assert!(
            answers == count || waited >= Duration::from_millis(450),
            "{waited:?}"
        );
        drop(client);
        let row = wait_for_row(&service, peer);
        assert_eq!(row.reason, CloseReason::BadVersion);
        assert_eq!(row.inbound.messages, count.into());
        assert_answered(&row, answers);
    }
    stop_echo(service, echo);
}

#[test]
fn a_fin_behind_the_questions_costs_no_answer() {
    let (service, echo) = start_echo(config());
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let peer = only_peer(&service);
    let mut stream = client.stream.try_clone().unwrap();
    let writer = thread::spawn(move || {
        stream.write_all(&questions(20_000, 500)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let (answers, last) = read_answers(&mut client);
    assert_eq!((answers, last), (20_000, None));
    assert_eq!(client.end(), Some(End::Fin));
    writer.join().unwrap();
    let row = wait_for_row(&service, peer);
    assert_eq!(row.reason, CloseReason::PeerClosed);
    assert_answered(&row, answers);
    stop_echo(service, echo);
}

/// A node that comes again, with a token, takes the place of its connection, whose answers are
/// written before it goes.
#[test]
fn a_node_that_comes_again_loses_no_answer_of_its_old_connection() {
    for shards in [1, 3] {
        let (service, echo) = start_echo(config().shards(shards).accept_tokens(["secret"]));
        let hello = Hello {
            node_id: [5; 16],
            token: b"secret",
            ..Hello::default()
        };
        let hello = encoded(&Frame::new(HELLO, &hello.to_payload()));
        let greet = || {
            let mut client = Client::connect(service.local_addrs()[0]);
            client.stream.write_all(&hello).unwrap();
            assert_eq!(client.receive().unwrap().message_type, OK);
            client
        };
        let mut first = greet();
        let peer = only_peer(&service);
        first.stream.write_all(&questions(5_000, 100)).unwrap();
        let mut second = greet();
        let answers = read_to_bye(&mut first, 21);
        drop(first);
        let row = wait_for_row(&service, peer);
        assert_eq!(row.reason, CloseReason::DuplicateNode);
        assert_answered(&row, answers);
        second.send_message(7, b"\0\0\0\0");
        second.expect(7, b"\0\0\0\0");
        drop(second);
        stop_echo(service, echo);
    }
}

/// How a connection is ended by its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Stop,
    Close,
}

/// A frame of 1 MiB that is written by half is written to its end, and a BYE and a FIN behind it.
#[test]
fn a_frame_that_is_written_by_half_is_finished() {
    for by in [By::Stop, By::Close] {
        let (mut service, tap) = start_tap(config());
        let mut client = Client::connect_small(service.local_addrs()[0]);
        let (peer, handle) = (only_peer(&service), service.handle());
        let large = vec![b'l'; 1 << 20];
        let mut count = 0;
        // Until the kernel has taken a part of one only.
        while handle.peers().unwrap()[0].queued.messages == 0 {
            handle.send(peer, (T, &large)).unwrap();
            count += 1;
        }
        let code = if by == By::Stop { 1 } else { 2 };
        let reader = thread::spawn(move || {
            for _ in 0..count {
                client.expect(7, &large);
            }
            client.expect_bye(code);
        });
        if by == By::Stop {
            util::stop_within(&mut service, DRAIN);
        } else {
            assert!(handle.close(peer));
            assert_eq!(
                handle
                    .send(peer, (T, b"late"))
                    .map_err(nebnet::Rejected::into_error),
                Err(SendError::Closing)
            );
        }
        reader.join().unwrap();
        let report = stop_tap(service, tap);
        assert_eq!(report.snapshot.outbound_written.messages, count, "{by:?}");
        assert_eq!(report.snapshot.outbound_dropped.messages, 0, "{by:?}");
    }
}

/// What is urgent goes before what waits, and a full outbox is written to its end all the same.
#[test]
fn the_urgent_behind_a_full_outbox_is_written_with_all_of_it() {
    for by in [By::Stop, By::Close] {
        let (mut service, tap) = start_tap(config().outbox_bytes(256 << 10));
        let mut client = Client::connect_small(service.local_addrs()[0]);
        let (peer, handle) = (only_peer(&service), service.handle());
        let payload = [b'n'; 10_000];
        // The kernel takes no more.
        while handle.peers().unwrap()[0].queued.bytes < 100 << 10 {
            handle.send(peer, (T, &payload)).unwrap();
        }
        for _ in 0..10 {
            let message = Outgoing::new(MessageType(9), b"now").priority(Priority::High);
            handle.send(peer, message).unwrap();
        }
        while handle.send(peer, (T, &payload)).is_ok() {}
        let reader = thread::spawn(move || {
            let (mut normal, mut high) = (0_u64, 0_u64);
            loop {
                match client.receive().expect("a BYE comes last").message_type {
                    T => normal += 1,
                    MessageType(9) => high += 1,
                    other => {
                        assert_eq!(other, BYE);
                        client.expect_end(End::Fin);
                        return (normal, high);
                    }
                }
            }
        });
        if by == By::Stop {
            util::stop_within(&mut service, DRAIN);
        } else {
            assert!(handle.close(peer));
        }
        let (normal, high) = reader.join().unwrap();
        assert_eq!(high, 10);
        let report = stop_tap(service, tap);
        assert_eq!(
            report.snapshot.outbound_written.messages,
            normal + high,
            "{by:?}"
        );
        assert_eq!(report.snapshot.outbound_dropped.messages, 0, "{by:?}");
    }
}

/// A peer that is not read any more, for its unread answers, gets all of them, and what it sent
/// meanwhile is read and counted.
#[test]
fn a_peer_whose_credit_is_used_up_is_read_to_its_end() {
    for by in [By::Stop, By::Close] {
        let (mut service, echo) = start_echo(config().outbox_bytes(256 << 10));
        let mut client = Client::connect_small(service.local_addrs()[0]);
        let (peer, handle) = (only_peer(&service), service.handle());
        let mut stream = client.stream.try_clone().unwrap();
        let writer = thread::spawn(move || {
            let _ = stream.write_all(&questions(30_000, 500));
        });
        wait_until("its credit is used up", || {
            service.handle().snapshot().pauses.credit > 0
        });
        let code = if by == By::Stop { 1 } else { 2 };
        let reader = thread::spawn(move || {
            let answers = read_to_bye(&mut client, code);
            // It heeds the BYE when it has written what it was about to.
            writer.join().unwrap();
            answers
        });
        if by == By::Stop {
            util::stop_within(&mut service, DRAIN);
        } else {
            assert!(handle.close(peer));
        }
        let answers = reader.join().unwrap();
        let report = stop_echo(service, echo);
        assert_eq!(
            report.snapshot.outbound_written.messages,
            answers.into(),
            "{by:?}"
        );
        assert_eq!(report.snapshot.outbound_dropped.messages, 0, "{by:?}");
    }
}

/// A client that has read everything and closed its socket answers a BYE with a RST, after which
/// its system tells nothing more. What came before the stop, its FIN among it, is known by then.
#[test]
fn a_client_that_left_before_a_stop_is_no_loss() {
    for _ in 0..200 {
        let (mut service, echo) = start_echo(config());
        let mut client = Client::connect(service.local_addrs()[0]);
        client.send_message(7, b"question");
        client.expect(7, b"question");
        drop(client);
        let report = util::stop_within(&mut service, DRAIN);
        assert!(report.drained, "{report}");
        stop_echo(service, echo);
    }
}

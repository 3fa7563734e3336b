//! How a service ends: drained, cut off at its deadline, dropped, and what is left of it.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    net::TcpStream,
    sync::{Arc, Mutex, RwLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Dispatch, MessageType, NetService, OverflowPolicy, SendError, ServiceState,
    StopRow, SubscribeError, SubscribeOptions, TryRecvError, TypeFilter, frame::Frame,
};
use util::{
    Client, End, PATIENCE, assert_balanced, closed_for, config, only_peer, start_echo, start_tap,
    stop, stop_echo, stop_tap, wait_until,
};

const T: MessageType = MessageType(7);
const MODES: [Dispatch; 2] = [Dispatch::Thread, Dispatch::Inline];

/// Held for writing by who counts the threads of the process.
static THREADS: RwLock<()> = RwLock::new(());

fn numbered(count: u32, size: usize) -> Vec<u8> {
    let (mut bytes, mut payload) = (Vec::new(), vec![b'n'; size.max(4)]);
    for number in 0..count {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        Frame::new(T, &payload).encode(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn a_stop_flushes_every_answer_and_says_bye() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let (mut service, echo) = start_echo(config().dispatch(dispatch));
        let addr = service.local_addrs()[0];
        let mut idle = Client::connect(addr);
        idle.ping(b"");
        let mut clients: Vec<Client> = (0..5).map(|_| Client::connect_small(addr)).collect();
        for client in &mut clients {
            assert!(client.try_write(&numbered(500, 1000)));
        }
        wait_until("all were read", || {
            service.handle().snapshot().inbound.messages == 2500
        });
        let readers: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                thread::spawn(move || {
                    for number in 0..500_u32 {
                        let answer = client.receive().expect("an answer");
                        assert_eq!(answer.payload[..4], number.to_be_bytes());
                    }
                    client.expect_bye(1);
                })
            })
            .collect();
        let report = stop(&mut service);
        assert!(report.drained, "{report}");
        assert_eq!((report.closed_orderly, report.closed_abortive), (6, 0));
        assert_eq!(report.snapshot.outbound_written.messages, 2500);
        assert_eq!(report.snapshot.state, ServiceState::Stopped);
        assert_eq!((report.peers.len(), report.lost().count()), (6, 0));
        // What was not flushed in the stop was written before.
        let echoing = report
            .peers
            .iter()
            .filter(|row| row.closed.inbound.messages > 0);
        for row in echoing {
            assert_eq!((row.held, row.closed.outbound.messages), (0, 500), "{row}");
            assert!(row.delivered <= 500 && row.flushed.messages <= 500, "{row}");
        }
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        idle.expect_bye(1);
        assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
        stop_echo(service, echo);
    }
}

#[test]
fn input_that_a_stop_leaves_unread_destroys_no_answer() {
    let _threads = THREADS.read();
    for _ in 0..5 {
        let (mut service, echo) = start_echo(config());
        let mut client = Client::connect(service.local_addrs()[0]);
        let mut stream = client.stream.try_clone().unwrap();
        // Goes on writing until the service is gone.
        let writer = thread::spawn(move || {
            let bytes = numbered(2, 500);
            while std::io::Write::write_all(&mut stream, &bytes).is_ok() {
                thread::yield_now();
                if stream.peek(&mut [0]).is_ok_and(|count| count == 0) {
                    return;
                }
            }
        });
        wait_until("answers", || {
            service.handle().snapshot().outbound_written.messages > 10
        });
        let reader = thread::spawn(move || {
            let mut answers = 0_u64;
            while let Some(answer) = client.receive() {
                if answer.message_type != T {
                    assert_eq!(answer.message_type, util::BYE);
                    client.expect_end_of_any_kind();
                    return (answers, true);
                }
                answers += 1;
            }
            (answers, false)
        });
        let report = stop(&mut service);
        let (answers, bye) = reader.join().unwrap();
        // Everything written was read, up to the BYE, whatever the peer sent meanwhile.
        assert!(bye, "{report}");
        assert_eq!(
            answers, report.snapshot.outbound_written.messages,
            "{report}"
        );
        writer.join().unwrap();
        stop_echo(service, echo);
    }
}

/// What was delivered, flushed and lost, of each peer, whatever it was in the middle of.
#[test]
fn a_stop_says_of_each_peer_what_became_of_its_messages() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut tap = service.handle().subscribe(T).unwrap();
        let mut never = service.handle().subscribe(MessageType(8)).unwrap();
        service.start().unwrap();
        let (addr, handle) = (service.local_addrs()[0], service.handle());
        let mut clients = [(); 4].map(|()| Client::connect_small(addr));
        let mut peers = Vec::new();
        for client in &mut clients {
            client.send_message(7, b"who");
            peers.push(tap.recv_timeout(PATIENCE).unwrap().peer());
        }
        let [asking, keeping, deaf, idle] = peers[..] else {
            panic!("{peers:?}");
        };
        let [mut asker, mut keeper, _deaf, mut idler] = clients;
        handle.send(asking, (T, b"before")).unwrap();
        asker.expect(7, b"before");
        keeper.send(&Frame::new(MessageType(8), b"one"));
        keeper.send(&Frame::new(MessageType(8), b"two"));
        wait_until("two wait", || never.row().queued == 2);
        while handle.send(deaf, (T, vec![b'd'; 100_000])).is_ok() {}
        asker.send_message(7, b"question");
        let question = tap.recv_batch().unwrap();
        let stopping = thread::spawn(move || {
            let report = util::stop_within(&mut service, Duration::from_millis(900));
            (service, report)
        });
        wait_until("it stops", || {
            handle.snapshot().state == ServiceState::Stopping
        });
        // The loop itself has begun to stop once it says so to whom it owes nothing.
        idler.receive().expect("a BYE");
        handle.send(asking, (T, b"answer")).unwrap();
        drop(question);
        asker.expect(7, b"answer");
        let (service, report) = stopping.join().unwrap();
        assert!(report.joined && !report.drained, "{report}");
        let order: Vec<_> = report.peers.iter().map(|row| row.closed.peer).collect();
        assert_eq!(order, [deaf, keeping, asking, idle], "{report}");
        let did = |row: &StopRow| (row.delivered, row.held, row.flushed.messages);
        let rows: Vec<_> = report.peers.iter().map(did).collect();
        assert_eq!(rows[1..], [(0, 2, 0), (1, 0, 1), (0, 0, 0)], "{report}");
        assert_eq!((rows[0].0, rows[0].1), (0, 0), "{report}");
        assert_eq!(report.lost().count(), 1);
        let text = report.to_string();
        for (peer, named) in [(deaf, true), (keeping, true), (asking, true), (idle, false)] {
            assert_eq!(text.contains(&format!("peer {peer} at ")), named, "{text}");
        }
        // What is held is not lost with the peer.
        assert_eq!(never.recv().unwrap().payload(), b"one");
        assert_eq!(never.recv().unwrap().payload(), b"two");
        drop(never);
        stop_tap(service, tap);
    }
}

#[test]
fn a_peer_that_never_reads_is_cut_off_at_the_deadline_and_named() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let (mut service, tap) = start_tap(config().dispatch(dispatch));
        let mut deaf = Client::connect_small(service.local_addrs()[0]);
        let peer = only_peer(&service);
        let mut good = Client::connect(service.local_addrs()[0]);
        good.ping(b"");
        let payload = vec![b'd'; 100_000];
        let mut accepted = 0;
        while service.handle().send(peer, (T, &payload)).is_ok() {
            accepted += 1;
        }
        // Its answers are out at once, and it closes when it has read its BYE.
        let good = thread::spawn(move || good.expect_bye(1));
        let deadline = Duration::from_millis(400);
        let started = Instant::now();
        let report = util::stop_within(&mut service, deadline);
        let elapsed = started.elapsed();
        assert!(elapsed >= deadline && elapsed < PATIENCE / 2, "{elapsed:?}");
        assert!(report.joined && !report.drained, "{report}");
        good.join().unwrap();
        assert_eq!(
            (report.closed_orderly, report.closed_abortive),
            (1, 1),
            "{report}"
        );
        assert_balanced(&report.snapshot);
        let [deaf_row, good_row] = &report.peers[..] else {
            panic!("{report}");
        };
        let lost = &deaf_row.closed;
        assert_eq!(good_row.closed.lost.messages, 0, "{report}");
        assert_eq!((lost.peer, lost.reason), (peer, CloseReason::Shutdown));
        assert!(lost.lost.messages > 0);
        // What is not lost was written, and a message is one or the other.
        assert_eq!(
            lost.lost.messages + lost.outbound.messages,
            accepted,
            "{report}"
        );
        assert!(
            report.to_string().contains(&lost.addr.to_string()),
            "{report}"
        );
        // Cut off by a RST: what comes are whole messages, and then the end.
        while deaf.receive().is_some() {}
        assert_eq!(deaf.end(), Some(End::Reset));
        stop_tap(service, tap);
    }
}

#[test]
fn a_second_stop_returns_the_same_report() {
    let _threads = THREADS.read();
    let (mut service, echo) = start_echo(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"x");
    client.expect(7, b"x");
    let peer = only_peer(&service);
    let first = stop(&mut service);
    let started = Instant::now();
    assert_eq!(util::stop_within(&mut service, PATIENCE), first);
    let handle = service.handle();
    assert_eq!(
        service.handle().subscribe(T).unwrap_err(),
        SubscribeError::Stopped
    );
    assert_eq!(
        handle
            .send(peer, (T, b"x"))
            .map_err(nebnet::Rejected::into_error),
        Err(SendError::NotConnected)
    );
    assert!(handle.peers().unwrap().is_empty() && handle.recently_closed().unwrap().is_empty());
    assert!(service.ended().recv().is_err());
    // Each of the two that ask a loop would wait 5 s for it.
    assert!(
        started.elapsed() < PATIENCE / 3,
        "a call waited for a thread that is gone"
    );
    stop_echo(service, echo);
}

#[test]
fn a_stop_before_the_start_is_a_stop() {
    let _threads = THREADS.read();
    let mut service = NetService::new(config()).unwrap();
    let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    let report = util::stop_within(&mut service, Duration::ZERO);
    assert!(report.drained && report.joined, "{report}");
    assert_balanced(&report.snapshot);
    assert!(tap.recv().is_err());
    assert!(service.start().is_err());
    assert_eq!(util::stop_within(&mut service, PATIENCE), report);
}

#[test]
fn what_nobody_takes_is_discarded_at_the_deadline_and_counted() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let options = SubscribeOptions::new(TypeFilter::all())
            .name("stuck")
            .messages(3);
        let options = options.overflow(OverflowPolicy::Pause);
        let mut stuck = service.handle().subscribe_with(options).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&numbered(100, 10)));
        wait_until("the rest is parked", || stuck.row().parked == 97);
        let deadline = Duration::from_millis(200);
        let started = Instant::now();
        let report = util::stop_within(&mut service, deadline);
        let elapsed = started.elapsed();
        assert!(elapsed >= deadline && elapsed < PATIENCE / 2, "{elapsed:?}");
        assert!(report.joined && !report.drained, "{report}");
        assert_balanced(&report.snapshot);
        let row = stuck.row();
        assert_eq!(
            (row.matched, row.queued, row.discarded),
            (100, 3, 97),
            "{row:?}"
        );
        // Its queue is its own: what is in there can still be taken.
        for number in 0..3_u32 {
            assert_eq!(stuck.recv().unwrap().payload()[..4], number.to_be_bytes());
        }
        assert!(stuck.recv().is_err());
        drop(client);
        stop_tap(service, stuck);
    }
}

/// The peers of parked messages may be gone: the messages have until the deadline all the same.
#[test]
fn what_peers_that_left_have_sent_is_waited_for() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let options = SubscribeOptions::new(TypeFilter::all()).messages(3);
        let options = options.overflow(OverflowPolicy::Pause);
        let mut slow = service.handle().subscribe_with(options).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&numbered(100, 10)));
        wait_until("the rest is parked", || slow.row().parked == 97);
        let (handle, peer) = (service.handle(), only_peer(&service));
        client.reset();
        // It is not read, so a write has to find out.
        wait_until("it is gone", || {
            handle.send(peer, (T, b"are you there")).is_err() && handle.snapshot().peers == 0
        });
        let stopping = thread::spawn(move || (stop(&mut service), service));
        wait_until("it stops", || {
            handle.snapshot().state == ServiceState::Stopping
        });
        for number in 0..100_u32 {
            assert_eq!(slow.recv().unwrap().payload()[..4], number.to_be_bytes());
        }
        assert!(slow.recv().is_err());
        let (report, service) = stopping.join().unwrap();
        assert!(report.drained, "{report}");
        assert_eq!((slow.row().taken, slow.row().discarded), (100, 0));
        stop_tap(service, slow);
    }
}

#[test]
fn subscriptions_yield_what_is_left_and_then_their_end() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let (mut service, mut tap) = start_tap(config().dispatch(dispatch));
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&numbered(1000, 100)));
        wait_until("all were read", || {
            service.handle().snapshot().inbound.messages == 1000
        });
        // Half of the time is waited for who takes nothing, and what it has stays its own.
        let report = util::stop_within(&mut service, Duration::from_secs(1));
        assert_eq!(report.closed_abortive, 0, "{report}");
        assert_eq!(tap.row().queued, 1000);
        for number in 0..1000_u32 {
            assert_eq!(tap.recv().unwrap().payload()[..4], number.to_be_bytes());
        }
        assert!(tap.recv().is_err());
        assert_eq!(tap.try_recv().unwrap_err(), TryRecvError::Disconnected);
        drop(client);
        stop_tap(service, tap);
    }
}

#[test]
fn answers_given_during_the_stop_go_out() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let (mut service, mut tap) = start_tap(config().dispatch(dispatch));
        let mut client = Client::connect(service.local_addrs()[0]);
        client.send_message(7, b"question");
        let batch = tap.recv_batch_timeout(PATIENCE).unwrap();
        let (handle, peer) = (service.handle(), batch.peer());
        let answering = thread::spawn(move || {
            wait_until("the stop has begun", || {
                handle.snapshot().state == ServiceState::Stopping
            });
            handle.send(peer, (T, b"answer")).unwrap();
            drop(batch);
        });
        let report = stop(&mut service);
        answering.join().unwrap();
        assert!(report.drained, "{report}");
        client.expect(7, b"answer");
        client.expect_bye(1);
        stop_tap(service, tap);
    }
}

#[test]
fn services_of_one_process_know_nothing_of_each_other() {
    let _threads = THREADS.read();
    let mut running: Vec<_> = (0..4)
        .map(|number| start_echo(config().dispatch(MODES[number % 2])))
        .collect();
    let mut clients: Vec<_> = running
        .iter()
        .map(|(service, _)| Client::connect(service.local_addrs()[0]))
        .collect();
    while let Some((service, echo)) = running.pop() {
        for (number, client) in (0_u16..).zip(&mut clients) {
            client.send_message(number, b"echo");
            client.expect(number, b"echo");
        }
        let report = stop_echo(service, echo);
        assert_eq!(report.snapshot.accepted, 1);
        clients.pop().unwrap().expect_bye(1);
    }
}

#[test]
fn a_dropped_service_ends_in_bounded_time() {
    let _threads = THREADS.read();
    let (service, tap) = start_tap(config());
    let deaf = Client::connect_small(service.local_addrs()[0]);
    let peer = only_peer(&service);
    while service
        .handle()
        .send(peer, (T, vec![b'd'; 100_000]))
        .is_ok()
    {}
    let handle = service.handle();
    let started = Instant::now();
    drop(service);
    assert!(started.elapsed() < PATIENCE / 3, "{:?}", started.elapsed());
    assert_balanced(&handle.snapshot());
    assert_eq!(handle.snapshot().state, ServiceState::Stopped);
    drop((deaf, tap));
    assert_eq!(handle.snapshot().memory_used, 0);
}

/// A callback cannot wait for the thread that it runs on: the service ends behind it.
#[test]
fn a_service_may_be_dropped_by_its_own_callback() {
    // Nobody joins the threads of such a service, so they are counted.
    let _threads = THREADS.write();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let place = Arc::new(Mutex::new(None));
        let (sender, dropped) = crossbeam_channel::bounded(1);
        service.on_metrics({
            let place = Arc::clone(&place);
            move |_| {
                let service: Option<NetService> = place.lock().unwrap().take();
                if service.is_some() {
                    drop(service);
                    sender.send(()).unwrap();
                }
            }
        });
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        client.ping(b"");
        let (handle, ended) = (service.handle(), service.ended().clone());
        *place.lock().unwrap() = Some(service);
        dropped.recv_timeout(PATIENCE).unwrap();
        client.expect_bye(1);
        drop(client);
        assert!(
            ended
                .recv_timeout(PATIENCE)
                .is_err_and(|end| end.is_disconnected())
        );
        assert_balanced(&handle.snapshot());
        wait_until("the threads are gone", || service_threads().is_empty());
    }
}

#[test]
fn metrics_come_once_a_second_and_add_up() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
        let (sender, snapshots) = mpsc::sync_channel(10);
        service.on_metrics(move |snapshot| drop(sender.try_send(snapshot.clone())));
        service.start().unwrap();
        let started = Instant::now();
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&numbered(100, 100)));
        for _ in 0..100 {
            tap.recv_timeout(PATIENCE).unwrap();
        }
        let first = snapshots.recv_timeout(PATIENCE).unwrap();
        let second = snapshots.recv_timeout(PATIENCE).unwrap();
        let elapsed = started.elapsed();
        assert!(
            elapsed >= Duration::from_millis(1900),
            "two came within {elapsed:?}"
        );
        assert!(first.uptime < second.uptime);
        assert_eq!((second.state, second.peers), (ServiceState::Running, 1));
        assert_eq!((second.inbound.messages, second.claimed), (100, 100));
        assert_eq!(second.inbound.bytes, 100 * 108);
        assert_eq!(second.dispatch_queue.messages, 0);
        assert!(second.dispatch_queue.messages_capacity > 0);
        assert_eq!(second.types.len(), 1);
        assert_eq!(second.types[0].message_type, Some(T));
        assert_eq!(second.subscribers[0].taken, 100);
        assert!(second.memory_used < second.memory_budget);
        drop(client);
        stop_tap(service, tap);
    }
}

fn service_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("nebnet-")).collect()
}

#[test]
fn no_thread_is_left_after_a_stop() {
    let _threads = THREADS.write();
    assert_eq!(service_threads(), [""; 0]);
    for dispatch in MODES {
        let (service, echo) = start_echo(config().dispatch(dispatch));
        let mut client = Client::connect(service.local_addrs()[0]);
        client.send_message(7, b"x");
        client.expect(7, b"x");
        let count = if dispatch == Dispatch::Thread { 2 } else { 1 };
        let count = count * util::shards();
        wait_until("threads have their names", || {
            service_threads().len() == count
        });
        let report = stop_echo(service, echo);
        assert_eq!(closed_for(&report.snapshot, CloseReason::Shutdown), 1);
        // Joined is gone, but for the kernel's own list.
        wait_until("the list is empty", || service_threads().is_empty());
    }
}

#[test]
fn a_stop_under_full_load_balances() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let (mut service, echo) = start_echo(config().dispatch(dispatch));
        let addr = service.local_addrs()[0];
        let clients: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    let mut client = Client::connect(addr);
                    let mut stream = client.stream.try_clone().unwrap();
                    let writer = thread::spawn(move || {
                        let bytes = numbered(100, 100);
                        while std::io::Write::write_all(&mut stream, &bytes).is_ok() {}
                    });
                    while client.receive().is_some() {}
                    drop(client.stream.shutdown(std::net::Shutdown::Both));
                    writer.join().unwrap();
                })
            })
            .collect();
        wait_until("load", || {
            service.handle().snapshot().outbound_written.messages > 10_000
        });
        let report = stop(&mut service);
        assert!(report.snapshot.outbound_written.messages > 10_000);
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        stop_echo(service, echo);
    }
}

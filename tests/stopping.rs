//! Stops and drops from any thread, a service's own among them, and the final report, which every
//! thread that waits for it gets.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use nebnet::{
    Config, Dispatch, Handle, HandlerOptions, MessageType, NetService, Outgoing, RequestError,
    ServiceState, StartError, StopReport, TypeFilter,
};
use util::{Client, PATIENCE, config, start_tap, stop, stop_from_inside, wait_stopped};

const T: MessageType = MessageType(7);
const MODES: [Dispatch; 2] = [Dispatch::Thread, Dispatch::Inline];

/// A service that its own threads can reach.
type Place = Arc<Mutex<Option<NetService>>>;

/// What a thread of the service does with it.
type Act = fn(&Place) -> Option<StopReport>;

fn act_stop(place: &Place) -> Option<StopReport> {
    Some(stop_from_inside(place.lock().unwrap().as_mut()?))
}

fn act_drop(place: &Place) -> Option<StopReport> {
    let service = place.lock().unwrap().take()?;
    let handle = service.handle();
    drop(service);
    Some(handle.wait_stopped(PATIENCE))
}

/// Has each message acted upon by a handler on the loop's thread, or each tick by the metrics
/// callback; yields the reports.
fn inside(config: Config, act: Act, by_handler: bool) -> (Place, Handle, Receiver<StopReport>) {
    let mut service = NetService::new(config).unwrap();
    let place = Place::default();
    let (sender, reports) = bounded(16);
    let own = Arc::clone(&place);
    let act = move |sender: &Sender<StopReport>, own: &Place| {
        if let Some(report) = act(own) {
            let _ = sender.try_send(report);
        }
    };
    if by_handler {
        let make = |_| {
            let (own, sender) = (Arc::clone(&own), sender.clone());
            move |_: nebnet::MessageRef<'_>, _: &mut nebnet::Replier<'_>| act(&sender, &own)
        };
        let options = HandlerOptions::new(T).time_limit(PATIENCE);
        service.handle_inline_each(options, make).unwrap();
    } else {
        service.on_metrics(move |_| act(&sender, &own));
    }
    service.start().unwrap();
    let handle = service.handle();
    *place.lock().unwrap() = Some(service);
    (place, handle, reports)
}

fn addr_of(place: &Place) -> std::net::SocketAddr {
    place.lock().unwrap().as_ref().unwrap().local_addrs()[0]
}

/// The service goes on to its end while its own thread has long returned.
#[test]
fn a_stop_or_drop_on_a_thread_of_the_service_returns_at_once() {
    let acts: [Act; 2] = [act_stop, act_drop];
    for dispatch in MODES {
        for (act, by_handler) in acts.into_iter().flat_map(|act| [(act, false), (act, true)]) {
            let (place, handle, reports) = inside(config().dispatch(dispatch), act, by_handler);
            let mut client = Client::connect(addr_of(&place));
            if by_handler {
                client.send_message(7, b"end");
            }
            let report = reports.recv_timeout(PATIENCE).unwrap();
            assert!(!report.is_final() && !report.joined, "{report}");
            assert!(!report.drained && report.peers.is_empty(), "{report}");
            client.expect_bye(1);
            drop(client);
            let report = wait_stopped(&handle);
            assert!(report.drained, "{report}");
            assert_eq!(report.closed_orderly, 1, "{report}");
            assert_eq!(report.snapshot.state, ServiceState::Stopped);
            // From then on it is the same for all, the service itself among them.
            assert_eq!(handle.wait_stopped(Duration::ZERO), report);
            if let Some(service) = &mut *place.lock().unwrap() {
                assert_eq!(util::stop_within(service, Duration::ZERO), report);
            }
        }
    }
}

/// Another thread that stops, too, waits as if it had been the first.
#[test]
fn a_stop_behind_one_from_inside_waits_for_the_end() {
    for dispatch in MODES {
        let (place, handle, reports) = inside(config().dispatch(dispatch), act_stop, true);
        let mut client = Client::connect(addr_of(&place));
        client.send_message(7, b"end");
        reports.recv_timeout(PATIENCE).unwrap();
        let closing = thread::spawn(move || client.expect_bye(1));
        let mut service = place.lock().unwrap().take().unwrap();
        let report = stop(&mut service);
        assert_eq!(wait_stopped(&handle), report);
        closing.join().unwrap();
    }
}

#[test]
fn every_waiter_gets_the_final_report() {
    let (mut service, tap) = start_tap(config());
    let handle = service.handle();
    let waiters = [(); 4].map(|()| {
        let handle = handle.clone();
        thread::spawn(move || wait_stopped(&handle))
    });
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    let running = handle.wait_stopped(Duration::from_millis(1));
    assert!(!running.is_final() && !running.drained, "{running}");
    assert_eq!(running.elapsed, Duration::ZERO, "no stop was asked for");
    assert_eq!(running.snapshot.state, ServiceState::Running);
    let closing = thread::spawn(move || client.expect_bye(1));
    let report = stop(&mut service);
    closing.join().unwrap();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), report);
    }
    drop((service, tap));
    assert_eq!(wait_stopped(&handle), report);
}

#[test]
fn a_failure_leaves_a_final_report_without_a_stop() {
    util::expect_panics();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        service.on_metrics(|_| panic!("the callback's own fault"));
        service.start().unwrap();
        let handle = service.handle();
        let report = wait_stopped(&handle);
        let failure = report.failure.as_ref().expect("it is in the report");
        assert_eq!(&*failure.message, "the callback's own fault");
        assert_eq!(report.snapshot.state, ServiceState::Failed);
        assert_eq!(util::stop_within(&mut service, PATIENCE), report);
    }
}

/// A service that never ran has an end as well, which its subscribers find.
#[test]
fn what_never_ran_ends_all_the_same() {
    let service = NetService::new(config()).unwrap();
    let (handle, mut tap) = (
        service.handle(),
        service.handle().subscribe(TypeFilter::all()).unwrap(),
    );
    assert!(!handle.wait_stopped(Duration::ZERO).is_final());
    drop(service);
    assert!(wait_stopped(&handle).drained);
    assert!(tap.recv().is_err());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::default().listen(taken.local_addr().unwrap());
    let mut service = NetService::new(config).unwrap();
    let (handle, mut tap) = (
        service.handle(),
        service.handle().subscribe(TypeFilter::all()).unwrap(),
    );
    let error = service.start().unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    let report = wait_stopped(&handle);
    assert_eq!(report.snapshot.state, ServiceState::Stopped);
    assert!(tap.recv().is_err());
    assert_eq!(util::stop_within(&mut service, PATIENCE), report);
}

/// Two services whose handlers stop each other would wait for each other.
#[test]
fn services_may_stop_each_other() {
    let places = [Place::default(), Place::default()];
    let (sender, reports) = bounded(16);
    let services = [0, 1].map(|own: usize| {
        let mut service = NetService::new(config()).unwrap();
        let make = |_| {
            let (other, sender) = (Arc::clone(&places[1 - own]), sender.clone());
            move |_: nebnet::MessageRef<'_>, _: &mut nebnet::Replier<'_>| {
                // Held by a thread of the other service that is in here, too, for a moment.
                let report = act_stop(&other).expect("it is there");
                sender.try_send(report).unwrap();
            }
        };
        let options = HandlerOptions::new(T).time_limit(PATIENCE);
        service.handle_inline_each(options, make).unwrap();
        service.start().unwrap();
        service
    });
    let handles = [0, 1].map(|own: usize| services[own].handle());
    for (place, service) in places.iter().zip(services) {
        *place.lock().unwrap() = Some(service);
    }
    let mut clients = [0, 1].map(|own: usize| Client::connect(addr_of(&places[own])));
    for client in &mut clients {
        client.ping(b"");
    }
    for client in &mut clients {
        // The second may be closing by now.
        client.try_write(b"\0\0\0\x04\0\x07\0\x01");
    }
    reports.recv_timeout(PATIENCE).unwrap();
    // At least one of them was asked to end by the other, and waits for nothing but its client.
    drop(clients);
    let ended = |handle: &Handle| handle.wait_stopped(Duration::from_millis(10)).is_final();
    util::wait_until("one has ended", || handles.iter().any(ended));
    for (handle, place) in handles.iter().zip(&places) {
        drop(place.lock().unwrap().take());
        wait_stopped(handle);
    }
}

/// What a dispatcher would have to bring itself its metrics callback does not wait for.
#[test]
fn a_callback_does_not_wait_for_its_own_thread() {
    let mut service = NetService::new(config()).unwrap();
    let (give, given) = bounded::<(Handle, nebnet::PeerId)>(1);
    let (sender, results) = bounded(1);
    service.on_metrics(move |_| {
        if let Ok((handle, peer)) = given.try_recv() {
            let question = handle.request(peer, (T, b"?"), 100 * PATIENCE).unwrap();
            assert!(question.recv_timeout(100 * PATIENCE).unwrap().is_none());
            sender.send(question.recv()).unwrap();
        }
    });
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    let peer = util::only_peer(&service);
    give.send((service.handle(), peer)).unwrap();
    let result = results.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(result, Err(RequestError::Timeout)), "{result:?}");
    let handle = service.handle();
    handle.send(peer, Outgoing::new(T, b"on")).unwrap();
    client.expect(7, b"?");
    client.expect(7, b"on");
    drop(client);
    stop(&mut service);
}

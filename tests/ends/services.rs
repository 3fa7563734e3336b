//! Two services: whichever of them ends the connection, nothing is lost that was accepted.

use std::{sync::Barrier, thread, time::Duration};

use nebnet::{CloseReason, Dispatch};

use crate::{
    rolling,
    util::{self, config, ledgers::assert_one_way, wait_until},
    world::{DRAIN, End, World},
};

/// One, several and many connections; one loop and several; both ways of dispatching.
#[track_caller]
fn assert_of_all(end: fn(World) -> End, at_server: CloseReason, at_client: CloseReason) {
    for (count, shards, dispatch) in [
        (1, 1, Dispatch::Thread),
        (1, 1, Dispatch::Inline),
        (16, 1, Dispatch::Thread),
        (16, 3, Dispatch::Thread),
        (16, 3, Dispatch::Inline),
        (256, 1, Dispatch::Thread),
        (256, 3, Dispatch::Thread),
    ] {
        let config = config().shards(shards).dispatch(dispatch);
        let world = World::start(config, count, Duration::ZERO);
        let ended = end(world);
        ended.assert_complete();
        ended.assert_reasons(count, at_server, at_client);
    }
}

#[test]
fn a_server_that_stops_loses_nothing() {
    let end = |mut world: World| {
        util::stop_within(&mut world.server, DRAIN);
        world.finish()
    };
    assert_of_all(end, CloseReason::Shutdown, CloseReason::PeerBye);
}

#[test]
fn a_client_that_stops_loses_nothing() {
    let end = |mut world: World| {
        util::stop_within(&mut world.client, DRAIN);
        world.finish()
    };
    assert_of_all(end, CloseReason::PeerBye, CloseReason::Shutdown);
}

#[test]
fn a_server_that_closes_every_connection_loses_nothing() {
    let end = |world: World| {
        let handle = world.server.handle();
        for row in handle.peers().unwrap() {
            assert!(handle.close(row.peer));
        }
        world.wait_closed();
        world.finish()
    };
    assert_of_all(end, CloseReason::AppClosed, CloseReason::PeerBye);
}

#[test]
fn a_client_that_closes_every_connection_loses_nothing() {
    let end = |world: World| {
        for peer in &world.peers {
            assert!(world.client.handle().close(*peer));
        }
        world.wait_closed();
        world.finish()
    };
    assert_of_all(end, CloseReason::PeerBye, CloseReason::AppClosed);
}

/// Each says BYE, and heeds the other's.
#[test]
fn both_sides_that_stop_at_once_lose_nothing() {
    for (count, shards) in [(1, 1), (16, 3), (256, 1)] {
        let mut world = World::start(config().shards(shards), count, Duration::ZERO);
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            let World { server, client, .. } = &mut world;
            for service in [server, client] {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    util::stop_within(service, DRAIN);
                });
            }
        });
        world.finish().assert_complete();
    }
}

/// What was seen: the client had the BYE, and 1,880 sends after it were accepted and vanished.
#[test]
fn what_is_sent_after_a_bye_is_refused() {
    let mut world = World::start(config(), 1, Duration::from_micros(200));
    let handle = world.client.handle();
    wait_until("it has sent for a while", || {
        handle.snapshot().outbound_written.messages > 500
    });
    util::stop_within(&mut world.server, DRAIN);
    wait_until("its end is known", || handle.snapshot().peers == 0);
    let row = handle.recently_closed().unwrap().remove(0);
    assert_eq!(
        (row.reason, row.bye_received),
        (CloseReason::PeerBye, Some(1))
    );
    assert_eq!(row.lost.messages, 0, "{row:?}");
    world.finish().assert_complete();
}

/// Nothing that any client was told is sent is lost, however often its server comes and goes.
#[test]
fn a_server_that_is_restarted_under_load_loses_nothing() {
    let outcome = rolling::run(rolling::Plan {
        clients: 4,
        rate: 5_000,
        restarts: 3,
        runs_for: Duration::from_millis(100),
    });
    assert_eq!(outcome.stops.len(), 4);
    for row in &outcome.rows {
        assert_one_way(&row.client, &row.servers);
        let written = row.client.written.messages;
        assert_eq!((row.accepted, row.lost), (written, 0), "{row:?}");
        assert_eq!(row.servers.received.messages, written, "{row:?}");
        assert!(row.connections >= 4, "{row:?}");
    }
}

//! Three relays, each connected to both others, of which one dies or stands still.

use std::{collections::BTreeSet, time::Duration};

use rustix::process::Signal;

use crate::{
    harness::{Raw, now, wait_until},
    mesh::{self, Client, Relay},
    metrics,
};

const TRIANGLE: &[&[usize]] = &[&[1, 2], &[0, 2], &[0, 1]];
/// Short, so that silence is noticed soon; long enough for a machine with much to do.
const HEARTBEAT: &[&str] = &["--heartbeat-interval", "500ms", "--heartbeat-timeout", "2s"];

/// Says a number of lines, each only once.
fn say(client: &mut Client, name: &str, lines: std::ops::Range<u32>) {
    for line in lines {
        client.say(7, format!("{name} {line}").as_bytes());
    }
}

/// Nothing came twice, and what came of each is in order.
#[track_caller]
fn assert_once_and_in_order(heard: &[Raw], names: &[&str]) {
    let distinct: BTreeSet<_> = heard.iter().map(|raw| &raw.2).collect();
    assert_eq!(distinct.len(), heard.len(), "something came twice");
    for name in names {
        let lines: Vec<u32> = mesh::of(name, heard)
            .into_iter()
            .map(|raw| {
                let text = String::from_utf8(raw.2).unwrap();
                text.split(' ').nth(1).unwrap().parse().unwrap()
            })
            .collect();
        assert!(lines.is_sorted(), "{name}: {lines:?}");
    }
}

/// The goal: who dies is noticed and missed by nobody; who comes back is found. The one that dies
/// stands still before, so that something waits for it when it dies. Its system tells its death; no
/// silence is to be taken for one while it stands still, however long that takes.
#[test]
fn one_of_three_is_killed_and_comes_back() {
    const PATIENT: &[&str] = &["--write-stall-timeout", "60s"];
    let mut relays = mesh::start(TRIANGLE, PATIENT);
    let mut clients: Vec<_> = relays
        .iter()
        .map(|relay| Client::connect(relay.addr))
        .collect();
    for (client, name) in clients.iter_mut().zip(["a", "b", "c"]) {
        say(client, name, 0..100);
    }
    for client in &clients {
        client.wait_for(200);
    }

    // More than the kernel keeps for the one that stands still.
    relays[1].service.signal(Signal::STOP);
    let large = vec![b'x'; 60_000];
    let mut larges = 0_u32;
    while relays[0].queued(&relays[1].node_id) < 10 {
        let payload = [format!("large {larges} ").as_bytes(), &large].concat();
        clients[0].say(7, &payload);
        larges += 1;
        clients[2].wait_for(200 + larges as usize);
        assert!(larges < 1000, "somebody takes it all");
    }
    relays[1].service.signal(Signal::KILL);
    let dead = relays.remove(1);
    let (dead_id, dead_addr) = (dead.node_id.clone(), dead.addr);
    assert_eq!(dead.service.wait().0, None);
    let [a, c] = &relays[..] else { panic!() };
    a.wait_for(&[c]);
    c.wait_for(&[a]);
    let lost: u64 = a
        .closed(&dead_id)
        .iter()
        .map(|row| row["lost"]["messages"].as_u64().unwrap())
        .sum();
    assert!(lost >= 10, "{lost}");
    let counted = format!("\nnebnet_outbound_dropped_messages_total {lost}\n");
    let text = metrics::get(a.metrics, "/metrics");
    assert!(text.contains(&counted), "{text}");
    for relay in [a, c] {
        let failed = format!("to {dead_addr} cannot be made: cannot connect");
        wait_until(&failed, || relay.service.stderr().contains(&failed));
    }

    // The others go on.
    let from_b = clients.remove(1).heard();
    assert_once_and_in_order(&from_b, &["a", "c", "large"]);
    let before: Vec<_> = clients.iter().map(Client::count).collect();
    say(&mut clients[0], "a", 100..200);
    say(&mut clients[1], "c", 100..200);
    clients[0].wait_for(before[0] + 100);
    clients[1].wait_for(before[1] + 100);

    // It dials nobody itself: the others find it.
    let back = Relay::start(2, dead_addr, &[], PATIENT);
    back.wait_for(&[a, c]);
    a.wait_for(&[&back, c]);
    c.wait_for(&[a, &back]);
    let mut b = Client::connect(back.addr);
    say(&mut clients[0], "a", 200..300);
    say(&mut clients[1], "c", 200..300);
    say(&mut b, "b", 200..300);
    b.wait_for(200);
    clients[0].wait_for(before[0] + 300);
    clients[1].wait_for(before[1] + 300);

    relays[0].service.signal(Signal::TERM);
    let (code, report) = relays.remove(0).service.wait();
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains(&format!(" {lost} lost\n")), "{report}");
    mesh::stop(relays);
    back.service.stop();
    let counts = [before[0] + 300, before[1] + 300, 200];
    for (client, count) in clients.into_iter().chain([b]).zip(counts) {
        let heard = client.heard();
        assert_eq!(heard.len(), count);
        assert_once_and_in_order(&heard, &["a", "b", "c", "large"]);
    }
}

#[test]
fn one_that_stands_still_too_long_is_given_up_and_comes_back() {
    let relays = mesh::start(TRIANGLE, HEARTBEAT);
    let [a, b, c] = &relays[..] else { panic!() };
    let before: Vec<_> = [a, c].map(|relay| relay.closed(&b.node_id).len()).to_vec();
    b.service.signal(Signal::STOP);
    a.wait_for(&[c]);
    c.wait_for(&[a]);
    for (relay, before) in [a, c].into_iter().zip(before) {
        let rows = relay.closed(&b.node_id);
        assert_eq!(rows[before]["reason"], "heartbeat_timeout", "{rows:?}");
    }
    b.service.signal(Signal::CONT);
    a.wait_for(&[b, c]);
    b.wait_for(&[a, c]);
    c.wait_for(&[a, b]);
    mesh::stop(relays);
}

/// With the heartbeats as they are unless said otherwise.
#[test]
fn one_that_stands_still_for_a_second_is_dropped_by_nobody() {
    let relays = mesh::start(TRIANGLE, &[]);
    let mut clients: Vec<_> = relays
        .iter()
        .map(|relay| Client::connect(relay.addr))
        .collect();
    let before: Vec<_> = relays.iter().map(Relay::services).collect();
    relays[1].service.signal(Signal::STOP);
    let start = now();
    let mut lines = 0;
    while start.elapsed() < Duration::from_secs(1) {
        say(&mut clients[0], "a", lines..lines + 1);
        say(&mut clients[2], "c", lines..lines + 1);
        lines += 1;
        clients[0].wait_for(lines as usize);
        clients[2].wait_for(lines as usize);
    }
    relays[1].service.signal(Signal::CONT);
    // Everything that was said meanwhile reaches it.
    clients[1].wait_for(2 * lines as usize);
    say(&mut clients[1], "b", 0..100);
    clients[0].wait_for(lines as usize + 100);
    clients[2].wait_for(lines as usize + 100);
    // The connections are the same; one more was tried and refused at the most.
    for (relay, before) in relays.iter().zip(before) {
        assert_eq!(relay.services(), before);
        assert!(relay.closed_for_good().is_empty());
    }
    // Each says its lines, and 100 more are said; everybody hears what two others say.
    let said = 2 * lines as usize + 100;
    mesh::stop(relays).assert_agrees_with(said, 2 * said);
    for (client, count) in clients
        .into_iter()
        .zip([lines + 100, 2 * lines, lines + 100])
    {
        let heard = client.heard();
        assert_eq!(heard.len(), count as usize);
        assert_once_and_in_order(&heard, &["a", "b", "c"]);
    }
}

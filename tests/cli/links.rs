//! `serve --connect`, who a service says that it is, and what it shows and asks for.

use std::net::TcpListener;

use crate::{
    harness::{Peer, Service, TempFile, failure, run, wait_until},
    mesh::{self, own_addr},
    metrics::get,
};

/// Waits until standard error says it so many times.
#[track_caller]
fn wait_for_log(service: &Service, what: &str, count: usize) {
    let mut text = String::new();
    wait_until(what, || {
        text = service.stderr();
        text.matches(what).count() >= count
    });
}

/// A HELLO or an OK of a node.
fn hello(node_id: u8, token: &[u8]) -> Vec<u8> {
    let hello = nebnet::frame::Hello {
        node_id: [node_id; 16],
        token,
        payload_size_max: 1 << 20,
        ..Default::default()
    };
    hello.to_payload()
}

#[test]
fn a_link_is_kept_and_its_log_says_so() {
    let addr = own_addr().to_string();
    let service = Service::start(&["--connect", &addr]);
    // Nobody is there yet.
    let refused = format!("link 0 to {addr} cannot be made: cannot connect: Connection refused");
    wait_for_log(&service, &refused, 1);
    wait_for_log(&service, "(attempt 2)", 1);
    let up = format!("link 0 to {addr} is up: peer ");
    for round in 1..=2 {
        let other = Service::start_with(&["--echo", "--listen", &addr]);
        wait_for_log(&service, &up, round);
        other.stop();
        let down = format!("link 0 to {addr} is down: peer_bye, 0 messages lost");
        wait_for_log(&service, &down, round);
    }
    service.signal(rustix::process::Signal::TERM);
    let (code, stderr) = service.wait();
    assert_eq!(code, Some(0), "{stderr}");
    let summary = "links: 2 connections made, 0 messages lost with them";
    assert!(stderr.contains(summary), "{stderr}");
}

#[test]
fn metrics_count_what_was_dialled() {
    let addr = own_addr().to_string();
    let mut service = Service::start(&["--connect", &addr, "--metrics", "127.0.0.1:0"]);
    let metrics = service.announced("metrics on ");
    let has = |line: &str| get(metrics, "/metrics").lines().any(|one| one == line);
    wait_until("an attempt has failed", || {
        !has("nebnet_dials_failed_total 0")
    });
    assert!(has("nebnet_peers_dialled_total 0"));
    let other = Service::start_with(&["--echo", "--listen", &addr]);
    wait_until("one was made", || has("nebnet_peers_dialled_total 1"));
    assert!(has("nebnet_peers_accepted_total 0"));
    other.stop();
    service.stop();
}

#[test]
fn a_name_is_looked_up_and_a_wrong_one_is_tried_again() {
    let other = Service::start(&[]);
    let name = format!("localhost:{}", other.addr.port());
    let service = Service::start(&["--connect", &name, "--connect", "name.invalid:1"]);
    wait_for_log(&service, &format!("link 0 to {} is up", other.addr), 1);
    wait_for_log(
        &service,
        "link 1 to name.invalid:1 cannot be made: cannot resolve the name",
        2,
    );
    service.stop();
    other.stop();
}

#[test]
fn a_service_says_who_it_is() {
    let id = "00112233445566778899aabbccddeeff";
    let service = Service::start(&["--node-id", id, "--network-id", "7"]);
    let mut peer = service.connect();
    let mut greeting = hello(0, b"");
    greeting[11] = 7;
    peer.send(0xFF00, &greeting);
    let (kind, _, ok) = peer.recv().unwrap();
    assert_eq!(kind, 0xFF01);
    let hex: String = ok[12..28]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, id);
    service.stop();
    // One that connects to others has an id in any case, another one each time.
    let ids: Vec<_> = (0..2)
        .map(|_| {
            // Its own, at which the first one cannot come back.
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            let service = Service::start(&["--connect", &addr]);
            let (kind, _, hello) = Peer::accept(&listener).recv().unwrap();
            assert_eq!(kind, 0xFF00);
            service.stop();
            hello[12..28].to_vec()
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| *id != [0; 16]));
}

/// A link-local address of this host, as `IP%INTERFACE`.
fn link_local() -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    let mut rows = table.lines().map(|row| row.split_whitespace());
    rows.find_map(|mut row| {
        let (digits, interface) = (row.next()?, row.nth(4)?);
        let ip = std::net::Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?);
        ip.is_unicast_link_local()
            .then(|| format!("{ip}%{interface}"))
    })
}

/// Where there is no such address, what follows is about errors alone.
#[test]
fn an_address_may_name_its_interface() {
    if let Some(host) = link_local() {
        let service = Service::start_with(&["--echo", "--listen", &format!("[{host}]:0")]);
        let target = format!("[{host}]:{}", service.addr.port());
        let linked = Service::start(&["--connect", &target]);
        wait_for_log(&linked, " is up: peer ", 1);
        let send = ["send", &target, "--type", "7", "--text", "x", "--replies"];
        let output = run(&send, b"");
        assert!(output.status.success(), "{output:?}");
        linked.stop();
        service.stop();
    }
    let output = run(&["serve", "--connect", "[fe80::1%none]:1"], b"");
    let text = String::from_utf8(output.stderr).unwrap();
    let wanted = "`[fe80::1%none]:1`: interface `none` cannot be used: No such device";
    assert!(text.contains(wanted), "{text}");
    let file = TempFile::new("connect = [\"[fe80::1%none]:1\"]\n");
    let output = run(&["check", file.name()], b"");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(wanted), "{text}");
    let output = run(&["send", "[fe80::1%none]:1", "--type", "7"], b"");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("interface `none` cannot be used: No such device"),
        "{text}"
    );
}

/// The id that all services here have.
const COPIED: &str = "000000000000000000000000000000ab";

/// Each side that can know warns; `names` are what the lines of the log have to say.
#[test]
fn a_copied_node_id_is_warned_of() {
    let copied = ["--node-id", COPIED];
    let linked = |addr: &str| {
        let args = [&copied[..], &["--connect", addr]].concat();
        Service::start(&args)
    };
    // Two services with one id dial a third.
    let server = Service::start(&["--echo"]);
    let addr = server.addr.to_string();
    let first = linked(&addr);
    wait_for_log(&first, " is up: peer ", 1);
    let second = linked(&addr);
    let taken = format!(
        "WARN  link 0 to {addr} cannot be made: our node id is taken there: another service has \
         the same (attempt 1)"
    );
    wait_for_log(&second, &taken, 1);
    wait_for_log(&server, "WARN  peer ", 1);
    let text = server.stderr();
    let stays = "which stays: two services with the node id 000000000000000000000000000000ab, or";
    assert!(text.contains(stays), "{text}");
    // One of them dials the other.
    let third = linked(&first.addr.to_string());
    let taken = "cannot be made: our node id is taken there";
    wait_for_log(&third, taken, 1);
    let own = format!("has our own node id {COPIED}: another service");
    wait_for_log(&first, &own, 1);
    // A third dials two.
    let both = [(); 2].map(|()| Service::start(&copied));
    let [one, other] = both.each_ref().map(|service| service.addr.to_string());
    let hub = Service::start(&["--connect", &one, "--connect", &other]);
    wait_for_log(&hub, "which goes: two services with the node id", 1);
    wait_until("the one that went to notice", || {
        let mut texts = both.iter().map(Service::stderr);
        texts.any(|text| text.contains("keeps another connection of our node id"))
    });
    for service in [server, first, second, third, hub].into_iter().chain(both) {
        service.stop();
    }
}

/// Of two connections that each other's services dialled one goes, and nothing is odd about that.
#[test]
fn two_services_that_dial_each_other_are_not_warned_of() {
    let relays = mesh::start(&[&[1], &[0]], &[]);
    for relay in relays {
        let text = relay.service.stderr();
        assert!(!text.contains("node id"), "{text}");
        relay.service.stop();
    }
}

#[test]
fn send_is_let_in_by_its_token() {
    let service = Service::start(&["--echo", "--accept-token", "old", "--accept-token", "new"]);
    let send = ["--type", "7", "--text", "x", "--replies", "--hello"];
    for token in ["old", "new"] {
        let output = service.send(&[&send[..], &["--token", token]].concat(), b"");
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.ends_with(b"\t7\t1\ttext\tx\n"), "{output:?}");
    }
    for token in [&["--token", "wrong"][..], &[]] {
        let (code, line) = failure(&service.send(&[&send[..], token].concat(), b""));
        assert_eq!(code, 1);
        assert!(line.contains("BYE auth_failed (11)"), "{line}");
        assert!(!line.contains("wrong"), "{line}");
    }
    // A token can only be shown in a HELLO.
    let mut peer = service.connect();
    peer.send(7, b"x");
    assert_eq!(peer.recv_bye(), 9);
    let output = run(&["send", "127.0.0.1:1", "--type", "7", "--token", "x"], b"");
    assert_eq!(output.status.code(), Some(2));
    service.stop();
}

#[test]
fn a_link_shows_its_token() {
    let other = Service::start(&["--accept-token", "secret", "--token", "secret"]);
    let addr = other.addr.to_string();
    let both = [
        "--connect",
        &addr,
        "--token",
        "secret",
        "--accept-token",
        "secret",
    ];
    let service = Service::start(&both);
    wait_for_log(&service, " is up", 1);
    let stranger = Service::start(&["--connect", &addr, "--token", "another"]);
    wait_for_log(&stranger, "the peer refused our HELLO: ", 1);
    // Tokens are in no log.
    for text in [service.stderr(), stranger.stderr(), other.stderr()] {
        assert!(
            !text.contains("secret") && !text.contains("another"),
            "{text}"
        );
    }
    stranger.stop();
    service.stop();
    other.stop();
}

#[test]
fn a_silent_service_and_a_silent_peer_are_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let service = Service::start(&[
        "--connect",
        &addr,
        "--connect-timeout",
        "100ms",
        "--heartbeat-interval",
        "100ms",
        "--heartbeat-timeout",
        "300ms",
    ]);
    let mut silent = Peer::accept(&listener);
    assert_eq!(silent.recv().map(|raw| raw.0), Some(0xFF00));
    wait_for_log(&service, "cannot be made: no OK to our HELLO", 1);
    assert_eq!(silent.recv_bye(), 12);

    let mut peer = service.connect();
    peer.send(0xFF00, &hello(5, b""));
    assert_eq!(peer.recv().map(|raw| raw.0), Some(0xFF01));
    // It is asked, and as it does not answer, it is closed.
    assert_eq!(peer.recv(), Some((0xFF03, 0, Vec::new())));
    let last = loop {
        match peer.recv() {
            Some((0xFF03, ..)) => {}
            other => break other,
        }
    };
    let (kind, _, bye) = last.unwrap();
    assert_eq!((kind, &bye[..2]), (0xFF02, &[0, 15][..]));
    service.stop();
}

#[test]
fn every_setting_of_links_can_stand_in_a_file() {
    let other = Service::start(&["--accept-token", "t"]);
    let file = TempFile::new(format!(
        "connect = [\"{}\", \"localhost:1\"]\n\
         relay = true\n\
         node_id = \"000000000000000000000000000000AB\"\n\
         token = \"t\"\n\
         accept_token = \"only\"\n\
         connect_timeout = \"2s\"\n\
         heartbeat_interval = \"3s\"\n\
         heartbeat_timeout = 0\n",
        other.addr
    ));
    let output = run(&["check", file.name()], b"");
    assert!(output.status.success(), "{output:?}");
    // Flags win, and a flag takes back what the file says.
    let service = Service::start(&["--config", file.name(), "--accept-token", "u"]);
    // The other one shows no token.
    wait_for_log(&service, "no OK to our HELLO", 1);
    let output = service.send(
        &["--type", "1", "--text", "x", "--hello", "--token", "u"],
        b"",
    );
    assert!(output.status.success(), "{output:?}");
    service.signal(rustix::process::Signal::TERM);
    let (code, stderr) = service.wait();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("relay: 1 messages relayed"), "{stderr}");
    other.stop();
}

#[test]
fn wrong_settings_of_links_are_named_with_their_lines() {
    let long = "x".repeat(256);
    let many = vec!["\"t\""; 17].join(", ");
    let text = format!(
        "connect = [\"nowhere\", \":80\", \"h:65536\"]\n\
         relay = \"yes\"\n\
         node_id = \"12\"\n\
         token = \"{long}\"\n\
         accept_token = [{many}]\n\
         connect_timeout = 0\n\
         heartbeat_interval = \"5s\"\n\
         heartbeat_timeout = \"1s\"\n"
    );
    let file = TempFile::new(text);
    let output = run(&["check", file.name()], b"");
    let (code, _) = failure(&output);
    assert_eq!(code, 1);
    let text = String::from_utf8(output.stdout).unwrap();
    for (line, why) in [
        (1, "connect: `nowhere` is no target: HOST:PORT"),
        (2, "relay: `yes` is neither true nor false"),
        (3, "node_id: `12` is no node id: 32 hexadecimal digits"),
        (4, "token: the token has 256 bytes, allowed are 1 to 255"),
        (5, "accept_tokens has 17 tokens, allowed are 0 to 16"),
        (6, "connect_timeout is 0"),
        (
            7,
            "heartbeat_interval is 5000 ms, above heartbeat_timeout of 1000 ms",
        ),
    ] {
        let place = format!("{}:{line}: {why}", file.name());
        assert!(
            text.lines().any(|found| found.starts_with(&place)),
            "{place}\n{text}"
        );
    }
    assert_eq!(text.lines().count(), 7, "{text}");
    assert!(!text.contains(&long), "{text}");
}

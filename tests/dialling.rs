//! Services that connect to others: links, HELLO from both sides, tokens, double connections, and
//! listeners that come and go.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Config, ConnectError, ConnectOptions, DialError, Event, EventOptions,
    EventSubscription, LinkId, ListenError, MessageType, NetService, PeerId, SendError,
    Subscription, TypeFilter,
    frame::{Frame, Hello},
};
use util::{Client, End, HELLO, PATIENCE, config, stop, wait_until};

const A: MessageType = MessageType(7);
const OK: MessageType = MessageType(0xFF01);

/// A running service with everything that it gets.
struct Node {
    service: NetService,
    events: EventSubscription,
    messages: Subscription,
}

impl Node {
    fn start(config: Config) -> Self {
        let mut service = NetService::new(config).unwrap();
        let events = service
            .handle()
            .subscribe_events(EventOptions::new())
            .unwrap();
        let messages = service.handle().subscribe(TypeFilter::all()).unwrap();
        service.start().unwrap();
        Self {
            service,
            events,
            messages,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.service.local_addrs()[0]
    }

    /// The next event that the function knows; others are passed over.
    #[track_caller]
    fn wait_for<T>(&self, what: &str, mut known: impl FnMut(&Event) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let event = self.events.recv_timeout(left);
            let event = event.unwrap_or_else(|_| panic!("no {what} came"));
            if let Some(found) = known(&event) {
                return found;
            }
        }
    }

    #[track_caller]
    fn connected(&self) -> (PeerId, Option<LinkId>) {
        self.wait_for("Connected", |event| match event {
            Event::Connected { peer, link, .. } => Some((*peer, *link)),
            _ => None,
        })
    }

    #[track_caller]
    fn closed(&self) -> (PeerId, CloseReason) {
        self.wait_for("Closed", |event| match event {
            Event::Closed(row) => Some((row.peer, row.reason)),
            _ => None,
        })
    }

    #[track_caller]
    fn failed(&self) -> (LinkId, DialError, Option<Duration>) {
        self.wait_for("DialFailed", |event| match event {
            Event::DialFailed {
                link,
                error,
                retry_in,
                ..
            } => Some((*link, error.clone(), *retry_in)),
            _ => None,
        })
    }

    #[track_caller]
    fn expect_message(&mut self, peer: PeerId, payload: &[u8]) {
        let message = self.messages.recv_timeout(PATIENCE).unwrap();
        assert_eq!((message.peer(), message.payload()), (peer, payload));
    }
}

/// Every node holds its sums against each other at its end.
impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            util::stop_within(&mut self.service, PATIENCE);
        }
    }
}

/// A port that nobody listens on.
fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// The other end of a link, without a service.
fn accept(listener: &TcpListener) -> Client {
    let (stream, _) = listener.accept().unwrap();
    Client::of(stream)
}

fn node_config(id: u8) -> Config {
    config().node_id([id; 16])
}

fn ok(hello: &Hello<'_>) -> Vec<u8> {
    util::encoded(&Frame::new(OK, &hello.to_payload()))
}

#[test]
fn two_services_form_a_link_and_talk_both_ways() {
    let mut server = Node::start(node_config(1).agent("server/1").max_payload(1000));
    let mut client = Node::start(node_config(2).agent("client/2").listen_nowhere());
    assert!(client.service.local_addrs().is_empty());
    let link = client.service.handle().connect(server.addr()).unwrap();
    let (to_server, by) = client.connected();
    assert_eq!(by, Some(link));
    let identity = client.wait_for("Hello", |event| match event {
        Event::Hello { peer, identity } if *peer == to_server => Some(identity.clone()),
        _ => None,
    });
    assert_eq!(
        (identity.node_id.0, &*identity.agent),
        ([1; 16], "server/1")
    );
    let (to_client, by) = server.connected();
    assert_eq!(by, None);
    client
        .service
        .handle()
        .send(to_server, (A, b"there"))
        .unwrap();
    server.expect_message(to_client, b"there");
    server
        .service
        .handle()
        .send(to_client, (A, b"and back"))
        .unwrap();
    client.expect_message(to_server, b"and back");
    // Never more than the other side said that it takes.
    let size = 1001;
    let refused = client.service.handle().send(to_server, (A, vec![0; size]));
    assert_eq!(
        refused.map_err(nebnet::Rejected::into_error),
        Err(SendError::TooLarge { size, limit: 1000 })
    );
    let row = client.service.handle().peers().unwrap().remove(0);
    assert_eq!((row.link, row.identity), (Some(link), Some(identity)));
    client.service.handle().disconnect(link).unwrap();
    assert_eq!(client.closed(), (to_server, CloseReason::AppClosed));
    assert_eq!(server.closed(), (to_client, CloseReason::PeerBye));
    let report = stop(&mut client.service);
    assert_eq!((report.snapshot.dialled, report.snapshot.accepted), (1, 0));
    stop(&mut server.service);
}

#[test]
fn one_attempt_fails_and_says_why() {
    let mut node = Node::start(config());
    let link = node.service.handle().connect(free_addr()).unwrap();
    let (failed, error, retry) = node.failed();
    assert_eq!((failed, retry), (link, None));
    let DialError::Connect { kind, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(kind, ErrorKind::ConnectionRefused);
    let by_name = node.service.handle().connect("name.invalid:80").unwrap();
    let (failed, error, _) = node.failed();
    assert_eq!(failed, by_name);
    assert!(matches!(error, DialError::Resolve { .. }), "{error:?}");
    let bad = node.service.handle().connect("no-port").unwrap_err();
    assert!(matches!(bad, ConnectError::BadTarget), "{bad:?}");
    // A connection that was never made is no connection.
    let report = stop(&mut node.service);
    let snapshot = report.snapshot;
    assert_eq!((snapshot.dialled, snapshot.dials_failed), (0, 2));
    assert_eq!(snapshot.closed_total(), 0);
    let late = node.service.handle().connect(free_addr()).unwrap_err();
    assert!(matches!(late, ConnectError::Stopped), "{late:?}");
}

#[test]
fn several_addresses_are_tried_and_names_looked_up() {
    let server = Node::start(config());
    let client = Node::start(config());
    let addrs = vec![free_addr(), free_addr(), server.addr()];
    let link = client.service.handle().connect(addrs).unwrap();
    assert_eq!(client.connected().1, Some(link));
    let name = format!("localhost:{}", server.addr().port());
    let link = client.service.handle().connect(name).unwrap();
    assert_eq!(client.connected().1, Some(link));
}

#[test]
fn a_kept_link_comes_back() {
    let addr = free_addr();
    let fast = Duration::from_millis(5);
    let client = Node::start(config().reconnect(fast, fast * 4));
    let kept = ConnectOptions::from(addr).keep_connected(true);
    let link = client.service.handle().connect(kept).unwrap();
    // Nobody is there yet, which is tried again.
    for _ in 0..5 {
        let (failed, _, retry) = client.failed();
        assert_eq!(failed, link);
        assert!(retry.unwrap() <= fast * 4, "{retry:?}");
    }
    let listen = Config::default().listen(addr);
    for _ in 0..3 {
        let mut server = Node::start(listen.clone());
        let (peer, by) = client.connected();
        assert_eq!(by, Some(link));
        client
            .service
            .handle()
            .send(peer, (A, b"hello again"))
            .unwrap();
        let (there, _) = server.connected();
        server.expect_message(there, b"hello again");
        stop(&mut server.service);
        assert_eq!(client.closed(), (peer, CloseReason::PeerBye));
    }
    // Closing its connection is the end of the link.
    let server = Node::start(listen);
    let (peer, _) = client.connected();
    assert!(client.service.handle().close(peer));
    assert_eq!(client.closed(), (peer, CloseReason::AppClosed));
    assert_eq!(server.closed().1, CloseReason::PeerBye);
    assert!(
        client.events.recv_timeout(fast * 20).is_err(),
        "it came back"
    );
}

#[test]
fn nothing_but_hello_goes_out_before_the_ok() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut node = Node::start(node_config(3).network_id(9).agent("dialler"));
    let link = node
        .service
        .handle()
        .connect(listener.local_addr().unwrap())
        .unwrap();
    let mut server = accept(&listener);
    let hello = server.receive().unwrap();
    assert_eq!(hello.message_type, HELLO);
    let said = Hello::parse(&hello.payload).unwrap();
    assert_eq!((said.node_id, said.network_id), ([3; 16], 9));
    assert_eq!((said.agent, said.token), ("dialler", &b""[..]));
    // The other side may send before it answers; that waits for the OK.
    server.send_message(7, b"early");
    // Which is answered once, however often the rest is looked at.
    server.ping(b"are you there");
    assert!(node.events.try_recv().is_err());
    let answer = Hello {
        network_id: 9,
        payload_size_max: 5,
        ..Hello::default()
    };
    let mut bytes = ok(&answer);
    bytes.extend_from_slice(&util::encoded(&Frame::new(A, b"late")));
    assert!(server.try_write(&bytes));
    let (peer, by) = node.connected();
    assert_eq!(by, Some(link));
    node.expect_message(peer, b"early");
    node.expect_message(peer, b"late");
    let too_large = SendError::TooLarge { size: 6, limit: 5 };
    assert_eq!(
        node.service
            .handle()
            .send(peer, (A, b"123456"))
            .map_err(nebnet::Rejected::into_error),
        Err(too_large)
    );
    node.service.handle().send(peer, (A, b"12345")).unwrap();
    server.expect(7, b"12345");
    drop(server);
    assert_eq!(node.closed(), (peer, CloseReason::PeerClosed));
}

#[test]
fn a_peer_without_hello_is_reached_without() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut node = Node::start(config());
    let plain = ConnectOptions::from(listener.local_addr().unwrap()).hello(false);
    node.service.handle().connect(plain).unwrap();
    let mut server = accept(&listener);
    let (peer, _) = node.connected();
    node.service.handle().send(peer, (A, b"first")).unwrap();
    server.expect(7, b"first");
    server.send_message(7, b"second");
    node.expect_message(peer, b"second");
    // Whoever was dialled says no HELLO.
    let hello = Hello::default().to_payload();
    server.send(&Frame::new(HELLO, &hello));
    assert_eq!(node.closed(), (peer, CloseReason::BadProtocolMessage));
}

/// The other side refuses, leaves, is silent, or says nonsense in place of its OK.
#[test]
fn an_attempt_without_ok_says_what_came_instead() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let node = Node::start(config().connect_timeout(Duration::from_millis(300)));
    let attempt = |server: &dyn Fn(&mut Client)| {
        node.service.handle().connect(addr).unwrap();
        let mut client = accept(&listener);
        assert_eq!(client.receive().unwrap().message_type, HELLO);
        server(&mut client);
        match node.failed().1 {
            DialError::Handshake {
                reason,
                bye_received,
            } => (reason, bye_received),
            other => panic!("{other:?}"),
        }
    };
    let bye = |client: &mut Client| {
        client.send(&Frame::new(MessageType(0xFF02), b"\x00\x11\x00"));
    };
    let (reason, code) = attempt(&bye);
    assert_eq!((reason, code), (CloseReason::PeerBye, Some(17)));
    let leave = |client: &mut Client| {
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    };
    assert_eq!(attempt(&leave), (CloseReason::PeerClosed, None));
    let nothing = |client: &mut Client| client.expect_bye(12);
    assert_eq!(attempt(&nothing), (CloseReason::FirstFrameTimeout, None));
    let wrong_network = |client: &mut Client| {
        let hello = Hello {
            network_id: 1,
            ..Hello::default()
        };
        assert!(client.try_write(&ok(&hello)));
        client.expect_bye(10);
    };
    assert_eq!(attempt(&wrong_network), (CloseReason::HelloMismatch, None));
    let http = |client: &mut Client| assert!(client.try_write(b"HTTP/1.1 400 Bad Request\r\n"));
    assert_eq!(attempt(&http), (CloseReason::FrameTooLong, None));
}

#[test]
fn a_token_opens_and_a_wrong_one_is_refused_after_a_while() {
    let server = Node::start(node_config(1).accept_tokens(["old", "new"]).token("new"));
    for token in ["old", "new"] {
        let client = Node::start(config().token(token));
        client.service.handle().connect(server.addr()).unwrap();
        let peer = client.connected().0;
        let there = server.connected().0;
        let identity = server.wait_for("Hello", |event| match event {
            Event::Hello { peer, identity } if *peer == there => Some(identity.clone()),
            _ => None,
        });
        assert!(identity.authenticated);
        assert!(client.service.handle().close(peer));
    }
    // Both sides may ask.
    let mutual = Node::start(config().token("old").accept_tokens(["new"]));
    mutual.service.handle().connect(server.addr()).unwrap();
    mutual.connected();
    let deceived = Node::start(config().token("old").accept_tokens(["another"]));
    deceived.service.handle().connect(server.addr()).unwrap();
    let DialError::Handshake { reason, .. } = deceived.failed().1 else {
        panic!("not a handshake")
    };
    assert_eq!(reason, CloseReason::AuthFailed);
    for token in [&b""[..], b"older", b"ne", b"OLD"] {
        let mut client = Client::connect(server.addr());
        let hello = Hello {
            token,
            ..Hello::default()
        };
        let started = Instant::now();
        client.send(&Frame::new(HELLO, &hello.to_payload()));
        client.send_message(7, b"never delivered");
        client.expect_bye(11);
        // Half a second from the beginning of the turn in which the loop saw it.
        assert!(started.elapsed() >= Duration::from_millis(400), "{token:?}");
        client.expect_end(End::Fin);
    }
    let mut silent = Client::connect(server.addr());
    silent.send_message(7, b"no hello");
    silent.expect_bye(9);
    // Several loops count them in no order.
    util::wait_for_closed(&server.service, CloseReason::AuthFailed, 4);
    let snapshot = server.service.handle().snapshot();
    assert_eq!(snapshot.inbound.messages, 0);
}

/// Both dial at the same time, many times: one connection stays, the same for both.
#[test]
fn crosswise_links_become_one() {
    for round in 0..10 {
        let (first, second) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        let mut one = Node::start(node_config(first));
        let mut other = Node::start(node_config(second));
        let options = |addr: SocketAddr| ConnectOptions::from(addr).keep_connected(true);
        one.service.handle().connect(options(other.addr())).unwrap();
        other.service.handle().connect(options(one.addr())).unwrap();
        let settled = |node: &Node| {
            let peers = node.service.handle().peers().unwrap();
            let open: Vec<_> = peers.into_iter().filter(|row| !row.closing).collect();
            match &open[..] {
                [row] if row.identity.is_some() => Some(row.clone()),
                _ => None,
            }
        };
        let mut found = None;
        wait_until("one connection on both sides", || {
            let rows = (settled(&one), settled(&other));
            let (Some(here), Some(there)) = rows else {
                return false;
            };
            // The link that gave way tries again now and then, so this is looked at once.
            found = Some((here.peer, there.peer));
            // The one that the smaller id dialled.
            here.link.is_some() == (first == 1) && there.link.is_some() == (second == 1)
        });
        let (to_other, to_one) = found.unwrap();
        one.service.handle().send(to_other, (A, b"ping")).unwrap();
        other.expect_message(to_one, b"ping");
        other.service.handle().send(to_one, (A, b"pong")).unwrap();
        one.expect_message(to_other, b"pong");
    }
}

#[test]
fn a_second_connection_of_a_node_is_refused_unless_it_is_known() {
    let server = Node::start(config());
    let hello = Hello {
        node_id: [5; 16],
        ..Hello::default()
    };
    let greet = |addr: SocketAddr, hello: &Hello<'_>| {
        let mut client = Client::connect(addr);
        client.send(&Frame::new(HELLO, &hello.to_payload()));
        client
    };
    let mut first = greet(server.addr(), &hello);
    assert_eq!(first.receive().unwrap().message_type, OK);
    let mut second = greet(server.addr(), &hello);
    second.expect_bye(21);
    first.ping(b"still here");
    // With a token it is the node itself that is back.
    let server = Node::start(config().accept_tokens(["secret"]));
    let hello = Hello {
        token: b"secret",
        ..hello
    };
    let mut first = greet(server.addr(), &hello);
    assert_eq!(first.receive().unwrap().message_type, OK);
    let mut second = greet(server.addr(), &hello);
    assert_eq!(second.receive().unwrap().message_type, OK);
    first.expect_bye(21);
    second.ping(b"still here");
}

#[test]
fn a_service_does_not_connect_to_itself() {
    let node = Node::start(node_config(4));
    node.service.handle().connect(node.addr()).unwrap();
    // Either end may be the first to find out.
    let error = node.failed().1;
    let found_here = matches!(
        error,
        DialError::Handshake {
            reason: CloseReason::DuplicateNode,
            ..
        }
    );
    assert!(found_here || error == DialError::NodeIdTaken, "{error}");
}

#[test]
fn a_listener_needs_the_interface_of_a_link_local_address() {
    let mut node = Node::start(config());
    let error = node.service.handle().listen("[fe80::1]:0".parse().unwrap());
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "cannot listen");
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("needs its interface"), "{text}");
    stop(&mut node.service);
}

/// A socket of another kind would be taken, and never have a connection.
#[test]
fn only_a_socket_that_listens_is_taken_over() {
    let mut node = Node::start(config());
    let to = node.addr();
    let connected = TcpStream::connect(to).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let cases: [(OwnedFd, String); 3] = [
        (
            connected.into(),
            format!("a TCP socket that is connected to {to}"),
        ),
        (udp.into(), "a UDP socket".to_owned()),
        (
            std::fs::File::open("/dev/null").unwrap().into(),
            "a character device".to_owned(),
        ),
    ];
    for (socket, what) in cases {
        let descriptor = socket.as_raw_fd();
        let error = node
            .service
            .handle()
            .listen_from(socket.into())
            .unwrap_err();
        let text = format!(
            "cannot listen: descriptor {descriptor} is {what}, not a TCP socket that listens"
        );
        assert_eq!(error.to_string(), text);
        assert!(matches!(error, ListenError::NotListening { .. }));
    }
    stop(&mut node.service);
}

#[test]
fn listeners_come_and_go_while_peers_stay() {
    let mut node = Node::start(config());
    let first = node.addr();
    let second = node
        .service
        .handle()
        .listen("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let mut early = Client::connect(second.addr);
    node.connected();
    let taken = node.service.handle().listen(second.addr).unwrap_err();
    assert!(matches!(taken, ListenError::Io(_)), "{taken:?}");
    let handle = node.service.handle();
    assert_eq!(handle.unlisten(second.id), Ok(true));
    assert_eq!(handle.unlisten(second.id), Ok(false));
    wait_until("the port to be closed", || {
        TcpStream::connect(second.addr).is_err()
    });
    early.ping(b"still served");
    // A socket that somebody else opened, with a connection that waits already.
    let adopted = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut waiting = Client::connect(adopted.local_addr().unwrap());
    let third = node.service.handle().listen_from(adopted).unwrap();
    waiting.ping(b"served");
    let mut late = Client::connect(third.addr);
    late.ping(b"served");
    let mut usual = Client::connect(first);
    usual.ping(b"served");
    stop(&mut node.service);
    let late = node.service.handle().listen(third.addr).unwrap_err();
    assert!(matches!(late, ListenError::Stopped), "{late:?}");
}

#[test]
fn links_and_listeners_may_be_asked_for_before_the_start() {
    let server = Node::start(config());
    let mut service = NetService::new(config().listen_nowhere()).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    let link = service.handle().connect(server.addr()).unwrap();
    let listening = service
        .handle()
        .listen("127.0.0.1:0".parse().unwrap())
        .unwrap();
    service.start().unwrap();
    let event = events.recv_timeout(PATIENCE).unwrap();
    let Event::Connected { link: by, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(by, Some(link));
    Client::connect(listening.addr).ping(b"here");
    util::stop_within(&mut service, PATIENCE);
}

#[test]
fn a_silent_peer_that_said_hello_is_asked_and_then_given_up() {
    let (interval, timeout) = (Duration::from_millis(100), Duration::from_millis(400));
    let node = Node::start(config().heartbeat(interval, timeout));
    let mut client = Client::connect(node.addr());
    client.send(&Frame::new(HELLO, &Hello::default().to_payload()));
    assert_eq!(client.receive().unwrap().message_type, OK);
    let peer = node.connected().0;
    // It is asked, answers, and stays.
    let ping = client.receive().unwrap();
    assert_eq!(ping.message_type, MessageType(0xFF03));
    client.send(&Frame::new(MessageType(0xFF04), &ping.payload));
    let mut pings = 0;
    let bye = loop {
        let answer = client.receive().unwrap();
        match answer.message_type {
            MessageType(0xFF03) => pings += 1,
            MessageType(0xFF02) => break answer,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(bye.payload[..2], [0, 15]);
    assert!(pings >= 2, "{pings} PINGs");
    assert_eq!(node.closed(), (peer, CloseReason::HeartbeatTimeout));
    // Who said no HELLO is not asked.
    let mut plain = Client::connect(node.addr());
    plain.send_message(7, b"no hello");
    let there = node.connected().0;
    assert!(node.events.recv_timeout(timeout * 2).is_err());
    node.service
        .handle()
        .send(there, (A, b"still here"))
        .unwrap();
    plain.expect(7, b"still here");
}

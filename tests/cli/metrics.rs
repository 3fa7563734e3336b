//! The HTTP endpoint of `serve --metrics`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::harness::{Service, frame, wait_until};

fn service() -> (Service, SocketAddr) {
    let mut service = Service::start(&["--echo", "--metrics", "127.0.0.1:0"]);
    let metrics = service.announced("metrics on ");
    (service, metrics)
}

/// The status line and the body of the answer to these bytes.
fn ask(addr: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

pub(crate) fn get(addr: SocketAddr, path: &str) -> String {
    let (status, body) = ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(status, "HTTP/1.1 200 OK", "{path}");
    body
}

pub(crate) fn json(addr: SocketAddr, path: &str) -> Value {
    serde_json::from_str(&get(addr, path)).unwrap()
}

#[test]
fn every_page_shows_the_service() {
    let (service, metrics) = service();
    let mut peer = service.connect();
    for _ in 0..3 {
        peer.send(7, b"hi");
        assert!(peer.recv().is_some());
    }
    // What is written is counted when the loop has seen it written.
    wait_until("three messages out", || {
        get(metrics, "/metrics").contains("\nnebnet_outbound_messages_total 3\n")
    });
    let text = get(metrics, "/metrics");
    for line in [
        "# TYPE nebnet_peers gauge",
        "nebnet_up 1",
        "nebnet_peers 1",
        "nebnet_inbound_messages_total 3",
        "nebnet_inbound_bytes_total 30",
        "nebnet_type_inbound_messages_total{type=\"7\"} 3",
        "nebnet_type_claimed_messages_total{type=\"7\"} 3",
        "nebnet_type_unclaimed_messages_total{type=\"7\"} 0",
        "nebnet_peers_closed_total{reason=\"peer_closed\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(
        text.contains("nebnet_subscriber_taken_total{subscriber=\"echo\",id=\""),
        "{text}"
    );
    assert!(text.is_ascii() && text.ends_with('\n'));

    let mut hello = b"NEBN\0\x01\0\0\0\0\0\0".to_vec();
    hello.extend_from_slice(&[0xAB; 16]);
    hello.extend_from_slice(b"\0\x01\0\0\x06test/1\0");
    peer.send(0xFF00, &hello);
    assert!(peer.recv().is_some());
    assert_eq!(json(metrics, "/health")["status"], "ok");
    let peers = json(metrics, "/peers?all");
    assert_eq!(peers[0]["inbound"]["messages"], 3);
    assert_eq!(
        peers[0]["addr"],
        peer.stream.local_addr().unwrap().to_string()
    );
    assert_eq!(peers[0]["link"], Value::Null);
    assert_eq!(peers[0]["node_id"], "abababababababababababababababab");
    assert_eq!(peers[0]["agent"], "test/1");
    assert_eq!(json(metrics, "/subscribers")[0]["name"], "echo");
    drop(peer);
    wait_until("the peer to be gone", || {
        json(metrics, "/closed")[0]["inbound"]["messages"] == 3
    });
    let closed = json(metrics, "/closed");
    assert_eq!(closed[0]["reason"], "peer_closed");
    assert_eq!(closed[0]["link"], Value::Null);
    assert_eq!(closed[0]["node_id"], peers[0]["node_id"]);
    assert_eq!(json(metrics, "/peers"), Value::Array(Vec::new()));
    service.stop();
}

#[test]
fn other_requests_are_refused() {
    let (service, metrics) = service();
    let status = |request: &str| ask(metrics, request).0;
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(
        status("POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"),
        "HTTP/1.1 405 Method Not Allowed"
    );
    assert_eq!(status("nonsense\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    assert!(status(&long).contains(" 431 "));
    service.stop();
}

#[test]
fn silent_clients_delay_nobody() {
    let (service, metrics) = service();
    let _silent: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(metrics).unwrap())
        .collect();
    let mut slow = TcpStream::connect(metrics).unwrap();
    slow.write_all(b"GET /metr").unwrap();
    // All workers wait; the request does until the first of them gives its client up.
    assert_eq!(json(metrics, "/health")["state"], "running");
    service.stop();
}

#[test]
fn health_tells_that_the_service_stops() {
    let mut service = Service::start(&[
        "--echo",
        "--metrics",
        "127.0.0.1:0",
        "--write-stall-timeout",
        "0",
        "--drain",
        "1h",
    ]);
    let metrics = service.announced("metrics on ");
    let mut deaf = service.connect();
    deaf.stream
        .set_write_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    while deaf.stream.write_all(&frame(1, 0, &[0; 60_000])).is_ok() {}
    service.signal(rustix::process::Signal::TERM);
    wait_until("503", || {
        let (status, _) = ask(metrics, "GET /health HTTP/1.1\r\n\r\n");
        status == "HTTP/1.1 503 Service Unavailable"
    });
    service.signal(rustix::process::Signal::TERM);
    service.wait();
}

//! The HTTP endpoint of `serve --metrics`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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

/// The answer to these bytes.
fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The status line and the body of the answer to these bytes.
fn ask(addr: SocketAddr, request: &str) -> (String, String) {
    let answer = raw(addr, request);
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

type Labels = BTreeMap<String, String>;

/// A scrape, read by the rules of the text format and held against them.
struct Scrape(Vec<(String, Labels, f64)>);

impl Scrape {
    fn of(text: &str) -> Self {
        let (mut samples, mut kinds, mut series) = (Vec::new(), HashMap::new(), HashSet::new());
        let (mut lines, mut family) = (text.lines(), "");
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && !help.contains('\\'), "{line}");
                let kind = lines.next().unwrap();
                let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
                assert!(["counter", "gauge"].contains(&kind), "{line}: {kind}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                assert_eq!(kinds.insert(name, kind), None, "{name} comes twice");
                family = name;
                continue;
            }
            let (name, labels, value) = sample(line);
            assert_eq!(name, family, "{line} is not where its family is");
            assert!(series.insert((name, labels.clone())), "{line} comes twice");
            assert!(value.is_finite() && value >= 0.0, "{line}");
            samples.push((name.to_owned(), labels, value));
        }
        Self(samples)
    }

    /// The sum of all samples of a family; there is one at least if it has no labels.
    #[track_caller]
    fn sum(&self, name: &str) -> f64 {
        let found = self.each(name, |_| true);
        assert!(!found.is_empty(), "no {name}");
        found.iter().sum()
    }

    fn each(&self, name: &str, wanted: impl Fn(&Labels) -> bool) -> Vec<f64> {
        let samples = self.0.iter();
        samples
            .filter(|(found, labels, _)| found[7..] == *name && wanted(labels))
            .map(|(_, _, value)| *value)
            .collect()
    }

    /// Holds a sum against its terms, of which the ones that begin with a minus are taken away.
    #[track_caller]
    fn check(&self, sum: &str, terms: &[&str]) {
        let of = |term: &&str| match term.strip_prefix('-') {
            Some(term) => -self.sum(term),
            None => self.sum(term),
        };
        let (whole, parts) = (self.sum(sum), terms.iter().map(of).sum::<f64>());
        assert!((whole - parts).abs() < 0.5, "{sum}: {whole}, not {parts}");
    }

    /// The same for each row of a table whose families begin with a prefix.
    #[track_caller]
    fn check_rows(&self, label: &str, prefix: &str, sum: &str, terms: &[&str]) {
        let name = |column: &str| format!("{prefix}_{column}");
        let rows = self.0.iter().filter(|(found, ..)| found[7..] == name(sum));
        let mut count = 0;
        for (_, labels, whole) in rows {
            let key = &labels[label];
            let parts = terms.iter().map(|term| {
                let found = self.each(&name(term), |labels| labels[label] == *key);
                assert_eq!(found.len(), 1, "{prefix} {key} {term}");
                found[0]
            });
            let parts: f64 = parts.sum();
            assert!(
                (whole - parts).abs() < 0.5,
                "{prefix} {key}: {whole}, not {parts}"
            );
            count += 1;
        }
        assert!(count > 0, "no rows of {prefix}");
    }
}

/// The name, the labels and the value of a sample.
fn sample(line: &str) -> (&str, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    assert!(
        name.starts_with("nebnet_") && name.chars().all(is_name),
        "{line}"
    );
    let mut labels = Labels::new();
    while rest.starts_with(['{', ',']) {
        let (label, value) = rest[1..].split_once("=\"").unwrap();
        assert!(!label.is_empty() && label.chars().all(is_name), "{line}");
        let (mut text, mut chars) = (String::new(), value.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (end, '"') => break end,
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => text.push('\n'),
                    escaped @ ('"' | '\\') => text.push(escaped),
                    other => panic!("{line}: {other}"),
                },
                (_, other) => text.push(other),
            }
        };
        assert_eq!(labels.insert(label.to_owned(), text), None, "{line}");
        rest = &value[end + 1..];
    }
    let rest = rest.strip_prefix('}').unwrap_or(rest);
    (
        name,
        labels,
        rest.strip_prefix(' ').unwrap().parse().unwrap(),
    )
}

/// With a quiet service everything that was received, and everything that was accepted for sending,
/// is found again in the same scrape.
#[test]
fn every_sum_can_be_checked_from_a_scrape() {
    let (service, metrics) = service();
    let mut peers = [service.connect(), service.connect(), service.connect()];
    for peer in &mut peers {
        for message_type in [7, 7, 8] {
            peer.send(message_type, b"hi");
            assert!(peer.recv().is_some());
        }
    }
    let [stays, leaves, mut breaks] = peers;
    drop(leaves);
    // Of version 2.
    breaks.stream.write_all(b"\0\0\0\x04\0\x01\0\x02").unwrap();
    wait_until("it is quiet", || {
        let text = get(metrics, "/metrics");
        text.contains("\nnebnet_outbound_messages_total 9\n")
            && text.contains("\nnebnet_peers_closed_total{reason=\"peer_closed\"} 1\n")
            && text.contains("\nnebnet_peers_closed_total{reason=\"bad_version\"} 1\n")
    });
    let scrape = Scrape::of(&get(metrics, "/metrics"));
    assert!((scrape.sum("inbound_messages_total") - 9.0).abs() < 0.5);
    scrape.check(
        "inbound_messages_total",
        &[
            "handled_total",
            "dispatched_total",
            "undelivered_messages_total",
            "dispatch_queue_messages",
            "-dispatch_queue_messages_parked",
        ],
    );
    scrape.check("dispatched_total", &["claimed_total", "unclaimed_total"]);
    let bytes = ["type_inbound_bytes_total", "undelivered_bytes_total"];
    scrape.check("inbound_bytes_total", &bytes);
    let claimed = ["type_claimed_messages_total", "requests_answered_total"];
    scrape.check("claimed_total", &claimed);
    let unclaimed = ["type_unclaimed_messages_total", "replies_late_total"];
    scrape.check("unclaimed_total", &unclaimed);
    for unit in ["messages", "bytes"] {
        let [accepted, written, dropped, overflowed] = ["_accepted", "", "_dropped", "_overflowed"]
            .map(|part| format!("outbound{part}_{unit}_total"));
        let queued = format!("outbound_queued_{unit}");
        scrape.check(&accepted, &[&written, &dropped, &overflowed, &queued]);
        scrape.check(&written, &[&format!("type_outbound_{unit}_total")]);
    }
    assert!((scrape.sum("peers_accepted_total") - 3.0).abs() < 0.5);
    let made = [
        "peers",
        "peers_refused",
        "peers_closed_total",
        "-peers_dialled_total",
    ];
    scrape.check("peers_accepted_total", &made);
    scrape.check(
        "requests_sent_total",
        &[
            "requests_answered_total",
            "requests_timed_out_total",
            "requests_closed_total",
            "requests_cancelled_total",
            "requests_outstanding",
        ],
    );
    let matched = [
        "taken_total",
        "dropped_total",
        "discarded_total",
        "queued_messages",
    ];
    let departed = matched.map(|term| format!("departed_{term}"));
    scrape.check(
        "departed_matched_total",
        &departed.each_ref().map(|term| &**term),
    );
    let of_row: Vec<_> = matched.into_iter().chain(["parked_messages"]).collect();
    scrape.check_rows("id", "subscriber", "matched_total", &of_row);
    let of_type =
        ["handled", "claimed", "unclaimed", "answer"].map(|term| format!("{term}_messages_total"));
    let of_type = of_type.each_ref().map(|term| &**term);
    scrape.check_rows("type", "type", "inbound_messages_total", &of_type);
    drop(stays);
    service.stop();
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
    assert_eq!(
        status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "HTTP/1.1 505 HTTP Version Not Supported"
    );
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    assert!(status(&long).contains(" 431 "));
    service.stop();
}

/// Whatever comes before its request is there: silence, half a request, or an answer that is not
/// taken.
#[test]
fn silent_clients_delay_nobody() {
    let (service, metrics) = service();
    let mut silent = Vec::new();
    for count in 1..=100 {
        let mut client = TcpStream::connect(metrics).unwrap();
        if count % 3 == 0 {
            client.write_all(b"GET /metr").unwrap();
        }
        silent.push(client);
        if count % 25 == 0 {
            assert_eq!(json(metrics, "/health")["state"], "running");
            assert!(get(metrics, "/metrics").ends_with('\n'));
        }
    }
    // The first has given its place to a later one.
    let mut piece = [0; 16];
    assert_eq!(silent[0].read(&mut piece).unwrap_or(0), 0);
    service.stop();
}

#[test]
fn a_head_has_the_answer_without_its_body() {
    let (service, metrics) = service();
    for path in [
        "/metrics",
        "/health",
        "/peers",
        "/closed",
        "/subscribers",
        "/none",
    ] {
        let (status, body) = ask(metrics, &format!("GET {path} HTTP/1.1\r\n\r\n"));
        let answer = raw(metrics, &format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(answer.starts_with(&status), "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{path}: {answer}");
        assert_eq!(answer.matches("\r\n\r\n").count(), 1, "{path}: {answer}");
        let size = answer.split("Content-Length: ").nth(1).unwrap();
        let size: usize = size.split("\r\n").next().unwrap().parse().unwrap();
        // Times and counts are of their moment.
        assert!(
            size.abs_diff(body.len()) < 64,
            "{path}: {size} {}",
            body.len()
        );
    }
    service.stop();
}

#[test]
fn a_page_may_be_asked_for_by_its_whole_url() {
    let (service, metrics) = service();
    let status = |request: &str| ask(metrics, request).0;
    for target in [
        &format!("http://{metrics}/health")[..],
        &format!("HTTP://{metrics}/health?x=y"),
        "http://other.example/health",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {metrics}\r\n\r\n");
        assert_eq!(status(&request), "HTTP/1.1 200 OK", "{target}");
    }
    let request = format!("GET http://{metrics} HTTP/1.1\r\n\r\n");
    assert_eq!(status(&request), "HTTP/1.1 404 Not Found");
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

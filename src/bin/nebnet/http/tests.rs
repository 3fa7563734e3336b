//! The server with pages of its own, over real sockets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::{self, JoinHandle},
};

use super::*;

/// More than the system takes for a client that does not read.
const PAGE_SIZE: usize = 12 << 20;

type TestServer = Server<fn(&str) -> Page>;

fn server() -> (TestServer, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let pages: fn(&str) -> Page = |path| match path {
        "/large" => Page::text(200, &"x".repeat(PAGE_SIZE)),
        "/panic" => panic!("a page that fails"),
        _ => Page::text(200, "small"),
    };
    (Server::new(listener, pages).unwrap(), addr)
}

/// Connects and asks.
fn ask(addr: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
    stream
}

/// Takes an answer to its end on a thread.
fn take(mut stream: TcpStream) -> JoinHandle<usize> {
    let take = move || {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer.len()
    };
    thread::Builder::new().spawn(take).unwrap()
}

impl TestServer {
    fn held(&self) -> usize {
        let connections = self.connections.iter();
        connections.map(|(_, one)| one.held()).sum()
    }

    /// Serves until the answer is taken.
    fn answer(&mut self, answer: JoinHandle<usize>) -> usize {
        while !answer.is_finished() {
            self.turn(Some(Duration::from_millis(1))).unwrap();
            assert!(self.held() <= ANSWERS_SIZE_MAX + 2 * PAGE_SIZE);
            assert!(self.connections.len() <= CONNECTIONS_MAX);
        }
        answer.join().unwrap()
    }
}

#[test]
fn clients_that_take_nothing_hold_little_and_delay_nobody() {
    let (mut server, addr) = server();
    let slow: Vec<_> = (0..CONNECTIONS_MAX).map(|_| ask(addr, "/large")).collect();
    for _ in 0..3 {
        let size = server.answer(take(ask(addr, "/large")));
        assert!(size > PAGE_SIZE, "{size}");
    }
    assert!(server.answer(take(ask(addr, "/small"))) > 0);
    drop(slow);
}

#[test]
fn silent_clients_give_way_to_those_who_ask() {
    let (mut server, addr) = server();
    let mut silent = Vec::new();
    for round in 0..4 {
        let clients = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(addr).unwrap());
        silent.extend(clients);
        // In the midst of others that come at the same moment.
        let good = ask(addr, "/small");
        let clients = (0..CONNECTIONS_MAX - 1).map(|_| TcpStream::connect(addr).unwrap());
        silent.extend(clients);
        assert!(server.answer(take(good)) > 0, "{round}");
    }
}

#[test]
fn a_page_that_panics_leaves_the_others() {
    let (mut server, addr) = server();
    assert!(server.answer(take(ask(addr, "/panic"))) > 0);
    assert!(server.answer(take(ask(addr, "/small"))) > 0);
}

/// By the deadlines themselves: no time passes here.
#[test]
fn every_step_ends_in_time() {
    let (mut server, addr) = server();
    let mut late = TcpStream::connect(addr).unwrap();
    late.write_all(b"GET /small HTTP/1.1\r\n").unwrap();
    let slow = ask(addr, "/large");
    while server.connections.iter().all(|(_, one)| one.held() == 0) || server.connections.len() < 2
    {
        server.turn(Some(Duration::from_millis(1))).unwrap();
    }
    let start = time::now();
    let asked = start + connection::REQUEST_TIMEOUT;
    (0..CONNECTIONS_MAX).for_each(|index| server.serve(index, asked));
    assert_eq!(server.connections.len(), 1);
    assert!(server.held() > 0);
    let taken = start + connection::ANSWER_TIMEOUT;
    (0..CONNECTIONS_MAX).for_each(|index| server.serve(index, taken));
    assert_eq!(server.connections.len(), 0);
    assert_eq!(server.timeout(taken), None);
    drop((late, slow));
}

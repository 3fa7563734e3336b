//! Two services with traffic both ways on every connection between them.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use nebnet::{
    CloseReason, Config, ConnectOptions, Handle, MessageType, NetService, Outgoing, OutgoingBatch,
    OverflowPolicy, PeerId, SendError, StopReport, SubscribeOptions, Subscription, TypeFilter,
};

use crate::util::{self, PATIENCE, config, wait_until};

pub(crate) const T: MessageType = MessageType(7);
/// Far more than an end takes.
pub(crate) const DRAIN: Duration = PATIENCE;

/// A server that answers everything, and a client that is connected to it often, asks on each
/// connection until it is refused, and takes the answers.
pub(crate) struct World {
    pub(crate) server: NetService,
    pub(crate) client: NetService,
    /// The client's connections.
    pub(crate) peers: Vec<PeerId>,
    asking: JoinHandle<Asked>,
    answering: JoinHandle<Answered>,
    taking: JoinHandle<u64>,
}

/// What the client asked.
pub(crate) struct Asked {
    pub(crate) accepted: u64,
}

/// What the server answered.
pub(crate) struct Answered {
    pub(crate) accepted: u64,
    /// Answers that were refused because the connection was closing.
    pub(crate) closing: u64,
    /// Answers that came when the connection was gone.
    pub(crate) gone: u64,
}

/// What both sides say in the end.
pub(crate) struct End {
    pub(crate) server: StopReport,
    pub(crate) client: StopReport,
    pub(crate) asked: Asked,
    pub(crate) answered: Answered,
    pub(crate) taken: u64,
}

/// A lossless subscriber of everything.
pub(crate) fn lossless(service: &NetService) -> Subscription {
    let options = SubscribeOptions::new(TypeFilter::all()).overflow(OverflowPolicy::Pause);
    service.handle().subscribe_with(options).unwrap()
}

/// Waits until a service has so many connections, and may send on each of them.
#[track_caller]
pub(crate) fn connected(handle: &Handle, count: usize) -> Vec<PeerId> {
    let mut peers = Vec::new();
    wait_until("every connection is open", || {
        let rows = handle.peers().unwrap();
        peers = rows.iter().map(|row| row.peer).collect();
        peers.len() == count && peers.iter().all(|peer| handle.peer(*peer).is_some())
    });
    peers
}

impl World {
    /// Connects so often, and waits until questions and answers flow.
    pub(crate) fn start(server: Config, connections: usize, pause: Duration) -> Self {
        let mut server = NetService::new(server).unwrap();
        let (questions, handle) = (lossless(&server), server.handle());
        let answering = thread::spawn(move || answer(questions, &handle));
        server.start().unwrap();
        let mut client = NetService::new(config().listen_nowhere()).unwrap();
        let answers = lossless(&client);
        let taking = thread::spawn(move || take(answers));
        client.start().unwrap();
        for _ in 0..connections {
            let target = ConnectOptions::from(server.local_addrs()[0]);
            client.handle().connect(target).unwrap();
        }
        let all = connections as u64;
        let peers = connected(&client.handle(), connections);
        let handle = client.handle();
        let asked = peers.clone();
        let asking = thread::spawn(move || ask(&handle, asked, pause));
        wait_until("questions and answers flow", || {
            client.handle().snapshot().inbound.messages > 10 * all
        });
        Self {
            server,
            client,
            peers,
            asking,
            answering,
            taking,
        }
    }

    /// Waits until no connection is left on either side.
    #[track_caller]
    pub(crate) fn wait_closed(&self) {
        wait_until("every connection has ended", || {
            self.server.handle().snapshot().peers + self.client.handle().snapshot().peers == 0
        });
    }

    /// Waits until the client is refused on every connection, and stops both sides.
    #[track_caller]
    pub(crate) fn finish(mut self) -> End {
        let asked = self.asking.join().unwrap();
        let server = util::stop_within(&mut self.server, DRAIN);
        let client = util::stop_within(&mut self.client, DRAIN);
        End {
            server,
            client,
            asked,
            answered: self.answering.join().unwrap(),
            taken: self.taking.join().unwrap(),
        }
    }
}

/// Asks on every connection in turn, until each has refused; one that has refused once takes
/// nothing more.
fn ask(handle: &Handle, mut peers: Vec<PeerId>, pause: Duration) -> Asked {
    let mut accepted = 0_u64;
    let mut refused = Vec::new();
    while !peers.is_empty() {
        peers.retain(|peer| {
            let question = Outgoing::new(T, accepted.to_be_bytes().to_vec());
            match handle.send(*peer, question).map_err(|one| one.error) {
                Ok(()) => accepted += 1,
                Err(error) if error.is_full() => {}
                Err(SendError::Closing | SendError::NotConnected) => {
                    refused.push(*peer);
                    return false;
                }
                Err(error) => panic!("{peer}: {error}"),
            }
            true
        });
        for peer in &refused {
            assert!(
                handle.send(*peer, (T, b"late")).is_err(),
                "{peer} is open again"
            );
        }
        if pause.is_zero() {
            thread::yield_now();
        } else {
            thread::park_timeout(pause);
        }
    }
    Asked { accepted }
}

fn answer(mut questions: Subscription, handle: &Handle) -> Answered {
    let mut answered = Answered {
        accepted: 0,
        closing: 0,
        gone: 0,
    };
    let mut answers = OutgoingBatch::new();
    while let Ok(batch) = questions.recv_batch() {
        for question in &batch {
            answers.push_reply(question, question.payload()).unwrap();
        }
        let count = answers.len() as u64;
        match handle.send_batch(batch.peer(), &mut answers) {
            Ok(()) => answered.accepted += count,
            Err(SendError::Closing) => answered.closing += count,
            Err(SendError::NotConnected) => answered.gone += count,
            Err(error) => panic!("{count} answers for {}: {error}", batch.peer()),
        }
        answers.clear();
    }
    answered
}

fn take(mut answers: Subscription) -> u64 {
    let mut taken = 0;
    while let Ok(batch) = answers.recv_batch() {
        taken += batch.len() as u64;
    }
    taken
}

impl End {
    /// Nothing is lost in either direction, and each side says what the other says.
    #[track_caller]
    pub(crate) fn assert_complete(&self) {
        let (server, client) = (&self.server.snapshot, &self.client.snapshot);
        let what = format!("server: {}\nclient: {}", self.server, self.client);
        assert_eq!(
            client.outbound_accepted.messages, self.asked.accepted,
            "{what}"
        );
        assert_eq!(
            client.outbound_written.messages, self.asked.accepted,
            "{what}"
        );
        assert_eq!(server.inbound, client.outbound_written, "{what}");
        assert_eq!(
            server.outbound_written.messages, self.answered.accepted,
            "{what}"
        );
        assert_eq!(client.inbound, server.outbound_written, "{what}");
        assert_eq!(self.taken, self.answered.accepted, "{what}");
        let answered = &self.answered;
        let answers = answered.accepted + answered.closing + answered.gone;
        assert_eq!(server.unanswered, answered.closing, "{what}");
        assert_eq!(answers, self.asked.accepted, "{what}");
        for report in [&self.server, &self.client] {
            assert_eq!(report.snapshot.outbound_dropped.messages, 0, "{what}");
            assert_eq!(
                (report.closed_abortive, report.drained),
                (0, true),
                "{what}"
            );
        }
    }

    /// Every connection ended for these reasons.
    #[track_caller]
    pub(crate) fn assert_reasons(
        &self,
        count: usize,
        at_server: CloseReason,
        at_client: CloseReason,
    ) {
        for (report, reason) in [(&self.server, at_server), (&self.client, at_client)] {
            let closed = util::closed_for(&report.snapshot, reason);
            assert_eq!(closed, count as u64, "{reason}: {report}");
        }
    }
}

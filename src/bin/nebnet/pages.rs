//! What `serve --metrics` shows: the numbers of the service as pages, without knowing HTTP.

use nebnet::{
    ClosedRow, Handle, NodeId, PeerRow, QueryError, ServiceState, Snapshot, SubscriberRow, Traffic,
};
use serde::Serialize;

use crate::prometheus;

/// An answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{text}\n"),
        }
    }

    fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self {
                status,
                content_type: "application/json",
                body: body + "\n",
            },
            Err(error) => Self::text(500, &format!("cannot show this: {error}")),
        }
    }

    /// What the loops list, or that they did not answer.
    fn rows<T, R: Serialize>(rows: Result<Vec<T>, QueryError>, shown: impl Fn(&T) -> R) -> Self {
        match rows {
            Ok(rows) => Self::json(200, &rows.iter().map(shown).collect::<Vec<_>>()),
            Err(error) => Self::text(503, &error.to_string()),
        }
    }

    /// The status with its words.
    pub(crate) const fn status_line(&self) -> &'static str {
        match self.status {
            200 => "200 OK",
            400 => "400 Bad Request",
            404 => "404 Not Found",
            405 => "405 Method Not Allowed",
            431 => "431 Request Header Fields Too Large",
            503 => "503 Service Unavailable",
            505 => "505 HTTP Version Not Supported",
            _ => "500 Internal Server Error",
        }
    }
}

/// The page of a path.
pub(crate) fn page(path: &str, handle: &Handle) -> Page {
    match path {
        "/metrics" => Page {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: prometheus::render(&handle.snapshot()),
        },
        "/health" => health(&handle.snapshot()),
        "/peers" => Page::rows(handle.peers(), peer_row),
        "/closed" => Page::rows(handle.recently_closed(), closed_row),
        "/subscribers" => {
            let snapshot = handle.snapshot();
            let rows: Vec<_> = snapshot.subscribers.iter().map(subscriber_row).collect();
            Page::json(200, &rows)
        }
        _ => Page::text(
            404,
            "not here: /metrics /health /peers /closed /subscribers",
        ),
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    state: &'static str,
    uptime_seconds: f64,
    peers: u64,
}

fn health(snapshot: &Snapshot) -> Page {
    let running = matches!(snapshot.state, ServiceState::Running);
    let health = Health {
        status: if running { "ok" } else { "unavailable" },
        state: state_name(snapshot.state),
        uptime_seconds: snapshot.uptime.as_secs_f64(),
        peers: snapshot.peers,
    };
    Page::json(if running { 200 } else { 503 }, &health)
}

const fn state_name(state: ServiceState) -> &'static str {
    match state {
        ServiceState::New => "new",
        ServiceState::Running => "running",
        ServiceState::Stopping => "stopping",
        ServiceState::Stopped => "stopped",
        ServiceState::Failed => "failed",
        // A later version of the library may know more.
        _ => "unknown",
    }
}

/// What went one way.
#[derive(Serialize)]
struct Way {
    messages: u64,
    bytes: u64,
}

impl From<Traffic> for Way {
    fn from(traffic: Traffic) -> Self {
        Self {
            messages: traffic.messages,
            bytes: traffic.bytes,
        }
    }
}

#[derive(Serialize)]
struct Peer {
    peer: String,
    addr: String,
    link: Option<String>,
    /// In hexadecimal digits; none if the peer did not say who it is.
    node_id: Option<String>,
    agent: Option<String>,
    age_seconds: f64,
    idle_seconds: f64,
    inbound: Way,
    outbound: Way,
    queued: Way,
    queued_oldest_seconds: Option<f64>,
    overflowed: Way,
    in_flight_bytes: u64,
    reading: bool,
    closing: bool,
}

fn peer_row(row: &PeerRow) -> Peer {
    let identity = row.identity.as_deref();
    Peer {
        peer: row.peer.to_string(),
        addr: row.addr.to_string(),
        link: row.link.map(|link| link.to_string()),
        node_id: identity.and_then(|identity| node_id(identity.node_id)),
        agent: identity.map(|identity| identity.agent.clone()),
        age_seconds: row.age.as_secs_f64(),
        idle_seconds: row.idle.as_secs_f64(),
        inbound: row.inbound.into(),
        outbound: row.outbound.into(),
        queued: row.queued.into(),
        queued_oldest_seconds: row.queued_oldest.map(|age| age.as_secs_f64()),
        overflowed: row.overflowed.into(),
        in_flight_bytes: row.in_flight_bytes,
        reading: row.reading,
        closing: row.closing,
    }
}

fn node_id(node_id: NodeId) -> Option<String> {
    (!node_id.is_anonymous()).then(|| node_id.to_string())
}

#[derive(Serialize)]
struct Closed {
    peer: String,
    addr: String,
    link: Option<String>,
    node_id: Option<String>,
    reason: &'static str,
    bye_received: Option<u16>,
    closed_at_seconds: f64,
    age_seconds: f64,
    inbound: Way,
    outbound: Way,
    lost: Way,
    overflowed: Way,
    /// `null` where the system does not tell.
    unconfirmed: Option<Way>,
    unanswered: u64,
    discarded_after_close: Way,
}

fn closed_row(row: &ClosedRow) -> Closed {
    Closed {
        peer: row.peer.to_string(),
        addr: row.addr.to_string(),
        link: row.link.map(|link| link.to_string()),
        node_id: node_id(row.node_id),
        reason: row.reason.name(),
        bye_received: row.bye_received,
        closed_at_seconds: row.closed_at.as_secs_f64(),
        age_seconds: row.age.as_secs_f64(),
        inbound: row.inbound.into(),
        outbound: row.outbound.into(),
        lost: row.lost.into(),
        overflowed: row.overflowed.into(),
        unconfirmed: row.unconfirmed.map(Into::into),
        unanswered: row.unanswered,
        discarded_after_close: row.discarded_after_close.into(),
    }
}

#[derive(Serialize)]
struct Subscriber<'a> {
    id: String,
    name: &'a str,
    matched: u64,
    taken: u64,
    dropped: u64,
    discarded: u64,
    queued: u64,
    queued_bytes: u64,
    parked: u64,
    pauses: u64,
    stalls: u64,
}

fn subscriber_row(row: &SubscriberRow) -> Subscriber<'_> {
    Subscriber {
        id: row.id.to_string(),
        name: &row.name,
        matched: row.matched,
        taken: row.taken,
        dropped: row.dropped,
        discarded: row.discarded,
        queued: row.queued,
        queued_bytes: row.queued_bytes,
        parked: row.parked,
        pauses: row.pauses,
        stalls: row.stalls,
    }
}

//! A snapshot as a page of metrics: every counter and gauge, and so every term of the ledger's
//! sums, which can be held against each other from the page alone.
//!
//! Counters end in `_total`. Names and units do not change once they are here: dashboards are
//! built on them.

use nebnet::{
    DepartedRow, EventSubscriberRow, HandlerRow, PauseRow, RequestRow, ServiceState, Snapshot,
    SubscriberRow, TypeTraffic,
};

use crate::exposition::{Column, Exposition};

/// A snapshot in the Prometheus text format.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut out = Exposition::default();
    let running = u64::from(matches!(snapshot.state, ServiceState::Running));
    out.gauge("up", "1 while the service runs", running);
    out.seconds(
        "uptime_seconds",
        "gauge",
        "time since the service was made",
        snapshot.uptime,
    );
    connections(&mut out, snapshot);
    inbound(&mut out, snapshot);
    outbound(&mut out, snapshot);
    types(&mut out, snapshot);
    queue(&mut out, snapshot);
    subscribers(&mut out, snapshot);
    event_subscribers(&mut out, snapshot);
    departed(&mut out, &snapshot.departed);
    handlers(&mut out, &snapshot.handlers);
    requests(&mut out, &snapshot.requests);
    pauses(&mut out, snapshot);
    out.gauge(
        "memory_used_bytes",
        "bytes charged to the budget",
        snapshot.memory_used,
    );
    out.gauge(
        "memory_budget_bytes",
        "most bytes that may be charged",
        snapshot.memory_budget,
    );
    out.finish()
}

fn connections(out: &mut Exposition, snapshot: &Snapshot) {
    out.gauge("peers", "peers connected now", snapshot.peers);
    out.gauge(
        "peers_refused",
        "connections being refused now, which are neither peers nor closed",
        snapshot.refused,
    );
    for (name, help, value) in [
        (
            "peers_accepted_total",
            "connections accepted, refused ones included",
            snapshot.accepted,
        ),
        (
            "peers_dialled_total",
            "connections that were made",
            snapshot.dialled,
        ),
        (
            "dials_failed_total",
            "attempts to make one that failed",
            snapshot.dials_failed,
        ),
        (
            "lookups_timed_out_total",
            "names that were not looked up within the connect timeout",
            snapshot.lookups_timed_out,
        ),
        (
            "lookups_refused_total",
            "names that were not looked up because too many waited",
            snapshot.lookups_refused,
        ),
        (
            "accept_errors_total",
            "accepts that failed",
            snapshot.accept_errors,
        ),
        (
            "stale_events_total",
            "events about peers that were gone",
            snapshot.stale_events,
        ),
        (
            "partial_frames_total",
            "frames cut off by a close",
            snapshot.partial_frames,
        ),
    ] {
        out.counter(name, help, value);
    }
    let name = "peers_closed_total";
    out.family(name, "counter", "connections that ended, by reason");
    for (reason, count) in &snapshot.closed {
        out.sample(name, &[("reason", &reason.name())], *count);
    }
}

fn inbound(out: &mut Exposition, snapshot: &Snapshot) {
    out.traffic("inbound", "messages received", snapshot.inbound);
    let name = "undelivered";
    out.counter(
        &format!("{name}_messages_total"),
        "messages received that nobody was offered, for want of a dispatcher",
        snapshot.undelivered,
    );
    out.counter(
        &format!("{name}_bytes_total"),
        "the same in bytes of whole frames",
        snapshot.undelivered_bytes,
    );
    for (name, help, value) in [
        (
            "handled_total",
            "messages given to inline handlers",
            snapshot.handled,
        ),
        (
            "dispatched_total",
            "messages through the fan-out",
            snapshot.dispatched,
        ),
        (
            "claimed_total",
            "messages that a subscriber wanted, or answers that a request did",
            snapshot.claimed,
        ),
        (
            "unclaimed_total",
            "messages that nobody wanted",
            snapshot.unclaimed,
        ),
    ] {
        out.counter(name, help, value);
    }
}

fn outbound(out: &mut Exposition, snapshot: &Snapshot) {
    for (name, what, traffic) in [
        ("outbound", "messages written", snapshot.outbound_written),
        (
            "outbound_accepted",
            "messages accepted for sending",
            snapshot.outbound_accepted,
        ),
        (
            "outbound_dropped",
            "messages accepted and lost",
            snapshot.outbound_dropped,
        ),
        (
            "outbound_overflowed",
            "messages accepted and dropped for later ones",
            snapshot.outbound_overflowed,
        ),
        (
            "unconfirmed",
            "messages written that may not have reached their peer before its connection ended",
            snapshot.unconfirmed,
        ),
        (
            "discarded_after_close",
            "input of closing connections that no subscriber got: messages as far as parsed",
            snapshot.discarded_after_close,
        ),
    ] {
        out.traffic(name, what, traffic);
    }
    out.counter(
        "unanswered_total",
        "replies refused because the BYE was out",
        snapshot.unanswered,
    );
    out.counter(
        "closed_with_loss_total",
        "connections that ended with messages lost or input discarded",
        snapshot.closed_with_loss,
    );
    let queued = snapshot.outbound_queued;
    out.gauge(
        "outbound_queued_messages",
        "messages accepted that wait to be written",
        queued.messages,
    );
    out.gauge(
        "outbound_queued_bytes",
        "the same in bytes of whole frames",
        queued.bytes,
    );
    out.counter(
        "unconfirmed_unknown_total",
        "connections that ended and of which that is not known",
        snapshot.unconfirmed_unknown,
    );
    out.counter(
        "sends_refused_for_budget_total",
        "messages not accepted because the budget had no room",
        snapshot.refused_for_budget,
    );
}

fn types(out: &mut Exposition, snapshot: &Snapshot) {
    let columns: [Column<TypeTraffic>; 8] = [
        (
            "inbound_messages_total",
            "counter",
            "received, by message type",
            |row| row.inbound.messages,
        ),
        (
            "inbound_bytes_total",
            "counter",
            "received bytes, by message type",
            |row| row.inbound.bytes,
        ),
        (
            "handled_messages_total",
            "counter",
            "given to handlers, by message type",
            |row| row.handled,
        ),
        (
            "claimed_messages_total",
            "counter",
            "matched by a subscriber, by message type",
            |row| row.claimed,
        ),
        (
            "unclaimed_messages_total",
            "counter",
            "matched by nobody, by message type",
            |row| row.unclaimed,
        ),
        (
            "answer_messages_total",
            "counter",
            "answers to requests, by message type",
            |row| row.answers,
        ),
        (
            "outbound_messages_total",
            "counter",
            "written, by message type",
            |row| row.outbound.messages,
        ),
        (
            "outbound_bytes_total",
            "counter",
            "written bytes, by message type",
            |row| row.outbound.bytes,
        ),
    ];
    out.table("type", &columns, &snapshot.types, |_, row| {
        let name = row
            .message_type
            .map(|message_type| message_type.to_string());
        [("type", name.unwrap_or_else(|| "other".to_owned()))]
    });
}

fn queue(out: &mut Exposition, snapshot: &Snapshot) {
    let queue = &snapshot.dispatch_queue;
    for (name, help, value) in [
        ("messages", "messages in the dispatch queue", queue.messages),
        (
            "messages_parked",
            "of these, messages that are dispatched and wait for a subscriber",
            queue.messages_parked,
        ),
        ("bytes", "bytes in the dispatch queue", queue.bytes),
        (
            "messages_max",
            "most messages since the last second",
            queue.messages_max,
        ),
        (
            "bytes_max",
            "most bytes since the last second",
            queue.bytes_max,
        ),
        (
            "messages_capacity",
            "messages that it may hold",
            queue.messages_capacity,
        ),
        (
            "bytes_capacity",
            "bytes that it may hold",
            queue.bytes_capacity,
        ),
    ] {
        out.gauge(&format!("dispatch_queue_{name}"), help, value);
    }
}

fn subscribers(out: &mut Exposition, snapshot: &Snapshot) {
    let columns: [Column<SubscriberRow>; 10] = [
        ("matched_total", "counter", "messages wanted", |row| {
            row.matched
        }),
        ("taken_total", "counter", "messages taken", |row| row.taken),
        (
            "dropped_total",
            "counter",
            "messages lost to a full queue",
            |row| row.dropped,
        ),
        (
            "dropped_for_bytes_total",
            "counter",
            "of these, messages for which only the bound in bytes had no room",
            |row| row.dropped_for_bytes,
        ),
        (
            "discarded_total",
            "counter",
            "messages left at the end",
            |row| row.discarded,
        ),
        (
            "queued_messages",
            "gauge",
            "messages that wait to be taken",
            |row| row.queued,
        ),
        (
            "queued_bytes",
            "gauge",
            "bytes that wait to be taken",
            |row| row.queued_bytes,
        ),
        (
            "parked_messages",
            "gauge",
            "messages that wait for room",
            |row| row.parked,
        ),
        (
            "pauses_total",
            "counter",
            "times its messages began to wait for room",
            |row| row.pauses,
        ),
        (
            "stalls_total",
            "counter",
            "times what waits for room began to stop all reading",
            |row| row.stalls,
        ),
    ];
    // Names may repeat, and one set of labels may not.
    out.table("subscriber", &columns, &snapshot.subscribers, |_, row| {
        [("subscriber", row.name.clone()), ("id", row.id.to_string())]
    });
}

fn event_subscribers(out: &mut Exposition, snapshot: &Snapshot) {
    let columns: [Column<EventSubscriberRow>; 5] = [
        ("matched_total", "counter", "events offered", |row| {
            row.matched
        }),
        ("taken_total", "counter", "events taken", |row| row.taken),
        (
            "dropped_total",
            "counter",
            "events lost to a full queue",
            |row| row.dropped,
        ),
        (
            "discarded_total",
            "counter",
            "events left at the end",
            |row| row.discarded,
        ),
        (
            "queued_events",
            "gauge",
            "events that wait to be taken",
            |row| row.queued,
        ),
    ];
    let rows = &snapshot.event_subscribers;
    out.table("event_subscriber", &columns, rows, |_, row| {
        [("subscriber", row.name.clone()), ("id", row.id.to_string())]
    });
}

/// The subscribers that left, whose rows are gone.
fn departed(out: &mut Exposition, row: &DepartedRow) {
    for (name, help, value) in [
        (
            "subscribers_total",
            "subscribers that left",
            row.subscribers,
        ),
        (
            "overflowed_total",
            "of these, subscribers that were removed because their queues were full",
            row.overflowed,
        ),
        (
            "matched_total",
            "messages wanted by subscribers that left",
            row.matched,
        ),
        (
            "taken_total",
            "messages taken by subscribers that left",
            row.taken,
        ),
        (
            "dropped_total",
            "messages lost to the full queues of subscribers that left",
            row.dropped,
        ),
        (
            "discarded_total",
            "messages thrown away because a subscriber left",
            row.discarded,
        ),
    ] {
        out.counter(&format!("departed_{name}"), help, value);
    }
    out.gauge(
        "departed_queued_messages",
        "messages about to be thrown away because a subscriber left",
        row.queued,
    );
}

fn handlers(out: &mut Exposition, rows: &[HandlerRow]) {
    let columns: [Column<HandlerRow>; 5] = [
        ("calls_total", "counter", "messages given to it", |row| {
            row.calls
        }),
        (
            "over_budget_total",
            "counter",
            "calls longer than its budget",
            |row| row.over_time_limit,
        ),
        (
            "refused_total",
            "counter",
            "answers that found no room",
            |row| row.refused,
        ),
        ("panics_total", "counter", "calls that panicked", |row| {
            row.panics
        }),
        ("removed", "gauge", "1 once a panic removed it", |row| {
            row.removed.into()
        }),
    ];
    out.table("handler", &columns, rows, |index, row| {
        [("handler", row.name.clone()), ("id", index.to_string())]
    });
    let name = "handler_longest_seconds";
    out.family(name, "gauge", "its longest call");
    for (index, row) in rows.iter().enumerate() {
        let labels: [_; 2] = [("handler", &row.name as _), ("id", &index as _)];
        out.sample(name, &labels, row.longest.as_secs_f64());
    }
}

fn requests(out: &mut Exposition, row: &RequestRow) {
    out.gauge(
        "requests_outstanding",
        "requests that wait for answers",
        row.outstanding,
    );
    for (name, help, value) in [
        ("requests_sent_total", "requests sent", row.sent),
        (
            "requests_answered_total",
            "requests that were answered",
            row.answered,
        ),
        (
            "requests_timed_out_total",
            "requests not answered in time",
            row.timed_out,
        ),
        (
            "requests_closed_total",
            "requests whose connection ended first",
            row.closed,
        ),
        (
            "requests_cancelled_total",
            "requests given up",
            row.cancelled,
        ),
        (
            "replies_late_total",
            "answers that no request waited for",
            row.late,
        ),
    ] {
        out.counter(name, help, value);
    }
}

/// Why peers were not read, one by one or all of them.
fn pauses(out: &mut Exposition, snapshot: &Snapshot) {
    let PauseRow {
        credit,
        subscriber,
        budget,
        ..
    } = snapshot.pauses;
    let name = "reads_paused_total";
    let help = "times reading a peer was paused, by cause";
    out.family(name, "counter", help);
    for (cause, count) in [
        ("credit", credit),
        ("subscriber", subscriber),
        ("budget", budget),
    ] {
        out.sample(name, &[("cause", &cause)], count);
    }
    out.counter(
        "dispatch_full_total",
        "times nobody was read because the dispatch queue was full",
        snapshot.dispatch_full,
    );
    out.seconds(
        "stalled_seconds_total",
        "counter",
        "time in which nobody was read for that",
        snapshot.stalled,
    );
}

#[cfg(test)]
mod tests {
    use nebnet::{Config, EventOptions, MessageType, NetService, SubscribeOptions};

    use super::*;

    #[test]
    fn names_of_subscribers_are_whatever_they_are() {
        let service = NetService::new(Config::default()).unwrap();
        let name = "a \"b\"\\\n{}, \u{fc}";
        let types = [MessageType(7), MessageType(8)];
        let _two = types.map(|message_type| {
            let options = SubscribeOptions::new(message_type).name(name);
            service.handle().subscribe_with(options).unwrap()
        });
        let _events = service
            .handle()
            .subscribe_events(EventOptions::new().name(name));
        let text = render(&service.handle().snapshot());
        let escaped = "subscriber=\"a \\\"b\\\"\\\\\\n{}, \u{fc}\"";
        for line in [
            format!("nebnet_subscriber_taken_total{{{escaped},id=\"0\"}} 0"),
            format!("nebnet_subscriber_taken_total{{{escaped},id=\"1\"}} 0"),
            format!("nebnet_event_subscriber_queued_events{{{escaped},id=\"2\"}} 0"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}

//! A snapshot in the text format of Prometheus, version 0.0.4.
//!
//! Every family has a HELP and a TYPE line, also when it has no sample yet; counters end in
//! `_total`. Names and units do not change once they are here: dashboards are built on them.

use std::{
    fmt::{Display, Write as _},
    time::Duration,
};

use nebnet::{HandlerRow, PauseRow, ServiceState, Snapshot, SubscriberRow, Traffic, TypeTraffic};

/// A snapshot in the Prometheus text format.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut out = Exposition {
        text: String::new(),
    };
    let running = u64::from(matches!(snapshot.state, ServiceState::Running));
    out.gauge("up", "1 while the service runs", running);
    out.seconds(
        "uptime_seconds",
        "time since the service was made",
        snapshot.uptime,
    );
    out.gauge("peers", "peers connected now", snapshot.peers);
    out.counter("peers_accepted_total", "peers accepted", snapshot.accepted);
    let (dialled, failed) = (snapshot.dialled, snapshot.dials_failed);
    out.counter("peers_dialled_total", "connections that were made", dialled);
    out.counter(
        "dials_failed_total",
        "attempts to make one that failed",
        failed,
    );
    out.family("peers_closed_total", "counter", "peers closed, by reason");
    for (reason, count) in &snapshot.closed {
        out.sample("peers_closed_total", &[("reason", &reason.name())], *count);
    }
    out.traffic("inbound", "messages received", snapshot.inbound);
    out.traffic("outbound", "messages written", snapshot.outbound);
    out.traffic(
        "outbound_accepted",
        "messages accepted for sending",
        snapshot.outbound_accepted,
    );
    out.traffic(
        "outbound_dropped",
        "messages accepted and lost",
        snapshot.outbound_dropped,
    );
    out.traffic(
        "outbound_overflowed",
        "messages accepted and dropped for later ones",
        snapshot.outbound_overflowed,
    );
    out.types(snapshot);
    out.queue(snapshot);
    out.subscribers(&snapshot.subscribers);
    out.handlers(&snapshot.handlers);
    out.requests(snapshot);
    out.pauses(snapshot);
    for (name, help, value) in [
        (
            "memory_used_bytes",
            "bytes charged to the budget",
            snapshot.memory_used,
        ),
        (
            "memory_budget_bytes",
            "most bytes that may be charged",
            snapshot.memory_budget,
        ),
    ] {
        out.gauge(name, help, value);
    }
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
            "messages that a subscriber wanted",
            snapshot.claimed,
        ),
        (
            "unclaimed_total",
            "messages that nobody wanted",
            snapshot.unclaimed,
        ),
        (
            "sends_refused_for_budget_total",
            "messages refused because the budget had no room",
            snapshot.refused_for_budget,
        ),
        (
            "partial_frames_total",
            "frames cut off by a close",
            snapshot.partial_frames,
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
    ] {
        out.counter(name, help, value);
    }
    out.text
}

struct Exposition {
    text: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let text = &mut self.text;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "# HELP nebnet_{name} {help}\n# TYPE nebnet_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.text, "nebnet_{name}");
        for (index, (label, value)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(
                self.text,
                "{open}{label}=\"{}\"",
                escape_label(&value.to_string())
            );
        }
        let _ = writeln!(
            self.text,
            "{} {value}",
            if labels.is_empty() { "" } else { "}" }
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn seconds(&mut self, name: &str, help: &str, value: Duration) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value.as_secs_f64());
    }

    fn traffic(&mut self, name: &str, what: &str, traffic: Traffic) {
        self.counter(&format!("{name}_messages_total"), what, traffic.messages);
        let help = format!("{what}, in bytes of whole frames");
        self.counter(&format!("{name}_bytes_total"), &help, traffic.bytes);
    }

    fn types(&mut self, snapshot: &Snapshot) {
        type Read = fn(&TypeTraffic) -> u64;
        let families: [(&str, &str, Read); 8] = [
            ("type_inbound_messages_total", "received", |row| {
                row.inbound.messages
            }),
            ("type_inbound_bytes_total", "received bytes", |row| {
                row.inbound.bytes
            }),
            ("type_handled_messages_total", "given to handlers", |row| {
                row.handled
            }),
            (
                "type_claimed_messages_total",
                "matched by a subscriber",
                |row| row.claimed,
            ),
            (
                "type_unclaimed_messages_total",
                "matched by nobody",
                |row| row.unclaimed,
            ),
            ("type_answer_messages_total", "answers to requests", |row| {
                row.answers
            }),
            ("type_outbound_messages_total", "written", |row| {
                row.outbound.messages
            }),
            ("type_outbound_bytes_total", "written bytes", |row| {
                row.outbound.bytes
            }),
        ];
        for (name, what, read) in families {
            self.family(name, "counter", &format!("{what}, by message type"));
            for row in &snapshot.types {
                match row.message_type {
                    Some(message_type) => self.sample(name, &[("type", &message_type)], read(row)),
                    None => self.sample(name, &[("type", &"other")], read(row)),
                }
            }
        }
    }

    fn queue(&mut self, snapshot: &Snapshot) {
        let queue = &snapshot.dispatch_queue;
        for (name, help, value) in [
            ("messages", "messages in the dispatch queue", queue.messages),
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
            self.gauge(&format!("dispatch_queue_{name}"), help, value);
        }
    }

    /// Why peers were not read, one by one or all of them.
    fn pauses(&mut self, snapshot: &Snapshot) {
        let name = "reads_paused_total";
        let help = "times reading a peer was paused, by cause";
        self.family(name, "counter", help);
        let PauseRow {
            credit,
            subscriber,
            budget,
            ..
        } = snapshot.pauses;
        for (cause, count) in [
            ("credit", credit),
            ("subscriber", subscriber),
            ("budget", budget),
        ] {
            self.sample(name, &[("cause", &cause)], count);
        }
        self.counter(
            "dispatch_full_total",
            "times nobody was read because the dispatch queue was full",
            snapshot.dispatch_full,
        );
        let name = "stalled_seconds_total";
        self.family(name, "counter", "time in which nobody was read for that");
        self.sample(name, &[], snapshot.stalled.as_secs_f64());
    }

    fn requests(&mut self, snapshot: &Snapshot) {
        let row = &snapshot.requests;
        self.gauge(
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
            self.counter(name, help, value);
        }
    }

    fn subscribers(&mut self, rows: &[SubscriberRow]) {
        type Read = fn(&SubscriberRow) -> u64;
        let families: [(&str, &str, &str, Read); 9] = [
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
        for (name, kind, help, read) in families {
            let name = format!("subscriber_{name}");
            self.family(&name, kind, help);
            for row in rows {
                // Names may repeat, and one set of labels may not.
                self.sample(
                    &name,
                    &[("subscriber", &row.name), ("id", &row.id)],
                    read(row),
                );
            }
        }
    }

    fn handlers(&mut self, rows: &[HandlerRow]) {
        type Read = fn(&HandlerRow) -> u64;
        let families: [(&str, &str, &str, Read); 5] = [
            ("calls_total", "counter", "messages given to it", |row| {
                row.calls
            }),
            (
                "over_budget_total",
                "counter",
                "calls longer than its budget",
                |row| row.over_budget,
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
        for (name, kind, help, read) in families {
            let name = format!("handler_{name}");
            self.family(&name, kind, help);
            for (index, row) in rows.iter().enumerate() {
                self.sample(&name, &[("handler", &row.name), ("id", &index)], read(row));
            }
        }
        let name = "handler_longest_seconds";
        self.family(name, "gauge", "its longest call");
        for (index, row) in rows.iter().enumerate() {
            let labels: [(&str, &dyn Display); 2] = [("handler", &row.name), ("id", &index)];
            self.sample(name, &labels, row.longest.as_secs_f64());
        }
    }
}

fn escape_label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_form_that_scrapers_read() {
        let mut out = Exposition {
            text: String::new(),
        };
        out.counter("accepted_total", "peers accepted", 3);
        out.sample("x", &[("a", &"q\"\\\n"), ("b", &7)], 1);
        assert_eq!(
            out.text,
            "# HELP nebnet_accepted_total peers accepted\n\
             # TYPE nebnet_accepted_total counter\n\
             nebnet_accepted_total 3\n\
             nebnet_x{a=\"q\\\"\\\\\\n\",b=\"7\"} 1\n"
        );
    }
}

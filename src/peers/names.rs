//! The addresses of a link's name: asked for at each attempt, waited for no longer than an address
//! may take to connect, and kept for when the next lookup fails.
//!
//! | lookup | addresses are known | none are |
//! |---|---|---|
//! | answered | the answer is dialled | the same |
//! | failed, refused, late | the known ones are dialled | the attempt has failed |
//!
//! What comes late is known from then on. The next attempt dials it without asking: a name that
//! takes longer than the timeout at each lookup is reached all the same.

use super::{deadlines::Timer, links::LinkState, state::Peers};
use crate::{
    clock::Tick,
    dial::Source,
    error::DialError,
    id::LinkId,
    log_limiter::Subject,
    resolve::{Refused, Resolved},
};

impl Peers {
    /// Begins an attempt of a link that has a name.
    pub(super) fn look_up(&mut self, now: Tick, id: LinkId) {
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut link.known.is_news) {
            self.dial_known(now, id);
            return;
        }
        let Source::Name(name, resolver) = &link.source else {
            return;
        };
        let refused = match resolver.ask(id, name) {
            Ok(()) => {
                let timeout_ms = link.timeout_ms.unwrap_or(self.common.rules.connect_ms);
                let timer = self
                    .common
                    .deadlines
                    .wheel
                    .insert(now + timeout_ms, Timer::Link(id));
                link.state = LinkState::Resolving(timer);
                return;
            }
            Err(refused) => refused,
        };
        self.common.slots.ledger.lookups_refused.add(1);
        let message = match refused {
            Refused::Full => "too many names wait to be looked up".to_owned(),
            Refused::Thread(error) => format!("no thread can be started: {error}"),
            Refused::Ended => "the service has ended".to_owned(),
        };
        self.fail_lookup(now, id, DialError::Resolve { message });
    }

    /// The addresses of a link's name, or why there are none.
    pub(crate) fn handle_resolved(&mut self, now: Tick, id: LinkId, resolved: Resolved) {
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        let addrs = match resolved {
            Ok(addrs) => addrs,
            Err(message) => {
                if let LinkState::Resolving(timer) = link.state {
                    self.common.deadlines.wheel.cancel(timer);
                    self.fail_lookup(now, id, DialError::Resolve { message });
                }
                return;
            }
        };
        link.known.addrs = addrs;
        match link.state {
            LinkState::Resolving(timer) => {
                self.common.deadlines.wheel.cancel(timer);
                self.dial_known(now, id);
            }
            LinkState::Waiting(_) | LinkState::Dialling(_) => link.known.is_news = true,
            LinkState::Up { .. } | LinkState::Covered => {}
        }
    }

    /// A lookup failed, or has taken too long.
    pub(super) fn fail_lookup(&mut self, now: Tick, id: LinkId, error: DialError) {
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        let is_late = error == DialError::ResolveTimeout;
        let known = link.known.addrs.len();
        if is_late {
            self.common.slots.ledger.lookups_timed_out.add(1);
        }
        // That there is no address is told by the event of the failed attempt alone.
        if is_late || known > 0 {
            let (cause, subject) = ("lookup", Subject::Link(id.0));
            if let Some(suppressed) = self.common.ended.log_limiter.allow(now, cause, subject) {
                let source = &link.source;
                let then = if known > 0 {
                    "the last known addresses are tried"
                } else {
                    "tried again later"
                };
                log::warn!("link {id} to {source}: {error}; {then}{suppressed}");
            }
        }
        link.last = (None, error);
        if known > 0 {
            self.dial_known(now, id);
        } else {
            self.common.fail_attempt(now, id);
        }
    }

    fn dial_known(&mut self, now: Tick, id: LinkId) {
        if let Some(link) = self.common.links.links.get_mut(&id) {
            link.untried = link.known.addrs.iter().rev().copied().collect();
            self.dial_next(now, id);
        }
    }
}

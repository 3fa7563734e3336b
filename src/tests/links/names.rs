//! Links to names. The lookups of the resolver never end: what they find is told by the test.

use crossbeam_channel::{Sender, bounded};

use super::*;
use crate::{
    limits::{LOOKUPS_MAX, LOOKUPS_WAITING_MAX},
    resolve::{Resolved, Resolver},
};

const NAME: &str = "gateway:1";

/// A resolver that does not come back before it is dropped.
fn hanging() -> (Resolver, Sender<()>) {
    let (word, waits) = bounded::<()>(0);
    let find = move |_: &str| {
        let _ = waits.recv();
        Err("over".to_owned())
    };
    (Resolver::by(find, |_, _| {}), word)
}

fn link_by(resolver: &Resolver) -> NewLink {
    NewLink {
        source: Source::Name(NAME.to_owned(), resolver.clone()),
        keep: true,
        ..link_to(&[])
    }
}

impl Rig {
    fn resolved(&mut self, resolved: Resolved) {
        self.peers.handle_resolved(self.now, LINK, resolved);
        self.settle();
    }

    /// Lets the pause go by that was told with a failure.
    fn wait_for(&mut self, retry_in: Option<Duration>) {
        self.advance(u64::try_from(retry_in.unwrap().as_millis()).unwrap());
    }

    /// Lets the pause go by, until the next attempt asks for addresses.
    fn wait_for_lookup(&mut self) {
        while !self.peers.is_resolving(LINK) {
            self.advance(1);
        }
    }

    fn tried(&self) -> Vec<SocketAddr> {
        self.connects.iter().map(|one| one.1).collect()
    }
}

fn failed_with(message: &str) -> Resolved {
    Err(message.to_owned())
}

#[test]
fn a_lookup_that_takes_too_long_is_a_failed_attempt() {
    let (resolver, _word) = hanging();
    let mut rig = Rig::new(rules());
    rig.connect(link_by(&resolver));
    for attempt in 1..=3 {
        rig.advance(999);
        assert!(rig.events.is_empty());
        rig.advance(1);
        let (error, attempts, retry_in) = rig.dial_failed();
        assert_eq!((error, attempts), (DialError::ResolveTimeout, attempt));
        rig.wait_for(retry_in);
    }
    assert_eq!(rig.slots.ledger.lookups_timed_out.get(), 3);
    assert_eq!(rig.tried(), []);
    // The link's own timeout goes before the service's; not kept, it ends.
    let mut rig = Rig::new(rules());
    rig.connect(NewLink {
        keep: false,
        timeout_ms: Some(50),
        ..link_by(&resolver)
    });
    rig.advance(50);
    assert_eq!(rig.dial_failed().0, DialError::ResolveTimeout);
    assert_eq!(rig.links(), 0);
}

#[test]
fn the_last_known_addresses_are_tried_where_a_lookup_fails() {
    let (resolver, _word) = hanging();
    let mut rig = Rig::new(rules());
    rig.connect(link_by(&resolver));
    rig.resolved(Ok(vec![addr(1), addr(2)]));
    let id = rig.made();
    rig.read(id, &ok(1));
    // Late, failed: the known ones are tried before anything is told.
    for lost in 0..4 {
        let (id, _) = *rig.connects.last().unwrap();
        rig.reset(id);
        rig.events.clear();
        rig.wait_for_lookup();
        let tried = rig.connects.len();
        if lost % 2 == 0 {
            rig.advance(999);
            assert_eq!(rig.connects.len(), tried, "not before its time");
            rig.advance(1);
        } else {
            rig.resolved(failed_with("no server"));
        }
        assert_eq!(rig.tried()[tried..], [addr(1)]);
        let id = rig.made();
        rig.read(id, &ok(1));
        assert!(matches!(rig.next_event(), Event::Connected { .. }));
    }
    // If none of them works, the attempt has failed with what the last one said.
    let id = rig.connects.last().unwrap().0;
    rig.reset(id);
    rig.events.clear();
    rig.wait_for_lookup();
    rig.resolved(failed_with("no server"));
    rig.refuse();
    assert!(rig.events.is_empty(), "another address is known");
    rig.refuse();
    let (error, ..) = rig.dial_failed();
    assert!(matches!(error, DialError::Connect { .. }), "{error:?}");
    assert_eq!(rig.slots.ledger.lookups_timed_out.get(), 2);
}

#[test]
fn without_a_known_address_a_failed_lookup_is_a_failed_attempt() {
    let (resolver, _word) = hanging();
    let mut rig = Rig::new(rules());
    rig.connect(link_by(&resolver));
    rig.resolved(failed_with("no such name"));
    let (error, attempts, retry_in) = rig.dial_failed();
    let message = "no such name".to_owned();
    assert_eq!(error, DialError::Resolve { message });
    assert_eq!((attempts, rig.slots.ledger.lookups_timed_out.get()), (1, 0));
    // What fails while no attempt waits for it is no news.
    rig.resolved(failed_with("still no such name"));
    assert!(rig.events.is_empty());
    rig.wait_for(retry_in);
    rig.resolved(Ok(vec![addr(3)]));
    assert_eq!(rig.tried(), [addr(3)]);
}

#[test]
fn a_late_answer_is_used_by_the_next_attempt() {
    let (resolver, _word) = hanging();
    let mut rig = Rig::new(rules());
    rig.connect(link_by(&resolver));
    rig.advance(1_000);
    let retry_in = rig.dial_failed().2;
    rig.resolved(Ok(vec![addr(1)]));
    assert_eq!(rig.tried(), [], "the pause goes on");
    rig.wait_for(retry_in);
    assert_eq!(rig.tried(), [addr(1)]);
    // Once: then the name is asked for again, and the known address comes when that is late.
    rig.refuse();
    let retry_in = rig.dial_failed().2;
    rig.wait_for(retry_in);
    assert_eq!(rig.tried().len(), 1);
    rig.advance(1_000);
    assert_eq!(rig.tried(), [addr(1), addr(1)]);
    // An answer while these are dialled.
    rig.resolved(Ok(vec![addr(2)]));
    assert_eq!(rig.tried().len(), 2);
    rig.refuse();
    let retry_in = rig.dial_failed().2;
    rig.wait_for(retry_in);
    assert_eq!(rig.tried().last(), Some(&addr(2)));
    // One while the link is up changes nothing but what is known.
    let id = rig.made();
    rig.read(id, &ok(1));
    rig.resolved(Ok(vec![addr(4)]));
    rig.reset(id);
    rig.wait_for_lookup();
    assert_eq!(rig.tried().len(), 3, "the name is looked up anew");
    rig.resolved(Ok(vec![addr(5)]));
    assert_eq!(rig.tried().last(), Some(&addr(5)));
}

/// Has as many names looked up and waiting as may be.
fn fill(resolver: &Resolver) {
    for link in 0..LOOKUPS_MAX + LOOKUPS_WAITING_MAX {
        let id = LinkId(1000 + link as u64);
        // The first of these begin when their threads do, and only then leave their places.
        while resolver.ask(id, &format!("host{link}:1")).is_err() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_resolver_that_has_enough_to_do_is_asked_again_later() {
    let (resolver, _word) = hanging();
    fill(&resolver);
    let mut rig = Rig::new(rules());
    rig.connect(link_by(&resolver));
    for attempt in 1..=3 {
        let (error, attempts, retry_in) = rig.dial_failed();
        assert!(matches!(error, DialError::Resolve { .. }), "{error:?}");
        assert_eq!(attempts, attempt);
        assert_eq!(rig.slots.ledger.lookups_refused.get(), u64::from(attempt));
        rig.wait_for(retry_in);
    }
    rig.events.clear();
    resolver.forget(LinkId(1000 + 100), "host100:1");
    rig.advance(30_000);
    let refused = rig.slots.ledger.lookups_refused.get();
    assert!(rig.slots.ledger.lookups_timed_out.get() > 0);
    assert_eq!(refused, 4, "it has a place now");
}

#[test]
fn a_link_that_is_given_up_while_its_name_is_looked_up_leaves_nothing() {
    let (resolver, _word) = hanging();
    let ways: [fn(&mut Rig); 3] = [
        |rig| rig.peers.handle_disconnect(rig.now, LINK),
        |rig| rig.peers.begin_stop(rig.now, rig.now + 2_000),
        |rig| rig.peers.abort_all(rig.now, CloseReason::Internal),
    ];
    for give_up in ways {
        let mut rig = Rig::new(rules());
        rig.connect(link_by(&resolver));
        give_up(&mut rig);
        rig.settle();
        assert_eq!(rig.links(), 0);
        rig.resolved(Ok(vec![addr(1)]));
        rig.advance(60_000);
        assert_eq!(rig.tried(), []);
        assert!(rig.events.is_empty());
        assert_eq!(rig.slots.ledger.stale_events.get(), 0, "no timer is left");
    }
}

/// A name that waits for a thread gives its place back with its link, although the attempt that
/// asked for it is over.
#[test]
fn a_link_that_ends_after_its_lookup_was_late_leaves_no_question() {
    let (resolver, _word) = hanging();
    fill(&resolver);
    resolver.forget(LinkId(1000 + 100), "host100:1");
    for keep in [false, true] {
        let mut rig = Rig::new(rules());
        let asked = link_by(&resolver);
        rig.connect(NewLink { keep, ..asked });
        rig.advance(1_000);
        assert_eq!(rig.dial_failed().0, DialError::ResolveTimeout);
        assert_eq!(rig.links(), usize::from(keep));
        rig.peers.handle_disconnect(rig.now, LINK);
        rig.settle();
        assert_eq!(rig.links(), 0);
        let other = (LinkId(999), "other:1");
        let asked = resolver.ask(other.0, other.1);
        assert!(asked.is_ok(), "{keep} {asked:?}");
        resolver.forget(other.0, other.1);
    }
}

//! A whole service whose names are looked up by the test.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use crossbeam_channel::{Sender, bounded};

use crate::{
    Config, ConnectOptions, DialError, Event, EventOptions, EventSubscription, LinkId, NetService,
    limits::LOOKUPS_MAX,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A service that listens, to be dialled.
fn target() -> (NetService, SocketAddr) {
    let mut service = NetService::new(config()).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    (service, addr)
}

fn config() -> Config {
    Config::default().listen(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A service whose lookups of names that begin with `dead` do not come back before the word is
/// dropped; all others are of this host.
struct Linked {
    service: NetService,
    events: EventSubscription,
    asked: Arc<Mutex<Vec<String>>>,
    _word: Sender<()>,
}

impl Linked {
    fn start(config: Config) -> Self {
        let mut service = NetService::new(config).unwrap();
        let events = service
            .handle()
            .subscribe_events(EventOptions::new())
            .unwrap();
        let (word, waits) = bounded::<()>(0);
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let asks = Arc::clone(&asked);
        service.handle().resolve_by(move |host| {
            asks.lock().unwrap().push(host.to_owned());
            if host.starts_with("dead") {
                let _ = waits.recv();
                return Err("over".to_owned());
            }
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))])
        });
        service.start().unwrap();
        Self {
            service,
            events,
            asked,
            _word: word,
        }
    }

    fn keep(&self, host: &str, port: u16) -> LinkId {
        let options = ConnectOptions::from(format!("{host}:{port}")).keep_connected(true);
        self.service.handle().connect(options).unwrap()
    }

    fn wait_for(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.events.recv_timeout(PATIENCE).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }

    fn wait_for_link(&self, wanted: LinkId) {
        self.wait_for(
            |event| matches!(event, Event::Connected { link, .. } if *link == Some(wanted)),
        );
    }
}

/// As many dead names as are looked up at a time but one.
#[test]
fn names_that_hang_hold_up_no_other_link() {
    let (mut target, addr) = target();
    let linked = Linked::start(config().connect_timeout(Duration::from_secs(3600)));
    for number in 1..LOOKUPS_MAX {
        linked.keep(&format!("dead{number}"), 1);
    }
    let live = linked.keep("live", addr.port());
    linked.wait_for_link(live);
    // Nor does what they hang in hold up a stop, or do those that wait begin after it.
    for number in 0..10 {
        linked.keep(&format!("dead-too{number}"), 1);
    }
    let Linked {
        mut service,
        events,
        asked,
        _word,
    } = linked;
    let report = service.stop(PATIENCE);
    assert!(report.joined, "{report:?}");
    let begun = asked.lock().unwrap().len();
    drop(_word);
    drop((events, service));
    // Every thread of a lookup holds the list until it ends.
    while Arc::strong_count(&asked) > 1 {
        std::thread::yield_now();
    }
    assert_eq!(asked.lock().unwrap().len(), begun);
    target.stop(PATIENCE);
}

/// The connect timeout covers lookups, and a lookup that hangs does not end what is known.
#[test]
fn a_lookup_that_hangs_is_over_with_the_connect_timeout() {
    let linked = Linked::start(config().connect_timeout(Duration::from_millis(20)));
    let links: BTreeSet<LinkId> = (0..3)
        .map(|number| linked.keep(&format!("dead{number}"), 1))
        .collect();
    let mut failed = BTreeSet::new();
    while failed != links {
        let event = linked.wait_for(|event| matches!(event, Event::DialFailed { .. }));
        let Event::DialFailed { link, error, .. } = event else {
            unreachable!()
        };
        assert_eq!(error, DialError::ResolveTimeout);
        failed.insert(link);
    }
    assert!(linked.service.handle().snapshot().lookups_timed_out >= 3);
    // Asked again and again, and looked up once.
    linked.wait_for(|event| matches!(event, Event::DialFailed { attempts: 3, .. }));
    assert_eq!(linked.asked.lock().unwrap().len(), 3);
    let mut service = linked.service;
    assert!(service.stop(PATIENCE).joined);
}

//! The measured service with subscribers that count what they take.

use super::{MESSAGE_TYPE, Tally};
use nebnet::{
    Config, Dispatch, HandlerOptions, MessageType, NetService, OverflowPolicy, SubscribeOptions,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A running service; dropping it stops it and joins the subscribers' threads.
pub(crate) struct Service {
    service: NetService,
    pub(crate) addr: SocketAddr,
    /// One for each subscriber.
    pub(crate) tallies: Vec<Arc<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Every subscriber is lossless, takes batches on a thread of its own, and is bounded as given.
    pub(crate) fn start(
        dispatch: Dispatch,
        subscribers: usize,
        queue_messages: usize,
        queue_bytes: usize,
    ) -> Self {
        let config = Config::default().dispatch(dispatch);
        Self::start_with(config, subscribers, queue_messages, queue_bytes)
    }

    /// The same with more settings.
    pub(crate) fn start_with(
        config: Config,
        subscribers: usize,
        queue_messages: usize,
        queue_bytes: usize,
    ) -> Self {
        let mut service = NetService::new(config.listen(loopback())).unwrap();
        let (tallies, threads) = (0..subscribers)
            .map(|index| {
                let options = SubscribeOptions::new(MessageType(MESSAGE_TYPE))
                    .name(format!("subscriber {index}"))
                    .messages(queue_messages)
                    .bytes(queue_bytes)
                    .overflow(OverflowPolicy::Pause);
                let mut subscription = service.handle().subscribe_with(options).unwrap();
                let tally = Arc::new(Tally::default());
                let thread = thread::spawn({
                    let tally = Arc::clone(&tally);
                    move || {
                        while let Ok(batch) = subscription.recv_batch() {
                            tally.take(batch.iter().map(|message| message.payload()));
                        }
                    }
                });
                (tally, thread)
            })
            .unzip();
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        Self {
            service,
            addr,
            tallies,
            threads,
        }
    }

    /// One subscriber that sends every message back to where it came from.
    pub(crate) fn start_echo(dispatch: Dispatch) -> Self {
        let config = Config::default().listen(loopback()).dispatch(dispatch);
        let mut service = NetService::new(config).unwrap();
        let mut subscription = service
            .handle()
            .subscribe(MessageType(MESSAGE_TYPE))
            .unwrap();
        let handle = service.handle();
        let thread = thread::spawn(move || {
            while let Ok(batch) = subscription.recv_batch() {
                for message in &batch {
                    handle.reply(message, message.payload()).unwrap();
                }
            }
        });
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        Self {
            service,
            addr,
            tallies: Vec::new(),
            threads: vec![thread],
        }
    }

    /// The same by a handler on the loop's thread.
    pub(crate) fn start_handler() -> Self {
        let mut service = NetService::new(Config::default().listen(loopback())).unwrap();
        let options = HandlerOptions::new(MessageType(MESSAGE_TYPE));
        let handler = service.handle_inline(options, |message, replier| {
            replier.reply(message.payload()).unwrap();
        });
        handler.unwrap();
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        Self {
            service,
            addr,
            tallies: Vec::new(),
            threads: Vec::new(),
        }
    }

    /// Says what [`Self::wait`] is going to wait for: so many more messages for every subscriber.
    pub(crate) fn expect(&self, messages: u64) {
        for tally in &self.tallies {
            tally.expect(tally.messages() + messages);
        }
    }

    /// Waits until every subscriber has them all.
    pub(crate) fn wait(&self) {
        for tally in &self.tallies {
            assert!(tally.wait(), "a lossless subscriber missed messages");
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.service.stop(Duration::from_secs(1));
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

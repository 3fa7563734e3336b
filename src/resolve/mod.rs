//! Looks up names, without anything that waits for it.
//!
//! The system's lookup blocks for as long as it likes and cannot be interrupted, so threads do it:
//! each looks up one name after the other, and ends when none waits. A name that is asked for
//! again while it waits or is looked up is looked up once, for all who asked, whatever their ports.
//! How long an answer may take is for those who ask to judge: what takes longer comes all the same.
//!
//! Invariants:
//! - `threads <= LOOKUPS_MAX`, `waiting <= LOOKUPS_WAITING_MAX`
//! - `threads > 0` while a name waits
//! - after [`Resolver::end`] no lookup begins, and no answer is given

#[cfg(all(test, nebnet_loom))]
mod models;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, PoisonError},
    thread,
};

use crate::{
    id::LinkId,
    limits::{ADDRESSES_PER_NAME_MAX, LOOKUPS_MAX, LOOKUPS_WAITING_MAX},
    sync::{Mutex, MutexGuard},
};

/// The addresses of a name, or what the system said.
pub(crate) type Resolved = Result<Vec<SocketAddr>, String>;

/// Why a name is not looked up.
#[derive(Debug)]
pub(crate) enum Refused {
    /// As many names wait as may.
    Full,
    /// No thread runs, and none can be started.
    Thread(io::Error),
    /// The service has ended.
    Ended,
}

/// What looks names up, as those who ask for them hold it.
#[derive(Clone)]
pub(crate) struct Resolver {
    pool: Arc<Pool>,
}

impl Resolver {
    /// One that asks the system. `answer` gets what it finds, on the threads of the lookups. No
    /// thread runs before there is a name.
    pub(crate) fn new(answer: impl Fn(LinkId, Resolved) + Send + Sync + 'static) -> Self {
        Self::by(ask_system, answer)
    }

    /// One that finds addresses by a function, which gets a host and gives addresses of any port.
    pub(crate) fn by(
        find: impl Fn(&str) -> Resolved + Send + Sync + 'static,
        answer: impl Fn(LinkId, Resolved) + Send + Sync + 'static,
    ) -> Self {
        let pool = Arc::new(Pool {
            queue: Mutex::new(Queue::default()),
            find: Box::new(find),
            answer: Box::new(answer),
        });
        Self { pool }
    }

    /// Asks for the addresses of a host and a port. There is one answer, unless the link is
    /// forgotten before; asking again until then changes nothing.
    pub(crate) fn ask(&self, link: LinkId, name: &str) -> Result<(), Refused> {
        // It was judged when the link was made.
        let (host, port) = name.rsplit_once(':').unwrap_or((name, ""));
        let port = port.parse().unwrap_or(0);
        if !self.pool.enqueue(link, host, port)? {
            return Ok(());
        }
        let pool = Arc::clone(&self.pool);
        let thread = thread::Builder::new()
            .name("nebnet-resolve".to_owned())
            .spawn(move || pool.work());
        match thread {
            Ok(_) => Ok(()),
            Err(error) => self
                .pool
                .do_without(host)
                .map_err(|()| Refused::Thread(error)),
        }
    }

    /// A link wants no answer any more. A name that no other wants is not looked up, unless that
    /// has begun.
    pub(crate) fn forget(&self, link: LinkId, name: &str) {
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        self.pool.forget(link, host);
    }

    /// No lookup begins any more. Those that have begun end when the system lets them; nothing
    /// waits for them, and what they find is dropped.
    pub(crate) fn end(&self) {
        let mut queue = self.pool.lock();
        queue.ended = true;
        queue.waiting.clear();
        queue.askers.clear();
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

struct Pool {
    queue: Mutex<Queue>,
    find: Box<dyn Fn(&str) -> Resolved + Send + Sync>,
    answer: Box<dyn Fn(LinkId, Resolved) + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    /// Hosts that wait for a thread, the next one first.
    waiting: VecDeque<Arc<str>>,
    /// Who wants the addresses of a host, and for which port; while it waits or is looked up.
    askers: HashMap<Arc<str>, BTreeMap<LinkId, u16>>,
    /// Threads that run, or are about to.
    threads: usize,
    ended: bool,
}

impl Pool {
    /// Takes a question. True if it needs one more thread, which then counts as one.
    fn enqueue(&self, link: LinkId, host: &str, port: u16) -> Result<bool, Refused> {
        let mut queue = self.lock();
        if queue.ended {
            return Err(Refused::Ended);
        }
        if let Some(askers) = queue.askers.get_mut(host) {
            askers.insert(link, port);
            return Ok(false);
        }
        if queue.waiting.len() >= LOOKUPS_WAITING_MAX {
            return Err(Refused::Full);
        }
        let host: Arc<str> = host.into();
        queue.waiting.push_back(Arc::clone(&host));
        queue.askers.insert(host, BTreeMap::from([(link, port)]));
        let needs_thread = queue.threads < LOOKUPS_MAX;
        queue.threads += usize::from(needs_thread);
        Ok(needs_thread)
    }

    /// A thread could not be started. The others do its work, if there are any.
    fn do_without(&self, host: &str) -> Result<(), ()> {
        let mut queue = self.lock();
        queue.threads -= 1;
        if queue.threads > 0 {
            return Ok(());
        }
        queue.drop_waiting(host);
        Err(())
    }

    fn forget(&self, link: LinkId, host: &str) {
        let mut queue = self.lock();
        let Some(askers) = queue.askers.get_mut(host) else {
            return;
        };
        askers.remove(&link);
        if askers.is_empty() {
            queue.drop_waiting(host);
        }
    }

    /// A thread's life.
    fn work(&self) {
        while let Some(host) = self.begin_next() {
            let found = (self.find)(&host);
            for (link, port) in self.finish(&host) {
                let mut found = found.clone();
                for addr in found.iter_mut().flatten() {
                    addr.set_port(port);
                }
                (self.answer)(link, found);
            }
        }
    }

    /// The next host to look up; without one the thread counts no more.
    fn begin_next(&self) -> Option<Arc<str>> {
        let mut queue = self.lock();
        let host = queue.waiting.pop_front();
        if host.is_none() {
            queue.threads -= 1;
        }
        host
    }

    fn finish(&self, host: &str) -> BTreeMap<LinkId, u16> {
        self.lock().askers.remove(host).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Drops a question that no thread has begun with.
    fn drop_waiting(&mut self, host: &str) {
        let waiting = self.waiting.len();
        self.waiting.retain(|one| &**one != host);
        if self.waiting.len() < waiting {
            self.askers.remove(host);
        }
    }
}

fn ask_system(host: &str) -> Resolved {
    let found = (host, 0).to_socket_addrs();
    let found = found.map_err(|error| error.to_string())?;
    let addrs: Vec<SocketAddr> = found.take(ADDRESSES_PER_NAME_MAX).collect();
    if addrs.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(addrs)
}

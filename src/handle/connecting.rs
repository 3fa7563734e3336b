//! Links to other services, and the lookups of their names.

use std::sync::{Arc, atomic::Ordering};

use crossbeam_channel::Sender;

use super::{ANSWER_TIMEOUT, Command, Handle, shard_of_link};
use crate::{
    dial::{ConnectOptions, NewLink},
    error::ConnectError,
    id::LinkId,
    limits::LINKS_MAX,
    resolve::{Resolved, Resolver},
    slots::Slots,
};

impl Handle {
    /// Connects to a service. Returns at once: what becomes of it is told by events
    /// ([`Event::Connected`](crate::Event::Connected) with this link, or
    /// [`Event::DialFailed`](crate::Event::DialFailed)), so
    /// subscribe to events first.
    ///
    /// The link ends with its first failure or with its connection, unless it is
    /// [kept](ConnectOptions::keep_connected). [`disconnect`](Self::disconnect) gives it up, and so
    /// does [`close`](Self::close) of its connection. Before the start of the service it waits for
    /// it.
    ///
    /// A name is looked up anew for each attempt: 8 names at a time, each by a thread that ends
    /// when none waits, and up to 256 that wait. An attempt waits for it as long as the connect
    /// timeout says; then, and where the lookup fails, the addresses that the link knew last are
    /// tried, or the attempt has failed. What is answered later is used for the next one. No lookup
    /// begins once a stop was asked for; one that hangs in the system is not waited for.
    ///
    /// A service may have 4,096 links, besides the peers that it accepts, and their descriptors are
    /// not among those that the limit of peers is lowered for.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; no event follows.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(handle: nebnet::Handle) -> Result<(), Box<dyn std::error::Error>> {
    /// use nebnet::ConnectOptions;
    ///
    /// let link = handle.connect(ConnectOptions::from("gateway:8680").keep_connected(true))?;
    /// // Later, for good:
    /// handle.disconnect(link)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(&self, target: impl Into<ConnectOptions>) -> Result<LinkId, ConnectError> {
        let mut options = target.into();
        let is_name = options.check()?;
        if self.has_ended() {
            return Err(ConnectError::Stopped);
        }
        let resolver = is_name.then(|| self.resolver());
        let links = &self.shared.first().links;
        let taken = links.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < LINKS_MAX).then_some(count + 1)
        });
        if taken.is_err() {
            return Err(ConnectError::TooManyLinks { limit: LINKS_MAX });
        }
        let id = LinkId(self.shared.next_link.fetch_add(1, Ordering::Relaxed));
        let link = Box::new(NewLink::new(id, options, resolver));
        let asked = self.shared.shard_of(id).try_command(Command::Connect(link));
        if asked.is_err() {
            links.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectError::Busy);
        }
        Ok(id)
    }

    /// Gives a link up: nothing connects any more, and a connection that it has is closed in order
    /// with [`CloseReason::AppClosed`](crate::CloseReason::AppClosed). Nothing happens if the link
    /// has ended.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Busy`] or [`ConnectError::Stopped`].
    pub fn disconnect(&self, link: LinkId) -> Result<(), ConnectError> {
        if self.has_ended() {
            return Err(ConnectError::Stopped);
        }
        let shard = self.shared.shard_of(link);
        let asked = shard.try_command(Command::Disconnect(link));
        asked.map_err(|()| ConnectError::Busy)
    }

    pub(super) fn resolver(&self) -> Resolver {
        let make = || Resolver::new(self.answer_lookups());
        self.shared.resolver.get_or_init(make).clone()
    }

    /// Tells a link's loop what was found.
    pub(super) fn answer_lookups(&self) -> impl Fn(LinkId, Resolved) + Send + Sync + 'static {
        let shards = self.shared.shards.iter();
        let shards: Vec<(Sender<Command>, Arc<Slots>)> = shards
            .map(|shard| (shard.commands.clone(), Arc::clone(&shard.slots)))
            .collect();
        move |link, resolved| {
            let (commands, slots) = &shards[shard_of_link(link, shards.len())];
            // The loop takes commands in every turn; one that has ended takes none, and needs none.
            let command = Command::Resolved(link, resolved);
            if commands.send_timeout(command, ANSWER_TIMEOUT).is_ok() {
                slots.doorbell.ring();
            }
        }
    }

    /// Has names looked up by a function, before the first link to a name.
    #[cfg(test)]
    pub(crate) fn resolve_by(&self, find: impl Fn(&str) -> Resolved + Send + Sync + 'static) {
        let resolver = Resolver::by(find, self.answer_lookups());
        let set = self.shared.resolver.set(resolver);
        set.expect("no link has a name yet");
    }
}

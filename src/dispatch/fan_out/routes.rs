//! The table from types to lists of subscribers, made anew when the list of subscribers changes,
//! and the subscribers that the fan-out itself takes off that list.

use std::collections::{BTreeMap, HashMap};

use super::{FanOut, NOBODY};
use crate::{
    dispatch::{
        EndReason,
        entry::{Entry, Standing, discard_parked},
    },
    id::MessageType,
};

impl FanOut {
    /// Makes the table anew if the list of subscribers has changed. False on a thread that would
    /// have to wait for the list; what is dispatched then misses subscribers that have come since.
    #[inline]
    pub(crate) fn refresh(&mut self) -> bool {
        self.version == Some(self.registry.version()) || self.rebuild()
    }

    #[cold]
    fn rebuild(&mut self) -> bool {
        let Some((version, subscribers)) = self.registry.subscribers() else {
            return false;
        };
        // While the positions are those of the list.
        self.wake_receivers();
        self.version = Some(version);
        let (event_subscribers, subscribers): (Vec<_>, Vec<_>) = subscribers
            .into_iter()
            .partition(|one| one.account.is_events);
        self.event_subscribers = event_subscribers;
        let mut old = std::mem::take(&mut self.entries);
        for subscriber in subscribers {
            let id = subscriber.account.id;
            let kept = old
                .iter()
                .position(|entry| entry.subscriber.account.id == id);
            self.entries.push(kept.map_or_else(
                || Entry::new(subscriber),
                |position| old.swap_remove(position),
            ));
        }
        for mut left in old {
            discard_parked(&mut left, &self.slots, &self.bounds);
        }
        let positions = self.entries.iter().zip(0_u16..);
        let positions = positions.filter(|(entry, _)| entry.subscriber.is_mixed());
        self.mixed = positions.map(|(_, position)| position).collect();
        self.rebuild_routes();
        true
    }

    /// Costs a step per type and subscriber that names it; taps cost nothing per type.
    fn rebuild_routes(&mut self) {
        let (mut taps, mut named) = (Vec::new(), BTreeMap::<u16, Vec<u16>>::new());
        for (entry, position) in self.entries.iter().zip(0_u16..) {
            match entry.subscriber.account.types.each() {
                None => taps.push(position),
                Some(types) => {
                    for message_type in types {
                        named.entry(message_type.0).or_default().push(position);
                    }
                }
            }
        }
        self.lists.truncate(1);
        self.routes.fill(NOBODY);
        let mut known: HashMap<Vec<u16>, u16> = HashMap::from([(Vec::new(), NOBODY)]);
        let tap_list = self.list_of(&mut known, taps.clone());
        self.routes[..=usize::from(MessageType::APPLICATION_MAX.0)].fill(tap_list);
        for (message_type, mut list) in named {
            list.extend_from_slice(&taps);
            list.sort_unstable();
            self.routes[usize::from(message_type)] = self.list_of(&mut known, list);
        }
        self.sorter.set_lists(&self.lists, self.entries.len());
    }

    /// The position of a list, which is added if it is new. There are at most as many lists as
    /// types of the application, so the position fits.
    fn list_of(&mut self, known: &mut HashMap<Vec<u16>, u16>, list: Vec<u16>) -> u16 {
        if let Some(position) = known.get(&list) {
            return *position;
        }
        let position = u16::try_from(self.lists.len()).unwrap_or(NOBODY);
        self.lists.push(list.clone());
        known.insert(list, position);
        position
    }

    /// Gives a subscriber nothing more. It leaves the list behind this block or event.
    pub(super) fn end(&mut self, position: usize, standing: Standing) {
        self.entries[position].standing = standing;
        self.any_ended = true;
    }

    #[cold]
    pub(super) fn remove_ended(&mut self) {
        self.any_ended = false;
        for entry in &self.entries {
            let why = match entry.standing {
                Standing::Open | Standing::Hides => continue,
                Standing::Overflow => Some(EndReason::Overflow),
                Standing::Gone => None,
            };
            let id = entry.subscriber.account.id;
            if !self.registry.try_remove(id, why) {
                self.any_ended = true;
                // Nothing else would say that it is to be tried again.
                self.registry.poke(self.shard).poke();
            }
        }
    }
}

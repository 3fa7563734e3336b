//! The senders' side of a slot: what is accepted, and what is refused and why.
//!
//! Everything is decided in [`accept_locked`](Slots::accept_locked), under the lock of the slot;
//! only the loop, which must not wait for it, has a way of its own.

use super::{
    item::{Item, Refused},
    slot::{ASKED, CHECKSUMS, Inner, Refusals, Slot, SlotState, Used, begin_tails},
    table::Slots,
    tail::{OutFrame, OutFrames, Tail},
};
use crate::{
    clock::Tick,
    error::SendError,
    id::PeerId,
    ledger::Traffic,
    policy::{OutboxFull, Priority},
    sync::atomic::Ordering,
};

impl Slots {
    /// Accepts a message of normal priority for a peer, or says why not.
    #[cfg(test)]
    pub(crate) fn send(&self, peer: PeerId, message: OutFrame<'_>) -> Result<(), SendError> {
        self.send_as(peer, Priority::Normal, message)
    }

    /// Accepts a message for a peer, or says why not.
    pub(crate) fn send_as(
        &self,
        peer: PeerId,
        priority: Priority,
        message: OutFrame<'_>,
    ) -> Result<(), SendError> {
        self.send_item(peer, priority, message, false)
    }

    /// Accepts an answer to what a peer sent, or says why not.
    pub(crate) fn send_reply(&self, peer: PeerId, message: OutFrame<'_>) -> Result<(), SendError> {
        self.send_item(peer, Priority::Normal, message, true)
    }

    #[inline]
    fn send_item(
        &self,
        peer: PeerId,
        priority: Priority,
        message: OutFrame<'_>,
        is_reply: bool,
    ) -> Result<(), SendError> {
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        let frame = slot.dress(message.frame);
        let item = Item {
            is_reply,
            ..Item::of(&frame, priority)
        };
        self.accept(slot, peer, item, |tail| {
            tail.push(&frame, message.owned);
        })
    }

    /// Accepts the question of a request, or says why not. Whoever ends the connection afterwards
    /// learns that there was one, and the loop learns its deadline.
    pub(crate) fn send_question(
        &self,
        peer: PeerId,
        priority: Priority,
        message: OutFrame<'_>,
        deadline: Tick,
    ) -> Result<(), SendError> {
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        let frame = slot.dress(message.frame);
        self.accept(slot, peer, Item::of(&frame, priority), |tail| {
            slot.marks.fetch_or(ASKED, Ordering::Relaxed);
            let request_deadline = &slot.used().request_deadline;
            request_deadline.fetch_min(deadline, Ordering::Relaxed);
            tail.push(&frame, message.owned);
        })
    }

    /// Has the loop look for requests of a peer at this time. If the slot is another's by now, that
    /// one is looked at in vain.
    pub(crate) fn note_request(&self, peer: PeerId, deadline: Tick) {
        if let Some(slot) = self.slot(peer) {
            let request_deadline = &slot.used().request_deadline;
            request_deadline.fetch_min(deadline, Ordering::Relaxed);
            self.mark_dirty(slot, peer.index());
        }
    }

    /// Accepts all messages of a batch for a peer, or none.
    pub(crate) fn send_batch(
        &self,
        peer: PeerId,
        priority: Priority,
        batch: &mut OutFrames,
    ) -> Result<(), SendError> {
        if batch.messages == 0 {
            return Ok(());
        }
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        if self.checksums || slot.has(CHECKSUMS) {
            batch.add_checksums();
        }
        let item = Item {
            traffic: Traffic::new(u64::from(batch.messages), batch.bytes.len() as u64),
            payload_size: batch.payload_size_max,
            priority,
            is_reply: batch.replies == batch.messages,
        };
        let replies = batch.replies;
        let result = self.accept(slot, peer, item, |tail| tail.append(batch));
        // A batch of replies alone is counted where it is refused.
        if result == Err(SendError::Closing) && !item.is_reply {
            self.note_unanswered(slot, peer, u64::from(replies));
        }
        result
    }

    fn accept(
        &self,
        slot: &Slot,
        peer: PeerId,
        item: Item,
        push: impl FnOnce(&mut Tail),
    ) -> Result<(), SendError> {
        let mut inner = slot.lock();
        if slot.generation() != peer.generation() {
            return Err(SendError::NotConnected);
        }
        let result = self.accept_locked(slot, &mut inner, item, push);
        drop(inner);
        match result {
            Ok(()) => self.mark_dirty(slot, peer.index()),
            Err(refused) if refused.tells_loop => self.mark_dirty(slot, peer.index()),
            Err(_) => {}
        }
        result.map_err(|refused| refused.error)
    }

    /// Decides about a message under the lock. Unless this fails, or if it says so, the loop is to
    /// be told of it.
    pub(super) fn accept_locked(
        &self,
        slot: &Slot,
        inner: &mut Inner,
        item: Item,
        push: impl FnOnce(&mut Tail),
    ) -> Result<(), Refused> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(SendError::NotConnected.into());
        }
        match inner.state {
            SlotState::Open if slot.admitted.load(Ordering::Acquire) => {}
            SlotState::Free | SlotState::Open => return Err(SendError::NotConnected.into()),
            SlotState::Answering if item.is_reply => {}
            SlotState::CloseAsked(reason) if item.is_reply && reason.reads_on() => {}
            SlotState::Closing if item.is_reply => {
                let known = inner.known.get_or_insert_default();
                known.unanswered += item.traffic.messages;
                return Err(SendError::Closing.into());
            }
            SlotState::CloseAsked(_)
            | SlotState::Answering
            | SlotState::CutOff
            | SlotState::Closing => return Err(SendError::Closing.into()),
        }
        let limit = slot.payload_size_max.load(Ordering::Relaxed) as usize;
        if item.payload_size > limit {
            let size = item.payload_size;
            return Err(SendError::TooLarge { size, limit }.into());
        }
        let used = slot.used();
        let mut queued = used.queued();
        if !self.fits(queued, item.traffic) {
            if !self.make_room(used, inner, queued, item) {
                return Err(self.refuse(slot, inner, queued, item));
            }
            queued = used.queued();
        }
        queued.add(item.traffic);
        let tails = match &mut inner.tails {
            Some(tails) => tails,
            none => begin_tails(none),
        };
        let needed = queued.bytes + tails.slack as u64;
        if needed > used.leased() as u64 && !self.lease_for(used, tails, queued.bytes, item) {
            self.count_refused_for_budget(item.traffic);
            return Err(self.note_refusal(slot, Refusals::BUDGET));
        }
        let tail = tails.appending(item.priority, item.traffic);
        push(tail);
        let has_grown = tail.take_grown();
        used.accepted.add(item.traffic);
        if has_grown {
            self.cover(used, tails, queued.bytes);
        }
        Ok(())
    }

    /// Counts replies that were refused among others.
    #[cold]
    fn note_unanswered(&self, slot: &Slot, peer: PeerId, replies: u64) {
        let mut inner = slot.lock();
        let is_closing = inner.state == SlotState::Closing;
        if replies > 0 && is_closing && slot.generation() == peer.generation() {
            inner.known.get_or_insert_default().unanswered += replies;
        }
    }

    /// Whether a message or batch may be queued behind what is.
    fn fits(&self, queued: Traffic, traffic: Traffic) -> bool {
        let alone = queued.messages == 0 && traffic.messages == 1;
        let bytes = queued.bytes.saturating_add(traffic.bytes);
        alone
            || (bytes <= self.outbox_bytes_max.load(Ordering::Relaxed)
                && queued.messages + traffic.messages
                    <= self.outbox_messages_max.load(Ordering::Relaxed))
    }

    /// Drops what the policy allows to drop, if that makes the message fit.
    fn make_room(&self, used: &Used, inner: &mut Inner, mut queued: Traffic, item: Item) -> bool {
        if !self.may_overflow() {
            return false;
        }
        let Some(tails) = &mut inner.tails else {
            return false;
        };
        let mut least = queued;
        least.sub(tails.waiting(item.priority));
        if !self.fits(least, item.traffic) {
            return false;
        }
        while !self.fits(queued, item.traffic) {
            let Some(dropped) = tails.drop_oldest(item.priority) else {
                return false;
            };
            used.overflowed.add(dropped);
            queued.sub(dropped);
        }
        true
    }

    /// Refuses a message for which the outbox has no room.
    fn refuse(&self, slot: &Slot, inner: &mut Inner, queued: Traffic, item: Item) -> Refused {
        if !self.fits(Traffic::default(), item.traffic) {
            // It never will, so no sender is to be told when to try again.
            return SendError::Full.into();
        }
        let within = item.traffic.bytes <= self.outbox_bytes_max.load(Ordering::Relaxed);
        if self.full == OutboxFull::Close && within {
            inner.state = SlotState::CutOff;
            slot.close_asked.store(true, Ordering::Relaxed);
            return Refused {
                error: SendError::Full,
                tells_loop: true,
            };
        }
        if self.limits().is_low(queued) {
            self.note_refusal(slot, Refusals::NOT_EMPTY)
        } else {
            self.note_refusal(slot, Refusals::OUTBOX)
        }
    }

    /// Keeps in mind that a sender was refused and may want to know when to try again. The loop is
    /// told: it may have written everything meanwhile, and would not look.
    fn note_refusal(&self, slot: &Slot, why: Refusals) -> Refused {
        let listened = self.event_subscribers.load(Ordering::Relaxed) > 0;
        let tells_loop = listened && {
            let before = Refusals(slot.refusals.fetch_or(why.0, Ordering::AcqRel));
            !before.has(why)
        };
        let error = match why {
            Refusals::BUDGET => SendError::OverBudget,
            _ => SendError::Full,
        };
        Refused { error, tells_loop }
    }

    #[cold]
    fn count_refused_for_budget(&self, traffic: Traffic) {
        let refused = &self.ledger.refused_for_budget;
        refused.fetch_add(traffic.messages, Ordering::Relaxed);
    }

    /// Accepts a message that the loop itself sends to an open connection, or says why not. On `Ok`
    /// the caller puts it into the outbox.
    ///
    /// Takes no lock, so that a send of another thread that is under way is not seen, nor this one
    /// there: together they may pass a bound by that one send. Whatever the policy for a full
    /// outbox, it is refused: to drop what others sent takes the lock.
    pub(crate) fn accept_inline(
        &self,
        peer: PeerId,
        traffic: Traffic,
        payload_size: usize,
    ) -> Result<(), SendError> {
        let slot = self.own(peer);
        if !slot.admitted.load(Ordering::Relaxed) {
            return Err(SendError::NotConnected);
        }
        if slot.close_asked.load(Ordering::Relaxed) {
            return Err(SendError::Closing);
        }
        let limit = slot.payload_size_max.load(Ordering::Relaxed) as usize;
        if payload_size > limit {
            return Err(SendError::TooLarge {
                size: payload_size,
                limit,
            });
        }
        let used = slot.used();
        let mut queued = used.queued();
        let fits = self.fits(queued, traffic);
        queued.add(traffic);
        if !(fits && self.lease(used, &used.leased_inline, queued.bytes)) {
            if fits {
                self.count_refused_for_budget(traffic);
                return Err(SendError::OverBudget);
            }
            return Err(SendError::Full);
        }
        used.written.sub_wrapping(traffic);
        Ok(())
    }
}

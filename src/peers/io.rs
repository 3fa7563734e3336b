//! Reading and writing of one peer in the table.

use std::io::{self, IoSlice};

use rustix::io::Errno;

use super::{
    Again, Pause, Peers, Report,
    connection::Standing,
    recharge_carry,
    vectored_read::{VectoredRead, vectored_limit},
};
use crate::{
    block::{BlockHead, BlockPool, BlockRef, VectoredBuffers},
    clock::{Now, Tick},
    error::CloseReason,
    event::Event,
    id::PeerId,
    ledger::Traffic,
    limits::{BLOCK_SIZE, CARRY_TRUSTED_MAX, LINGER_MS, PAUSE_REPORTED_MS, SLICES_FEW},
    peer::{Fault, Parsed, State},
    slots::Flow,
    socket::Ready,
};

/// The beginning of a frame up to this size is copied in front of the next read; a longer one is
/// read on to where it lies. So a byte is copied a bounded number of times however the peer cuts
/// its frames.
pub(super) const CARRY_COPIED_MAX: usize = 4096;

/// A read of so many bytes is as good as one that fills a block.
const BULK_BYTES: usize = BLOCK_SIZE - CARRY_COPIED_MAX;

/// Space to read into, and back.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    pub(crate) bytes: Vec<u8>,
    /// Several blocks to read into, in place of `bytes`.
    pub(super) vectored: Option<VectoredBuffers>,
    /// Where the bytes begin that are meant; those before are of nobody.
    pub(super) start: usize,
    /// Bytes that were there before the read.
    pub(super) carried: usize,
    /// Bytes to read at most.
    pub(crate) limit: usize,
    pub(super) kind: BufferKind,
}

impl ReadBuffer {
    pub(super) fn new(bytes: Vec<u8>, carried: usize, limit: usize, kind: BufferKind) -> Self {
        Self {
            bytes,
            vectored: None,
            start: 0,
            carried,
            limit,
            kind,
        }
    }

    /// How many bytes may be read into it.
    pub(super) fn room(&self) -> usize {
        match self.kind {
            BufferKind::Vectored => self.limit,
            BufferKind::Block | BufferKind::Carry | BufferKind::Discard => {
                self.limit.min(self.bytes.capacity() - self.carried)
            }
        }
    }

    /// Whether a read of so many bytes is as good as one that fills a block.
    fn is_filled_by(&self, count: usize) -> bool {
        let is_of_blocks = matches!(self.kind, BufferKind::Block | BufferKind::Vectored);
        is_of_blocks && self.carried + count >= BULK_BYTES
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BufferKind {
    /// A block of the pool, with the carried bytes copied in front.
    Block,
    /// Several of them, to be parsed one by one.
    Vectored,
    /// The storage of the unfinished frame itself.
    Carry,
    /// What is read is thrown away.
    Discard,
}

impl Peers {
    /// Space for the next read of a peer; `None` if it is not to be read now.
    pub(crate) fn prepare_read(&mut self, now: Tick, id: PeerId) -> Option<ReadBuffer> {
        let connection = self.connection(id)?;
        if !connection.ready.has(Ready::READ) {
            return None;
        }
        if connection.pause == Some(Pause::Closing) {
            return None;
        }
        if connection.peer.takes_messages() {
            let (limit, broken) = (self.allowance(now, id), self.connection(id)?.broken);
            if let (None, Some(reason)) = (limit, broken) {
                // Nobody will write to it, and it may not be read on: that was it.
                self.leave(now, id, reason, true);
            }
            return self.space(id, limit?);
        }
        // Where nothing is read, an error is to be fetched all the same.
        if !(connection.peer.discards() || connection.ready.has(Ready::ERROR)) {
            return None;
        }
        let bytes = self.input.pool.take_buffer();
        Some(ReadBuffer::new(bytes, 0, BLOCK_SIZE, BufferKind::Discard))
    }

    /// How many bytes may be read from a peer now; if none, it is paused.
    fn allowance(&mut self, now: Tick, id: PeerId) -> Option<usize> {
        if self.slots.is_parked(id) {
            self.pause(now, id, Pause::Parked);
            // The dispatcher may have let go of it just now.
            if self.slots.is_parked(id) {
                return None;
            }
            self.reconsider_reading(now, id);
        }
        let (credit, flow) = (self.credit, self.slots.flow(id));
        let used = self.connection(id)?.used(flow);
        if self.is_over_budget(id, used) {
            self.pause(now, id, Pause::Budget);
            return None;
        }
        let Flow { released, queued } = flow;
        let connection = self.connection(id)?;
        let carried = connection.peer.carry.len() as u64;
        let frame_size = connection.peer.carried_frame_size().unwrap_or(0) as u64;
        let frame_left = frame_size.saturating_sub(carried);
        let allowance = credit.allowance(used, frame_left);
        if allowance >= credit.allowance_min() {
            return Some(usize::try_from(allowance).unwrap_or(usize::MAX));
        }
        let in_flight = connection.peer.in_flight(released);
        if in_flight == Traffic::default() && queued == Traffic::default() {
            // Nothing is in flight but the frame itself, which is of a legal size.
            // It is read to its end and no further, so that its answer finds the outbox empty and
            // nothing comes behind that.
            let one = if frame_left > 0 {
                frame_left
            } else {
                credit.allowance_min()
            };
            return Some(usize::try_from(one).unwrap_or(usize::MAX));
        }
        self.pause(now, id, Pause::Credit);
        self.watch_credit(id);
        None
    }

    /// Has the slot marked dirty when half of the credit is free again. What is queued for the
    /// peer, and its unfinished frame, have their part of it.
    pub(super) fn watch_credit(&mut self, id: PeerId) {
        let (credit, Flow { released, queued }) = (self.credit, self.slots.flow(id));
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.peer.in_flight(released) == Traffic::default() {
            // Only writing can make room, and whoever writes looks at this again. If nothing is to
            // be written either, the last of it was released just now, before anybody was to tell.
            if queued == Traffic::default() {
                self.lists.again.push(Again::Dirty(id.index()));
            }
            return;
        }
        let (read, carried) = (connection.peer.read, connection.peer.carry.len() as u64);
        let resume =
            |all: u64, kept: u64, read: u64| read - (all / 2).saturating_sub(kept).min(read);
        let resume = Traffic::new(
            resume(credit.messages, queued.messages, read.messages),
            resume(credit.bytes, queued.bytes + carried, read.bytes),
        );
        // A slot tells of one sum only, and what a stop waits for may come first.
        let resume = match connection.peer.unreleased_mark(released) {
            Some(mark) if mark.messages < resume.messages || mark.bytes < resume.bytes => mark,
            Some(_) | None => resume,
        };
        if !self.slots.pause(id, resume) {
            self.lists.again.push(Again::Dirty(id.index()));
        }
    }

    /// Whether nothing of the peer is in flight or queued but the frame that it has begun.
    fn holds_one_frame(&mut self, id: PeerId) -> bool {
        let Flow { released, queued } = self.slots.flow(id);
        let in_flight = self
            .connection(id)
            .map(|connection| connection.peer.in_flight(released));
        in_flight == Some(Traffic::default()) && queued == Traffic::default()
    }

    /// What counts against the peer's credit.
    fn used(&mut self, id: PeerId) -> Traffic {
        let flow = self.slots.flow(id);
        self.connection(id)
            .map_or(flow.queued, |connection| connection.used(flow))
    }

    /// Above three quarters of the budget the heaviest readers pause, at the end of it everybody.
    ///
    /// Whoever holds nothing but the frame that it has begun is not one of the heaviest: while it
    /// is not read, it can never give anything back. It goes on until its frame is whole, or to the
    /// end of the budget, where the largest of them is closed.
    fn is_over_budget(&mut self, id: PeerId, used: Traffic) -> bool {
        let budget = &self.slots.ledger.budget;
        if !budget.is_tight() {
            return false;
        }
        let share = (budget.limit() / 4 * 3 / self.admission.census.counted().max(1)) as u64;
        let is_heavy = used.bytes >= share.max(BLOCK_SIZE as u64);
        budget.is_exhausted() || (is_heavy && !self.holds_one_frame(id))
    }

    pub(super) fn pause(&mut self, now: Tick, id: PeerId, pause: Pause) {
        let receiving = self.deadlines.receiving(now);
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.pause.is_none() {
            connection.pause = Some(pause);
            connection.peer.set_reading(receiving, false);
            pause.count(&self.slots.ledger.pauses);
            self.watch_pause(now, id);
        }
        if pause == Pause::Budget {
            self.pressure.paused.push(id);
            self.arm_budget_timer(now);
            if !self.slots.wait_for_budget() {
                self.lists.again.push(Again::Dirty(id.index()));
            }
        }
    }

    /// Has the pause told if it lasts: `now` was rounded down.
    fn watch_pause(&mut self, now: Tick, id: PeerId) {
        let watched = self.told.is_watched();
        let Some(connection) = self
            .connection(id)
            .filter(|connection| watched && connection.told_connected)
        else {
            return;
        };
        connection.report = Report::Due(now + PAUSE_REPORTED_MS + 1);
        self.arm(now, id);
    }

    /// Tells that a peer is not being read, if it is not and the time for that has come.
    pub(super) fn report_pause(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let due = connection.report_due().filter(|due| *due <= now);
        let cause = connection
            .pause
            .and_then(Pause::cause)
            .filter(|_| due.is_some());
        if let Some(cause) = cause {
            connection.report = Report::Told;
            self.told.emit(Event::Paused { peer: id, cause });
        }
    }

    /// Reads a paused peer again if what it was paused for is over.
    pub(super) fn reconsider_reading(&mut self, now: Tick, id: PeerId) {
        let Some(pause) = self.connection(id).and_then(|connection| connection.pause) else {
            return;
        };
        let over = match pause {
            Pause::Credit => {
                let over = self.credit.is_half_free(self.used(id)) || self.holds_one_frame(id);
                // What is written since has moved the point at which to read again.
                if !over {
                    self.watch_credit(id);
                }
                over
            }
            Pause::Parked => !self.slots.is_parked(id),
            Pause::Budget => !self.slots.ledger.budget.is_tight(),
            Pause::Closing => false,
        };
        if over {
            self.resume(now, id);
        }
    }

    fn resume(&mut self, now: Tick, id: PeerId) {
        let receiving = self.deadlines.receiving(now);
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.pause = None;
        connection.peer.set_reading(receiving, true);
        if std::mem::replace(&mut connection.report, Report::Nothing) == Report::Told {
            self.told.emit(Event::Resumed { peer: id });
        }
        self.list_reading(id);
        self.arm(now, id);
    }

    pub(super) fn resume_budget(&mut self, now: Tick) {
        for id in std::mem::take(&mut self.pressure.paused) {
            if self
                .connection(id)
                .is_some_and(|connection| connection.pause == Some(Pause::Budget))
            {
                self.resume(now, id);
            }
        }
    }

    /// The budget is short, and not used up any more: those that hold little are read again.
    pub(super) fn resume_light(&mut self, now: Tick) {
        for id in std::mem::take(&mut self.pressure.paused) {
            let used = self.used(id);
            let over = self.is_over_budget(id, used);
            let Some(connection) = self.connection(id) else {
                continue;
            };
            match connection.pause {
                Some(Pause::Budget) if over => self.pressure.paused.push(id),
                Some(Pause::Budget) => self.resume(now, id),
                Some(Pause::Credit | Pause::Parked | Pause::Closing) | None => {}
            }
        }
    }

    fn space(&mut self, id: PeerId, limit: usize) -> Option<ReadBuffer> {
        let connection = self.connections.get_mut(id.index() as usize)?;
        let carried = connection.peer.carry.len();
        if carried <= CARRY_COPIED_MAX && !connection.in_bulk {
            return Some(block_space(
                &mut self.input.pool,
                &connection.peer.carry,
                limit,
            ));
        }
        let ahead_max = self.slots.ledger.budget.read_max();
        // A longer frame is read to where it lies, not copied there from block after block.
        let frame_size = connection.peer.carried_frame_size().unwrap_or(0);
        let is_vectored = connection.in_bulk && frame_size <= CARRY_TRUSTED_MAX;
        let vectored_limit = vectored_limit(limit, ahead_max);
        if is_vectored && vectored_limit > 0 {
            let vectored = Some(self.input.pool.take_vectored());
            return Some(ReadBuffer {
                vectored,
                ..ReadBuffer::new(Vec::new(), 0, vectored_limit, BufferKind::Vectored)
            });
        }
        if carried <= CARRY_COPIED_MAX {
            return Some(block_space(
                &mut self.input.pool,
                &connection.peer.carry,
                limit,
            ));
        }
        connection.grow_carry(CARRY_COPIED_MAX, &mut self.input.pool, ahead_max);
        let bytes = std::mem::take(&mut connection.peer.carry);
        Some(ReadBuffer::new(bytes, carried, limit, BufferKind::Carry))
    }

    /// Whether large reads are far ahead of whoever takes what they brought.
    pub(crate) fn is_ahead(&self) -> bool {
        self.input.pool.is_cold()
    }

    /// Lists a peer for the next turn if it has more to read.
    pub(crate) fn continue_reading(&mut self, id: PeerId) {
        self.list_reading(id);
    }

    /// What the read brought. The block, if there is one, is to be dispatched.
    pub(crate) fn handle_read(
        &mut self,
        now: Now,
        id: PeerId,
        buffer: ReadBuffer,
        result: io::Result<usize>,
    ) -> Option<BlockRef> {
        let receiving = self.deadlines.receiving(now.tick);
        let Some(connection) = self.connection(id) else {
            self.put_back(id, buffer);
            return None;
        };
        match result {
            Ok(0) => {
                connection.ready.clear(Ready::READ);
                self.put_back(id, buffer);
                self.handle_eof(now.tick, id);
                None
            }
            Ok(count) => {
                // A read that left space has emptied the socket: the next byte makes a new edge. A
                // FIN or urgent bytes can be behind it all the same. In bulk it is read once more,
                // see `vectored`.
                let certain = !connection
                    .ready
                    .has(Ready::READ_CLOSED | Ready::URGENT | Ready::ERROR);
                if count < buffer.room() && certain && count < BULK_BYTES {
                    connection.ready.clear(Ready::READ);
                }
                connection.peer.handle_moved(now.tick, receiving);
                connection.peer.handle_heard(receiving);
                connection.in_bulk = buffer.is_filled_by(count);
                match buffer.vectored {
                    Some(buffers) => {
                        self.input.vectored = Some(VectoredRead::new(id, buffers, count));
                        None
                    }
                    None => self.handle_input(now, id, buffer, count),
                }
            }
            Err(error) => {
                self.put_back(id, buffer);
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.handle_read_blocked(now.tick, id);
                } else {
                    self.note_failed(id);
                    self.leave(now.tick, id, io_reason(&error), true);
                }
                None
            }
        }
    }

    /// A call has told of an error, which the system does not tell again.
    fn note_failed(&mut self, id: PeerId) {
        if let Some(connection) = self.connection(id) {
            connection.failed = true;
        }
    }

    fn handle_read_blocked(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.ready.clear(Ready::READ);
        if let Some(reason) = connection.broken {
            self.leave(now, id, reason, true);
        }
    }

    fn handle_eof(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if let Some(reason) = connection.broken {
            self.leave(now, id, reason, true);
            return;
        }
        let rules = &self.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let connection = connection.expect("looked up above");
        let partial = connection.peer.handle_eof(now, rules);
        let reason = super::closing_reason(&connection.peer);
        let done = matches!(connection.peer.state(), State::Lingering { .. });
        if let Some(connection) = self.connections.get_mut(id.index() as usize) {
            recharge_carry(&self.slots, connection);
        }
        if partial {
            self.slots.ledger.partial_frames.add(1);
        }
        if done {
            self.end_linger(now, id, reason);
        } else {
            self.note_mute(id);
            self.give_up_node(id);
            self.check_drained(now, id);
            self.end_useless(now, id);
            self.look_before_bye(id);
            self.arm(now, id);
        }
    }

    pub(super) fn handle_input(
        &mut self,
        now: Now,
        id: PeerId,
        mut buffer: ReadBuffer,
        count: usize,
    ) -> Option<BlockRef> {
        let connection = self.connections.get_mut(id.index() as usize)?;
        let (start, end) = (buffer.start, buffer.start + buffer.carried + count);
        if buffer.kind == BufferKind::Discard || !connection.peer.takes_messages() {
            connection
                .peer
                .discard(&self.rules, &buffer.bytes[start..end]);
            self.input.pool.put_buffer(buffer.bytes);
            return None;
        }
        let mut parsed = self.parse(now.tick, id, &buffer.bytes[start..end])?;
        self.note_first(id);
        self.input.in_hand = parsed.traffic();
        self.slots.ledger.inbound.add(self.input.in_hand);
        // Bytes of whole frames that are left for the dispatcher.
        let size = if self.handling.handlers.is_some() {
            self.run_handlers(now, id, &mut buffer.bytes[start..end], &mut parsed)
        } else {
            parsed.consumed
        };
        self.input.in_hand = parsed.traffic();
        let connection = self.connections.get_mut(id.index() as usize)?;
        let peer = &mut connection.peer;

        let rest = buffer.bytes.get(start + parsed.consumed..end);
        let rest = rest.unwrap_or_default();
        if !peer.takes_messages() || parsed.fault.is_some() {
            peer.carry = Vec::new();
            if matches!(parsed.fault, Some(Fault::Frame(_))) {
                peer.lose_framing();
            }
            peer.discard(&self.rules, rest);
        } else if parsed.consumed > 0 || buffer.kind == BufferKind::Block {
            keep_remainder(&mut peer.carry, rest);
        }
        let whole_frames = parsed.consumed > 0;
        if buffer.kind == BufferKind::Carry && whole_frames {
            connection.proven = parsed.consumed;
        }
        self.told.note_block();
        let block = (parsed.frames > 0).then(|| {
            let traffic = Traffic::new(u64::from(parsed.frames), size as u64);
            peer.read.add(traffic);
            let head = head_of(id, now, &parsed, traffic);
            self.input.pool.make(&mut buffer.bytes, start, size, head)
        });
        let goes_on = peer.takes_messages() && parsed.fault.is_none();
        if buffer.kind == BufferKind::Carry && !whole_frames && goes_on {
            peer.carry = buffer.bytes;
        } else {
            self.input.pool.put_buffer(buffer.bytes);
        }
        recharge_carry(&self.slots, connection);
        self.after_input(now.tick, id, parsed);
        block
    }

    /// What a peer's bytes say; it may introduce itself in their midst.
    fn parse(&mut self, now: Tick, id: PeerId, bytes: &[u8]) -> Option<Parsed> {
        let receiving = self.deadlines.receiving(now);
        let mut parsed = Parsed::default();
        loop {
            let connection = self.connections.get_mut(id.index() as usize)?;
            connection
                .peer
                .handle_bytes(now, receiving, &self.rules, bytes, &mut parsed);
            if !std::mem::take(&mut parsed.introduced) {
                return Some(parsed);
            }
            if let Err(fault) = self.handle_introduction(now, id) {
                self.refuse_introduction(id, &mut parsed, fault);
            }
        }
    }

    /// A peer said who it is: it is welcome, or broke a rule about several connections of one node.
    fn handle_introduction(&mut self, now: Tick, id: PeerId) -> Result<(), Fault> {
        // It is about to learn that we close.
        let state = self
            .connection(id)
            .map(|connection| connection.peer.state());
        if !state.is_some_and(State::takes_input) {
            return Ok(());
        }
        match self.judge_node(now, id) {
            Ok(None) => {}
            Ok(Some(other)) => {
                let drain_ms = self.rules.drain_ms;
                log::debug!("peer {other} gives way to peer {id} of the same node");
                self.limit_to_replies(other);
                self.begin_finish(now, other, CloseReason::DuplicateNode, drain_ms);
            }
            Err(text) => return Err(Fault::Message(CloseReason::DuplicateNode, text)),
        }
        let rules = &self.rules;
        let place = self.connections.get_mut(id.index() as usize);
        if let Some(connection) = place {
            connection.peer.accept_introduction(now, rules);
        }
        self.admit(now, id);
        Ok(())
    }

    /// What came before the introduction is delivered only from a peer that somebody was told of.
    fn refuse_introduction(&mut self, id: PeerId, parsed: &mut Parsed, fault: Fault) {
        if self
            .connection(id)
            .is_none_or(|connection| !connection.told_connected)
        {
            *parsed = Parsed::default();
        }
        parsed.fault = Some(fault);
    }

    /// Follows up on what the bytes said.
    fn after_input(&mut self, now: Tick, id: PeerId, parsed: Parsed) {
        if let Some(fault) = parsed.fault {
            self.handle_fault(now, id, fault);
            self.give_up_node(id);
            return;
        }
        self.give_up_node(id);
        if parsed.said_bye {
            self.handle_bye(now, id);
        }
        self.list_writing(id);
        self.check_drained(now, id);
        self.end_useless(now, id);
        self.arm(now, id);
    }

    /// A peer that we dialled and that left before its OK has nothing to wait for.
    fn end_useless(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let is_unanswered = connection.standing == Standing::Dialled && !connection.told_connected;
        if let State::HalfClosed { reason, .. } = connection.peer.state() {
            if is_unanswered {
                self.begin_close(now, id, reason, LINGER_MS);
            }
        }
    }

    /// The peer broke the protocol. It is not read any more; what it sent before is delivered, and
    /// may be answered for as long as a flush may take.
    fn handle_fault(&mut self, now: Tick, id: PeerId, fault: Fault) {
        let rules = &self.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_none())
        else {
            return;
        };
        let (addr, reason) = (connection.peer.addr, fault.reason());
        if !connection.peer.state().takes_input() {
            connection.peer.end_reading_on(rules);
        } else if reason == CloseReason::AuthFailed && connection.peer.link.is_none() {
            connection.peer.begin_refusal(now, rules, reason);
        } else {
            connection
                .peer
                .begin_stop(now, rules, reason, LINGER_MS, false);
        }
        connection.pause = None;
        self.list_reading(id);
        self.note_mute(id);
        if let Some(suppressed) = self.ended.limit_log(now, reason.name(), addr) {
            // Of two services that connect to each other one is refused each time.
            let level = if reason == CloseReason::DuplicateNode {
                log::Level::Debug
            } else {
                log::Level::Warn
            };
            log::log!(level, "peer {id} at {addr}: {fault}{suppressed}");
        }
        self.list_writing(id);
        self.check_drained(now, id);
        self.arm(now, id);
    }

    /// Gives a buffer back that brought nothing.
    fn put_back(&mut self, id: PeerId, buffer: ReadBuffer) {
        let connection = self.connections.get_mut(id.index() as usize);
        match (buffer.kind, connection) {
            (BufferKind::Carry, Some(connection)) => {
                connection.peer.carry = buffer.bytes;
                // It may have grown for bytes that did not come.
                recharge_carry(&self.slots, connection);
            }
            (BufferKind::Vectored, _) => {
                if let Some(buffers) = buffer.vectored {
                    self.input.pool.put_vectored(buffers);
                }
            }
            (BufferKind::Carry | BufferKind::Block | BufferKind::Discard, _) => {
                self.input.pool.put_buffer(buffer.bytes);
            }
        }
    }

    /// Slices to write to a peer; the number filled is returned, zero if there is nothing to do.
    pub(crate) fn fill_slices<'a>(
        &'a mut self,
        id: PeerId,
        slices: &mut [IoSlice<'a>],
        bytes_max: usize,
    ) -> usize {
        let Some(connection) = self.connection(id) else {
            return 0;
        };
        if !connection.ready.has(Ready::WRITE) {
            return 0;
        }
        connection.peer.queue_pong();
        let bytes_max = bytes_max.min(connection.peer.offered_max());
        connection.peer.outbox.fill_slices(slices, bytes_max)
    }

    /// Whether so little waits for the peer that a few slices are enough.
    pub(crate) fn offers_few(&mut self, id: PeerId) -> bool {
        let connection = self.connection(id);
        connection
            .is_none_or(|connection| connection.peer.outbox.count_segments() <= SLICES_FEW / 2)
    }

    /// How far the write got. Returns how many bytes were taken.
    pub(crate) fn handle_written(
        &mut self,
        now: Tick,
        id: PeerId,
        offered: usize,
        result: io::Result<usize>,
    ) -> usize {
        let receiving = self.deadlines.receiving(now);
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.handle_write_error(now, id, &error);
                return 0;
            }
        };
        let Some(connection) = self.connections.get_mut(id.index() as usize) else {
            return 0;
        };
        let mut written = Traffic::default();
        let (types_out, type_map) = (&self.slots.ledger.types_out, &mut self.type_map);
        connection
            .peer
            .outbox
            .handle_written(taken, |message_type, traffic| {
                written.add(traffic);
                types_out.add(type_map.row(message_type, types_out), traffic);
            });
        if taken > 0 {
            connection.peer.handle_moved(now, receiving);
            connection.peer.handle_written(now, taken, written);
            connection.write_tried = false;
            connection.peer.handle_taken(receiving);
        }
        if taken < offered {
            connection.ready.clear(Ready::WRITE);
            connection.peer.handle_write_blocked(now);
        }
        self.slots.ledger.outbound_written.add(written);
        self.slots.ledger.outbound_queued.sub(written);
        if self.slots.add_written(id, written) && !self.slots.notify_room(id.index()) {
            self.lists.again.push(Again::NotifyRoom(id.index()));
        }
        self.check_watermarks(now, id);
        self.after_output(now, id);
        taken
    }

    /// Follows up on progress of writing: an outbox that ran empty may be the end of a close, and
    /// room in it may let the peer be read again.
    pub(super) fn after_output(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.has_more
            && !connection.peer.is_closing()
            && self.refill_output(now, id).is_err()
        {
            self.lists.again.push(Again::Dirty(id.index()));
        }
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.peer.is_written_out() {
            connection.peer.handle_all_written();
            self.slots.trim_lease(id);
            self.finish_drain(now, id);
        } else {
            let slack = connection.peer.outbox.slack_bytes();
            self.slots.note_slack(id, slack);
        }
        self.list_writing(id);
        self.reconsider_reading(now, id);
        self.check_drained(now, id);
        self.arm(now, id);
    }

    /// The connection broke. What it has left to read is read first, if there is anything.
    fn handle_write_error(&mut self, now: Tick, id: PeerId, error: &io::Error) {
        let reason = io_reason(error);
        self.note_failed(id);
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.ready.clear(Ready::WRITE);
        // What waits was to be written now, and may have to wait for long instead.
        let slack = connection.peer.outbox.slack_bytes();
        self.slots.note_slack(id, slack);
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.ready.has(Ready::READ)
            && connection.peer.takes_messages()
            && connection.pause.is_none()
        {
            connection.broken = Some(reason);
            self.list_reading(id);
        } else {
            self.leave(now, id, reason, true);
        }
    }
}

/// A block to read into, with the beginning of a frame copied in front.
fn block_space(pool: &mut BlockPool, carry: &[u8], limit: usize) -> ReadBuffer {
    let mut bytes = pool.take_buffer();
    bytes.extend_from_slice(carry);
    ReadBuffer::new(bytes, carry.len(), limit, BufferKind::Block)
}

/// Of a block with the frames that were parsed.
#[inline]
fn head_of(peer: PeerId, now: Now, parsed: &Parsed, credit: Traffic) -> BlockHead {
    let is_plain = !parsed.has_protocol;
    BlockHead {
        peer,
        received: now.instant,
        frames: parsed.frames,
        // A block of one type is one of nothing else.
        message_type: parsed.message_type.filter(|_| is_plain),
        has_protocol: parsed.has_protocol,
        has_correlation: parsed.has_correlation,
        frame_size: parsed.frame_size.filter(|_| is_plain),
        credit,
    }
}

/// Keeps the beginning of a frame, in storage of its size.
fn keep_remainder(carry: &mut Vec<u8>, rest: &[u8]) {
    if rest.is_empty() {
        // An idle connection holds no memory for frames.
        if carry.capacity() > 0 {
            *carry = Vec::new();
        }
        return;
    }
    carry.clear();
    carry.reserve_exact(rest.len());
    carry.extend_from_slice(rest);
}

fn io_reason(error: &io::Error) -> CloseReason {
    let kind = error.kind();
    let reset = matches!(
        kind,
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
    );
    // Keepalive and TCP_USER_TIMEOUT end in ETIMEDOUT, or in what a router said last.
    let stale = matches!(
        kind,
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    );
    if reset {
        CloseReason::Reset
    } else if stale || Errno::from_io_error(error) == Some(Errno::HOSTDOWN) {
        CloseReason::Stale
    } else {
        CloseReason::Io
    }
}

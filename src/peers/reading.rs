//! Reading of one connection: from the space for a read to the block that is dispatched.
//!
//! The event loop asks for space ([`Peers::prepare_read`]), reads, and says what came
//! ([`Peers::handle_read`]); each of the two looks the connection up once. A read into several
//! blocks is parsed block by block ([`Peers::handle_piece`]).
//!
//! Only a peer that says who it is makes other connections matter. So parsing stops there, the
//! table is asked (`introduction`), and parsing goes on.

use std::io;

use super::{
    connection::{Connection, Pause},
    output::recharge_carry,
    read_buffer::{BULK_BYTES, BufferKind, CARRY_COPIED_MAX, ReadBuffer, block_space},
    state::{Common, Peers, io_reason},
    vectored_read::{VectoredRead, vectored_limit},
};
use crate::{
    block::{BlockHead, BlockRef},
    clock::{Now, Tick},
    id::PeerId,
    ledger::Traffic,
    limits::{BLOCK_SIZE, CARRY_TRUSTED_MAX},
    peer::{Fault, Parsed, State},
    socket::Ready,
};

impl Peers {
    /// Space for the next read of a peer; `None` if it is not to be read now.
    pub(crate) fn prepare_read(&mut self, now: Tick, id: PeerId) -> Option<ReadBuffer> {
        let connection = self.connections.live(id)?;
        self.common.prepare_read(now, connection)
    }

    /// Lists a peer for the next turn if it has more to read.
    pub(crate) fn continue_reading(&mut self, id: PeerId) {
        if let Some(connection) = self.connections.live(id) {
            self.common.lists.list_reading(connection);
        }
    }

    /// What the read brought. The block, if there is one, is to be dispatched.
    pub(crate) fn handle_read(
        &mut self,
        now: Now,
        id: PeerId,
        mut buffer: ReadBuffer,
        result: io::Result<usize>,
    ) -> Option<BlockRef> {
        let Some(connection) = self.connections.live(id) else {
            let gone = self.connections.get_mut(id.index() as usize);
            self.common.put_back(gone, buffer);
            return None;
        };
        let count = match result {
            Ok(count) if count > 0 => count,
            Ok(_) => {
                connection.ready.clear(Ready::READ);
                self.common.put_back(Some(connection), buffer);
                self.common.handle_eof(now.tick, connection);
                return None;
            }
            Err(error) => {
                self.common.put_back(Some(connection), buffer);
                self.common.handle_read_error(connection, &error);
                return None;
            }
        };
        self.common.note_read(now.tick, connection, &buffer, count);
        if let Some(buffers) = buffer.vectored.take() {
            let vectored = VectoredRead::new(id, buffers, count);
            self.common.input.vectored = Some(vectored);
            return None;
        }
        match self.common.handle_input(now, connection, buffer, count) {
            Parse::Done(block) => block,
            Parse::Introduced(bytes) => self.go_on_introduced(now, id, bytes),
        }
    }

    /// Parses what a vectored read brought into its next block. The block that is returned, if
    /// there is one, is to be dispatched.
    pub(crate) fn handle_piece(&mut self, now: Now) -> Option<BlockRef> {
        let id = self.common.input.has_pieces_of()?;
        let mut connection = self.connections.live(id);
        let budget = &self.common.slots.ledger.budget;
        let input = &mut self.common.input;
        let buffer = input.take_piece(connection.as_deref_mut(), budget)?;
        let count = buffer.limit;
        match self.common.handle_input(now, connection?, buffer, count) {
            Parse::Done(block) => block,
            Parse::Introduced(bytes) => self.go_on_introduced(now, id, bytes),
        }
    }

    /// Goes on with bytes in which a peer said who it is.
    #[cold]
    fn go_on_introduced(&mut self, now: Now, id: PeerId, mut bytes: Unparsed) -> Option<BlockRef> {
        loop {
            self.introduce(now.tick, id, &mut bytes.parsed);
            let connection = self.connections.get_mut(id.index() as usize)?;
            match self.common.parse(now, connection, bytes) {
                Parse::Done(block) => return block,
                Parse::Introduced(again) => bytes = again,
            }
        }
    }
}

/// What became of the bytes of a read.
enum Parse {
    /// They are parsed, and this is the block of them that is to be dispatched.
    Done(Option<BlockRef>),
    /// The peer said who it is in their midst.
    Introduced(Unparsed),
}

/// Bytes of which a part is parsed.
struct Unparsed {
    buffer: ReadBuffer,
    /// Where they end in it.
    end: usize,
    parsed: Parsed,
}

impl Common {
    fn prepare_read(&mut self, now: Tick, connection: &mut Connection) -> Option<ReadBuffer> {
        if !connection.ready.has(Ready::READ) || connection.pause == Some(Pause::Closing) {
            return None;
        }
        if connection.peer.takes_messages() {
            let limit = self.allowance(now, connection);
            if let (None, Some(reason)) = (limit, connection.broken) {
                // Nothing will be written to it, and it may not be read on: that was it.
                self.leave(connection, reason, true);
            }
            return Some(self.space(connection, limit?));
        }
        // Where nothing is read, an error is to be fetched all the same.
        if !(connection.peer.discards() || connection.ready.has(Ready::ERROR)) {
            return None;
        }
        let bytes = self.input.pool.take_buffer();
        Some(ReadBuffer::new(bytes, 0, BLOCK_SIZE, BufferKind::Discard))
    }

    fn space(&mut self, connection: &mut Connection, limit: usize) -> ReadBuffer {
        let pool = &mut self.input.pool;
        let carried = connection.peer.carry.len();
        if carried <= CARRY_COPIED_MAX && !connection.in_bulk {
            return block_space(pool, &connection.peer.carry, limit);
        }
        let ahead_max = self.slots.ledger.budget.read_max();
        // A longer frame is read to where it lies, not copied there from block after block.
        let frame_size = connection.peer.carried_frame_size().unwrap_or(0);
        let is_vectored = connection.in_bulk && frame_size <= CARRY_TRUSTED_MAX;
        let vectored_limit = vectored_limit(limit, ahead_max);
        if is_vectored && vectored_limit > 0 {
            let vectored = Some(pool.take_vectored());
            return ReadBuffer {
                vectored,
                ..ReadBuffer::new(Vec::new(), 0, vectored_limit, BufferKind::Vectored)
            };
        }
        if carried <= CARRY_COPIED_MAX {
            return block_space(pool, &connection.peer.carry, limit);
        }
        connection.grow_carry(CARRY_COPIED_MAX, pool, ahead_max);
        let bytes = std::mem::take(&mut connection.peer.carry);
        ReadBuffer::new(bytes, carried, limit, BufferKind::Carry)
    }

    /// Notes that bytes came, and whether the socket may have more.
    fn note_read(&self, now: Tick, connection: &mut Connection, buffer: &ReadBuffer, count: usize) {
        // A read that left space has emptied the socket: the next byte makes a new edge. A FIN or
        // urgent bytes can be behind it all the same. In bulk it is read once more, see
        // `vectored_read`.
        let certain = !connection
            .ready
            .has(Ready::READ_CLOSED | Ready::URGENT | Ready::ERROR);
        if count < buffer.room() && certain && count < BULK_BYTES {
            connection.ready.clear(Ready::READ);
        }
        let receiving = self.deadlines.receiving(now);
        connection.peer.handle_moved(now, receiving);
        connection.peer.handle_heard(receiving);
        connection.in_bulk = buffer.is_filled_by(count);
    }

    fn handle_read_error(&mut self, connection: &mut Connection, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            connection.ready.clear(Ready::READ);
            if let Some(reason) = connection.broken {
                self.leave(connection, reason, true);
            }
        } else {
            // The system does not tell of it again.
            connection.failed = true;
            self.leave(connection, io_reason(error), true);
        }
    }

    fn handle_eof(&mut self, now: Tick, connection: &mut Connection) {
        if let Some(reason) = connection.broken {
            self.leave(connection, reason, true);
            return;
        }
        let partial = connection.peer.handle_eof(now, &self.rules);
        let reason = connection.closing_reason();
        recharge_carry(&self.slots, connection);
        if partial {
            self.slots.ledger.partial_frames.add(1);
        }
        if matches!(connection.peer.state(), State::Lingering { .. }) {
            self.end_linger(now, connection, reason);
            return;
        }
        self.note_mute(connection);
        self.nodes.give_up(connection);
        self.check_drained(now, connection);
        self.end_useless(now, connection);
        if connection.leaving.is_none() {
            self.look_before_bye(connection);
        }
        self.deadlines.arm(now, connection, &self.rules);
    }

    /// Takes what was read of a connection.
    fn handle_input(
        &mut self,
        now: Now,
        connection: &mut Connection,
        buffer: ReadBuffer,
        count: usize,
    ) -> Parse {
        let end = buffer.start + buffer.carried + count;
        if buffer.kind == BufferKind::Discard || !connection.peer.takes_messages() {
            let bytes = &buffer.bytes[buffer.start..end];
            connection.peer.discard(&self.rules, bytes);
            self.input.pool.put_buffer(buffer.bytes);
            return Parse::Done(None);
        }
        let parsed = Parsed::default();
        let bytes = Unparsed {
            buffer,
            end,
            parsed,
        };
        self.parse(now, connection, bytes)
    }

    /// Parses to the end, or until the peer has said who it is.
    fn parse(&mut self, now: Now, connection: &mut Connection, mut unparsed: Unparsed) -> Parse {
        let receiving = self.deadlines.receiving(now.tick);
        let bytes = &unparsed.buffer.bytes[unparsed.buffer.start..unparsed.end];
        let parsed = &mut unparsed.parsed;
        let peer = &mut connection.peer;
        peer.handle_bytes(now.tick, receiving, &self.rules, bytes, parsed);
        if std::mem::take(&mut parsed.introduced) {
            return Parse::Introduced(unparsed);
        }
        Parse::Done(self.take_parsed(now, connection, unparsed))
    }

    /// Makes a block of the whole frames that no handler takes, and keeps what is left behind them.
    fn take_parsed(
        &mut self,
        now: Now,
        connection: &mut Connection,
        unparsed: Unparsed,
    ) -> Option<BlockRef> {
        let Unparsed {
            mut buffer,
            end,
            mut parsed,
        } = unparsed;
        let start = buffer.start;
        if connection.pending {
            self.note_first(connection);
        }
        self.input.in_hand = parsed.traffic();
        self.slots.ledger.inbound.add(self.input.in_hand);
        // Bytes of whole frames that are left for the dispatcher.
        let size = if self.handling.handlers.is_some() {
            let bytes = &mut buffer.bytes[start..end];
            self.handling
                .run(now, &self.slots, connection, bytes, &mut parsed)
        } else {
            parsed.consumed
        };
        self.input.in_hand = parsed.traffic();
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
            peer.counts.read.add(traffic);
            let head = head_of(peer.id, now, &parsed, traffic);
            let pool = &mut self.input.pool;
            pool.make(&mut buffer.bytes, start, size, head)
        });
        let goes_on = peer.takes_messages() && parsed.fault.is_none();
        if buffer.kind == BufferKind::Carry && !whole_frames && goes_on {
            peer.carry = buffer.bytes;
        } else {
            self.input.pool.put_buffer(buffer.bytes);
        }
        recharge_carry(&self.slots, connection);
        self.after_input(now.tick, connection, &parsed);
        block
    }

    /// Looks whether a peer has sent what was due first.
    fn note_first(&self, connection: &mut Connection) {
        let came = if self.rules.hello_required {
            connection.told_connected
        } else {
            connection.peer.has_spoken()
        };
        if came {
            self.admission.forget_pending(connection);
        }
    }

    /// Follows up on what the bytes said.
    fn after_input(&mut self, now: Tick, connection: &mut Connection, parsed: &Parsed) {
        if let Some(fault) = parsed.fault {
            self.handle_fault(now, connection, fault);
            self.nodes.give_up(connection);
            return;
        }
        self.nodes.give_up(connection);
        if parsed.said_bye {
            self.handle_bye(now, connection);
        }
        self.lists.list_writing(connection);
        self.check_drained(now, connection);
        self.end_useless(now, connection);
        self.deadlines.arm(now, connection, &self.rules);
    }

    /// Gives a buffer back that brought nothing.
    fn put_back(&mut self, connection: Option<&mut Connection>, buffer: ReadBuffer) {
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

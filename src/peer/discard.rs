//! Input that comes while a connection is being closed and goes to no subscriber: it is counted,
//! and not kept.
//!
//! The stream is followed from header to header, so that whole messages are counted as long as that
//! can be done; behind a framing error only bytes are. Frames of the protocol are not counted.
//! Checksums are not looked at: what is thrown away need not be right.

use crate::{frame::Header, ledger::Traffic, limits::HEADER_SIZE};

/// What was discarded of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Discarded {
    header: [u8; HEADER_SIZE],
    /// Bytes of the next header that have come.
    header_size: usize,
    /// Bytes that have not come of the frame whose header was read last.
    frame_left: usize,
    is_protocol: bool,
    /// Nothing can be told of what follows but its bytes.
    is_unframed: bool,
    sum: Traffic,
}

impl Discarded {
    /// Counts bytes that begin where the last ones ended. A frame whose length is above
    /// `length_max` ends the counting of messages.
    pub(super) fn add(&mut self, mut bytes: &[u8], length_max: u32) {
        while !bytes.is_empty() {
            if self.is_unframed {
                self.sum.bytes += bytes.len() as u64;
                return;
            }
            let count = if self.frame_left > 0 {
                self.pass_frame(bytes.len())
            } else {
                self.pass_header(bytes, length_max)
            };
            bytes = &bytes[count..];
        }
    }

    fn pass_frame(&mut self, available: usize) -> usize {
        let count = available.min(self.frame_left);
        self.frame_left -= count;
        self.count(count);
        count
    }

    fn pass_header(&mut self, bytes: &[u8], length_max: u32) -> usize {
        let count = bytes.len().min(HEADER_SIZE - self.header_size);
        let place = self.header_size..self.header_size + count;
        self.header[place].copy_from_slice(&bytes[..count]);
        self.header_size += count;
        let Some(header) = Header::read(&self.header[..self.header_size]) else {
            return count;
        };
        self.header_size = 0;
        if !header.is_plausible(length_max) {
            self.is_unframed = true;
            self.sum.bytes += HEADER_SIZE as u64;
            return count;
        }
        self.is_protocol = header.message_type.is_protocol();
        self.frame_left = header.frame_size() - HEADER_SIZE;
        self.count(HEADER_SIZE);
        count
    }

    /// Counts bytes of the frame under way, and the frame if they were its last.
    fn count(&mut self, bytes: usize) {
        if !self.is_protocol {
            let messages = u64::from(self.frame_left == 0);
            self.sum.add(Traffic::new(messages, bytes as u64));
        }
    }

    /// Counts bytes of which nothing else is known. What follows them cannot be parsed.
    pub(super) fn add_unseen(&mut self, bytes: u64) {
        if bytes > 0 {
            self.lose_framing();
            self.sum.bytes += bytes;
        }
    }

    /// Where the next frame begins is not known any more.
    pub(super) fn lose_framing(&mut self) {
        self.sum.bytes += self.header_size as u64;
        self.header_size = 0;
        self.frame_left = 0;
        self.is_unframed = true;
    }

    /// All that was counted.
    pub(super) fn sum(&self) -> Traffic {
        let mut sum = self.sum;
        sum.bytes += self.header_size as u64;
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{frame::Frame, id::MessageType};

    const LENGTH_MAX: u32 = 1024;

    fn encoded(message_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = Frame::new(MessageType(message_type), payload);
        frame.encode(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        /// However the bytes are cut, the same is counted: whole messages of the application, and
        /// the bytes of those and of the one that was cut off.
        #[test]
        fn whole_messages_are_counted_however_they_are_cut(
            frames in prop::collection::vec((0_u16..=u16::MAX, 0_usize..64), 0..20),
            cuts in prop::collection::vec(1_usize..40, 1..40),
            end in 0_usize..2_000,
        ) {
            let mut bytes = Vec::new();
            let mut expected = Traffic::default();
            for (message_type, size) in frames {
                let frame = encoded(message_type, &vec![7; size]);
                let (start, whole) = (bytes.len(), bytes.len() + frame.len());
                bytes.extend_from_slice(&frame);
                let came = end.min(whole).saturating_sub(start);
                let is_known = came < HEADER_SIZE;
                if is_known || !MessageType(message_type).is_protocol() {
                    let messages = u64::from(came == frame.len());
                    expected.add(Traffic::new(messages, came as u64));
                }
            }
            bytes.truncate(end);
            let mut discarded = Discarded::default();
            let (mut rest, mut cuts) = (&bytes[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let size = cuts.next().unwrap().min(rest.len());
                discarded.add(&rest[..size], LENGTH_MAX);
                rest = &rest[size..];
            }
            prop_assert_eq!(discarded.sum(), expected);
        }
    }

    #[test]
    fn behind_a_framing_error_only_bytes_are_counted() {
        let whole = encoded(7, b"one");
        for bad in [
            encoded(7, &[0; 2_000]),
            b"\0\0\0\x03\0\x07\0\x01".to_vec(),
            b"\0\0\0\x04\0\x07\0\x02".to_vec(),
            b"\0\0\0\x04\0\x07\x80\x01".to_vec(),
        ] {
            let bytes = [&*whole, &bad, &whole].concat();
            let mut discarded = Discarded::default();
            discarded.add(&bytes, LENGTH_MAX);
            assert_eq!(discarded.sum(), Traffic::new(1, bytes.len() as u64));
        }
        let mut unseen = Discarded::default();
        unseen.add(&whole[..5], LENGTH_MAX);
        unseen.add_unseen(100);
        unseen.add(&whole, LENGTH_MAX);
        assert_eq!(unseen.sum(), Traffic::new(0, 5 + 100 + whole.len() as u64));
    }
}

//! How far a connection is towards its end, apart from its state.

use super::discard::Discarded;

/// What each side has said of the end.
///
/// Invariants: `reads_on` is false while the state itself takes input, and after the peer's BYE or
/// FIN; once `eof`, `bye_received` and `abandoned` are set they stay.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// The peer's FIN came.
    pub(crate) eof: bool,
    /// We close, and what the peer sends before it knows is taken in: until its BYE or FIN, or a
    /// fault. False while the state itself takes input.
    pub(super) reads_on: bool,
    /// It reads nothing more: of what is queued only the frame that has begun is finished.
    pub(super) abandoned: bool,
    /// The code of its BYE.
    pub(crate) bye_received: Option<u16>,
    /// Input that came while we closed and went to no subscriber. Made with the first of it.
    pub(super) discarded: Option<Box<Discarded>>,
}

impl Ending {
    /// Whether neither side has said anything of it.
    pub(super) fn is_untouched(&self) -> bool {
        let Self {
            eof,
            reads_on,
            abandoned,
            bye_received,
            discarded,
        } = self;
        !(*eof || *reads_on || *abandoned) && bye_received.is_none() && discarded.is_none()
    }
}

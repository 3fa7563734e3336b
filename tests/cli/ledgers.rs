//! What services print at their ends, held against what all others say who spoke with them.

/// Messages, of one or several services: from the reports that they print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) received: u64,
    pub(crate) written: u64,
    pub(crate) discarded: u64,
    pub(crate) unconfirmed: u64,
}

impl Ledger {
    /// Reads the report in what a service logged.
    #[track_caller]
    pub(crate) fn of_report(log: &str) -> Self {
        let number = |line: &str, before: &str| {
            let (_, rest) = log.split_once(line)?;
            let (rest, _) = rest.split_once('\n').unwrap_or((rest, ""));
            let (text, _) = rest.split_once(before)?;
            text.rsplit([' ', ',']).next()?.parse().ok()
        };
        let known = |found: Option<u64>| found.unwrap_or_else(|| panic!("no report: {log}"));
        Self {
            received: known(number("  received: ", " messages")),
            written: known(number("  sent: ", " written")),
            // These stand there only if there is something to say.
            discarded: number("  discarded after the close: ", " messages").unwrap_or(0),
            unconfirmed: number("  unconfirmed: ", " messages").unwrap_or(0),
        }
    }

    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            written: self.written + other.written,
            discarded: self.discarded + other.discarded,
            unconfirmed: self.unconfirmed + other.unconfirmed,
        }
    }

    /// Of services that spoke with each other, and with clients that said and heard so much: what
    /// was written by any of them came to another one.
    #[track_caller]
    pub(crate) fn assert_agrees_with(self, said: usize, heard: usize) {
        let (said, heard) = (said as u64, heard as u64);
        let (written, received) = (self.written + said, self.received + heard + self.discarded);
        assert!(received <= written, "{self:?}, {said} said, {heard} heard");
        assert!(
            written <= received + self.unconfirmed,
            "{self:?}, {said} said, {heard} heard"
        );
    }
}

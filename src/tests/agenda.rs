//! Who acts next, of many.

use std::collections::BTreeSet;

use crate::clock::Tick;

/// When each of the clients acts next.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    at: Vec<Tick>,
    due: BTreeSet<usize>,
    later: BTreeSet<(Tick, usize)>,
}

impl Agenda {
    /// One more client.
    pub(super) fn push(&mut self, at: Tick) {
        self.later.insert((at, self.at.len()));
        self.at.push(at);
    }

    pub(super) fn set(&mut self, index: usize, at: Tick) {
        if !self.due.remove(&index) {
            self.later.remove(&(self.at[index], index));
        }
        self.at[index] = at;
        self.later.insert((at, index));
    }

    /// Those are due whose time has come.
    pub(super) fn advance(&mut self, now: Tick) {
        while let Some((at, index)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, index));
            self.due.insert(index);
        }
    }

    /// The first from there on that is due.
    pub(super) fn due_from(&self, index: usize) -> Option<usize> {
        self.due.range(index..).next().copied()
    }

    /// When somebody acts next.
    pub(super) fn next(&self) -> Option<Tick> {
        let due = self.due.iter().map(|index| self.at[*index]);
        due.chain(self.later.first().map(|(at, _)| *at)).min()
    }
}

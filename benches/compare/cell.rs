//! One field of a workload's table.

/// What is varied, each by a letter of the cell's name: `c16p256`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// `c`: connections that send.
    pub(crate) connections: usize,
    /// `p`: bytes of payload.
    pub(crate) payload: usize,
    /// `s`
    pub(crate) subscribers: usize,
    /// `t`: message types, shared out to the subscribers if there are several.
    pub(crate) types: usize,
    /// `i`, beside others, or `n`: connections that send nothing.
    pub(crate) idle: usize,
    /// Whether payloads are so long on average only.
    pub(crate) varied: bool,
    /// `r`: messages a second.
    pub(crate) rate: usize,
}

impl Cell {
    /// From a name that has the given letters in their order; the others are as in `base`.
    pub(crate) fn from_name(name: &str, letters: &str, base: Self) -> Option<Self> {
        let (mut cell, mut rest) = (base, name);
        for letter in letters.chars() {
            rest = rest.strip_prefix(letter)?;
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let value = rest[..end].parse().ok()?;
            if value == 0 && letter != 'i' {
                return None;
            }
            *cell.field(letter) = value;
            rest = &rest[end..];
        }
        // A payload carries its number.
        (rest.is_empty() && cell.payload >= 8).then_some(cell)
    }

    fn field(&mut self, letter: char) -> &mut usize {
        match letter {
            'c' => &mut self.connections,
            'p' => &mut self.payload,
            's' => &mut self.subscribers,
            't' => &mut self.types,
            'i' | 'n' => &mut self.idle,
            'r' => &mut self.rate,
            _ => panic!("{letter} is no letter of a cell"),
        }
    }
}

/// One connection, 64 bytes, one subscriber to one type.
pub(crate) const PLAIN: Cell = Cell {
    connections: 1,
    payload: 64,
    subscribers: 1,
    types: 1,
    idle: 0,
    varied: false,
    rate: 0,
};

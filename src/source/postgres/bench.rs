//! For `benches/micro.rs` alone: the holes of a reader, which are private and stay so. No part of the library's interface.

use super::holes;

/// The holes of a reader.
#[derive(Debug)]
pub struct Holes(holes::Holes);

/// So many, each of one `seq`: the even ones.
#[must_use]
pub fn holes(count: i64) -> Holes {
    let mut all = Holes(holes::Holes::default());
    (0..count).for_each(|number| all.open(2 * number));
    all
}

impl Holes {
    /// A read has not shown `seq`.
    pub fn open(&mut self, seq: i64) {
        self.0.open_range(seq, seq + 1, None);
    }

    /// A read shows a row there.
    pub fn shown(&mut self, seq: i64) {
        self.0.shown(seq);
    }

    /// How many ranges a read asks for, gathered as for its statement.
    #[must_use]
    pub fn asked_for(&self) -> usize {
        self.0.ranges(false).collect::<Vec<_>>().len()
    }
}

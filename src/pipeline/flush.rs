//! The ledger of a running pipeline: what was acknowledged, what is stored of it, and what waits to be stored.

use crate::ledger::{MAX_STORED_RANGES, RangeSet};
use crate::sabotage::{self, Sabotage};
use crate::source::{DeadLetter, Flush, StoredLedger};

/// A ledger in memory. It is ahead of the stored one by what was acknowledged since the last flush.
#[derive(Debug)]
pub(super) struct Ledger {
    delivered: RangeSet,
    /// Closed holes that are still to be looked at once more.
    closed: RangeSet,
    /// Those of them that were closed before the last look: the next one is theirs.
    aged: RangeSet,
    /// Refused events: they count as delivered once they are stored as dead letters.
    refused: Vec<DeadLetter>,
    dirty: bool,
}

/// A flush on its way, and what it settles when it has succeeded.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) flush: Flush,
    /// Acknowledgements that the stored ledger has no room for.
    pub(super) left_out: u64,
}

impl Ledger {
    pub(super) fn new(stored: StoredLedger) -> Self {
        Self {
            delivered: stored.delivered,
            aged: stored.closed.clone(),
            closed: stored.closed,
            refused: Vec::new(),
            dirty: false,
        }
    }

    /// The broker acknowledged `seq`, or a route skips it.
    pub(super) fn delivered(&mut self, seq: i64) {
        debug_assert!(
            !self.delivered.contains(seq) || sabotage::is_on(Sabotage::EarlyLedger),
            "{seq} was delivered twice in one session"
        );
        self.delivered.insert(seq);
        self.dirty = true;
    }

    /// The row of `seq` was deleted by somebody else. It may be reported more than once.
    pub(super) fn gone(&mut self, seq: i64) {
        self.delivered.insert(seq);
        self.dirty = true;
    }

    /// These holes were proven dead.
    pub(super) fn closed(&mut self, closed: &RangeSet) {
        if closed.is_empty() {
            return;
        }
        self.delivered.extend(closed);
        self.closed.extend(closed);
        // Looking once more is a safeguard, and the newest holes are the ones to doubt.
        let excess = self.closed.len().saturating_sub(MAX_STORED_RANGES);
        let oldest_kept = self.closed.iter().nth(excess).map(|(first, _)| first);
        self.closed
            .remove_range(i64::MIN, oldest_kept.unwrap_or(i64::MIN));
        self.dirty = true;
    }

    /// Whether there are closed holes to be looked at once more.
    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// The closed holes whose time has come, as they have been closed for a while.
    pub(super) fn aged(&self) -> &RangeSet {
        &self.aged
    }

    /// From now on it is the turn of all that are closed.
    pub(super) fn age(&mut self) {
        self.aged = self.closed.clone();
    }

    /// `looked` was looked at, and `late` found there: it is still to be delivered. The rest needs nothing more.
    pub(super) fn looked_at(&mut self, looked: &RangeSet, late: &RangeSet) {
        self.delivered.subtract(late);
        self.closed.subtract(looked);
        self.age();
        self.dirty |= !looked.is_empty();
    }

    /// The broker refused an event for good.
    pub(super) fn refused(&mut self, letter: DeadLetter) {
        self.refused.push(letter);
        self.dirty = true;
    }

    /// Whether there is something to store.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether dead letters wait to be stored: their keys wait with them.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// What a flush has to write now.
    pub(super) fn begin_flush(&mut self) -> Pending {
        self.dirty = false;
        let dead_letters = std::mem::take(&mut self.refused);
        let stored = if dead_letters.is_empty() {
            self.delivered.stored(MAX_STORED_RANGES)
        } else {
            let mut with_dead = self.delivered.clone();
            dead_letters
                .iter()
                .for_each(|letter| with_dead.insert(letter.event.seq));
            with_dead.stored(MAX_STORED_RANGES)
        };
        Pending {
            left_out: stored.left_out,
            flush: Flush {
                delivered: stored.text,
                closed: self.closed.stored(MAX_STORED_RANGES).text,
                dead_letters,
            },
        }
    }

    /// The flush succeeded: its dead letters need nothing more.
    pub(super) fn flushed(&mut self, pending: &Pending) {
        for letter in &pending.flush.dead_letters {
            self.delivered.insert(letter.event.seq);
        }
    }

    /// The flush failed: everything in it is still to be stored.
    pub(super) fn flush_failed(&mut self, pending: Pending) {
        let mut refused = pending.flush.dead_letters;
        refused.append(&mut self.refused);
        self.refused = refused;
        self.dirty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::numbered;

    fn ledger() -> Ledger {
        Ledger::new(StoredLedger {
            sink: "s".into(),
            delivered: RangeSet::new(),
            closed: RangeSet::new(),
        })
    }

    fn letter(seq: i64) -> DeadLetter {
        DeadLetter {
            event: numbered(seq),
            reason: "no".into(),
            attempts: 1,
        }
    }

    #[test]
    fn a_dead_letter_counts_only_with_the_flush_that_stores_it() {
        let mut ledger = ledger();
        ledger.delivered(1);
        ledger.refused(letter(2));
        let pending = ledger.begin_flush();
        assert_eq!(pending.flush.delivered, "{[1,3)}");
        ledger.delivered(3);
        ledger.flush_failed(pending);
        assert!(ledger.has_refused() && ledger.is_dirty());
        let pending = ledger.begin_flush();
        assert_eq!(
            (
                pending.flush.delivered.as_str(),
                pending.flush.dead_letters.len()
            ),
            ("{[1,4)}", 1)
        );
        ledger.flushed(&pending);
        assert_eq!(ledger.begin_flush().flush.delivered, "{[1,4)}");
    }

    #[test]
    fn a_closed_hole_is_looked_at_between_one_and_two_looks_later() {
        let range = |first, end| RangeSet::from_iter([(first, end)]);
        let mut ledger = ledger();
        ledger.closed(&range(1, 5));
        assert!(ledger.has_closed() && ledger.aged().is_empty());
        ledger.age();
        assert_eq!(ledger.aged(), &range(1, 5));
        ledger.closed(&range(8, 9));
        ledger.looked_at(&range(1, 5), &range(2, 3));
        let flush = ledger.begin_flush().flush;
        assert_eq!(
            flush.delivered, "{[1,2),[3,5),[8,9)}",
            "2 is still to be delivered"
        );
        assert_eq!(flush.closed, "{[8,9)}");
        assert_eq!(ledger.aged(), &range(8, 9));
    }

    #[test]
    fn only_the_newest_closed_holes_are_looked_at_once_more() {
        let mut ledger = ledger();
        for seq in (0..2_500).step_by(2) {
            ledger.closed(&std::iter::once((seq, seq + 1)).collect());
        }
        let closed = RangeSet::parse(&ledger.begin_flush().flush.closed).expect("a multirange");
        assert_eq!(closed.len(), MAX_STORED_RANGES);
        assert!(closed.contains(2_498) && !closed.contains(0));
    }
}

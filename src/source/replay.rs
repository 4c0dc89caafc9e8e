//! Replay: events that a sink was sent are sent to it once more.
//!
//! What is replayed is taken out of the sink's ledger, in one transaction that also stamps a fresh token on it: a
//! relay that runs drops what it remembers of that pipeline within about a second, reads the ledger anew, and finds
//! gaps to deliver, in the order of `seq`. No other ledger is touched, and settling, which needs every ledger, leaves
//! the rows alone until they are delivered again.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::SourceError;
use crate::ledger::RangeSet;
use crate::route::Pattern;

/// Rows looked at per statement.
pub const STEP: usize = 10_000;

/// Ranges that one replay takes out of a ledger at most: readers look each of them up until it has been read. What is
/// between two chosen rows belongs to their range, so that only rows which are not chosen divide them.
pub const MAX_REPLAY_RANGES: usize = 10_000;

/// The outbox of one source of one relay, as far as a replay needs it.
#[async_trait]
pub trait Replays: Send + Sync {
    /// The next rows above `after`, up to and including `through`, `limit` of them at most, in the order of `seq`.
    async fn rows(
        &self,
        sink: &str,
        after: i64,
        through: i64,
        limit: usize,
    ) -> Result<Vec<Candidate>, SourceError>;

    /// Takes `events` out of what the ledger of `sink` has delivered, and stamps a fresh token on it. Closed holes that
    /// are still to be looked at once more stay as they are.
    async fn take_back(&self, sink: &str, events: &RangeSet) -> Result<TakenBack, SourceError>;
}

/// A row that may be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the outbox.
    pub seq: i64,
    /// The event's type.
    pub event_type: String,
    /// Its ordering key.
    pub aggregate_id: Option<String>,
    /// When it was written; `None`: that can't be read.
    pub created_at: Option<DateTime<Utc>>,
    /// Whether it stands in the sink's dead letters.
    pub is_dead: bool,
}

/// What became of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// The events are to be delivered again.
    Done,
    /// Nothing was done: the sink has no ledger.
    NoLedger,
    /// Nothing was done: the ledger would have more ranges than
    /// [`MAX_RETRY_RANGES`](super::dead_letters::MAX_RETRY_RANGES).
    Full,
}

impl TakenBack {
    /// Whether anything was done, and is to stay.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn is_done(&self) -> bool {
        *self == Self::Done
    }
}

/// Which events are meant: those that satisfy everything that is given.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// From this `seq` on.
    pub from_seq: Option<i64>,
    /// Up to and including this `seq`.
    pub to_seq: Option<i64>,
    /// Written at this time or later.
    pub from_time: Option<DateTime<Utc>>,
    /// Written before this time.
    pub to_time: Option<DateTime<Utc>>,
    /// With one of these ordering keys; empty: with any or none.
    pub keys: Vec<String>,
    /// Of a type that one of these matches; empty: of any.
    pub event_types: Vec<Pattern>,
}

/// What a look through the rows has chosen.
#[derive(Debug, Default)]
pub struct Choice {
    /// What is to be taken out of the ledger.
    pub ranges: RangeSet,
    /// How many of the selected rows the sink was sent.
    pub events: u64,
    /// How many the sink was not sent yet: it will be anyway.
    pub undelivered: u64,
    /// How many stand in its dead letters, and stay there.
    pub dead: u64,
    /// The lowest row that was left for another replay, for the ranges had become too many.
    pub left_from: Option<i64>,
    /// The first `seq` of the range that goes on if the next row is chosen, too.
    run: Option<i64>,
}

impl Selection {
    /// The `seq` to look at, of a ledger that has `delivered`: the first and the last.
    #[must_use]
    pub fn span(&self, delivered: &RangeSet) -> (i64, i64) {
        /// `seq` is drawn from 1 on.
        const FIRST_SEQ: i64 = 1;
        let first = self.from_seq.unwrap_or(FIRST_SEQ).max(FIRST_SEQ);
        let last = delivered.end().map_or(0, |end| end - 1);
        (first, self.to_seq.map_or(last, |to| to.min(last)))
    }

    /// Whether it takes a row of its span.
    #[must_use]
    pub fn takes(&self, row: &Candidate) -> bool {
        let in_time = |time: DateTime<Utc>| {
            self.from_time.is_none_or(|from| time >= from)
                && self.to_time.is_none_or(|to| time < to)
        };
        let any_time = self.from_time.is_none() && self.to_time.is_none();
        let key = row.aggregate_id.as_ref();
        (any_time || row.created_at.is_some_and(in_time))
            && (self.keys.is_empty() || key.is_some_and(|key| self.keys.contains(key)))
            && (self.event_types.is_empty()
                || self.event_types.iter().any(|p| p.matches(&row.event_type)))
    }
}

impl Choice {
    /// Takes the next row in. False: it is one range too many, and the look is over.
    pub fn see(&mut self, row: &Candidate, which: &Selection, delivered: &RangeSet) -> bool {
        let mut is_chosen = which.takes(row);
        if is_chosen && !delivered.contains(row.seq) {
            self.undelivered += 1;
            is_chosen = false;
        } else if is_chosen && row.is_dead {
            self.dead += 1;
            is_chosen = false;
        }
        if !is_chosen {
            self.run = None;
            return true;
        }
        if self.run.is_none() && self.ranges.len() >= MAX_REPLAY_RANGES {
            self.left_from = Some(row.seq);
            return false;
        }
        let first = *self.run.get_or_insert(row.seq);
        self.ranges.insert_range(first, row.seq + 1);
        self.events += 1;
        true
    }
}

/// Takes `events` out of what a ledger has delivered, but for holes that are `closed` and not looked at once more.
/// False: it would have too many ranges, and nothing of it is to be stored.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) fn take_out(delivered: &mut RangeSet, closed: &RangeSet, events: &RangeSet) -> bool {
    let mut events = events.clone();
    events.subtract(closed);
    delivered.subtract(&events);
    delivered.len() <= super::dead_letters::MAX_RETRY_RANGES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64, event_type: &str, key: Option<&str>) -> Candidate {
        Candidate {
            seq,
            event_type: event_type.into(),
            aggregate_id: key.map(Into::into),
            created_at: DateTime::from_timestamp(seq, 0),
            is_dead: false,
        }
    }

    fn ranges(text: &str) -> RangeSet {
        RangeSet::parse(text).expect("a multirange")
    }

    fn chosen(rows: &[Candidate], which: &Selection, delivered: &str) -> Choice {
        let mut choice = Choice::default();
        for row in rows {
            assert!(choice.see(row, which, &ranges(delivered)));
        }
        choice
    }

    #[test]
    fn rows_that_are_not_chosen_divide_ranges_and_gaps_do_not() {
        let mut rows = vec![
            row(1, "A", None),
            row(4, "A", None),
            row(5, "B", None),
            row(6, "A", None),
            row(9, "A", None),
            row(10, "A", None),
            row(11, "A", None),
        ];
        rows[4].is_dead = true;
        let which = Selection {
            event_types: vec![Pattern::parse("A*").expect("a pattern")],
            ..Selection::default()
        };
        let choice = chosen(&rows, &which, "{[1,11)}");
        assert_eq!(choice.ranges, ranges("{[1,5),[6,7),[10,11)}"));
        let counts = (choice.events, choice.dead, choice.undelivered);
        assert_eq!(counts, (4, 1, 1));
        assert_eq!(which.span(&ranges("{[1,11)}")), (1, 10));
    }

    #[test]
    fn everything_that_is_given_must_hold() {
        let time = |seconds| DateTime::from_timestamp(seconds, 0);
        let which = Selection {
            from_time: time(2),
            to_time: time(5),
            keys: vec!["k".into(), "l".into()],
            ..Selection::default()
        };
        let rows: Vec<Candidate> = (1..=6).map(|seq| row(seq, "A", Some("k"))).collect();
        let takes = |row: &Candidate| which.takes(row);
        let seqs: Vec<i64> = rows
            .iter()
            .filter(|row| takes(row))
            .map(|r| r.seq)
            .collect();
        assert_eq!(seqs, [2, 3, 4]);
        assert!(!takes(&row(3, "A", None)) && !takes(&row(3, "A", Some("m"))));
        let mut timeless = row(3, "A", Some("l"));
        assert!(takes(&timeless));
        timeless.created_at = None;
        assert!(!takes(&timeless));
    }

    #[test]
    fn a_replay_ends_where_its_ranges_become_too_many() {
        let which = Selection {
            event_types: vec![Pattern::parse("A").expect("a pattern")],
            ..Selection::default()
        };
        let mut choice = Choice::default();
        let delivered = ranges("{[1,100000)}");
        let is_over = |seq: &i64| {
            let event_type = if seq % 2 == 0 { "A" } else { "B" };
            !choice.see(&row(*seq, event_type, None), &which, &delivered)
        };
        assert_eq!((1..100_000).find(is_over), Some(20_002));
        assert_eq!(choice.ranges.len(), MAX_REPLAY_RANGES);
        assert_eq!(choice.left_from, Some(20_002));
    }

    #[test]
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn closed_holes_stay_closed() {
        let mut delivered = ranges("{[1,10)}");
        assert!(take_out(
            &mut delivered,
            &ranges("{[4,5)}"),
            &ranges("{[3,7)}")
        ));
        assert_eq!(delivered, ranges("{[1,3),[4,5),[7,10)}"));
    }
}

//! The ledger of a pipeline: which `seq` need nothing more.
//!
//! Owns the algebra of ranges and their text form (`int8multirange`). Knows nothing of events or databases.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Ranges stored per ledger at most. PostgreSQL takes 4 ms per operation at 20,000; what is left out is
/// delivered again after a crash.
pub const MAX_STORED_RANGES: usize = 1_000;

/// A set of `seq`, kept as disjoint ranges that never touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First → one past the last.
    ranges: BTreeMap<i64, i64>,
}

/// The ranges of a ledger that are worth storing, and how much they leave out.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// The `int8multirange` literal.
    pub text: String,
    /// How many `seq` of the set it lacks.
    pub left_out: u64,
}

/// A text that is no `int8multirange` of finite bounds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a multirange of whole numbers with finite bounds")]
pub struct InvalidMultirange(String);

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one `seq`.
    pub fn insert(&mut self, seq: i64) {
        self.insert_range(seq, seq + 1);
    }

    /// Adds `first..end`, the end excluded. An empty range changes nothing.
    pub fn insert_range(&mut self, first: i64, end: i64) {
        if first >= end {
            return;
        }
        let mut first = first;
        let mut end = end;
        if let Some((&lower, lower_end)) = self.ranges.range_mut(..=first).next_back()
            && *lower_end >= first
        {
            if *lower_end >= end {
                return;
            }
            // The common case, an event behind the one before: grow in place unless the next range is met.
            let next = self.ranges.range(first + 1..).next().map(|(&next, _)| next);
            if next.is_none_or(|next| next > end) {
                self.ranges.insert(lower, end);
                return;
            }
            first = lower;
        }
        while let Some((&upper, &upper_end)) = self.ranges.range(first..=end).next() {
            end = end.max(upper_end);
            self.ranges.remove(&upper);
        }
        self.ranges.insert(first, end);
    }

    /// Takes `first..end`, the end excluded, out of the set.
    pub fn remove_range(&mut self, first: i64, end: i64) {
        if first >= end {
            return;
        }
        if let Some((&lower, &lower_end)) = self.ranges.range(..first).next_back()
            && lower_end > first
        {
            self.ranges.insert(lower, first);
            if lower_end > end {
                self.ranges.insert(end, lower_end);
                return;
            }
        }
        while let Some((&upper, &upper_end)) = self.ranges.range(first..end).next() {
            self.ranges.remove(&upper);
            if upper_end > end {
                self.ranges.insert(end, upper_end);
            }
        }
    }

    /// Adds every `seq` of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (first, end) in other.iter() {
            self.insert_range(first, end);
        }
    }

    /// Takes every `seq` of `other` out of the set.
    pub fn subtract(&mut self, other: &Self) {
        for (first, end) in other.iter() {
            self.remove_range(first, end);
        }
    }

    /// The lowest ranges that together hold at least `count` of the set's `seq`, the last of them whole.
    #[must_use]
    pub fn lowest(&self, count: u64) -> Self {
        let mut lowest = Self::new();
        let mut held = 0_u64;
        for (first, end) in self.iter() {
            if held >= count {
                break;
            }
            held = held.saturating_add(end.abs_diff(first));
            lowest.ranges.insert(first, end);
        }
        lowest
    }

    /// The lowest `seq` from `first` on that the set lacks.
    #[must_use]
    pub fn lowest_missing(&self, first: i64) -> i64 {
        match self.ranges.range(..=first).next_back() {
            Some((_, &end)) if end > first => end,
            _ => first,
        }
    }

    /// Whether the set has `seq`.
    #[must_use]
    pub fn contains(&self, seq: i64) -> bool {
        self.ranges
            .range(..=seq)
            .next_back()
            .is_some_and(|(_, &end)| seq < end)
    }

    /// The ranges in ascending order, as first and one past the last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (i64, i64)> + '_ {
        self.ranges.iter().map(|(&first, &end)| (first, end))
    }

    /// How many ranges the set has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the set has no `seq`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// One past the highest `seq`; `None` for the empty set.
    #[must_use]
    pub fn end(&self) -> Option<i64> {
        self.ranges.last_key_value().map(|(_, &end)| end)
    }

    /// The gaps from `first` up to the highest `seq` of the set.
    #[must_use]
    pub fn gaps_from(&self, first: i64) -> Self {
        let mut gaps = Self::new();
        let mut next = first;
        for (range_first, range_end) in self.iter() {
            if range_first > next {
                gaps.ranges.insert(next, range_first);
            }
            next = next.max(range_end);
        }
        gaps
    }

    /// The `limit` widest ranges as an `int8multirange` literal.
    #[must_use]
    pub fn stored(&self, limit: usize) -> Stored {
        let mut kept: Vec<(i64, i64)> = self.iter().collect();
        let mut left_out = 0;
        if kept.len() > limit {
            let width = |&(first, end): &(i64, i64)| std::cmp::Reverse(end.abs_diff(first));
            kept.select_nth_unstable_by_key(limit, width);
            left_out = kept[limit..].iter().map(|(f, e)| e.abs_diff(*f)).sum();
            kept.truncate(limit);
            kept.sort_unstable();
        }
        Stored {
            text: multirange(kept),
            left_out,
        }
    }

    /// Reads an `int8multirange` as PostgreSQL prints it: `{[1,5),[7,8)}`.
    ///
    /// # Errors
    /// If `text` is something else, or has an infinite bound.
    pub fn parse(text: &str) -> Result<Self, InvalidMultirange> {
        let invalid = || InvalidMultirange(text.chars().take(80).collect());
        let inner = text
            .trim()
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .ok_or_else(invalid)?;
        let mut set = Self::new();
        let mut rest = inner;
        while !rest.is_empty() {
            let (range, tail) = rest
                .strip_prefix('[')
                .and_then(|rest| rest.split_once(')'))
                .ok_or_else(invalid)?;
            let (first, end) = range.split_once(',').ok_or_else(invalid)?;
            let first: i64 = first.parse().map_err(|_| invalid())?;
            let end: i64 = end.parse().map_err(|_| invalid())?;
            set.insert_range(first, end);
            rest = tail.strip_prefix(',').unwrap_or(tail);
        }
        Ok(set)
    }
}

impl FromIterator<(i64, i64)> for RangeSet {
    fn from_iter<I: IntoIterator<Item = (i64, i64)>>(ranges: I) -> Self {
        let mut set = Self::new();
        for (first, end) in ranges {
            set.insert_range(first, end);
        }
        set
    }
}

impl fmt::Display for RangeSet {
    /// The whole set as an `int8multirange` literal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&multirange(self.iter()))
    }
}

/// The `int8multirange` literal of `ranges`.
fn multirange(ranges: impl IntoIterator<Item = (i64, i64)>) -> String {
    let mut text = String::from("{");
    for (first, end) in ranges {
        if text.len() > 1 {
            text.push(',');
        }
        // Writing to a String can't fail.
        write!(text, "[{first},{end})").ok();
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(i64, i64)]) -> RangeSet {
        ranges.iter().copied().collect()
    }

    fn members(set: &RangeSet) -> BTreeSet<i64> {
        set.iter().flat_map(|(first, end)| first..end).collect()
    }

    #[test]
    fn neighbours_merge() {
        assert_eq!(set(&[(1, 2), (3, 4), (2, 3)]), set(&[(1, 4)]));
    }

    #[test]
    fn gaps_are_below_the_highest() {
        assert_eq!(set(&[(3, 5), (7, 9)]).gaps_from(1), set(&[(1, 3), (5, 7)]));
        assert_eq!(set(&[]).gaps_from(1), set(&[]));
    }

    #[test]
    fn the_widest_are_stored() {
        let stored = set(&[(1, 10), (20, 21), (30, 40)]).stored(2);
        assert_eq!(stored.text, "{[1,10),[30,40)}");
        assert_eq!(stored.left_out, 1);
    }

    #[test]
    fn what_postgres_prints_is_read() {
        assert_eq!(
            RangeSet::parse("{[1,5),[7,8)}").expect("valid"),
            set(&[(1, 5), (7, 8)])
        );
        assert_eq!(RangeSet::parse("{}").expect("valid"), set(&[]));
        for bad in ["", "{(,5)}", "{[1,)}", "[1,2)", "{[a,b)}"] {
            assert!(RangeSet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_lowest_are_whole_ranges() {
        let ranges = set(&[(1, 3), (5, 6), (10, 1_000_000), (2_000_000, 2_000_001)]);
        assert_eq!(ranges.lowest(2), set(&[(1, 3)]));
        assert_eq!(ranges.lowest(4), set(&[(1, 3), (5, 6), (10, 1_000_000)]));
        assert_eq!(ranges.lowest(u64::MAX), ranges);
        let mut rest = ranges.clone();
        rest.subtract(&set(&[(0, 2), (5, 20), (3_000_000, 4_000_000)]));
        assert_eq!(rest.to_string(), "{[2,3),[20,1000000),[2000000,2000001)}");
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(steps in prop::collection::vec((any::<bool>(), 0i64..60, 0i64..12), 0..60)) {
            let mut ranges = RangeSet::new();
            let mut model = BTreeSet::new();
            for (add, first, width) in steps {
                if add {
                    ranges.insert_range(first, first + width);
                    model.extend(first..first + width);
                } else {
                    ranges.remove_range(first, first + width);
                    model.retain(|seq| !(first..first + width).contains(seq));
                }
                prop_assert_eq!(members(&ranges), model.clone());
                let all: Vec<_> = ranges.iter().collect();
                prop_assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].0), "ranges touch: {:?}", all);
                for seq in 0..75 {
                    prop_assert_eq!(ranges.contains(seq), model.contains(&seq));
                    let missing = (seq..).find(|seq| !model.contains(seq));
                    prop_assert_eq!(Some(ranges.lowest_missing(seq)), missing);
                }
            }
            let round_trip = RangeSet::parse(&ranges.stored(usize::MAX).text);
            prop_assert_eq!(round_trip, Ok(ranges));
        }
    }
}

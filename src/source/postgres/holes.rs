//! Holes: `seq` below the highest seen that no read has shown yet.
//!
//! A hole belongs to a transaction that is still open, or to one that was rolled back. Only the second kind may
//! be closed, and only on evidence:
//!
//! 1. a read has seen a higher `seq`, so the hole's own was drawn before that read;
//! 2. after that read the transactions were listed that hold `RowExclusiveLock` on the table: every INSERT takes
//!    it before it draws a `seq` and keeps it until its transaction ends;
//! 3. all of those have ended, as a later listing shows;
//! 4. a read that began after that still doesn't show the hole.
//!
//! All of it must have happened on one connection to one incarnation of the server: [`Holes::forget_evidence`].
//! This module keeps the evidence and decides; it runs no SQL.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::RangeSet;

/// Holes younger than this are most likely about to be filled: no look into `pg_locks` for them.
const YOUNG: Duration = Duration::from_secs(1);

/// The time between two looks into `pg_locks`.
const LISTING_INTERVAL: Duration = Duration::from_secs(1);

/// From this many ranges on a read looks them up only if a transaction has ended that may own one: 1,000 cost
/// 1.8 ms per read, 100,000 cost 236 ms.
const MANY: usize = 100;

/// At this many ranges reading forward stops: memory and the cost of a look-up have a limit.
pub(super) const MAX_HOLES: usize = 100_000;

/// A transaction that holds `RowExclusiveLock` on the outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its virtual transaction id: the same from its begin to its end on one incarnation, `PREPARE` included.
    pub(super) virtual_xid: String,
    /// Its backend; `None` for a prepared transaction.
    pub(super) pid: Option<i32>,
    /// Its transaction id with epoch, if it has one yet.
    pub(super) xid: Option<i64>,
}

/// Which holes the next read looks up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// All of them.
    All,
    /// The young ones; the others only if one of these transactions has ended by the read's own snapshot.
    YoungUnlessEnded(Vec<i64>),
}

#[derive(Debug)]
struct Hole {
    end: i64,
    /// When a read on this connection first saw a higher `seq`.
    seen_at: Option<Instant>,
    /// The listing whose transactions may own it.
    listing: Option<u64>,
}

/// The holes of one reader and the evidence about them.
#[derive(Debug, Default)]
pub(super) struct Holes {
    holes: BTreeMap<i64, Hole>,
    /// Per listing that a hole refers to, those of its transactions that are still open.
    open: HashMap<u64, HashSet<String>>,
    newest: Vec<Holder>,
    listings: u64,
    listed_at: Option<Instant>,
    /// A read must look up every hole before any may be left out: a listed transaction has ended since the last
    /// one that did, or a listing took in holes whose owners may have ended before it.
    owed: bool,
}

impl Holes {
    pub(super) fn new(gaps: &RangeSet) -> Self {
        let mut holes = Self::default();
        for (first, end) in gaps.iter() {
            holes.open_range(first, end, None);
        }
        holes
    }

    pub(super) fn len(&self) -> usize {
        self.holes.len()
    }

    /// The ranges to look up: all, or the young ones only.
    pub(super) fn ranges(&self, young_only: bool) -> impl Iterator<Item = (i64, i64)> + '_ {
        let wanted = move |hole: &Hole| !young_only || hole.listing.is_none();
        self.holes
            .iter()
            .filter(move |(_, hole)| wanted(hole))
            .map(|(&first, hole)| (first, hole.end))
    }

    /// Whether `pg_locks` should be looked into before the next read.
    pub(super) fn wants_listing(&self, now: Instant) -> bool {
        let due = self.listed_at.is_none_or(|at| now - at >= LISTING_INTERVAL);
        due && self.holes.values().any(|hole| hole.is_old(now))
    }

    /// Takes in who holds the lock now. Holes of a read before this listing are from now on owned by one of
    /// these transactions, or by nobody.
    pub(super) fn listed(&mut self, holders: Vec<Holder>, now: Instant) {
        let holding: HashSet<&str> = holders.iter().map(|h| h.virtual_xid.as_str()).collect();
        let still_open = |holder: &Holder| holding.contains(holder.virtual_xid.as_str());
        self.owed |= !self.newest.iter().all(still_open);
        for open in self.open.values_mut() {
            open.retain(|virtual_xid| holding.contains(virtual_xid.as_str()));
        }
        self.prune();
        self.listings += 1;
        let mut new = false;
        for hole in self.holes.values_mut() {
            if hole.listing.is_none() && hole.is_old(now) {
                hole.listing = Some(self.listings);
                new = true;
            }
        }
        if new {
            let all = holders.iter().map(|h| h.virtual_xid.clone()).collect();
            self.open.insert(self.listings, all);
            self.owed = true;
        }
        self.newest = holders;
        self.listed_at = Some(now);
    }

    /// What the next read has to look up. The owners of holes that have a listing are among the newest
    /// listing's transactions unless they have ended; once a read has looked for those, the holes can only show
    /// when one of the others ends.
    pub(super) fn question(&self) -> Question {
        let closable = self.open.values().any(HashSet::is_empty);
        if self.holes.len() <= MANY || closable || self.owed {
            return Question::All;
        }
        let xids: Option<Vec<i64>> = self.newest.iter().map(|holder| holder.xid).collect();
        match xids {
            Some(xids) if !xids.is_empty() => Question::YoungUnlessEnded(xids),
            _ => Question::All,
        }
    }

    /// A read has seen `seq`s from `first` up to `end` and not these: they are holes from now on.
    pub(super) fn open_range(&mut self, first: i64, end: i64, now: Option<Instant>) {
        if first < end {
            let hole = Hole {
                end,
                seen_at: now,
                listing: None,
            };
            self.holes.insert(first, hole);
        }
    }

    /// A read has shown `seq`: whatever hole it was in is split around it.
    pub(super) fn shown(&mut self, seq: i64) {
        let Some((&first, hole)) = self.holes.range(..=seq).next_back() else {
            return;
        };
        if hole.end <= seq {
            return;
        }
        let (end, seen_at, listing) = (hole.end, hole.seen_at, hole.listing);
        self.holes.remove(&first);
        for (first, end) in [(first, seq), (seq + 1, end)] {
            if first < end {
                let hole = Hole {
                    end,
                    seen_at,
                    listing,
                };
                self.holes.insert(first, hole);
            }
        }
    }

    /// A read that looked up every hole below `covered` has been taken in: closes those that it proves dead.
    /// Also notes that a read on this connection has seen what is above the holes.
    pub(super) fn covered(&mut self, covered: i64, now: Instant) -> RangeSet {
        for hole in self.holes.values_mut() {
            hole.seen_at.get_or_insert(now);
        }
        if covered == i64::MAX {
            self.owed = false;
        }
        if !self.open.values().any(HashSet::is_empty) {
            return RangeSet::new();
        }
        let open = &self.open;
        let dead = |hole: &Hole| {
            let ended = |listing| open.get(&listing).is_some_and(HashSet::is_empty);
            hole.end <= covered && hole.listing.is_some_and(ended)
        };
        let closed: RangeSet = self
            .holes
            .iter()
            .filter(|(_, hole)| dead(hole))
            .map(|(&first, hole)| (first, hole.end))
            .collect();
        self.holes.retain(|_, hole| !dead(hole));
        self.prune();
        closed
    }

    /// Forgets listings that no hole refers to.
    fn prune(&mut self) {
        let referred: HashSet<u64> = self
            .holes
            .values()
            .filter_map(|hole| hole.listing)
            .collect();
        self.open.retain(|listing, _| referred.contains(listing));
    }

    /// The connection was lost: what was listed on it proves nothing any more.
    pub(super) fn forget_evidence(&mut self) {
        for hole in self.holes.values_mut() {
            hole.seen_at = None;
            hole.listing = None;
        }
        self.open.clear();
        self.newest.clear();
        self.listed_at = None;
        self.owed = false;
    }

    /// The holders of the newest listing: those who may own a hole.
    pub(super) fn suspects(&self) -> &[Holder] {
        &self.newest
    }
}

impl Hole {
    fn is_old(&self, now: Instant) -> bool {
        self.seen_at.is_some_and(|at| now - at >= YOUNG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(virtual_xid: &str, xid: i64) -> Holder {
        Holder {
            virtual_xid: virtual_xid.into(),
            pid: Some(1),
            xid: Some(xid),
        }
    }

    /// Holes at every even `seq` below `2 * count`, seen now.
    fn holes(count: i64, now: Instant) -> Holes {
        let mut holes = Holes::default();
        for seq in 0..count {
            holes.open_range(2 * seq, 2 * seq + 1, Some(now));
        }
        holes
    }

    #[tokio::test(start_paused = true)]
    async fn a_hole_is_closed_after_all_four_steps_and_not_before() {
        let mut holes = holes(1, Instant::now());
        assert!(!holes.wants_listing(Instant::now()), "it is young");
        tokio::time::advance(YOUNG).await;
        assert!(holes.wants_listing(Instant::now()));
        holes.listed(vec![holder("3/1", 10)], Instant::now());
        assert!(
            holes.covered(i64::MAX, Instant::now()).is_empty(),
            "its owner may be open"
        );
        tokio::time::advance(LISTING_INTERVAL).await;
        holes.listed(vec![holder("3/2", 11)], Instant::now());
        assert!(
            holes.covered(0, Instant::now()).is_empty(),
            "the read was cut off before it"
        );
        let closed = holes.covered(i64::MAX, Instant::now());
        assert_eq!(closed.iter().collect::<Vec<_>>(), [(0, 1)]);
        assert_eq!((holes.len(), holes.open.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn evidence_of_a_lost_connection_is_gathered_anew() {
        let mut holes = holes(1, Instant::now());
        tokio::time::advance(YOUNG).await;
        holes.listed(vec![], Instant::now());
        holes.forget_evidence();
        assert!(holes.covered(i64::MAX, Instant::now()).is_empty());
        assert!(
            !holes.wants_listing(Instant::now()),
            "a read must have seen it on this connection"
        );
        tokio::time::advance(YOUNG).await;
        holes.listed(vec![], Instant::now());
        assert_eq!(holes.covered(i64::MAX, Instant::now()).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_holes_are_looked_up_only_after_a_suspect_has_ended() {
        let mut holes = holes(200, Instant::now());
        assert_eq!(holes.question(), Question::All);
        tokio::time::advance(YOUNG).await;
        holes.listed(vec![holder("3/1", 10), holder("4/1", 11)], Instant::now());
        // The owner of any of them may have ended after the last read and before this listing.
        assert_eq!(holes.question(), Question::All);
        holes.covered(100, Instant::now());
        assert_eq!(holes.question(), Question::All, "that look was cut off");
        holes.covered(i64::MAX, Instant::now());
        assert_eq!(holes.question(), Question::YoungUnlessEnded(vec![10, 11]));
        assert_eq!(holes.ranges(true).count(), 0);
        // Between two reads one of them ended: what it left is visible to the next, which must look.
        holes.listed(vec![holder("4/1", 11)], Instant::now());
        assert_eq!(holes.question(), Question::All);
        holes.covered(100, Instant::now());
        assert_eq!(holes.question(), Question::All, "that look was cut off");
        holes.covered(i64::MAX, Instant::now());
        assert_eq!(holes.question(), Question::YoungUnlessEnded(vec![11]));
        // Without a transaction id nothing can be told from a snapshot.
        let mut nameless = holder("5/1", 0);
        nameless.xid = None;
        holes.listed(vec![holder("4/1", 11), nameless], Instant::now());
        assert_eq!(holes.question(), Question::All);
    }

    #[test]
    fn a_hole_is_split_around_what_shows() {
        let mut holes = Holes::new(&std::iter::once((10, 20)).collect());
        holes.shown(10);
        holes.shown(15);
        holes.shown(19);
        holes.shown(30);
        assert_eq!(
            holes.ranges(false).collect::<Vec<_>>(),
            [(11, 15), (16, 19)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn listings_that_nothing_refers_to_are_forgotten() {
        let mut holes = Holes::default();
        for seq in 0..100 {
            holes.open_range(2 * seq, 2 * seq + 1, Some(Instant::now()));
            tokio::time::advance(YOUNG).await;
            holes.listed(vec![holder("3/1", 10)], Instant::now());
            holes.shown(2 * seq);
        }
        assert!(holes.open.len() <= 2, "{}", holes.open.len());
    }
}

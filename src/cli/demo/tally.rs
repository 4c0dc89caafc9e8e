//! What the demo's writer has committed and rolled back, what the relay has published, and whether the two agree.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

/// Both sides' record. Neither sees the other's.
#[derive(Debug, Default)]
pub(super) struct Tally {
    record: Mutex<Record>,
    published: Notify,
}

#[derive(Debug, Default)]
struct Record {
    /// Committed events by key, in the order of their commits, with the time at which COMMIT was sent.
    committed: BTreeMap<&'static str, Vec<(Uuid, Instant)>>,
    rolled_back: HashSet<Uuid>,
    /// Published events in the order of their acknowledgements.
    published: Vec<(Uuid, Instant)>,
    /// The same without repetitions.
    different: HashSet<Uuid>,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) committed: usize,
    /// Different events that were published.
    pub(super) published: usize,
    pub(super) rolled_back: usize,
    /// Committed and not published.
    pub(super) missing: usize,
    /// Published and not committed.
    pub(super) phantoms: usize,
    /// Published once more.
    pub(super) repeated: usize,
    /// Keys whose events were not published in the order of their commits.
    pub(super) disordered: usize,
    /// From COMMIT to the acknowledgement: half of the events took no longer.
    pub(super) p50: Duration,
    /// The same for 99 of 100 events.
    pub(super) p99: Duration,
}

impl Tally {
    pub(super) fn committed(&self, id: Uuid, key: &'static str, at: Instant) {
        let mut record = self.record();
        record.committed.entry(key).or_default().push((id, at));
    }

    pub(super) fn rolled_back(&self, id: Uuid) {
        self.record().rolled_back.insert(id);
    }

    pub(super) fn published(&self, id: Uuid) {
        let mut record = self.record();
        record.published.push((id, Instant::now()));
        record.different.insert(id);
        drop(record);
        self.published.notify_one();
    }

    /// Waits until as many events are published as are committed, but not longer than `patience` without any.
    pub(super) async fn await_published(&self, patience: Duration) {
        while !self.is_even() {
            let progress = self.published.notified();
            if tokio::time::timeout(patience, progress).await.is_err() {
                return;
            }
        }
    }

    /// Compares the two sides.
    pub(super) fn outcome(&self) -> Outcome {
        let record = self.record();
        let mut first_published: HashMap<Uuid, (usize, Instant)> = HashMap::new();
        for (place, (id, at)) in record.published.iter().enumerate() {
            first_published.entry(*id).or_insert((place, *at));
        }
        let mut outcome = Outcome {
            published: first_published.len(),
            rolled_back: record.rolled_back.len(),
            repeated: record.published.len() - first_published.len(),
            ..Outcome::default()
        };
        let mut latencies = Vec::new();
        for events in record.committed.values() {
            let places = events.iter().filter_map(|(id, at)| {
                let (place, published_at) = first_published.remove(id)?;
                latencies.push(published_at.saturating_duration_since(*at));
                Some(place)
            });
            let places: Vec<usize> = places.collect();
            outcome.committed += events.len();
            outcome.missing += events.len() - places.len();
            outcome.disordered += usize::from(!places.is_sorted());
        }
        outcome.phantoms = first_published.len();
        latencies.sort_unstable();
        outcome.p50 = percentile(&latencies, 50);
        outcome.p99 = percentile(&latencies, 99);
        outcome
    }

    fn is_even(&self) -> bool {
        let record = self.record();
        let committed: usize = record.committed.values().map(Vec::len).sum();
        record.different.len() >= committed
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    /// Whether every promise was kept.
    pub(super) fn is_right(&self) -> bool {
        self.missing == 0 && self.phantoms == 0 && self.disordered == 0
    }
}

/// The value that so many of 100 do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    /// Two committed events of one key and a rolled-back one; these are published.
    fn outcome(published: &[Uuid]) -> Outcome {
        let tally = Tally::default();
        tally.committed(A, "k", Instant::now());
        tally.committed(B, "k", Instant::now());
        tally.rolled_back(Uuid::max());
        for id in published {
            tally.published(*id);
        }
        tally.outcome()
    }

    #[test]
    fn every_broken_promise_is_seen() {
        assert!(outcome(&[A, B]).is_right());
        assert!(outcome(&[A, A, B]).is_right());
        assert_eq!(outcome(&[A, A, B]).repeated, 1);
        for (published, wrong) in [
            (vec![A], "missing"),
            (vec![A, B, Uuid::max()], "rolled back"),
            (vec![A, B, Uuid::nil()], "from nowhere"),
            (vec![B, A], "out of order"),
        ] {
            assert!(!outcome(&published).is_right(), "{wrong}");
        }
    }

    #[test]
    fn percentiles_are_of_the_events() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Duration::from_millis(100));
        assert_eq!(percentile(&sorted, 99), Duration::from_millis(198));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}

//! What a pipeline has published and how long it took, counted so that the difference of two moments can be told.
//!
//! The metrics' recorder answers scrapes only, and may be turned off; the status page reads these.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Four buckets for each doubling of a microsecond, up to some days: a quantile is right within an eighth.
const STEPS: u32 = 4;
const BUCKETS: usize = 160;

/// Counted by a pipeline, read by whoever shows it.
#[derive(Debug)]
pub struct Tally {
    retries: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

/// A tally at one moment, or what came between two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Further attempts after one that failed.
    pub retries: u64,
    latency: [u64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            retries: AtomicU64::new(0),
            latency: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            retries: 0,
            latency: [0; BUCKETS],
        }
    }
}

impl Tally {
    /// An event was acknowledged, so long after it was created.
    pub fn published(&self, latency: Duration) {
        self.latency[bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    /// An event is tried once more.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            retries: self.retries.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for (count, bucket) in counts.latency.iter_mut().zip(&self.latency) {
            *count = bucket.load(Ordering::Relaxed);
        }
        counts
    }
}

impl Counts {
    /// Events that were acknowledged.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.latency.iter().sum()
    }

    /// What came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut between = self.clone();
        between.retries = self.retries.saturating_sub(earlier.retries);
        for (count, before) in between.latency.iter_mut().zip(&earlier.latency) {
            *count = count.saturating_sub(*before);
        }
        between
    }

    /// The latency in seconds that this share of the events did not exceed; `None` if there were none.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // a share of a count is a count
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (self.published() as f64 * share).ceil() as u64;
        let mut below = 0;
        let found = self.latency.iter().position(|count| {
            below += count;
            *count > 0 && below >= rank
        });
        found.map(middle)
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros())
        .unwrap_or(u64::MAX)
        .max(u64::from(STEPS));
    let octave = micros.ilog2();
    let step = (micros >> (octave - 2)) & 3;
    let index = (octave - 2) * STEPS + u32::try_from(step).unwrap_or(0);
    (index as usize).min(BUCKETS - 1)
}

/// In seconds.
#[allow(clippy::cast_precision_loss)] // a bucket is wider than that
fn middle(bucket: usize) -> f64 {
    let (octave, step) = (bucket / STEPS as usize, bucket % STEPS as usize);
    let width = (1u64 << octave) as f64;
    (4.5 + step as f64) * width / 1_000_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_right_within_an_eighth() {
        for micros in [4, 5, 7, 130, 999, 1_000, 65_536, 3_600_000_000] {
            let tally = Tally::default();
            tally.published(Duration::from_micros(micros));
            let found = tally.counts().quantile(0.5).expect("one event");
            #[allow(clippy::cast_precision_loss)]
            let exact = micros as f64 / 1_000_000.0;
            assert!((found / exact - 1.0).abs() <= 0.13, "{micros}: {found}");
        }
        // What is beyond any sense has a place, too.
        let tally = Tally::default();
        tally.published(Duration::ZERO);
        tally.published(Duration::MAX);
        assert_eq!(tally.counts().published(), 2);
    }

    #[test]
    fn the_difference_is_what_came_between() {
        let tally = Tally::default();
        tally.published(Duration::from_secs(10));
        tally.retried();
        let before = tally.counts();
        assert_eq!(before.since(&before).quantile(0.99), None);
        for _ in 0..99 {
            tally.published(Duration::from_millis(2));
        }
        tally.published(Duration::from_secs(1));
        let between = tally.counts().since(&before);
        assert_eq!((between.published(), between.retries), (100, 0));
        let quantile = |share| between.quantile(share).expect("events");
        assert!(quantile(0.99) < 0.003 && quantile(1.0) > 0.8);
    }
}

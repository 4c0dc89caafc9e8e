//! The handles of one pipeline.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{
    BUSY_EVENTS, CAUSE, DELIVERY_LATENCY, EVENTS_PUBLISHED, FLUSH_DURATION, IN_FLIGHT, LATE_EVENTS,
    OLDEST_PENDING, OUTCOME, PARKED_EVENTS, PENDING_EVENTS, PUBLISH_ATTEMPTS, PUBLISH_DURATION,
    RETRIES, SINK, SINK_AVAILABLE, SOURCE, UNSTORED, WAKEUPS, to_f64,
};
use crate::status::Activity;
use crate::status::tally::Tally;

/// The handles of one pipeline, looked up once.
#[allow(missing_docs)] // each is described where its name stands
pub struct PipelineMetrics {
    published: Counter,
    acknowledged: Counter,
    pub skipped: Counter,
    pub rejected: Counter,
    pub invalid: Counter,
    pub busy: Counter,
    pub unavailable: Counter,
    pub duration: Histogram,
    latency: Histogram,
    pub pending: Gauge,
    pub oldest_pending: Gauge,
    pub in_flight: Gauge,
    pub parked: Gauge,
    pub busy_events: Gauge,
    retries: Counter,
    pub available: Gauge,
    pub unstored: Gauge,
    pub flush_duration: Histogram,
    wakeups: [Counter; Cause::ALL.len()],
    pub late: Counter,
    pub tally: Arc<Tally>,
}

impl std::fmt::Debug for PipelineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineMetrics").finish_non_exhaustive()
    }
}

impl PipelineMetrics {
    /// A read for this reason.
    pub fn woken(&self, cause: Cause) {
        self.wakeups[cause as usize].increment(1);
    }

    /// The broker acknowledged an event, so long after it was created.
    pub fn acknowledged(&self, latency: Duration) {
        self.acknowledged.increment(1);
        self.published.increment(1);
        self.latency.record(latency);
        self.tally.published(latency);
    }

    /// An event is tried once more.
    pub fn retried(&self) {
        self.retries.increment(1);
        self.tally.retried();
    }

    /// What there is to do now, and whether the broker answers.
    pub fn set_activity(&self, activity: &Activity, available: bool) {
        let age =
            |created_at: DateTime<Utc>| (Utc::now() - created_at).to_std().unwrap_or_default();
        let oldest = activity.oldest_pending.map(age).unwrap_or_default();
        self.pending.set(to_f64(activity.pending));
        self.oldest_pending.set(oldest.as_secs_f64());
        self.in_flight.set(to_f64(activity.in_flight as u64));
        self.parked.set(to_f64(activity.parked as u64));
        let busy = activity.busy.as_ref().map_or(0, |busy| busy.events);
        self.busy_events.set(to_f64(busy as u64));
        self.available.set(if available { 1.0 } else { 0.0 });
    }

    /// The handles of the pipeline from `source` to `sink`.
    #[must_use]
    pub fn new(source: &str, sink: &str) -> Self {
        let pipeline = [(SOURCE, source.to_owned()), (SINK, sink.to_owned())];
        let attempts = |outcome: &'static str| {
            let mut labels = pipeline.to_vec();
            labels.push((OUTCOME, outcome.to_owned()));
            counter!(PUBLISH_ATTEMPTS, &labels)
        };
        let wakeups =
            |cause: &'static str| counter!(WAKEUPS, SOURCE => source.to_owned(), CAUSE => cause);
        Self {
            published: counter!(EVENTS_PUBLISHED, &pipeline),
            acknowledged: attempts("acknowledged"),
            skipped: attempts("skipped"),
            rejected: attempts("rejected"),
            invalid: attempts("invalid"),
            busy: attempts("busy"),
            unavailable: attempts("unavailable"),
            duration: histogram!(PUBLISH_DURATION, &pipeline),
            latency: histogram!(DELIVERY_LATENCY, &pipeline),
            pending: gauge!(PENDING_EVENTS, &pipeline),
            oldest_pending: gauge!(OLDEST_PENDING, &pipeline),
            in_flight: gauge!(IN_FLIGHT, &pipeline),
            parked: gauge!(PARKED_EVENTS, &pipeline),
            busy_events: gauge!(BUSY_EVENTS, &pipeline),
            retries: counter!(RETRIES, &pipeline),
            available: gauge!(SINK_AVAILABLE, &pipeline),
            unstored: gauge!(UNSTORED, &pipeline),
            flush_duration: histogram!(FLUSH_DURATION, &pipeline),
            wakeups: Cause::ALL.map(|cause| wakeups(cause.label())),
            late: counter!(LATE_EVENTS, SOURCE => source.to_owned()),
            tally: Arc::default(),
        }
    }
}

/// A pipeline that has ended has nothing to do: another relay goes on, and its figures are not to be added to what
/// these were in the end.
impl Drop for PipelineMetrics {
    fn drop(&mut self) {
        self.set_activity(&Activity::default(), true);
        self.unstored.set(0.0);
    }
}

/// Why a pipeline reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The read before was cut off by a limit.
    More,
    /// It is time, and nobody rings: always in poll mode, and while there is traffic.
    Poll,
    /// A writer rang.
    Ring,
    /// The bell was armed: one read for what was committed before.
    Arming,
    /// A hole wants its evidence.
    Hole,
    /// Nobody rang for `fallback_interval`.
    Fallback,
    /// Events that waited as their `seq` may go on.
    Again,
}

impl Cause {
    const ALL: [Self; 7] = [
        Self::More,
        Self::Poll,
        Self::Ring,
        Self::Arming,
        Self::Hole,
        Self::Fallback,
        Self::Again,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::More => "more",
            Self::Poll => "poll",
            Self::Ring => "notify",
            Self::Arming => "arming",
            Self::Hole => "hole",
            Self::Fallback => "fallback",
            Self::Again => "again",
        }
    }
}

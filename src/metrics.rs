//! Names of metrics and labels, one place for all of them, and the handles that pipelines record to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::status::Activity;
use crate::status::tally::Tally;

/// Label: the source's name.
pub const SOURCE: &str = "source";
/// Label: the sink's name.
pub const SINK: &str = "sink";
/// Label: how an attempt ended (`acknowledged`, `skipped`, `rejected`, `invalid`, `busy`, `unavailable`).
pub const OUTCOME: &str = "outcome";
/// Label: why a source was read (see [`Cause`]).
pub const CAUSE: &str = "cause";
/// Label: what settling did with a row (`mark`, `delete`, `expire`).
pub const ACTION: &str = "action";

/// Events that the sink's broker acknowledged.
pub const EVENTS_PUBLISHED: &str = "outbox_events_published_total";
/// Attempts to publish, by outcome.
pub const PUBLISH_ATTEMPTS: &str = "outbox_publish_attempts_total";
/// Seconds from an attempt's begin to the broker's answer.
pub const PUBLISH_DURATION: &str = "outbox_publish_duration_seconds";
/// Seconds from the event's `created_at` to the broker's acknowledgement.
pub const DELIVERY_LATENCY: &str = "outbox_delivery_latency_seconds";
/// Events not yet acknowledged, at most: rolled-back ones above the highest read count until they are read past.
pub const PENDING_EVENTS: &str = "outbox_pending_events";
/// Age in seconds of the oldest event that was read and not yet acknowledged; 0 if there is none.
pub const OLDEST_PENDING: &str = "outbox_oldest_pending_seconds";
/// Events handed to the broker and not yet answered.
pub const IN_FLIGHT: &str = "outbox_in_flight";
/// Events that wait for a retry or behind one of their key that does.
pub const PARKED_EVENTS: &str = "outbox_parked_events";
/// Events whose destination takes nothing now; they are parked, and others go on.
pub const BUSY_EVENTS: &str = "outbox_busy_events";
/// Further attempts after a rejection, an outage, or a destination that took nothing.
pub const RETRIES: &str = "outbox_retries_total";
/// Dead letters that stand in the table. Those of a sink that the configuration lacks show too.
pub const DEAD_LETTERS: &str = "outbox_dead_letters";
/// 1 while the broker answers, 0 during an outage.
pub const SINK_AVAILABLE: &str = "outbox_sink_available";
/// Acknowledgements that the stored ledger has no room for: a crash would repeat them.
pub const UNSTORED: &str = "outbox_unstored_acknowledgements";
/// Seconds that storing the ledger took.
pub const FLUSH_DURATION: &str = "outbox_flush_duration_seconds";
/// Reads of the outbox table, by cause.
pub const WAKEUPS: &str = "outbox_wakeups_total";
/// 1 while the configuration has the source, 0 once a reload took it out: its other figures stay what they were.
pub const SOURCE_CONFIGURED: &str = "outbox_source_configured";
/// 1 while this relay holds the lease of the source.
pub const LEASE_HELD: &str = "outbox_lease_held";
/// Ranges of `seq` below the highest seen that are neither seen nor closed, in the reader that has most.
pub const HOLES: &str = "outbox_holes";
/// Ledgers of the table that have no sink in the configuration, or no relay that keeps them: what they lack is never
/// settled. 0 where nothing is settled.
pub const ABANDONED_LEDGERS: &str = "outbox_abandoned_ledgers";
/// Rows that every ledger has and that were marked, deleted, or deleted because of their age.
pub const SETTLED: &str = "outbox_settled_total";
/// Rows found in holes that were taken for dead. They are delivered; anything but 0 is a bug or a broken table.
pub const LATE_EVENTS: &str = "outbox_late_events_total";
/// 1 if the newest reload of the configuration succeeded, or there was none; 0 if it changed nothing for its errors.
pub const RELOAD_SUCCESSFUL: &str = "outbox_config_last_reload_successful";
/// When the configuration was last read with success, in seconds since 1970.
pub const RELOAD_TIMESTAMP: &str = "outbox_config_last_reload_timestamp_seconds";
/// Always 1; its labels say which build this is.
pub const BUILD_INFO: &str = "outbox_build_info";

/// Upper bounds of the buckets of durations, in seconds.
pub const DURATION_BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];

/// Tells the recorder what each metric means.
pub fn describe() {
    describe_counter!(
        EVENTS_PUBLISHED,
        "Events that the sink's broker acknowledged."
    );
    describe_counter!(PUBLISH_ATTEMPTS, "Attempts to publish, by outcome.");
    describe_histogram!(
        PUBLISH_DURATION,
        Unit::Seconds,
        "From an attempt's begin to the broker's answer."
    );
    describe_histogram!(
        DELIVERY_LATENCY,
        Unit::Seconds,
        "From created_at to the broker's acknowledgement."
    );
    describe_gauge!(PENDING_EVENTS, "Events not yet acknowledged, at most.");
    describe_gauge!(
        OLDEST_PENDING,
        Unit::Seconds,
        "Age of the oldest event read and not acknowledged."
    );
    describe_gauge!(
        IN_FLIGHT,
        "Events handed to the broker and not yet answered."
    );
    describe_gauge!(
        PARKED_EVENTS,
        "Events that wait for a retry or behind one of their key that does."
    );
    describe_gauge!(
        BUSY_EVENTS,
        "Events whose destination takes nothing now, such as a full queue."
    );
    describe_counter!(
        RETRIES,
        "Further attempts after a rejection, an outage, or a destination that took nothing."
    );
    describe_gauge!(DEAD_LETTERS, "Dead letters that stand in the table.");
    describe_gauge!(
        SINK_AVAILABLE,
        "1 while the broker answers, 0 during an outage."
    );
    describe_gauge!(
        UNSTORED,
        "Acknowledgements that the stored ledger has no room for."
    );
    describe_histogram!(FLUSH_DURATION, Unit::Seconds, "Storing the ledger.");
    describe_counter!(WAKEUPS, "Reads of the outbox table, by cause.");
    describe_gauge!(
        SOURCE_CONFIGURED,
        "1 while the configuration has the source."
    );
    describe_gauge!(
        LEASE_HELD,
        "1 while this relay holds the lease of the source."
    );
    describe_gauge!(
        HOLES,
        "Ranges of seq below the highest seen that are neither seen nor closed."
    );
    describe_gauge!(
        ABANDONED_LEDGERS,
        "Ledgers without a sink or a relay, which hold the table back."
    );
    describe_counter!(
        SETTLED,
        "Rows that every ledger has and that were marked or deleted, by action."
    );
    describe_counter!(
        LATE_EVENTS,
        "Rows found in holes that were taken for dead; must stay 0."
    );
    describe_gauge!(
        RELOAD_SUCCESSFUL,
        "1 unless the newest reload of the configuration failed."
    );
    describe_gauge!(
        RELOAD_TIMESTAMP,
        Unit::Seconds,
        "When the configuration was last read with success."
    );
    describe_gauge!(BUILD_INFO, "Always 1; its labels say which build this is.");
}

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

/// The handles of what settles one source.
#[derive(Clone)]
#[allow(missing_docs)] // each is described where its name stands
pub struct SettleMetrics {
    pub marked: Counter,
    pub deleted: Counter,
    pub expired: Counter,
}

impl std::fmt::Debug for SettleMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettleMetrics").finish_non_exhaustive()
    }
}

impl SettleMetrics {
    /// The handles of `source`.
    #[must_use]
    pub fn new(source: &str) -> Self {
        let settled =
            |action: &'static str| counter!(SETTLED, SOURCE => source.to_owned(), ACTION => action);
        Self {
            marked: settled("mark"),
            deleted: settled("delete"),
            expired: settled("expire"),
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

/// Whether the configuration has `source`.
pub fn set_configured(source: &str, configured: bool) {
    gauge!(SOURCE_CONFIGURED, SOURCE => source.to_owned()).set(if configured { 1.0 } else { 0.0 });
}

/// What came of the newest reload.
#[derive(Debug, Clone, Copy)]
pub struct ReloadGauges;

impl ReloadGauges {
    /// The configuration was read just now, and is the one that the relay runs by if this was `successful`.
    pub fn set(self, successful: bool) {
        gauge!(RELOAD_SUCCESSFUL).set(if successful { 1.0 } else { 0.0 });
        if successful {
            gauge!(RELOAD_TIMESTAMP).set(to_f64(Utc::now().timestamp().unsigned_abs()));
        }
    }
}

/// A figure of a source that whoever holds its lease knows; 0 again in the end.
pub struct SourceGauge(Gauge);

impl SourceGauge {
    /// How many holes `source` has, in the pipeline that has most.
    #[must_use]
    pub fn holes(source: &str) -> Self {
        Self(gauge!(HOLES, SOURCE => source.to_owned()))
    }

    /// How many ledgers that nobody keeps hold back the table of `source`.
    #[must_use]
    pub fn abandoned_ledgers(source: &str) -> Self {
        Self(gauge!(ABANDONED_LEDGERS, SOURCE => source.to_owned()))
    }

    /// So many now.
    pub fn set(&self, count: usize) {
        self.0.set(to_f64(count as u64));
    }
}

impl std::fmt::Debug for SourceGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceGauge").finish_non_exhaustive()
    }
}

impl Drop for SourceGauge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// How many dead letters stand in a source's table, by sink; 0 again in the end, for they are counted by whoever
/// holds the lease.
pub struct DeadLetterGauges {
    source: String,
    by_sink: BTreeMap<String, Gauge>,
}

impl DeadLetterGauges {
    /// The gauges of `source`.
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            by_sink: BTreeMap::new(),
        }
    }

    /// So many by sink, and none of any other sink.
    pub fn set(&mut self, counts: &BTreeMap<String, u64>) {
        for sink in counts.keys() {
            if !self.by_sink.contains_key(sink) {
                let labels = [(SOURCE, self.source.clone()), (SINK, sink.clone())];
                let gauge = gauge!(DEAD_LETTERS, &labels);
                self.by_sink.insert(sink.clone(), gauge);
            }
        }
        for (sink, gauge) in &self.by_sink {
            gauge.set(to_f64(counts.get(sink).copied().unwrap_or(0)));
        }
    }
}

impl std::fmt::Debug for DeadLetterGauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetterGauges").finish_non_exhaustive()
    }
}

impl Drop for DeadLetterGauges {
    fn drop(&mut self) {
        self.set(&BTreeMap::new());
    }
}

/// For gauges, which are floating point numbers.
#[allow(clippy::cast_precision_loss)] // exact up to 2^53
fn to_f64(count: u64) -> f64 {
    count as f64
}

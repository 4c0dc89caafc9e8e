//! Names of metrics and labels, one place for all of them; the handles that pipelines and sources record to are in files
//! of their own.

mod pipeline;
mod source;

use chrono::Utc;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};

pub use self::pipeline::{Cause, PipelineMetrics};
pub use self::source::{DeadLetterGauges, SettleMetrics, SourceGauge, set_configured};

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

/// For gauges, which are floating point numbers.
#[allow(clippy::cast_precision_loss)] // exact up to 2^53
fn to_f64(count: u64) -> f64 {
    count as f64
}

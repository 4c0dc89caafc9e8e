//! The figures of one source: what settles it, and what whoever holds its lease knows.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, counter, gauge};

use super::{
    ABANDONED_LEDGERS, ACTION, DEAD_LETTERS, HOLES, SETTLED, SINK, SOURCE, SOURCE_CONFIGURED,
    to_f64,
};

/// Whether the configuration has `source`.
pub fn set_configured(source: &str, configured: bool) {
    gauge!(SOURCE_CONFIGURED, SOURCE => source.to_owned()).set(if configured { 1.0 } else { 0.0 });
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

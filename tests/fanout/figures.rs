//! What the writers did in a stretch of time, and what a broker got of it.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::support::stream::Delivery;
use crate::support::writers::Record;

/// A stretch of a test.
#[derive(Debug)]
pub(super) struct Span {
    name: &'static str,
    from: SystemTime,
    to: SystemTime,
}

impl Span {
    /// From then until now.
    pub(super) fn since(name: &'static str, from: SystemTime) -> Self {
        let to = SystemTime::now();
        Self { name, from, to }
    }

    fn has(&self, at: SystemTime) -> bool {
        self.from <= at && at < self.to
    }

    fn seconds(&self) -> f64 {
        let length = self.to.duration_since(self.from);
        length.unwrap_or_default().as_secs_f64()
    }
}

/// A broker in a span.
#[derive(Debug)]
pub(super) struct Row {
    sink: &'static str,
    span: &'static str,
    committed_per_second: f64,
    /// Deliveries, repetitions included, by the time at which the broker had them.
    delivered_per_second: f64,
    duplicates: usize,
    /// From the commit to the broker, of what was committed in the span.
    median: Duration,
    p99: Duration,
}

/// What stands above rows.
pub(super) const HEADER: &str =
    "events per second committed and delivered, from commit to broker, duplicates:";

impl Row {
    /// Deliveries for each commit.
    pub(super) fn kept_up(&self) -> f64 {
        self.delivered_per_second / self.committed_per_second
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |latency: Duration| latency.as_secs_f64() * 1_000.0;
        write!(
            f,
            "  {:9} {:7} {:6.0}/s {:6.0}/s  p50 {:7.1} ms  p99 {:7.1} ms  {:3}",
            self.sink,
            self.span,
            self.committed_per_second,
            self.delivered_per_second,
            millis(self.median),
            millis(self.p99),
            self.duplicates,
        )
    }
}

/// The figures of a broker that holds these deliveries.
pub(super) fn row(
    sink: &'static str,
    span: &Span,
    record: &Record,
    deliveries: &[Delivery],
) -> Row {
    let commits = record.committed.values();
    let committed = commits
        .filter(|written| span.has(written.committed_at))
        .count();
    let (mut delivered, mut duplicates) = (0, 0);
    let (mut seen, mut latencies) = (HashSet::new(), Vec::new());
    for delivery in deliveries {
        let is_first = seen.insert(delivery.id);
        if span.has(delivery.at) {
            delivered += 1;
            duplicates += usize::from(!is_first);
        }
        let written = record.committed.get(&delivery.id);
        if let Some(written) = written.filter(|written| is_first && span.has(written.committed_at))
        {
            let latency = delivery.at.duration_since(written.committed_at);
            // The writer may hear of its commit after the broker has the event.
            latencies.push(latency.unwrap_or_default());
        }
    }
    latencies.sort_unstable();
    let at = |share: usize| {
        let latency = latencies.get(latencies.len() * share / 100);
        latency.copied().unwrap_or_default()
    };
    let per_second = |count: usize| {
        let count = u32::try_from(count).expect("far fewer");
        f64::from(count) / span.seconds()
    };
    Row {
        sink,
        span: span.name,
        committed_per_second: per_second(committed),
        delivered_per_second: per_second(delivered),
        duplicates,
        median: at(50),
        p99: at(99),
    }
}

/// How a broker that was away got what it had missed, while the writers went on.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) events: u64,
    pub(super) took: Duration,
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, took } = self;
        write!(f, "{events} events in {:.1} s", took.as_secs_f64())
    }
}

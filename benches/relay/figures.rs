//! What was measured, as a table and as JSON.

use std::time::Duration;

use serde::Serialize;

/// The figures of one run, or of several the medians.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) events_per_second: f64,
    /// Processor time per event, in microseconds.
    pub(crate) own_us: f64,
    pub(crate) postgres_us: f64,
    pub(crate) broker_us: Option<f64>,
    pub(crate) peak_rss_mb: f64,
    pub(crate) statements_per_1000: f64,
    /// Not while writers write to the same log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wal_bytes_per_event: Option<f64>,
    /// Deliveries of an event after its first.
    pub(crate) duplicates: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_ms: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hot_share: Option<f64>,
}

/// From a writer's COMMIT to a consumer's receipt, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) case: String,
    pub(crate) sink: String,
    pub(crate) runs: usize,
    pub(crate) relay: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ceiling: Option<Figures>,
    /// Of the medians of events per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// Everything, as `--json` writes it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) processors: usize,
    pub(crate) versions: Vec<String>,
    pub(crate) command: String,
    pub(crate) lines: Vec<Line>,
}

impl Figures {
    pub(crate) fn medians(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(runs.iter().map(figure));
        let latencies: Vec<Latency> = runs.iter().filter_map(|run| run.latency_ms).collect();
        let latency = |figure: fn(&Latency) -> f64| median(latencies.iter().map(figure));
        let has_broker = runs.iter().all(|run| run.broker_us.is_some());
        let has_wal = runs.iter().all(|run| run.wal_bytes_per_event.is_some());
        let hot: Vec<f64> = runs.iter().filter_map(|run| run.hot_share).collect();
        Self {
            events_per_second: of(|run| run.events_per_second),
            own_us: of(|run| run.own_us),
            postgres_us: of(|run| run.postgres_us),
            broker_us: has_broker.then(|| of(|run| run.broker_us.unwrap_or_default())),
            peak_rss_mb: of(|run| run.peak_rss_mb),
            statements_per_1000: of(|run| run.statements_per_1000),
            wal_bytes_per_event: has_wal
                .then(|| of(|run| run.wal_bytes_per_event.unwrap_or_default())),
            duplicates: of(|run| run.duplicates),
            latency_ms: (!latencies.is_empty()).then(|| Latency {
                p50: latency(|latency| latency.p50),
                p99: latency(|latency| latency.p99),
                p999: latency(|latency| latency.p999),
            }),
            hot_share: (!hot.is_empty()).then(|| median(hot.iter().copied())),
        }
    }
}

impl Latency {
    pub(crate) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        let at = |share: f64| times[(last as f64 * share).round() as usize].as_secs_f64() * 1e3;
        Some(Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        })
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

const HEAD: &str = "\
case                   sink              events/s  ceiling  ratio   CPU µs/event: own (ceiling)  PostgreSQL  broker   \
RSS MB  stmts/1000  WAL B/event  twice  latency ms p50/p99/p999";

pub(crate) fn print_head() {
    println!("\n{HEAD}");
}

impl Line {
    /// As soon as it is known: a run takes minutes.
    pub(crate) fn print(&self) {
        let Figures {
            events_per_second,
            own_us,
            postgres_us,
            broker_us,
            peak_rss_mb,
            statements_per_1000,
            wal_bytes_per_event,
            duplicates,
            latency_ms,
            hot_share,
        } = &self.relay;
        let ceiling = self.ceiling.as_ref();
        let or_dash = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let latency = latency_ms.map_or_else(
            || "-".to_owned(),
            |Latency { p50, p99, p999 }| format!("{p50:.1} / {p99:.1} / {p999:.1}"),
        );
        let mut rest = String::new();
        if let Some(share) = hot_share {
            rest.push_str(&format!("  HOT {:.1} %", share * 100.0));
        }
        if let Some(note) = &self.note {
            rest.push_str(&format!("  {note}"));
        }
        println!(
            "{:22} {:16} {events_per_second:>9.0} {:>8} {:>6} {own_us:>18.2} {:>10} {postgres_us:>11.2} {:>7} \
             {peak_rss_mb:>8.1} {statements_per_1000:>11.2} {:>12} {duplicates:>6.0}  {latency}{rest}",
            self.case,
            self.sink,
            or_dash(ceiling.map(|figures| figures.events_per_second), 0),
            or_dash(self.ratio, 2),
            ceiling.map_or_else(String::new, |figures| format!("({:.2})", figures.own_us)),
            or_dash(*broker_us, 2),
            or_dash(*wal_bytes_per_event, 2),
        );
    }
}

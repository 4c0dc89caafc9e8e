//! What `/status` answers: the state of this process as JSON, for people and programs that ask by hand.
//!
//! Names, numbers and the texts of errors only: neither settings nor anything of an event. Field names are part of
//! the interface: fields may be added, none is renamed.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::Instant;

use super::journal::Entry;
use super::{Activity, PipelineState, PipelineStatus, Reloaded, SourceState, Status, locked};

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// This program's version.
    pub version: &'static str,
    /// Whether `/readyz` says 200.
    pub ready: bool,
    /// What `/readyz` says otherwise, one line each.
    pub obstacles: Vec<String>,
    /// The newest reload of the configuration; null if there was none.
    pub reload: Option<ReloadReport>,
    /// Every configured source.
    pub sources: Vec<SourceReport>,
    /// The pipelines that run here: none of a source whose lease another relay holds.
    pub pipelines: Vec<PipelineReport>,
    /// What has happened lately, newest first.
    pub recent: Vec<Entry>,
}

/// A reload of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    /// When it was tried.
    pub at: DateTime<Utc>,
    /// Whether the relay runs by what was read then.
    pub successful: bool,
    /// Everything that was wrong otherwise, one line each.
    pub errors: Vec<String>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// Its name.
    pub source: String,
    /// `connecting`, `standby` (another relay has the lease), `active` or `halted` (an operator is needed).
    pub state: &'static str,
    /// Why it is connecting or halted, if there is a reason.
    pub reason: Option<String>,
    /// Why nobody can ring, so that its table is polled; null if nothing is wrong, or it is polled anyway.
    pub doorbell_error: Option<String>,
}

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PipelineReport {
    /// The source's name.
    pub source: String,
    /// The sink's name.
    pub sink: String,
    /// `connecting` (never connected yet), `connected`, or `away` (it was, and the broker doesn't answer now).
    pub sink_state: &'static str,
    /// Since when the broker doesn't answer.
    pub away_since: Option<DateTime<Utc>>,
    /// What it failed with last, while it doesn't answer.
    pub sink_error: Option<String>,
    /// What reading failed with last, while the database doesn't answer.
    pub source_error: Option<String>,
    /// What it is doing; these fields are missing until the sink has been connected.
    #[serde(flatten)]
    pub activity: Option<ActivityReport>,
    /// Events that its broker acknowledged since it started.
    pub published: u64,
    /// Further attempts after one that failed, since it started.
    pub retries: u64,
    /// Dead letters that stand in the table for it; null until they have been counted.
    pub dead_letters: Option<u64>,
    /// Seconds since the ledger was stored last; null if nothing was to be stored yet.
    pub last_flush_seconds: Option<f64>,
    /// Seconds since its last sign of life.
    pub heartbeat_seconds: f64,
}

/// What a pipeline is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActivityReport {
    /// Events handed to the broker and not yet answered.
    pub in_flight: usize,
    /// Events that wait for a retry or behind one of their key that does.
    pub parked: usize,
    /// Events not yet acknowledged, at most.
    pub pending: u64,
    /// Age of the oldest event that was read and not yet acknowledged; null if there is none.
    pub oldest_pending_seconds: Option<f64>,
    /// Ranges of `seq` below the highest seen that are neither seen nor closed.
    pub holes: usize,
    /// Since when an event waits for its acknowledgement while others get theirs; null if none waits for longer than
    /// three times the sink's `timeout`. Only of sinks that keep order themselves (Kafka).
    pub overdue_since: Option<DateTime<Utc>>,
    /// Events whose destination takes nothing now, such as a full queue. They are among those parked.
    pub busy: usize,
    /// Since when there are such destinations; null if there are none.
    pub busy_since: Option<DateTime<Utc>>,
    /// What the broker said of one of them last.
    pub busy_error: Option<String>,
    /// Whether what waits for them leaves no room to read more, so that everything else for this sink waits too.
    pub busy_blocks_reading: bool,
}

impl Status {
    /// The state of everything, now.
    #[must_use]
    pub fn report(&self) -> Report {
        let obstacles = self.obstacles();
        let sources = locked(&self.sources);
        let pipelines = locked(&self.pipelines);
        let doorbells = locked(&self.doorbells);
        Report {
            version: env!("CARGO_PKG_VERSION"),
            ready: obstacles.is_empty(),
            obstacles,
            reload: locked(&self.reload).as_ref().map(reload),
            sources: sources
                .iter()
                .map(|(name, state)| source(name, state, doorbells.get(name)))
                .collect(),
            pipelines: pipelines
                .iter()
                .map(|((source, sink), status)| pipeline(source, sink, status))
                .collect(),
            recent: self.journal.entries(),
        }
    }
}

fn reload(reloaded: &Reloaded) -> ReloadReport {
    ReloadReport {
        at: reloaded.at,
        successful: reloaded.errors.is_empty(),
        errors: reloaded.errors.clone(),
    }
}

fn source(name: &str, state: &SourceState, doorbell_error: Option<&String>) -> SourceReport {
    // What another session has left says nothing of a source that is not active.
    let active = matches!(state, SourceState::Active);
    let (state, reason) = match state {
        SourceState::Connecting { error } => ("connecting", error.clone()),
        SourceState::Standby => ("standby", None),
        SourceState::Active => ("active", None),
        SourceState::Halted { reason } => ("halted", Some(reason.clone())),
    };
    SourceReport {
        source: name.to_owned(),
        state,
        reason,
        doorbell_error: doorbell_error.filter(|_| active).cloned(),
    }
}

fn pipeline(source: &str, sink: &str, status: &PipelineStatus) -> PipelineReport {
    let counts = status.tally.counts();
    let state = locked(&status.state);
    let away = state.sink_away.as_ref();
    PipelineReport {
        source: source.to_owned(),
        sink: sink.to_owned(),
        sink_state: sink_state(&state),
        away_since: away.map(|(since, _)| Utc::now() - since.elapsed()),
        sink_error: away.map(|(_, error)| error.clone()),
        source_error: state.source_away.clone(),
        activity: state.activity.as_ref().map(activity),
        published: counts.published(),
        retries: counts.retries,
        dead_letters: state.dead_letters,
        last_flush_seconds: state.flushed_at.map(seconds_since),
        heartbeat_seconds: seconds_since(state.beat_at),
    }
}

fn sink_state(state: &PipelineState) -> &'static str {
    match (state.connected, &state.sink_away) {
        (false, _) => "connecting",
        (true, None) => "connected",
        (true, Some(_)) => "away",
    }
}

fn activity(activity: &Activity) -> ActivityReport {
    let age = |created_at: DateTime<Utc>| {
        let age = (Utc::now() - created_at).to_std().unwrap_or_default();
        age.as_secs_f64()
    };
    let busy = activity.busy.as_ref();
    ActivityReport {
        in_flight: activity.in_flight,
        parked: activity.parked,
        pending: activity.pending,
        oldest_pending_seconds: activity.oldest_pending.map(age),
        holes: activity.holes,
        overdue_since: activity.overdue_since.map(|at| Utc::now() - at.elapsed()),
        busy: busy.map_or(0, |busy| busy.events),
        busy_since: busy.map(|busy| Utc::now() - busy.since.elapsed()),
        busy_error: busy.map(|busy| busy.error.clone()),
        busy_blocks_reading: busy.is_some_and(|busy| busy.blocks_reading),
    }
}

fn seconds_since(instant: Instant) -> f64 {
    instant.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::fixture::{documented_fields, fields};

    #[tokio::test(start_paused = true)]
    async fn it_tells_an_outage_from_a_start() {
        let status = Status::default();
        status.set_source("draft", SourceState::Active);
        let pipeline = status.start_pipeline("draft", "picks", Arc::default());
        let first = |status: &Status| status.report().pipelines.remove(0);
        pipeline.sink_is_away("refused");
        assert_eq!(first(&status).sink_state, "connecting");
        assert_eq!(first(&status).activity, None);
        pipeline.sink_is_connected();
        assert_eq!(first(&status).sink_state, "connected");
        assert_eq!(first(&status).sink_error, None);
        pipeline.sink_is_away("gone");
        pipeline.ledger_is_stored(2);
        tokio::time::advance(Duration::from_secs(5)).await;
        let report = first(&status);
        assert_eq!(
            (report.sink_state, report.sink_error.as_deref()),
            ("away", Some("gone"))
        );
        assert!(report.away_since.is_some());
        assert_eq!(report.last_flush_seconds, Some(5.0));
        assert!((report.heartbeat_seconds - 5.0).abs() < 0.001);
    }

    #[test]
    fn its_fields_have_the_documented_names() {
        let status = Status::default();
        let reason = "no table".to_owned();
        status.set_source("draft", SourceState::Halted { reason });
        let pipeline = status.start_pipeline("draft", "picks", Arc::default());
        pipeline.works(Activity::default());
        status.set_reload("not reloaded", vec!["wrong".to_owned()]);
        let json = serde_json::to_value(status.report()).expect("JSON");
        assert_eq!(json["reload"]["successful"], false);
        assert_eq!(json["reload"]["errors"][0], "wrong");
        assert!(json["reload"]["at"].is_string());
        assert_eq!(json["recent"][0]["text"], "not reloaded: wrong");
        assert_eq!(json["recent"][0]["severity"], "error");
        assert_eq!(json["recent"][1]["subject"], "source draft");
        assert_eq!(json["sources"][0]["state"], "halted");
        assert_eq!(json["sources"][0]["reason"], "no table");
        let documented = documented_fields("## What a relay does: /status");
        assert_eq!(fields(&json), documented);
    }
}

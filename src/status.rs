//! What the relay is doing, for probes: written by its tasks, read by the admin endpoints.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a sink may be away before the relay counts as not ready.
const SINK_AWAY_LIMIT: Duration = Duration::from_secs(60);

/// How long a task may go without a sign of life before the process counts as stuck.
const BEAT_LIMIT: Duration = Duration::from_secs(60);

/// The state of everything that runs, shared.
#[derive(Debug, Clone, Default)]
pub struct Status {
    sources: Arc<Mutex<BTreeMap<String, SourceState>>>,
    pipelines: Arc<Mutex<Pipelines>>,
}

/// By source and sink.
type Pipelines = BTreeMap<(String, String), Arc<PipelineStatus>>;

/// What a source is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// It has not been reached yet, or no longer.
    Connecting {
        /// Why, if an attempt has failed.
        error: Option<String>,
    },
    /// Another relay holds the lease.
    Standby,
    /// This relay holds the lease.
    Active,
    /// Nothing goes on until an operator has acted.
    Halted {
        /// What to do about what.
        reason: String,
    },
}

/// What a pipeline is doing.
#[derive(Debug)]
pub struct PipelineStatus {
    state: Mutex<PipelineState>,
}

#[derive(Debug)]
struct PipelineState {
    beat_at: Instant,
    sink_away: Option<(Instant, String)>,
    connected: bool,
    source_away: Option<String>,
}

impl Status {
    /// Notes what a source is doing.
    pub fn set_source(&self, source: &str, state: SourceState) {
        locked(&self.sources).insert(source.to_owned(), state);
    }

    /// The status of a pipeline that starts now.
    #[must_use]
    pub fn start_pipeline(&self, source: &str, sink: &str) -> Arc<PipelineStatus> {
        let status = Arc::new(PipelineStatus {
            state: Mutex::new(PipelineState {
                beat_at: Instant::now(),
                sink_away: None,
                connected: false,
                source_away: None,
            }),
        });
        locked(&self.pipelines).insert((source.to_owned(), sink.to_owned()), Arc::clone(&status));
        status
    }

    /// Forgets the pipelines of a source that has ended its session.
    pub fn end_pipelines(&self, source: &str) {
        locked(&self.pipelines).retain(|(of, _), _| of != source);
    }

    /// What keeps the relay from doing its work, one line each; empty if it is ready.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        for (source, state) in &*locked(&self.sources) {
            match state {
                SourceState::Active | SourceState::Standby => {}
                SourceState::Connecting { error: None } => {
                    obstacles.push(format!("source {source}: connecting"));
                }
                SourceState::Connecting { error: Some(error) } => {
                    obstacles.push(format!("source {source}: {error}"));
                }
                SourceState::Halted { reason } => {
                    obstacles.push(format!("source {source}: {reason}"));
                }
            }
        }
        for ((source, sink), pipeline) in &*locked(&self.pipelines) {
            let state = locked(&pipeline.state);
            if let Some(error) = &state.source_away {
                obstacles.push(format!("source {source}: {error}"));
            }
            match &state.sink_away {
                Some((since, error)) if !state.connected || since.elapsed() >= SINK_AWAY_LIMIT => {
                    let away = since.elapsed().as_secs();
                    obstacles.push(format!("sink {sink}: away for {away} s: {error}"));
                }
                Some(_) => {}
                None if !state.connected => obstacles.push(format!("sink {sink}: connecting")),
                None => {}
            }
        }
        obstacles
    }

    /// Tasks that gave no sign of life for too long, one line each; empty if the process is alive.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        let pipelines = locked(&self.pipelines);
        let stuck = pipelines.iter().filter_map(|((source, sink), pipeline)| {
            let silent = locked(&pipeline.state).beat_at.elapsed();
            (silent >= BEAT_LIMIT).then(|| {
                format!(
                    "pipeline {source} to {sink}: no sign of life for {} s",
                    silent.as_secs()
                )
            })
        });
        stuck.collect()
    }
}

impl PipelineStatus {
    /// A sign of life.
    pub fn beat(&self) {
        locked(&self.state).beat_at = Instant::now();
    }

    /// The connection to the broker was made.
    pub fn sink_is_connected(&self) {
        let mut state = locked(&self.state);
        state.connected = true;
        state.sink_away = None;
    }

    /// The broker does not answer.
    pub fn sink_is_away(&self, error: &str) {
        let mut state = locked(&self.state);
        let since = state
            .sink_away
            .as_ref()
            .map_or_else(Instant::now, |(since, _)| *since);
        state.sink_away = Some((since, error.to_owned()));
    }

    /// The broker answers again.
    pub fn sink_is_back(&self) {
        locked(&self.state).sink_away = None;
    }

    /// The database does not answer.
    pub fn source_is_away(&self, error: &str) {
        locked(&self.state).source_away = Some(error.to_owned());
    }

    /// The database answers again.
    pub fn source_is_back(&self) {
        locked(&self.state).source_away = None;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement leaves the state whole, so a panic elsewhere has not broken it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readiness_names_what_is_missing() {
        let status = Status::default();
        status.set_source("draft", SourceState::Active);
        let pipeline = status.start_pipeline("draft", "picks");
        assert_eq!(status.obstacles(), ["sink picks: connecting"]);
        pipeline.sink_is_connected();
        assert!(status.obstacles().is_empty());
        pipeline.sink_is_away("refused");
        assert!(status.obstacles().is_empty());
        tokio::time::advance(SINK_AWAY_LIMIT).await;
        assert_eq!(status.obstacles(), ["sink picks: away for 60 s: refused"]);
        assert_eq!(status.stuck().len(), 1);
        pipeline.sink_is_back();
        pipeline.beat();
        assert!(status.obstacles().is_empty() && status.stuck().is_empty());
    }
}

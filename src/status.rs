//! What the relay is doing, for probes: written by its tasks, read by the admin endpoints.

pub mod journal;
mod pipeline;
pub mod report;
pub mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use self::journal::{Journal, Severity};
use self::pipeline::PipelineState;
use self::tally::Tally;

pub use self::pipeline::{Activity, Busy, PipelineStatus};

/// How long a sink may be away before the relay counts as not ready.
const SINK_AWAY_LIMIT: Duration = Duration::from_secs(60);

/// How long a task may go without a sign of life before the process counts as stuck.
const BEAT_LIMIT: Duration = Duration::from_secs(60);

/// The state of everything that runs, shared.
#[derive(Debug, Clone, Default)]
pub struct Status {
    sources: Arc<Mutex<BTreeMap<String, SourceState>>>,
    pipelines: Arc<Mutex<Pipelines>>,
    /// Why a source's doorbell is out of order.
    doorbells: Arc<Mutex<BTreeMap<String, String>>>,
    reload: Arc<Mutex<Option<Reloaded>>>,
    journal: Arc<Journal>,
}

/// The newest reload of the configuration.
#[derive(Debug, Clone)]
struct Reloaded {
    at: DateTime<Utc>,
    /// Everything that was wrong, without any secret; empty: it succeeded.
    errors: Vec<String>,
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

impl Status {
    /// Notes what a source is doing.
    pub fn set_source(&self, source: &str, state: SourceState) {
        let noted = match &state {
            SourceState::Connecting { error } => {
                error.as_deref().map(|error| (Severity::Error, error))
            }
            SourceState::Standby => Some((Severity::Info, "another relay holds the lease")),
            SourceState::Active => Some((Severity::Info, "this relay holds the lease")),
            SourceState::Halted { reason } => Some((Severity::Error, reason.as_str())),
        };
        if let Some((severity, text)) = noted {
            self.note(severity, format!("source {source}"), text, 1);
        }
        locked(&self.sources).insert(source.to_owned(), state);
    }

    /// Notes what has happened, so many times, for the list of recent events.
    pub fn note(&self, severity: Severity, subject: String, text: &str, times: u64) {
        self.journal.note(severity, subject, text, times);
    }

    /// Notes why a source's doorbell is out of order and its table polled; `None`: it is not.
    pub fn set_doorbell(&self, source: &str, trouble: Option<String>) {
        let mut doorbells = locked(&self.doorbells);
        match trouble {
            Some(trouble) => doorbells.insert(source.to_owned(), trouble),
            None => doorbells.remove(source),
        };
    }

    /// Notes what came of a reload of the configuration: in words, and everything that was wrong, if anything was.
    pub fn set_reload(&self, outcome: &str, errors: Vec<String>) {
        let at = Utc::now();
        let (severity, text) = if errors.is_empty() {
            (Severity::Info, outcome.to_owned())
        } else {
            (Severity::Error, format!("{outcome}: {}", errors.join("; ")))
        };
        self.note(severity, "configuration".to_owned(), &text, 1);
        *locked(&self.reload) = Some(Reloaded { at, errors });
    }

    /// The status of a pipeline that starts now, and counts in `tally`.
    #[must_use]
    pub fn start_pipeline(
        &self,
        source: &str,
        sink: &str,
        tally: Arc<Tally>,
    ) -> Arc<PipelineStatus> {
        let status = Arc::new(PipelineStatus::new(sink, tally, Arc::clone(&self.journal)));
        locked(&self.pipelines).insert((source.to_owned(), sink.to_owned()), Arc::clone(&status));
        status
    }

    /// Forgets a pipeline that has ended and is not followed by another.
    pub fn end_pipeline(&self, source: &str, sink: &str) {
        locked(&self.pipelines).remove(&(source.to_owned(), sink.to_owned()));
    }

    /// Forgets a source that is no longer configured, with its pipelines.
    pub fn remove_source(&self, source: &str) {
        self.end_pipelines(source);
        locked(&self.sources).remove(source);
    }

    /// Forgets the pipelines of a source that has ended its session.
    pub fn end_pipelines(&self, source: &str) {
        locked(&self.pipelines).retain(|(of, _), _| of != source);
    }

    /// Ranges of `seq` that are neither seen nor closed, in the pipeline of the source that has most.
    #[must_use]
    pub fn holes(&self, source: &str) -> usize {
        let holes = |state: &mut PipelineState| state.activity.as_ref().map_or(0, |now| now.holes);
        self.of_source(source, holes).max().unwrap_or(0)
    }

    /// Dead letters of the source were retried or discarded: they are to be counted.
    pub fn dead_letters_changed(&self, source: &str) {
        let set = |state: &mut PipelineState| state.uncounted_letters = true;
        self.of_source(source, set).for_each(drop);
    }

    /// What each pipeline counts in, by source and sink.
    #[must_use]
    pub fn tallies(&self) -> BTreeMap<(String, String), Arc<Tally>> {
        let pipelines = locked(&self.pipelines);
        let tallies = pipelines.iter();
        tallies
            .map(|(name, pipeline)| (name.clone(), Arc::clone(&pipeline.tally)))
            .collect()
    }

    /// Whether dead letters of the source are to be counted. Says so once.
    pub fn take_uncounted_letters(&self, source: &str) -> bool {
        let take = |state: &mut PipelineState| std::mem::take(&mut state.uncounted_letters);
        self.of_source(source, take).any(|uncounted| uncounted)
    }

    /// Notes how many dead letters stand in the table, by sink.
    pub fn set_dead_letters(&self, source: &str, counts: &BTreeMap<String, u64>) {
        for ((of, sink), pipeline) in &*locked(&self.pipelines) {
            if of == source {
                let count = counts.get(sink).copied().unwrap_or(0);
                locked(&pipeline.state).dead_letters = Some(count);
            }
        }
    }

    fn of_source<T>(
        &self,
        source: &str,
        mut of: impl FnMut(&mut PipelineState) -> T,
    ) -> impl Iterator<Item = T> {
        let pipelines = locked(&self.pipelines);
        let pipelines = pipelines.iter().filter(|((name, _), _)| name == source);
        let values: Vec<T> = pipelines
            .map(|(_, pipeline)| of(&mut locked(&pipeline.state)))
            .collect();
        values.into_iter()
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
                None => {
                    let why = state.standstill();
                    obstacles.extend(why.map(|why| format!("sink {sink}: {why}")));
                }
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement leaves the state whole, so a panic elsewhere has not broken it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readiness_names_what_is_missing() {
        let status = Status::default();
        status.set_source("draft", SourceState::Active);
        let pipeline = status.start_pipeline("draft", "picks", Arc::default());
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

    #[tokio::test(start_paused = true)]
    async fn a_full_destination_is_an_obstacle_where_nothing_else_goes_on() {
        let status = Status::default();
        let pipeline = status.start_pipeline("draft", "picks", Arc::default());
        pipeline.sink_is_connected();
        let since = Instant::now();
        let works = |idle_since| {
            pipeline.works(Activity {
                busy: Some(Busy {
                    events: 3,
                    since,
                    idle_since,
                    error: "queue q is full".to_owned(),
                    blocks_reading: false,
                }),
                ..Activity::default()
            });
        };
        tokio::time::advance(2 * SINK_AWAY_LIMIT).await;
        works(Instant::now());
        assert!(status.obstacles().is_empty(), "others go on");
        works(since);
        let expected = "sink picks: nothing was taken for 120 s, 3 events wait: queue q is full";
        assert_eq!(status.obstacles(), [expected]);
        pipeline.works(Activity::default());
        assert!(status.obstacles().is_empty());
    }

    #[tokio::test]
    async fn the_figures_of_a_source_are_over_its_pipelines() {
        let status = Status::default();
        let holes = |holes| Activity {
            holes,
            ..Activity::default()
        };
        let (picks, bills) = (
            status.start_pipeline("draft", "picks", Arc::default()),
            status.start_pipeline("draft", "bills", Arc::default()),
        );
        status
            .start_pipeline("other", "picks", Arc::default())
            .works(holes(7));
        picks.works(holes(3));
        bills.works(holes(1));
        assert_eq!(status.holes("draft"), 3);
        // A pipeline that begins is counted for, and each letter is.
        assert!(status.take_uncounted_letters("draft"));
        assert!(!status.take_uncounted_letters("draft"));
        picks.ledger_is_stored(0);
        assert!(!status.take_uncounted_letters("draft"));
        bills.ledger_is_stored(2);
        assert!(status.take_uncounted_letters("draft"));
        assert!(status.take_uncounted_letters("other"));
    }
}

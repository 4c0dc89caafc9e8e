//! What one pipeline is doing: written by its task.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::journal::{Journal, Severity};
use super::tally::Tally;
use super::{SINK_AWAY_LIMIT, locked};

/// What a pipeline is doing.
#[derive(Debug)]
pub struct PipelineStatus {
    sink: String,
    pub(super) tally: Arc<Tally>,
    journal: Arc<Journal>,
    pub(super) state: Mutex<PipelineState>,
}

/// Its parts.
#[derive(Debug)]
pub(super) struct PipelineState {
    pub(super) beat_at: Instant,
    pub(super) sink_away: Option<(Instant, String)>,
    pub(super) connected: bool,
    pub(super) source_away: Option<String>,
    /// `None` until it has begun.
    pub(super) activity: Option<Activity>,
    pub(super) flushed_at: Option<Instant>,
    /// Whether it has begun, or stored dead letters, since they were last counted.
    pub(super) uncounted_letters: bool,
    /// Dead letters that stand in the table, when they were last counted.
    pub(super) dead_letters: Option<u64>,
}

/// What a pipeline has to do, in numbers.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    /// Events handed to the broker and not yet answered.
    pub in_flight: usize,
    /// Events that wait for a retry or behind one of their key that does.
    pub parked: usize,
    /// Events not yet acknowledged, at most.
    pub pending: u64,
    /// When the oldest event that was read and not yet acknowledged was created.
    pub oldest_pending: Option<DateTime<Utc>>,
    /// Ranges of `seq` below the highest seen that are neither seen nor closed.
    pub holes: usize,
    /// Since when an event waits for its acknowledgement while others get theirs, if that is too long.
    pub overdue_since: Option<Instant>,
    /// Destinations that take nothing now, if there are any.
    pub busy: Option<Busy>,
}

/// Destinations of a sink that take nothing now, although its broker answers: full queues and streams.
#[derive(Debug, Clone)]
pub struct Busy {
    /// How many events wait for them, not counting those behind one of their key.
    pub events: usize,
    /// Since when there are such destinations.
    pub since: Instant,
    /// Since when the sink's broker has taken nothing at all.
    pub idle_since: Instant,
    /// What the broker said last.
    pub error: String,
    /// Whether what waits leaves no room to read more, so that everything else for this sink waits too.
    pub blocks_reading: bool,
}

impl PipelineState {
    /// Why nothing goes on although the broker answers.
    pub(super) fn standstill(&self) -> Option<String> {
        let busy = self.activity.as_ref()?.busy.as_ref()?;
        let idle = busy.idle_since.elapsed();
        let Busy { events, error, .. } = busy;
        (idle >= SINK_AWAY_LIMIT).then(|| {
            let idle = idle.as_secs();
            format!("nothing was taken for {idle} s, {events} events wait: {error}")
        })
    }
}

impl PipelineStatus {
    /// One that starts now, and counts in `tally`.
    pub(super) fn new(sink: &str, tally: Arc<Tally>, journal: Arc<Journal>) -> Self {
        Self {
            sink: sink.to_owned(),
            tally,
            journal,
            state: Mutex::new(PipelineState {
                beat_at: Instant::now(),
                sink_away: None,
                connected: false,
                source_away: None,
                activity: None,
                flushed_at: None,
                uncounted_letters: true,
                dead_letters: None,
            }),
        }
    }

    /// A sign of life.
    pub fn beat(&self) {
        locked(&self.state).beat_at = Instant::now();
    }

    /// A sign of life, with what there is to do.
    pub fn works(&self, activity: Activity) {
        let mut state = locked(&self.state);
        state.beat_at = Instant::now();
        state.activity = Some(activity);
    }

    /// The ledger was stored, with this many dead letters.
    pub fn ledger_is_stored(&self, dead_letters: usize) {
        if dead_letters > 0 {
            let text = "the broker refused an event, which is a dead letter now";
            self.note(Severity::Warning, text, dead_letters as u64);
        }
        let mut state = locked(&self.state);
        state.flushed_at = Some(Instant::now());
        state.uncounted_letters |= dead_letters > 0;
    }

    /// The connection to the broker was made.
    pub fn sink_is_connected(&self) {
        self.note(Severity::Info, "connected", 1);
        let mut state = locked(&self.state);
        state.connected = true;
        state.sink_away = None;
    }

    /// The broker does not answer.
    pub fn sink_is_away(&self, error: &str) {
        let mut state = locked(&self.state);
        if state
            .sink_away
            .as_ref()
            .is_none_or(|(_, last)| last != error)
        {
            self.note(Severity::Error, &format!("away: {error}"), 1);
        }
        let since = state
            .sink_away
            .as_ref()
            .map_or_else(Instant::now, |(since, _)| *since);
        state.sink_away = Some((since, error.to_owned()));
    }

    /// The broker answers again.
    pub fn sink_is_back(&self) {
        if let Some((since, _)) = locked(&self.state).sink_away.take() {
            let away = since.elapsed().as_secs();
            self.note(Severity::Info, &format!("back after {away} s"), 1);
        }
    }

    /// The database does not answer.
    pub fn source_is_away(&self, error: &str) {
        let before = locked(&self.state).source_away.replace(error.to_owned());
        if before.as_deref() != Some(error) {
            let text = format!("the source does not answer: {error}");
            self.note(Severity::Error, &text, 1);
        }
    }

    /// The database answers again.
    pub fn source_is_back(&self) {
        locked(&self.state).source_away = None;
    }

    fn note(&self, severity: Severity, text: &str, times: u64) {
        let subject = format!("sink {}", self.sink);
        self.journal.note(severity, subject, text, times);
    }
}

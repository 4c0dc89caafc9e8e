//! The pipelines of one session: which run, by which settings, and what follows from their ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::janitor::Purpose;
use super::plan::{self, PipelineSettings};
use super::roster::{Ended, Outcome, Roster};
use super::session::{End, SourceTask};
use super::sinks::{Ledger, PipelineTask};
use super::thread::OwnThread;
use crate::config::Config;
use crate::error::chain;
use crate::lease::Lease;
use crate::metrics::PipelineMetrics;
use crate::pipeline::Exit;
use crate::source::bell::Bell;
use crate::source::{LeaseId, SourceError, StoredLedger};

/// The pause before a pipeline that died of a bug is started anew.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What a pipeline may take to stop beyond `shutdown_timeout`, for its last flush.
const STOP_GRACE: Duration = Duration::from_secs(7);

/// What all pipelines of a session share.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) id: LeaseId,
    pub(super) lease: Lease,
    pub(super) bell: Option<Bell>,
    pub(super) purpose: Purpose,
}

/// The pipelines of one session.
#[derive(Debug)]
pub(super) struct Pipelines<'a> {
    task: &'a SourceTask,
    stop: &'a CancellationToken,
    holding: Holding,
    /// What they run by, or will as soon as those of before have ended.
    config: Arc<Config>,
    roster: Roster<PipelineSettings, Result<Exit, SourceError>>,
}

impl<'a> Pipelines<'a> {
    /// Each with the ledger that came with the lease; a sink without one has to join by itself.
    pub(super) fn start_all(
        task: &'a SourceTask,
        stop: &'a CancellationToken,
        holding: Holding,
        config: Arc<Config>,
        ledgers: Vec<StoredLedger>,
    ) -> Self {
        let mut pipelines = Self {
            task,
            stop,
            holding,
            config,
            roster: Roster::new(stop),
        };
        let mut settings = pipelines.wanted();
        for ledger in ledgers {
            let sink = ledger.sink.clone();
            if let Some(settings) = settings.remove(&sink) {
                pipelines.start(&sink, settings, Ledger::Granted(ledger), Duration::ZERO);
            }
        }
        pipelines.start_wanted();
        pipelines
    }

    /// Goes over to a configuration: pipelines that it lacks or changes are told to stop, new ones start, and all
    /// others don't notice.
    pub(super) fn follow(&mut self, config: Arc<Config>) {
        if self.stop.is_cancelled() {
            return;
        }
        self.config = config;
        if !self.task.has_broker(&self.config) {
            self.holding.purpose.is_gone();
        }
        self.start_wanted();
    }

    /// The configuration that they run by, once everything of before has ended.
    pub(super) fn settled_on(&self) -> Option<&Arc<Config>> {
        self.roster.is_settled().then_some(&self.config)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.roster.is_empty()
    }

    /// The lease is revoked, or will be: nothing is to be published or stored any more.
    pub(super) fn lease(&self) -> &Lease {
        &self.holding.lease
    }

    pub(super) fn id(&self) -> &LeaseId {
        &self.holding.id
    }

    /// The next that ends; nothing is lost if the future is dropped.
    pub(super) async fn ended(&mut self) -> Ended<Result<Exit, SourceError>> {
        self.roster.ended().await
    }

    /// Decides what the end of a pipeline means for the session.
    pub(super) fn take_end(&mut self, ended: Ended<Result<Exit, SourceError>>) -> Option<End> {
        let Ended {
            name: sink,
            stopped,
            outcome,
        } = ended;
        let (exit, pause) = match outcome {
            Outcome::Returned(Ok(exit)) => (exit, Duration::ZERO),
            Outcome::Returned(Err(error)) => {
                tracing::warn!(
                    sink,
                    error = chain(&error),
                    "a pipeline could not be started"
                );
                (Exit::Fenced, RESTART_PAUSE)
            }
            Outcome::Aborted => {
                tracing::warn!(
                    sink,
                    "a pipeline did not stop in time and was aborted, what no ledger has is published again"
                );
                (Exit::Stopped, Duration::ZERO)
            }
            Outcome::Died(error) => {
                tracing::error!(
                    sink,
                    error = chain(&error),
                    "a pipeline died of a bug, its ledger is read anew"
                );
                (Exit::Fenced, RESTART_PAUSE)
            }
        };
        let source = &self.task.source_config.name;
        match exit {
            Exit::Changed => Some(End::Lost),
            Exit::Fenced if !stopped => {
                if let Some(settings) = self.wanted().remove(&sink) {
                    self.start(&sink, settings, Ledger::Changed, pause);
                }
                None
            }
            Exit::Fenced | Exit::Stopped => {
                if !self.stop.is_cancelled() {
                    self.task.status.end_pipeline(source, &sink);
                    if !self.wanted().contains_key(&sink) {
                        self.task.warn_of_stranger(&sink);
                    }
                    self.start_wanted();
                }
                None
            }
        }
    }

    /// Ends all of them at once.
    pub(super) async fn abort(self) {
        self.roster.abort_all().await;
    }

    fn wanted(&self) -> BTreeMap<String, PipelineSettings> {
        plan::pipelines(&self.config, &self.task.source_config.name)
    }

    fn start_wanted(&mut self) {
        let mut wanted = self.wanted();
        let limit = *self.task.drain.borrow() + STOP_GRACE;
        for sink in self.roster.make_room(&wanted, limit) {
            if let Some(settings) = wanted.remove(&sink) {
                self.start(&sink, settings, Ledger::Joining, Duration::ZERO);
            }
        }
    }

    fn start(&mut self, sink: &str, settings: PipelineSettings, ledger: Ledger, pause: Duration) {
        let task = self.task;
        let source = &task.source_config.name;
        let Some(sink_config) = self.config.sinks.get(sink) else {
            return;
        };
        let metrics = Arc::new(PipelineMetrics::new(source, sink));
        let tally = Arc::clone(&metrics.tally);
        let publisher = task.publishers.get(sink).cloned();
        // A program's own publisher stays where its client lives, which may outlive the pipeline.
        let thread = match publisher {
            None => OwnThread::named(sink),
            Some(_) => None,
        };
        let pipeline = PipelineTask {
            config: Arc::clone(&self.config),
            publisher,
            source_config: task.source_config.clone(),
            sink_config: sink_config.clone(),
            source: Arc::clone(&task.source),
            lease_id: self.holding.id.clone(),
            lease: self.holding.lease.clone(),
            bell: self.holding.bell.clone(),
            purpose: self.holding.purpose.clone(),
            drain: task.drain.clone(),
            ledger,
            pause,
            metrics,
            status: task.status.start_pipeline(source, sink, tally),
        };
        let span = tracing::info_span!("pipeline", source, sink);
        self.roster.start(sink, settings, thread, |stop| {
            tracing::Instrument::instrument(pipeline.run(stop), span)
        });
    }
}

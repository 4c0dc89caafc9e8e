//! A source from start to stop: sessions, each of which holds the lease once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::census::Census;
use super::janitor::Janitor;
use super::keeper::keep;
use super::sinks::PipelineTask;
use crate::backoff::Backoff;
use crate::config::{self, Config, SinkKind};
use crate::error::chain;
use crate::lease::Lease;
use crate::metrics::{LEASE_HELD, PipelineMetrics, SOURCE, SettleMetrics};
use crate::pipeline::Exit;
use crate::sink::BoxSink;
use crate::source::bell::Bell;
use crate::source::{
    Grant, LeaseId, STANDBY_INTERVAL, SinkStart, Source, SourceError, StoredLedger,
};
use crate::status::{SourceState, Status};

/// How often a source that was refused is looked at again: an operator may have mended it.
const HALTED_INTERVAL: Duration = Duration::from_secs(5);

/// The pause before a pipeline that died of a bug is started anew.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The pause before a session that was lost is followed by the next.
const LOST_PAUSE: Duration = Duration::from_millis(100);

/// The task of one source.
#[derive(Debug)]
pub(super) struct SourceTask {
    pub(super) config: Arc<Config>,
    pub(super) publishers: Arc<BTreeMap<String, BoxSink>>,
    pub(super) source_config: config::Source,
    pub(super) source: Arc<dyn Source>,
    pub(super) status: Status,
    pub(super) stop: CancellationToken,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By the stop; everything is stored.
    Stopped,
    /// The lease, or the server, is no longer the one of the session.
    Lost,
}

/// The pipelines of one session.
struct Session<'a> {
    task: &'a SourceTask,
    id: LeaseId,
    lease: Lease,
    bell: Option<Bell>,
    pipelines: JoinSet<Result<Exit, SourceError>>,
    /// Which sink each task is for.
    sinks: Vec<(Id, String)>,
}

impl SourceTask {
    /// Runs sessions until the stop, or until an operator is needed before anything can start.
    pub(super) async fn run(self) -> Result<(), SourceError> {
        let mut backoff = Backoff::source();
        let name = &self.source_config.name;
        self.held_gauge().set(0.0);
        while !self.stop.is_cancelled() {
            let delay = match self.session(&mut backoff).await {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Lost) => {
                    tracing::warn!(
                        source = name,
                        "the lease or the server changed, everything is read anew"
                    );
                    self.status
                        .set_source(name, SourceState::Connecting { error: None });
                    LOST_PAUSE
                }
                Err(error @ SourceError::Migrate(_)) => return Err(error),
                Err(SourceError::Refused(reason)) => {
                    tracing::error!(source = name, reason, "the source is halted");
                    self.status.set_source(name, SourceState::Halted { reason });
                    HALTED_INTERVAL
                }
                Err(error) => {
                    let delay = backoff.failed();
                    let error = chain(&error);
                    tracing::warn!(
                        source = name,
                        error,
                        ?delay,
                        "the source can't be reached and is tried again"
                    );
                    self.status
                        .set_source(name, SourceState::Connecting { error: Some(error) });
                    delay
                }
            };
            self.stop
                .run_until_cancelled(tokio::time::sleep(delay))
                .await;
        }
        Ok(())
    }

    /// Takes the lease, runs the pipelines, and ends with the lease or by the stop.
    async fn session(&self, backoff: &mut Backoff) -> Result<End, SourceError> {
        let Some(inspected) = self.stop.run_until_cancelled(self.source.inspect()).await else {
            return Ok(End::Stopped);
        };
        inspected?;
        let Some(grant) = self.granted().await? else {
            return Ok(End::Stopped);
        };
        backoff.succeeded();
        let held = self.held_gauge();
        held.set(1.0);
        let end = self.with_lease(grant).await;
        held.set(0.0);
        self.status.end_pipelines(&self.source_config.name);
        Ok(end)
    }

    /// Waits for the lease; `None` if the stop came first.
    async fn granted(&self) -> Result<Option<Grant>, SourceError> {
        let name = &self.source_config.name;
        let sinks = self.sinks();
        let mut standby = false;
        while !self.stop.is_cancelled() {
            // Not to be dropped half-way: a lease that nobody knows of would have to run out.
            if let Some(grant) = self.source.acquire(&sinks).await? {
                if standby {
                    self.inspect_again(&grant.lease).await?;
                }
                tracing::info!(source = name, "the lease is held by this relay");
                return Ok(Some(grant));
            }
            if !standby {
                standby = true;
                tracing::info!(
                    source = name,
                    "another relay holds the lease, this one stands by"
                );
                self.status.set_source(name, SourceState::Standby);
            }
            self.stop
                .run_until_cancelled(tokio::time::sleep(STANDBY_INTERVAL))
                .await;
        }
        Ok(None)
    }

    /// The tables may have changed while this relay stood by.
    async fn inspect_again(&self, lease: &LeaseId) -> Result<(), SourceError> {
        let inspected = self.source.inspect().await;
        if inspected.is_err()
            && let Err(error) = self.source.release(lease).await
        {
            tracing::warn!(error = chain(&error), "the lease could not be released");
        }
        inspected
    }

    async fn with_lease(&self, grant: Grant) -> End {
        for sink in &grant.strangers {
            tracing::warn!(
                source = self.source_config.name,
                sink,
                "a ledger has no sink in the configuration: its events are never settled; \
                 drop it by `outbox-relay ledger drop` if the sink is gone for good"
            );
        }
        let lease = Lease::granted(grant.asked_at);
        let keeper = keep(Arc::clone(&self.source), grant.lease.clone(), lease.clone());
        let mut keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
        let (bell, ringing) = self.source.doorbell().unzip();
        let _ringing = ringing.map(|ringing| AbortOnDropHandle::new(tokio::spawn(ringing)));
        let census = Census::new(
            &self.source,
            &self.source_config.name,
            &self.sinks(),
            &self.status,
        );
        let mut census = AbortOnDropHandle::new(tokio::spawn(census.run()));
        let mut janitor = self.janitor(&grant.lease, &lease);
        let mut session = Session {
            task: self,
            id: grant.lease,
            lease,
            bell,
            pipelines: JoinSet::new(),
            sinks: Vec::new(),
        };
        for ledger in grant.ledgers {
            session.start(ledger.sink.clone(), Some(ledger), Duration::ZERO);
        }
        // Only now: ready means that every sink is, too.
        self.status
            .set_source(&self.source_config.name, SourceState::Active);
        let end = session.run(&mut keeper, &mut janitor).await;
        session.lease.revoke();
        session.pipelines.shutdown().await;
        // Ended, and not only told to: the next session's sets the same gauges.
        census.abort();
        (&mut census).await.ok();
        drop((keeper, janitor));
        if end == End::Stopped
            && let Err(error) = self.source.release(&session.id).await
        {
            tracing::warn!(
                error = chain(&error),
                "the lease could not be released, a standby waits for its end"
            );
        }
        end
    }

    /// Settles for as long as the session lasts. A mock is no broker: what only mocks have is not settled.
    fn janitor(&self, id: &LeaseId, lease: &Lease) -> AbortOnDropHandle<()> {
        let real = |sink: &config::Sink| !matches!(sink.kind, SinkKind::Mock(_));
        if !self.fed_sinks().any(real) {
            return AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
        }
        let janitor = Janitor {
            source: Arc::clone(&self.source),
            id: id.clone(),
            lease: lease.clone(),
            interval: self.source_config.settle_interval,
            metrics: SettleMetrics::new(&self.source_config.name),
        };
        let span = tracing::info_span!("janitor", source = self.source_config.name);
        let running = tracing::Instrument::instrument(janitor.run(), span);
        AbortOnDropHandle::new(tokio::spawn(running))
    }

    /// The sinks that this source feeds.
    fn fed_sinks(&self) -> impl Iterator<Item = &config::Sink> {
        let fed = |sink: &&config::Sink| sink.inputs.contains(&self.source_config.name);
        self.config.sinks.values().filter(fed)
    }

    fn sinks(&self) -> Vec<SinkStart> {
        self.fed_sinks()
            .map(|sink| SinkStart {
                sink: sink.name.clone(),
                start: sink.start,
            })
            .collect()
    }

    fn held_gauge(&self) -> Gauge {
        gauge!(LEASE_HELD, SOURCE => self.source_config.name.clone())
    }
}

impl Session<'_> {
    /// Starts the pipeline of `sink`: with the ledger that came with the lease, or `None` to read it anew.
    fn start(&mut self, sink: String, ledger: Option<StoredLedger>, pause: Duration) {
        let task = self.task;
        let source = &task.source_config.name;
        let Some(sink_config) = task.config.sinks.get(&sink) else {
            return;
        };
        let pipeline = PipelineTask {
            config: Arc::clone(&task.config),
            publisher: task.publishers.get(&sink).cloned(),
            source_config: task.source_config.clone(),
            sink_config: sink_config.clone(),
            source: Arc::clone(&task.source),
            lease_id: self.id.clone(),
            lease: self.lease.clone(),
            bell: self.bell.clone(),
            ledger,
            pause,
            metrics: Arc::new(PipelineMetrics::new(source, &sink)),
            status: task.status.start_pipeline(source, &sink),
        };
        let span = tracing::info_span!("pipeline", source, sink);
        let running = tracing::Instrument::instrument(pipeline.run(task.stop.clone()), span);
        let handle = self.pipelines.spawn(running);
        self.sinks.push((handle.id(), sink));
    }

    /// Until every pipeline has stopped, or the session is lost.
    async fn run(
        &mut self,
        keeper: &mut AbortOnDropHandle<()>,
        janitor: &mut AbortOnDropHandle<()>,
    ) -> End {
        loop {
            tokio::select! {
                _ = &mut *keeper => return End::Lost,
                _ = &mut *janitor => {
                    tracing::error!("the task that settles events died of a bug, the session starts anew");
                    return End::Lost;
                }
                Some(ended) = self.pipelines.join_next_with_id() => {
                    if self.pipeline_ended(ended) == Some(End::Lost) {
                        return End::Lost;
                    }
                }
                // A source that feeds no sink holds its lease and waits.
                () = self.task.stop.cancelled(), if self.pipelines.is_empty() => return End::Stopped,
            }
        }
    }

    /// Decides what the end of a pipeline means for the session.
    fn pipeline_ended(
        &mut self,
        ended: Result<(Id, Result<Exit, SourceError>), JoinError>,
    ) -> Option<End> {
        let (id, exit, pause) = match ended {
            Ok((id, Ok(exit))) => (id, exit, Duration::ZERO),
            Ok((id, Err(error))) => {
                tracing::warn!(error = chain(&error), "a pipeline could not be started");
                (id, Exit::Fenced, RESTART_PAUSE)
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "a pipeline died of a bug, its ledger is read anew"
                );
                (error.id(), Exit::Fenced, RESTART_PAUSE)
            }
        };
        let index = self.sinks.iter().position(|(of, _)| *of == id)?;
        let (_, sink) = self.sinks.swap_remove(index);
        match exit {
            Exit::Stopped => None,
            Exit::Changed => Some(End::Lost),
            Exit::Fenced => {
                self.start(sink, None, pause);
                None
            }
        }
    }
}

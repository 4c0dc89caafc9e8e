//! A source from start to stop: sessions, each of which holds the lease once.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Publishers;
use super::census::Census;
use super::janitor::{Janitor, Purpose};
use super::keeper::keep;
use super::pipelines::{Holding, Pipelines};
use super::supervisor::Sessions;
use crate::backoff::Backoff;
use crate::config::{self, Config, SinkKind};
use crate::error::chain;
use crate::lease::Lease;
use crate::metrics::{LEASE_HELD, SOURCE, SettleMetrics};
use crate::source::bell::Bell;
use crate::source::{Grant, LeaseId, STANDBY_INTERVAL, SinkStart, Source, SourceError};
use crate::status::{SourceState, Status};

/// How often a source that was refused is looked at again: an operator may have mended it.
const HALTED_INTERVAL: Duration = Duration::from_secs(5);

/// The pause before a session that was lost is followed by the next.
const LOST_PAUSE: Duration = Duration::from_millis(100);

/// The newest configuration, and whether there is a newer one than was looked at.
pub(super) type Following = watch::Receiver<Arc<Config>>;

/// The task of one source.
#[derive(Debug)]
pub(super) struct SourceTask {
    /// Of it only what concerns the sinks is followed; a source that is changed is another task.
    pub(super) config: Following,
    pub(super) publishers: Arc<Publishers>,
    pub(super) source_config: config::Source,
    pub(super) source: Arc<dyn Source>,
    pub(super) status: Status,
    /// How long a pump that is told to stop waits for acknowledgements.
    pub(super) drain: watch::Receiver<Duration>,
    pub(super) sessions: Sessions,
    /// Whether tables that are missing at first end the relay: at its start, somebody is there to see it.
    pub(super) at_start: bool,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By the stop; everything is stored.
    Stopped,
    /// The lease, or the server, is no longer the one of the session.
    Lost,
}

impl SourceTask {
    /// Runs sessions until the stop, or until an operator is needed before anything can start.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), SourceError> {
        let mut backoff = Backoff::source();
        let mut config = self.config.clone();
        self.held_gauge().set(0.0);
        let mut at_start = self.at_start;
        while !stop.is_cancelled() {
            config.mark_unchanged();
            let Some(inspected) = stop.run_until_cancelled(self.source.inspect()).await else {
                return Ok(());
            };
            let outcome = match inspected {
                Ok(()) => self.session(&mut config, &mut backoff, &stop).await,
                Err(error @ SourceError::Migrate(_)) if at_start => return Err(error),
                Err(error) => Err(error),
            };
            // What is missing later is no reason to take the other sources along.
            at_start = false;
            let delay = match outcome {
                Ok(End::Stopped) => return Ok(()),
                outcome => self.pause_after(outcome, &mut backoff),
            };
            // A new configuration may be what was missing.
            let pause = tokio::time::timeout(delay, newer(&mut config));
            stop.run_until_cancelled(pause).await;
        }
        Ok(())
    }

    /// Notes why there is no session, and says how long to wait before the next.
    fn pause_after(&self, outcome: Result<End, SourceError>, backoff: &mut Backoff) -> Duration {
        let name = &self.source_config.name;
        let (state, pause) = match outcome {
            Ok(_) => {
                tracing::warn!(
                    source = name,
                    "the lease or the server changed, everything is read anew"
                );
                (SourceState::Connecting { error: None }, LOST_PAUSE)
            }
            Err(SourceError::Refused(reason) | SourceError::Migrate(reason)) => {
                tracing::error!(source = name, reason, "the source is halted");
                (SourceState::Halted { reason }, HALTED_INTERVAL)
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
                (SourceState::Connecting { error: Some(error) }, delay)
            }
        };
        self.status.set_source(name, state);
        pause
    }

    /// Takes the lease, runs the pipelines, and ends with the lease or by the stop.
    async fn session(
        &self,
        config: &mut Following,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<End, SourceError> {
        let Some((grant, acquired_for)) = self.granted(config, stop).await? else {
            return Ok(End::Stopped);
        };
        backoff.succeeded();
        let end = self.with_lease(grant, acquired_for, config, stop).await;
        self.held_gauge().set(0.0);
        let name = &self.source_config.name;
        self.status.end_pipelines(name);
        self.sessions.ended(name);
        Ok(end)
    }

    /// Waits for the lease, and says which configuration's sinks it was taken for; `None` if the stop came first.
    async fn granted(
        &self,
        config: &mut Following,
        stop: &CancellationToken,
    ) -> Result<Option<(Grant, Arc<Config>)>, SourceError> {
        let name = &self.source_config.name;
        let mut standby = false;
        while !stop.is_cancelled() {
            let config = Arc::clone(&config.borrow_and_update());
            let sinks: Vec<SinkStart> = config.fed_by(name).map(start_of).collect();
            let Some(prepared) = stop.run_until_cancelled(self.source.prepare(&sinks)).await else {
                return Ok(None);
            };
            prepared?;
            // Not to be dropped half-way: a lease that nobody knows of would have to run out.
            if let Some(grant) = self.source.acquire(&sinks).await? {
                if standby {
                    self.inspect_again(&grant.lease).await?;
                }
                tracing::info!(source = name, "the lease is held by this relay");
                return Ok(Some((grant, config)));
            }
            if !standby {
                standby = true;
                tracing::info!(
                    source = name,
                    "another relay holds the lease, this one stands by"
                );
                self.status.set_source(name, SourceState::Standby);
            }
            stop.run_until_cancelled(tokio::time::sleep(STANDBY_INTERVAL))
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

    async fn with_lease(
        &self,
        grant: Grant,
        acquired_for: Arc<Config>,
        config: &mut Following,
        stop: &CancellationToken,
    ) -> End {
        for sink in &grant.strangers {
            self.warn_of_stranger(sink);
        }
        let lease = Lease::granted(grant.asked_at);
        let keeper = keep(
            Arc::clone(&self.source),
            grant.lease.clone(),
            lease.clone(),
            self.held_gauge(),
        );
        let mut keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
        let (bell, ringing) = self.source.doorbell().unzip();
        let _ringing = ringing.map(|ringing| AbortOnDropHandle::new(tokio::spawn(ringing)));
        let mut census = AbortOnDropHandle::new(tokio::spawn(self.census(bell.clone()).run()));
        let purpose = Purpose::default();
        let mut janitor = self.janitor(&grant.lease, &lease, &purpose);
        let holding = Holding {
            id: grant.lease,
            lease,
            bell,
            purpose,
        };
        let mut pipelines = Pipelines::start_all(self, stop, holding, acquired_for, grant.ledgers);
        // Only now: ready means that every sink is, too.
        self.status
            .set_source(&self.source_config.name, SourceState::Active);
        let end = self
            .watch(&mut pipelines, config, stop, &mut keeper, &mut janitor)
            .await;
        pipelines.lease().revoke();
        let id = pipelines.id().clone();
        pipelines.abort().await;
        // Ended, and not only told to: the next session's sets the same gauges.
        census.abort();
        (&mut census).await.ok();
        drop((keeper, janitor));
        if end == End::Stopped
            && let Err(error) = self.source.release(&id).await
        {
            tracing::warn!(
                error = chain(&error),
                "the lease could not be released, a standby waits for its end"
            );
        }
        end
    }

    /// Until every pipeline has stopped, or the session is lost; follows the configuration meanwhile.
    async fn watch(
        &self,
        pipelines: &mut Pipelines<'_>,
        config: &mut Following,
        stop: &CancellationToken,
        keeper: &mut AbortOnDropHandle<()>,
        janitor: &mut AbortOnDropHandle<()>,
    ) -> End {
        loop {
            if let Some(config) = pipelines.settled_on() {
                self.sessions.runs(&self.source_config.name, config);
            }
            tokio::select! {
                _ = &mut *keeper => return End::Lost,
                _ = &mut *janitor => {
                    tracing::error!("the task that settles events died of a bug, the session starts anew");
                    return End::Lost;
                }
                ended = pipelines.ended() => {
                    if pipelines.take_end(ended) == Some(End::Lost) {
                        return End::Lost;
                    }
                }
                config = newer(config) => pipelines.follow(config),
                // A source that feeds no sink holds its lease and waits.
                () = stop.cancelled(), if pipelines.is_empty() => return End::Stopped,
            }
        }
    }

    /// Settles for as long as the session lasts.
    fn janitor(&self, id: &LeaseId, lease: &Lease, purpose: &Purpose) -> AbortOnDropHandle<()> {
        let janitor = Janitor {
            source: Arc::clone(&self.source),
            id: id.clone(),
            lease: lease.clone(),
            interval: self.source_config.settle_interval,
            purpose: purpose.clone(),
            metrics: SettleMetrics::new(&self.source_config.name),
        };
        let span = tracing::info_span!("janitor", source = self.source_config.name);
        let running = tracing::Instrument::instrument(janitor.run(), span);
        AbortOnDropHandle::new(tokio::spawn(running))
    }

    fn census(&self, bell: Option<Bell>) -> Census {
        let name = &self.source_config.name;
        Census::new(&self.source, name, self.config.clone(), bell, &self.status)
    }

    /// Whether a real broker is fed by the source, and not only mocks.
    pub(super) fn has_broker(&self, config: &Config) -> bool {
        config.fed_by(&self.source_config.name).any(is_broker)
    }

    pub(super) fn warn_of_stranger(&self, sink: &str) {
        tracing::warn!(
            source = self.source_config.name,
            sink,
            "a ledger has no sink in the configuration: its events are never settled; \
             drop it by `outbox-relay ledger drop` if the sink is gone for good"
        );
    }

    fn held_gauge(&self) -> Gauge {
        gauge!(LEASE_HELD, SOURCE => self.source_config.name.clone())
    }
}

/// A newer configuration than was looked at last; for ever if none can come.
async fn newer(config: &mut Following) -> Arc<Config> {
    if config.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    Arc::clone(&config.borrow_and_update())
}

/// A mock is no broker: what only mocks have is not settled.
pub(super) fn is_broker(sink: &config::Sink) -> bool {
    !matches!(sink.kind, SinkKind::Mock(_))
}

/// Where the ledger of `sink` starts.
pub(super) fn start_of(sink: &config::Sink) -> SinkStart {
    SinkStart {
        sink: sink.name.clone(),
        start: sink.start,
    }
}

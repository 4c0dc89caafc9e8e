//! Making sinks, and running the pipeline of one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::janitor::Purpose;
use super::session::{is_broker, start_of};
use crate::backoff::Backoff;
use crate::config::{self, Config, SinkKind};
use crate::error::chain;
use crate::lease::Lease;
use crate::metrics::PipelineMetrics;
use crate::pipeline::{self, Exit, Limits, Pump, PumpParts};
use crate::sink::connect::ConnectError;
use crate::sink::mock::MockSink;
use crate::sink::stdout::StdoutSink;
use crate::sink::{BoxSink, Connected};
use crate::source::bell::Bell;
use crate::source::{LeaseId, Source, SourceError, StoredLedger};
use crate::status::PipelineStatus;

/// How often a sink that was refused is tried again: an operator may have mended it.
const REFUSED_INTERVAL: Duration = Duration::from_secs(5);

/// How often what waits says that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Everything that the pipeline of one sink needs, but for its stop.
#[derive(Debug)]
pub(super) struct PipelineTask {
    pub(super) config: Arc<Config>,
    /// The sink, if it is the program's own.
    pub(super) publisher: Option<BoxSink>,
    pub(super) source_config: config::Source,
    pub(super) sink_config: config::Sink,
    pub(super) source: Arc<dyn Source>,
    pub(super) lease_id: LeaseId,
    pub(super) lease: Lease,
    pub(super) bell: Option<Bell>,
    pub(super) purpose: Purpose,
    pub(super) drain: watch::Receiver<Duration>,
    pub(super) ledger: Ledger,
    pub(super) pause: Duration,
    pub(super) metrics: Arc<PipelineMetrics>,
    pub(super) status: Arc<PipelineStatus>,
}

/// Where a pipeline has its ledger from.
#[derive(Debug)]
pub(super) enum Ledger {
    /// It came with the lease.
    Granted(StoredLedger),
    /// Somebody has written to it since, or dropped it: that is this sink's affair alone.
    Changed,
    /// The sink is new to a session that runs, or ran with other settings until now.
    Joining,
}

impl PipelineTask {
    /// Connects the sink, for as long as that takes, and runs the pump.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<Exit, SourceError> {
        let prepared = stop.run_until_cancelled(self.prepared());
        let (sink, ledger) = match prepared.await {
            None => return Ok(Exit::Stopped),
            // The lease is another's.
            Some(None) => return Ok(Exit::Changed),
            Some(Some(prepared)) => prepared,
        };
        self.status.sink_is_connected();
        let (order, recall) = (sink.order, sink.recall.clone());
        let stack = pipeline::stack(
            sink,
            &self.sink_config,
            self.config.routing.as_ref(),
            Arc::clone(&self.metrics),
        );
        let pump = Pump::new(PumpParts {
            stack,
            order,
            recall,
            reader: self
                .source
                .reader(&self.lease_id, &ledger.delivered)
                .await?,
            bell: self.bell,
            store: self
                .source
                .ledger_store(&self.lease_id, &self.sink_config.name),
            ledger,
            lease: self.lease,
            limits: Limits::new(&self.source_config, &self.sink_config),
            drain: self.drain,
            metrics: self.metrics,
            status: self.status,
        });
        Ok(pump.run(stop).await)
    }

    /// The connected sink and the ledger; `None` if the lease is lost.
    async fn prepared(&mut self) -> Option<(Connected, StoredLedger)> {
        tokio::time::sleep(self.pause).await;
        // Before the broker: a new ledger starts now, however long the broker is away.
        let ledger = self.stored_ledger().await?;
        if is_broker(&self.sink_config) {
            self.purpose.is_there();
        }
        let sink = self.connected().await;
        Some((sink, ledger))
    }

    /// The ledger, stamped with our token, to go on from; `None` if the lease is no longer ours.
    async fn stored_ledger(&mut self) -> Option<StoredLedger> {
        let changed = match std::mem::replace(&mut self.ledger, Ledger::Changed) {
            Ledger::Granted(ledger) => return Some(ledger),
            Ledger::Changed => true,
            Ledger::Joining => false,
        };
        let start = start_of(&self.sink_config);
        let mut backoff = Backoff::source();
        loop {
            self.status.beat();
            // It may have to go through a large table first.
            let joined = self.alive(self.source.join(&self.lease_id, &start));
            let delay = match joined.await {
                Ok(ledger) => {
                    if changed && ledger.is_some() {
                        tracing::info!("the ledger was changed by somebody else and is read anew");
                    }
                    return ledger;
                }
                Err(SourceError::Refused(reason)) => {
                    tracing::error!(reason, "the sink can't join its source");
                    self.status.sink_is_away(&reason);
                    REFUSED_INTERVAL
                }
                Err(error) => {
                    let delay = backoff.failed();
                    tracing::warn!(
                        error = chain(&error),
                        ?delay,
                        "the ledger could not be read anew, it is tried again"
                    );
                    delay
                }
            };
            self.wait(delay).await;
        }
    }

    async fn connected(&self) -> Connected {
        if let Some(publisher) = &self.publisher {
            return Connected::gated(publisher.clone());
        }
        let mut backoff = Backoff::sink(self.sink_config.retry);
        loop {
            self.status.beat();
            let error = match connect(&self.config.relay, &self.sink_config).await {
                Ok(sink) => return sink,
                Err(error) => error,
            };
            let delay = backoff.failed();
            let text = chain(&error);
            if error.is_transient() {
                tracing::warn!(
                    error = text,
                    ?delay,
                    "the sink could not be connected and is tried again"
                );
            } else {
                tracing::error!(
                    error = text,
                    ?delay,
                    "the sink's configuration doesn't work, it is tried again"
                );
            }
            self.metrics.available.set(0.0);
            self.status.sink_is_away(&text);
            self.wait(delay).await;
        }
    }

    /// Sleeps, with signs of life in between.
    async fn wait(&self, delay: Duration) {
        self.alive(tokio::time::sleep(delay)).await;
        self.status.beat();
    }

    /// Awaits what takes its time, with signs of life in between.
    async fn alive<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            match tokio::time::timeout(SIGN_OF_LIFE, &mut work).await {
                Ok(done) => return done,
                Err(_elapsed) => self.status.beat(),
            }
        }
    }
}

/// Makes a sink. To add a kind, add its arm.
async fn connect(relay: &config::Relay, sink: &config::Sink) -> Result<Connected, ConnectError> {
    // Brokers are told who connects; a build may have none.
    #[cfg_attr(
        not(any(feature = "kafka", feature = "nats", feature = "rabbitmq")),
        allow(unused_variables)
    )]
    let client_name = format!("outbox-relay {} {}", relay.name, sink.name);
    Ok(match &sink.kind {
        SinkKind::Stdout => Connected::gated(StdoutSink::new()),
        SinkKind::Mock(mock) => Connected::gated(MockSink::new(mock.clone())),
        #[cfg(feature = "nats")]
        SinkKind::Jetstream(jetstream) => {
            Connected::gated(crate::sink::jetstream::connect(jetstream, &client_name).await?)
        }
        #[cfg(feature = "nats")]
        SinkKind::Nats(nats) => {
            Connected::gated(crate::sink::nats::connect(nats, &client_name).await?)
        }
        #[cfg(feature = "rabbitmq")]
        SinkKind::Rabbitmq(rabbitmq) => {
            Connected::gated(crate::sink::rabbitmq::connect(rabbitmq, &client_name).await?)
        }
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => {
            let sink = crate::sink::kafka::connect(kafka, &client_name).await?;
            let recall = sink.recall();
            Connected::in_order(sink, recall)
        }
    })
}

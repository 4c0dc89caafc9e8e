//! Making sinks, and running the pipeline of one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{self, Config, SinkKind};
use crate::error::chain;
use crate::lease::Lease;
use crate::metrics::PipelineMetrics;
use crate::pipeline::{self, Exit, Limits, Pump, PumpParts};
use crate::sink::BoxSink;
use crate::sink::connect::ConnectError;
use crate::sink::mock::MockSink;
use crate::sink::stdout::StdoutSink;
use crate::source::bell::Bell;
use crate::source::{LeaseId, Source, SourceError, StoredLedger};
use crate::status::PipelineStatus;

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
    /// The ledger as it was stored; `None` if somebody has written to it since.
    pub(super) ledger: Option<StoredLedger>,
    pub(super) pause: Duration,
    pub(super) metrics: Arc<PipelineMetrics>,
    pub(super) status: Arc<PipelineStatus>,
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
        let stack = pipeline::stack(
            sink,
            &self.sink_config,
            self.config.routing.as_ref(),
            Arc::clone(&self.metrics),
        );
        let pump = Pump::new(PumpParts {
            stack,
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
            limits: Limits::new(&self.config.relay, &self.source_config, &self.sink_config),
            metrics: self.metrics,
            status: self.status,
        });
        Ok(pump.run(stop).await)
    }

    /// The connected sink and the ledger; `None` if the lease is lost.
    async fn prepared(&mut self) -> Option<(BoxSink, StoredLedger)> {
        tokio::time::sleep(self.pause).await;
        let sink = self.connected().await;
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => self.reclaimed().await?,
        };
        Some((sink, ledger))
    }

    /// The ledger that somebody has written to, stamped and read anew; `None` if the lease is no longer ours.
    async fn reclaimed(&self) -> Option<StoredLedger> {
        let mut backoff = Backoff::source();
        loop {
            match self
                .source
                .reclaim(&self.lease_id, &self.sink_config.name)
                .await
            {
                Ok(ledger) => {
                    if ledger.is_some() {
                        tracing::info!("the ledger was changed by somebody else and is read anew");
                    }
                    return ledger;
                }
                Err(error) => {
                    let delay = backoff.failed();
                    tracing::warn!(
                        error = chain(&error),
                        ?delay,
                        "the ledger could not be read anew, it is tried again"
                    );
                    self.wait(delay).await;
                }
            }
        }
    }

    async fn connected(&self) -> BoxSink {
        if let Some(publisher) = &self.publisher {
            return publisher.clone();
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
        let until = Instant::now() + delay;
        while Instant::now() < until {
            let pause = Duration::from_secs(10);
            tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
            self.status.beat();
        }
    }
}

/// Makes a sink. To add a kind, add its arm.
#[cfg_attr(not(feature = "nats"), allow(unused_variables))] // only brokers are told who connects
async fn connect(relay: &config::Relay, sink: &config::Sink) -> Result<BoxSink, ConnectError> {
    match &sink.kind {
        SinkKind::Stdout => Ok(BoxSink::new(StdoutSink::new())),
        SinkKind::Mock(mock) => Ok(BoxSink::new(MockSink::new(mock.clone()))),
        #[cfg(feature = "nats")]
        SinkKind::Jetstream(jetstream) => {
            let client_name = format!("outbox-relay {} {}", relay.name, sink.name);
            crate::sink::jetstream::connect(jetstream, &client_name)
                .await
                .map(BoxSink::new)
        }
    }
}

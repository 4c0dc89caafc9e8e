//! The relay: every source with its pipelines, from start to stop.
//!
//! One task per source, which owns everything of it; the tasks share nothing but the configuration, which the
//! supervisor hands them. A new one comes by way of the [`Reloader`].

mod abandoned;
mod builder;
mod census;
mod janitor;
mod keeper;
mod pipelines;
mod plan;
mod reload;
mod roster;
mod session;
mod sinks;
mod supervisor;
mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
pub use tokio_util::sync::CancellationToken;

use self::supervisor::{Request, Supervisor};
use crate::config::Config;
use crate::metrics::ReloadGauges;
use crate::sink::BoxSink;
use crate::source::bookkeeping::Bookkeeping;
use crate::source::dead_letters::DeadLetters;
use crate::source::replay::Replays;
use crate::source::{Source, SourceError};
use crate::status::{SourceState, Status};

pub use self::builder::RelayBuilder;
pub use self::plan::{Changes, Plan};
pub(crate) use self::reload::cannot_join;
pub use self::reload::{Reload, ReloadError, Reloader};

/// Sinks by name that are the program's own.
type Publishers = BTreeMap<String, BoxSink>;

/// A relay that has not been started.
#[derive(Debug)]
pub struct Relay {
    config: watch::Sender<Arc<Config>>,
    publishers: Arc<Publishers>,
    status: Status,
    reloader: Reloader,
    requests: mpsc::Receiver<Request>,
}

/// Why a relay ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A source can't be worked with as it is.
    #[error("source {name}")]
    Source {
        /// The source's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: SourceError,
    },
    /// A publisher was given for a sink that the configuration does not have.
    #[error("a publisher was given for the sink {0}, which the configuration does not have")]
    NoSuchSink(String),
    /// A task died of a bug; the others were stopped.
    #[error("the task of a source died")]
    Died(#[source] tokio::task::JoinError),
}

impl Relay {
    /// A relay with this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let status = Status::default();
        for name in config.sources.keys() {
            status.set_source(name, SourceState::Connecting { error: None });
        }
        let config = watch::Sender::new(Arc::new(config));
        // Reloads take turns: one request at a time.
        let (request, requests) = mpsc::channel(1);
        Self {
            reloader: Reloader::new(config.subscribe(), request, status.clone()),
            config,
            publishers: Arc::default(),
            status,
            requests,
        }
    }

    /// A relay with this configuration and publishers of the program's own.
    #[must_use]
    pub fn builder(config: Config) -> RelayBuilder {
        RelayBuilder::new(config)
    }

    /// What it is doing, for probes.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// The configuration that it goes by.
    #[must_use]
    pub fn config(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// What has it go over to another configuration while it runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Runs until `stop`, then waits for acknowledgements for at most `shutdown_timeout`, stores the ledgers and
    /// gives up the leases. What doesn't stop within some seconds beyond that is aborted.
    ///
    /// # Errors
    /// If a source turns out to need an operator before anything can start, or a task dies. The other sources
    /// are stopped as by `stop`. A source that a reload has added or changed ends nothing: it halts alone.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RelayError> {
        ReloadGauges.set(true);
        let stop = stop.child_token();
        Supervisor::new(self.config, self.publishers, self.status, stop)
            .run(self.requests)
            .await
    }
}

/// The source of this name, not yet connected.
///
/// # Errors
/// If there is none, or its settings can't be used: its URL, for example.
pub fn open(config: &Config, name: &str) -> Result<Arc<dyn Source>, SourceError> {
    let source: Box<dyn Source> = database(config, name)?;
    Ok(source.into())
}

/// The ledgers of the source of this name, for commands.
///
/// # Errors
/// If there is none, or its settings can't be used: its URL, for example.
pub fn bookkeeping(config: &Config, name: &str) -> Result<Box<dyn Bookkeeping>, SourceError> {
    Ok(database(config, name)?)
}

/// The dead letters of the source of this name, for commands.
///
/// # Errors
/// If there is none, or its settings can't be used: its URL, for example.
pub fn dead_letters(config: &Config, name: &str) -> Result<Box<dyn DeadLetters>, SourceError> {
    Ok(database(config, name)?)
}

/// The outbox of the source of this name, to replay from.
///
/// # Errors
/// If there is none, or its settings can't be used: its URL, for example.
pub fn replays(config: &Config, name: &str) -> Result<Box<dyn Replays>, SourceError> {
    Ok(database(config, name)?)
}

/// What every kind of source is, to pipelines and to commands.
trait Database: Source + Bookkeeping + DeadLetters + Replays {}

impl<T: Source + Bookkeeping + DeadLetters + Replays> Database for T {}

/// Makes a source. To add a kind, add its arm.
fn database(config: &Config, name: &str) -> Result<Box<dyn Database>, SourceError> {
    let named = config.source(name);
    let source = named.map_err(|error| SourceError::Refused(error.to_string()))?;
    match &source.kind {
        #[cfg(feature = "postgres")]
        crate::config::SourceKind::Postgres(postgres) => {
            let source = crate::source::postgres::Postgres::new(&config.relay, source, postgres)?;
            Ok(Box::new(source))
        }
        #[cfg(feature = "sqlite")]
        crate::config::SourceKind::Sqlite(sqlite) => {
            let source = crate::source::sqlite::Sqlite::new(&config.relay, source, sqlite);
            Ok(Box::new(source))
        }
        #[allow(unreachable_patterns)] // by the features of the build
        kind => Err(kind.not_built()),
    }
}

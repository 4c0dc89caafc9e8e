//! The relay: every source with its pipelines, from start to stop.
//!
//! One task per source, which owns everything of it; the tasks share nothing but the configuration.

mod builder;
mod census;
mod janitor;
mod keeper;
mod session;
mod sinks;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
pub use tokio_util::sync::CancellationToken;

use self::session::SourceTask;
use crate::config::Config;
use crate::sink::BoxSink;
use crate::source::bookkeeping::Bookkeeping;
use crate::source::{Source, SourceError};
use crate::status::{SourceState, Status};

pub use self::builder::RelayBuilder;

/// A relay that has not been started.
#[derive(Debug)]
pub struct Relay {
    config: Arc<Config>,
    /// Sinks by name that are the program's own.
    publishers: Arc<BTreeMap<String, BoxSink>>,
    status: Status,
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
        Self {
            config: Arc::new(config),
            publishers: Arc::default(),
            status,
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

    /// Runs until `stop`, then waits for acknowledgements for at most `shutdown_timeout`, stores the ledgers and
    /// gives up the leases.
    ///
    /// # Errors
    /// If a source turns out to need an operator before anything can start, or a task dies. The other sources
    /// are stopped as by `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RelayError> {
        let stop = stop.child_token();
        let mut tasks = JoinSet::new();
        let mut outcome = Ok(());
        for (name, source_config) in &self.config.sources {
            match open(&self.config, name) {
                Ok(source) => {
                    let task = SourceTask {
                        config: Arc::clone(&self.config),
                        publishers: Arc::clone(&self.publishers),
                        source_config: source_config.clone(),
                        source,
                        status: self.status.clone(),
                        stop: stop.clone(),
                    };
                    let name = name.clone();
                    tasks.spawn(
                        async move { task.run().await.map_err(|error| failed(name, error)) },
                    );
                }
                Err(error) => {
                    outcome = Err(failed(name.clone(), error));
                    stop.cancel();
                }
            }
        }
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.unwrap_or_else(|error| Err(RelayError::Died(error)));
            if ended.is_err() {
                stop.cancel();
                outcome = outcome.and(ended);
            }
        }
        outcome
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

/// What every kind of source is, to pipelines and to commands.
trait Database: Source + Bookkeeping {}

impl<T: Source + Bookkeeping> Database for T {}

/// Makes a source. To add a kind, add its arm.
fn database(config: &Config, name: &str) -> Result<Box<dyn Database>, SourceError> {
    let Some(source) = config.sources.get(name) else {
        return Err(SourceError::Refused(format!(
            "there is no source {name} in the configuration"
        )));
    };
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

fn failed(name: String, source: SourceError) -> RelayError {
    RelayError::Source { name, source }
}

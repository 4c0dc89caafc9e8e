//! Building a relay whose sinks are partly the program's own.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::{Relay, RelayError};
use crate::config::Config;
use crate::sink::BoxSink;
use crate::sink::publisher::{EventPublisher, PublisherService};

/// A relay to be, with the publishers that it is to use.
#[derive(Debug)]
pub struct RelayBuilder {
    config: Config,
    publishers: BTreeMap<String, BoxSink>,
}

impl RelayBuilder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            publishers: BTreeMap::new(),
        }
    }

    /// Hands the messages of the sink `name` to `publisher`. Everything that the configuration says of this sink
    /// holds (its inputs, routes, envelope, retries, limits), but for its broker, which is never connected.
    #[must_use]
    pub fn publisher(mut self, name: &str, publisher: impl EventPublisher) -> Self {
        let sink = BoxSink::new(PublisherService::new(publisher));
        self.publishers.insert(name.to_owned(), sink);
        self
    }

    /// The relay, not yet started.
    ///
    /// # Errors
    /// If the configuration has no sink of a publisher's name.
    pub fn build(self) -> Result<Relay, RelayError> {
        let unknown = |name: &&String| !self.config.sinks.contains_key(*name);
        if let Some(name) = self.publishers.keys().find(unknown) {
            return Err(RelayError::NoSuchSink(name.clone()));
        }
        let mut relay = Relay::new(self.config);
        relay.publishers = self.publishers.into();
        Ok(relay)
    }

    /// Builds the relay and runs it: see [`Relay::run`].
    ///
    /// # Errors
    /// Those of [`RelayBuilder::build`] and [`Relay::run`].
    pub async fn run(self, stop: CancellationToken) -> Result<(), RelayError> {
        self.build()?.run(stop).await
    }
}

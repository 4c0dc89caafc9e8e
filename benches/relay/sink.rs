//! What the relay publishes to.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sink {
    /// Acknowledges at once, and checks what it is given.
    Null,
    /// A stream in files.
    Jetstream,
    /// A quorum queue.
    Rabbitmq,
    /// A topic of four partitions.
    Kafka,
}

impl Sink {
    pub(crate) const ALL: [Self; 4] = [Self::Null, Self::Jetstream, Self::Rabbitmq, Self::Kafka];

    pub(crate) const BROKERS: [Self; 3] = [Self::Jetstream, Self::Rabbitmq, Self::Kafka];

    /// Whether a broker is asked for one event of a key at a time.
    pub(crate) fn is_gated(self) -> bool {
        matches!(self, Self::Jetstream | Self::Rabbitmq)
    }

    /// The name of its server in `benches/relay/servers`.
    pub(crate) fn server(self) -> Option<&'static str> {
        match self {
            Self::Null => None,
            Self::Jetstream => Some("nats"),
            Self::Rabbitmq => Some("rabbitmq"),
            Self::Kafka => Some("kafka"),
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Null => "null",
            Self::Jetstream => "jetstream",
            Self::Rabbitmq => "rabbitmq",
            Self::Kafka => "kafka",
        })
    }
}

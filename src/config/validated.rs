//! The validated configuration: what the rest of the program sees.
//!
//! Durations are durations, references are resolved, templates are parsed, secrets are redacted.

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod sink;
mod source;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Contents, Secret};
use crate::route::{Pattern, Template};

#[cfg(feature = "kafka")]
pub use kafka::*;
#[cfg(feature = "nats")]
pub use nats::*;
#[cfg(feature = "rabbitmq")]
pub use rabbitmq::*;
pub use sink::*;
pub use source::*;

/// A whole configuration in which nothing is left to check.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The process as a whole.
    pub relay: Relay,
    /// The HTTP endpoints, unless they are off.
    pub admin: Option<Admin>,
    /// Sources by name.
    pub sources: BTreeMap<String, Source>,
    /// Sinks by name.
    pub sinks: BTreeMap<String, Sink>,
    /// Which events go where; `None`: everything goes to every sink's default destination.
    pub routing: Option<Routing>,
}

/// `[relay]`
#[derive(Debug, Clone, PartialEq)]
pub struct Relay {
    /// Leases and ledgers are kept under this name; replicas share it.
    pub name: String,
    /// How long a stop may wait for acknowledgements.
    pub shutdown_timeout: Duration,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where the endpoints listen.
    pub listen: SocketAddr,
    /// What a request that changes state must present.
    pub token: Option<Secret>,
    /// Whether `/healthz`, `/readyz`, `/status` and the status page answer.
    pub health: bool,
    /// Whether `/metrics` answers.
    pub metrics: bool,
}

/// Files for TLS, read when a connection is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM file with the authorities to trust, in place of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate and key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// What these files hold.
    pub contents: Contents,
}

/// `[routing]` and `[[routes]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    /// What becomes of an event that no route matches.
    pub unrouted: Unrouted,
    /// In the order of the file: the first that matches wins.
    pub routes: Vec<Route>,
}

/// What becomes of an event that no route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrouted {
    /// It stands in the dead letters of every sink.
    DeadLetter,
    /// It counts as delivered.
    Skip,
}

/// One `[[routes]]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Any of these matches.
    pub event_types: Vec<Pattern>,
    /// Destinations by sink; a sink that is not named skips the event.
    pub to: BTreeMap<String, DestinationTemplate>,
}

/// A destination whose parts are still to be filled in from the event.
#[derive(Debug, Clone, PartialEq)]
pub enum DestinationTemplate {
    /// The sink has one place only.
    Implicit,
    /// A Kafka topic or a NATS subject.
    Name(Template),
    /// A RabbitMQ exchange and routing key.
    Exchange {
        /// The exchange: no template, for events must not choose it.
        exchange: String,
        /// The routing key.
        routing_key: Template,
    },
}

//! Sinks: what every one has, whatever its broker.

use std::time::Duration;

use super::DestinationTemplate;
#[cfg(feature = "kafka")]
use super::Kafka;
#[cfg(feature = "rabbitmq")]
use super::Rabbitmq;
#[cfg(feature = "nats")]
use super::{Jetstream, Nats};

/// `[sinks.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    /// The key under `[sinks]`.
    pub name: String,
    /// Names of the sources that feed it.
    pub inputs: Vec<String>,
    /// Where the ledger of a sink that joins a source with ledgers starts.
    pub start: Option<Start>,
    /// How long one attempt may wait for the acknowledgement.
    pub timeout: Duration,
    /// Events in flight at most.
    pub max_in_flight: usize,
    /// Bytes of events read and not yet acknowledged at most.
    pub max_in_flight_bytes: usize,
    /// Events waiting behind a failing one of their key at most, before reading stops.
    pub max_parked: usize,
    /// How often the ledger is stored.
    pub flush_interval: Duration,
    /// Delays and attempts.
    pub retry: Retry,
    /// What bodies look like.
    pub envelope: Envelope,
    /// Where events go that no route sends elsewhere; `None` if the sink names no default.
    pub default_destination: Option<DestinationTemplate>,
    /// What kind of broker it is.
    pub kind: SinkKind,
}

/// Where a new ledger starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After what is visible now.
    Latest,
    /// At the oldest event without `sent_at`.
    Unsettled,
    /// At the first event in the table.
    Earliest,
}

/// `[retry]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first, of rejections; outages and full destinations don't count.
    pub max_retries: u32,
    /// Delay before the second attempt; it doubles from there.
    pub initial_delay: Duration,
    /// The longest delay.
    pub max_delay: Duration,
}

/// `[envelope]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The body's format.
    pub format: Format,
    /// Name of the third key of the `json` format.
    pub aggregate_field: String,
    /// The attribute `source` of CloudEvents, a URI reference.
    pub source: String,
}

/// Formats of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{"eventId","eventType",aggregate_field,"timestamp","payload"}`
    Json,
    /// The payload as stored.
    Raw,
    /// CloudEvents 1.0 in structured mode: the JSON event format.
    CloudEvents,
    /// CloudEvents 1.0 in binary mode: the payload as stored, attributes in headers.
    CloudEventsBinary(Binding),
}

/// Whose protocol binding of CloudEvents says how attributes become headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Kafka: `ce_type`.
    Kafka,
    /// AMQP: `cloudEvents:type`.
    Amqp,
    /// NATS: `ce-type`, percent-encoded.
    Nats,
}

/// What `type` a sink has, with that type's own settings.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "one per sink for the life of the process"
)]
pub enum SinkKind {
    /// `type = "stdout"`
    Stdout,
    /// `type = "mock"`
    Mock(Mock),
    /// `type = "jetstream"`
    #[cfg(feature = "nats")]
    Jetstream(Jetstream),
    /// `type = "nats"`
    #[cfg(feature = "nats")]
    Nats(Nats),
    /// `type = "rabbitmq"`
    #[cfg(feature = "rabbitmq")]
    Rabbitmq(Rabbitmq),
    /// `type = "kafka"`
    #[cfg(feature = "kafka")]
    Kafka(Kafka),
}

/// Settings of the mock sink: a broker that does as it is told. Shares are drawn by a hash of the event's id,
/// so the same events fail in every run.
#[derive(Debug, Clone, PartialEq)]
pub struct Mock {
    /// How long each acknowledgement takes.
    pub delay: Duration,
    /// Share of attempts (0.0 to 1.0) that end as an outage.
    pub fail: f64,
    /// Share of events (0.0 to 1.0) that are rejected in every attempt.
    pub reject: f64,
}

//! The validated configuration: what the rest of the program sees.
//!
//! Durations are durations, references are resolved, templates are parsed, secrets are redacted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Contents, Secret};
use crate::route::{Pattern, Template};

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

/// `[sources.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The key under `[sources]`.
    pub name: String,
    /// Events read per statement at most.
    pub batch_size: u32,
    /// How often an idle table is read in poll mode.
    pub poll_interval: Duration,
    /// What happens to delivered rows.
    pub after_delivery: AfterDelivery,
    /// Settled events older than this are deleted.
    pub retention: Option<Duration>,
    /// How often delivered rows are settled.
    pub settle_interval: Duration,
    /// What kind of database it is.
    pub kind: SourceKind,
}

/// What `type` a source has, with that type's own settings.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // there are a handful of sources
pub enum SourceKind {
    /// `type = "postgres"`
    Postgres(Postgres),
    /// `type = "sqlite"`
    Sqlite(Sqlite),
}

/// Settings of a PostgreSQL source.
#[derive(Debug, Clone, PartialEq)]
pub struct Postgres {
    /// Connection URL with its password.
    pub url: Secret,
    /// What the files hold that the URL names, such as `sslrootcert`.
    pub url_files: Contents,
    /// How the table is watched.
    pub mode: Mode,
    /// The outbox table.
    pub table: TableName,
    /// Names of the outbox table's columns.
    pub columns: Columns,
    /// Deliver only what a crash of the server can't take back.
    pub wait_for_flush: bool,
    /// Files for TLS; whether TLS is used is said by the URL's `sslmode`, `verify-full` where `ca` is set.
    pub tls: Option<Tls>,
}

/// Settings of a SQLite source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sqlite {
    /// The database file.
    pub path: PathBuf,
    /// The outbox table.
    pub table: String,
}

/// How a source is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read every `poll_interval` when idle.
    Poll,
    /// Woken by the doorbell; read every `fallback` when it stays silent.
    Notify {
        /// The longest wait for a ring.
        fallback: Duration,
    },
}

/// A table's name, as it is to be quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema; `None`: found by the connection's `search_path`.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
}

/// Names of the outbox table's columns. `None` where the table has no such column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Columns {
    pub seq: String,
    pub id: String,
    pub event_type: String,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub payload: String,
    pub headers: Option<String>,
    pub created_at: String,
    pub sent_at: Option<String>,
}

/// What happens to rows that every ledger has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDelivery {
    /// `sent_at` is set.
    Mark,
    /// The row is deleted.
    Delete,
    /// Nothing.
    Keep,
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

/// Settings of a core NATS sink.
#[cfg(feature = "nats")]
#[derive(Debug, Clone, PartialEq)]
pub struct Nats {
    /// Servers of one cluster, with credentials if the URL has them.
    pub servers: Vec<Secret>,
    /// How to authenticate.
    pub auth: NatsAuth,
    /// Files for TLS.
    pub tls: Option<Tls>,
}

/// Settings of a JetStream sink.
#[cfg(feature = "nats")]
#[derive(Debug, Clone, PartialEq)]
pub struct Jetstream {
    /// Servers of one cluster, with credentials if the URL has them.
    pub servers: Vec<Secret>,
    /// How to authenticate.
    pub auth: NatsAuth,
    /// Files for TLS.
    pub tls: Option<Tls>,
    /// The stream that must capture the subject, or the publish is refused.
    pub expected_stream: Option<String>,
    /// The stream to create if it isn't there.
    pub stream: Option<JetstreamStream>,
}

/// How a NATS connection authenticates.
#[cfg(feature = "nats")]
#[derive(Debug, Clone, PartialEq, Default)]
pub enum NatsAuth {
    /// Not at all, or by the URL or client certificate.
    #[default]
    None,
    /// User and password.
    User(String, Secret),
    /// A token.
    Token(Secret),
    /// An NKey seed.
    Nkey(Secret),
    /// A credentials file, and what it holds.
    Credentials(PathBuf, Contents),
}

/// `[sinks.NAME.stream]`: a stream to create if it isn't there. One that exists is not changed.
#[cfg(feature = "nats")]
#[derive(Debug, Clone, PartialEq)]
pub struct JetstreamStream {
    /// Its name.
    pub name: String,
    /// Subjects that it captures.
    pub subjects: Vec<String>,
    /// Copies in the cluster: 1, 3 or 5.
    pub replicas: usize,
    /// `true`: files; `false`: memory.
    pub file_storage: bool,
    /// How long ids are remembered for deduplication.
    pub duplicate_window: Duration,
    /// Age limit of messages; `None`: no limit.
    pub max_age: Option<Duration>,
    /// Size limit of the stream in bytes; `None`: no limit.
    pub max_bytes: Option<u64>,
}

/// Settings of a Kafka sink.
#[cfg(feature = "kafka")]
#[derive(Debug, Clone, PartialEq)]
pub struct Kafka {
    /// Brokers to ask first, `host:port`.
    pub brokers: Vec<String>,
    /// How to authenticate; `None`: not at all.
    pub auth: Option<KafkaAuth>,
    /// Files for TLS; `None`: connections are not encrypted.
    pub tls: Option<Tls>,
    /// Settings of librdkafka, each of which it takes.
    pub options: BTreeMap<String, Secret>,
    /// What the files hold that the options name.
    pub option_files: Contents,
}

/// How a Kafka connection authenticates (SASL).
#[cfg(feature = "kafka")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaAuth {
    /// The way of proving who it is.
    pub mechanism: KafkaMechanism,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
}

/// SASL mechanisms.
#[cfg(feature = "kafka")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaMechanism {
    /// The password itself is sent: for TLS only.
    Plain,
    /// Challenge and response.
    ScramSha256,
    /// Challenge and response.
    ScramSha512,
}

/// Settings of a RabbitMQ sink.
#[cfg(feature = "rabbitmq")]
#[derive(Debug, Clone, PartialEq)]
pub struct Rabbitmq {
    /// The host of the URL, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the URL says `amqps`.
    pub encrypted: bool,
    /// The virtual host.
    pub vhost: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// Files for TLS.
    pub tls: Option<Tls>,
    /// What to declare when a connection is made.
    pub declare: RabbitmqDeclare,
}

/// `[sinks.NAME.declare]`: durable exchange and queues. What is there and agrees is left as it is.
#[cfg(feature = "rabbitmq")]
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RabbitmqDeclare {
    /// The exchange, with its type as AMQP spells it.
    pub exchange: Option<(String, &'static str)>,
    /// The queues.
    pub queues: Vec<String>,
    /// Whether they are quorum queues, or else classic ones.
    pub quorum: bool,
    /// The exchange that each queue is bound to, and by which keys.
    pub bind: Option<(String, Vec<String>)>,
}

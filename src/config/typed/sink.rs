//! `[sinks.NAME]` as typed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{DurationText, Envelope, List, Retry, SizeText, Tls};
use crate::config::Secret;

/// One sink: what all types have, and what its type has.
#[derive(Debug, Clone)]
pub(in crate::config) struct Sink {
    /// Keys of every type.
    pub(in crate::config) common: SinkCommon,
    /// Keys of its own; `None` if it has no valid type.
    pub(in crate::config) kind: Option<SinkKind>,
}

/// A sink's type with its keys.
#[derive(Debug, Clone)]
pub(in crate::config) enum SinkKind {
    /// `type = "jetstream"`
    Jetstream(Box<Jetstream>),
    /// `type = "kafka"`
    Kafka(Box<Kafka>),
    /// `type = "mock"`
    Mock(Mock),
    /// `type = "nats"`
    Nats(Box<Nats>),
    /// `type = "rabbitmq"`
    Rabbitmq(Box<Rabbitmq>),
    /// `type = "stdout"`
    Stdout(Stdout),
}

/// Keys of every `[sinks.NAME]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct SinkCommon {
    /// Names of the sources that feed it. Default: all.
    pub(in crate::config) inputs: Option<List>,
    /// Where it starts if it is added to a source that other sinks have read already: latest, unsettled (what has
    /// no sent_at) or earliest. No default: a sink that is added without it is refused.
    #[schemars(extend("enum" = ["latest", "unsettled", "earliest"]))]
    pub(in crate::config) start: Option<String>,
    /// How long one attempt may wait for the broker's acknowledgement. Default "5s".
    pub(in crate::config) timeout: Option<DurationText>,
    /// Events in flight at most, one per aggregate id (with kafka any number of it). Default 1024.
    pub(in crate::config) max_in_flight: Option<u32>,
    /// Bytes of events read and not yet acknowledged at most: what the sink may cost in memory. Default "64MiB".
    pub(in crate::config) max_in_flight_bytes: Option<SizeText>,
    /// Events waiting for another attempt, or behind one of their aggregate that does, at most, before reading stops.
    /// Default 10000.
    pub(in crate::config) max_parked: Option<u32>,
    /// How often the ledger is stored: a crash repeats at most what was delivered since. Default "250ms".
    pub(in crate::config) flush_interval: Option<DurationText>,
    /// Let event data alone choose destinations, as "{event_type}" does. Default false.
    pub(in crate::config) unconfined: Option<bool>,
    /// Overrides `[retry]` key by key.
    pub(in crate::config) retry: Retry,
    /// Overrides `[envelope]` key by key.
    pub(in crate::config) envelope: Envelope,
}

/// Keys of a sink of type `stdout`: none.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Stdout {}

/// Keys of a sink of type `mock`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Mock {
    /// How long each acknowledgement takes. Default "0ms".
    pub(in crate::config) delay: Option<DurationText>,
    /// Share of attempts that end as an outage, 0.0 to 1.0. Default 0.0.
    pub(in crate::config) fail: Option<f64>,
    /// Share of events that are rejected in every attempt, 0.0 to 1.0. Default 0.0.
    pub(in crate::config) reject: Option<f64>,
}

/// Keys of a sink of type `jetstream`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Jetstream {
    /// Servers of one cluster, nats://host:port or tls://host:port, as a list or separated by commas. Required,
    /// unless NATS_URL is set.
    pub(in crate::config) url: Option<List<Secret>>,
    /// The default destination, such as "orders.{event_type}". Required unless routes name another.
    pub(in crate::config) subject: Option<String>,
    /// The stream that must capture the subject, or the broker refuses the event. Default: any.
    pub(in crate::config) expected_stream: Option<String>,
    /// How to authenticate. Default: not at all, or as the URL says.
    pub(in crate::config) auth: Option<NatsAuth>,
    /// Files for TLS; a server may ask for TLS without this.
    pub(in crate::config) tls: Option<Tls>,
    /// The stream to create if it isn't there. Default: none is created. One that exists is not changed.
    pub(in crate::config) stream: Option<JetstreamStream>,
}

/// Keys of a sink of type `nats`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Nats {
    /// Servers of one cluster, nats://host:port or tls://host:port, as a list or separated by commas. Required,
    /// unless NATS_URL is set.
    pub(in crate::config) url: Option<List<Secret>>,
    /// The default destination, such as "orders.{event_type}". Required unless routes name another.
    pub(in crate::config) subject: Option<String>,
    /// How to authenticate. Default: not at all, or as the URL says.
    pub(in crate::config) auth: Option<NatsAuth>,
    /// Files for TLS; a server may ask for TLS without this.
    pub(in crate::config) tls: Option<Tls>,
}

/// `[sinks.NAME.auth]` of NATS: one of user with password, token, nkey and creds.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct NatsAuth {
    /// The user. Default: none.
    pub(in crate::config) user: Option<String>,
    /// The user's password. Default: none.
    pub(in crate::config) password: Option<Secret>,
    /// A token. Default: none.
    pub(in crate::config) token: Option<Secret>,
    /// The seed of an NKey, SU…. Default: none.
    pub(in crate::config) nkey: Option<Secret>,
    /// A credentials file, as nsc writes it. Default: none.
    pub(in crate::config) creds: Option<String>,
}

/// `[sinks.NAME.stream]` of JetStream.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct JetstreamStream {
    /// The stream's name. Required.
    pub(in crate::config) name: Option<String>,
    /// Subjects that it captures, such as "orders.>", as a list or separated by commas. Required.
    pub(in crate::config) subjects: Option<List>,
    /// Copies in the cluster: 1, 3 or 5. Default 1, which is what a single server can do; use 3 in production.
    pub(in crate::config) replicas: Option<u32>,
    /// Where messages are kept: file or memory. Default "file".
    #[schemars(extend("enum" = ["file", "memory"]))]
    pub(in crate::config) storage: Option<String>,
    /// How long ids are remembered, so that a repeated event is stored once. Default "2m".
    pub(in crate::config) duplicate_window: Option<DurationText>,
    /// Messages older than this are deleted. Default: never.
    pub(in crate::config) max_age: Option<DurationText>,
    /// The oldest messages are deleted beyond this. Default: no limit.
    pub(in crate::config) max_bytes: Option<SizeText>,
}

/// Keys of a sink of type `kafka`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Kafka {
    /// Brokers to ask first, host:port, as a list or separated by commas. Required, unless KAFKA_BROKERS is set.
    pub(in crate::config) brokers: Option<List>,
    /// The default destination. Required unless routes name another.
    pub(in crate::config) topic: Option<String>,
    /// How to authenticate (SASL). Default: not at all.
    pub(in crate::config) auth: Option<KafkaAuth>,
    /// Files for TLS. TLS is used if this table is there, even if it is empty.
    pub(in crate::config) tls: Option<Tls>,
    /// Settings handed to librdkafka as they are. Default: none.
    pub(in crate::config) options: BTreeMap<String, Secret>,
}

/// `[sinks.NAME.auth]` of Kafka.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct KafkaAuth {
    /// plain, scram-sha-256 or scram-sha-512. Default "scram-sha-512".
    #[schemars(extend("enum" = ["plain", "scram-sha-256", "scram-sha-512"]))]
    pub(in crate::config) mechanism: Option<String>,
    /// The user. Required.
    pub(in crate::config) user: Option<String>,
    /// The user's password. Required.
    pub(in crate::config) password: Option<Secret>,
}

/// Keys of a sink of type `rabbitmq`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Rabbitmq {
    /// Connection URL: amqp://user:password@host:port/vhost, or amqps. Required, unless RABBITMQ_URL is set.
    pub(in crate::config) url: Option<Secret>,
    /// The default destination's exchange. Required unless queue is set or routes name another.
    pub(in crate::config) exchange: Option<String>,
    /// The default destination's routing key, such as "{event_type}". Required with exchange.
    pub(in crate::config) routing_key: Option<String>,
    /// In place of exchange and routing_key: a queue, by way of the default exchange. Default: none.
    pub(in crate::config) queue: Option<String>,
    /// How to authenticate, in place of the URL. Default: as the URL says.
    pub(in crate::config) auth: Option<RabbitmqAuth>,
    /// Files for TLS; whether TLS is used is said by the URL's scheme.
    pub(in crate::config) tls: Option<Tls>,
    /// What to declare at the start. Default: nothing is declared.
    pub(in crate::config) declare: Option<RabbitmqDeclare>,
}

/// `[sinks.NAME.auth]` of RabbitMQ.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RabbitmqAuth {
    /// The user. Required.
    pub(in crate::config) user: Option<String>,
    /// The user's password. Required.
    pub(in crate::config) password: Option<Secret>,
}

/// `[sinks.NAME.declare]` of RabbitMQ: all of it durable.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RabbitmqDeclare {
    /// Declare the exchange with this type: topic, direct, fanout or headers. Default: it is not declared.
    #[schemars(extend("enum" = ["topic", "direct", "fanout", "headers"]))]
    pub(in crate::config) exchange_type: Option<String>,
    /// Declare these queues, as a list or separated by commas. Default: none.
    pub(in crate::config) queues: Option<List>,
    /// The type of the queues declared: quorum or classic. Default "quorum".
    #[schemars(extend("enum" = ["quorum", "classic"]))]
    pub(in crate::config) queue_type: Option<String>,
    /// Bind each of these queues to the sink's exchange with these keys, such as "#", as a list or separated by
    /// commas. Default: none is bound.
    pub(in crate::config) bind: Option<List>,
}

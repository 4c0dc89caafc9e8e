//! Kafka sinks.

use std::collections::BTreeMap;

use super::{Contents, Secret, Tls};

/// Settings of a Kafka sink.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaMechanism {
    /// The password itself is sent: for TLS only.
    Plain,
    /// Challenge and response.
    ScramSha256,
    /// Challenge and response.
    ScramSha512,
}

//! NATS: sinks of the types `nats` and `jetstream`.

use std::path::PathBuf;
use std::time::Duration;

use super::{Contents, Secret, Tls};

/// Settings of a core NATS sink.
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

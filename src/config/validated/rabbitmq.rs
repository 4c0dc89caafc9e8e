//! RabbitMQ sinks.

use super::{Secret, Tls};

/// Settings of a RabbitMQ sink.
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

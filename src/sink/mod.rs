//! Sinks: what takes a message and awaits the broker's own acknowledgement.
//!
//! A sink is a `tower::Service<Message, Response = (), Error = PublishError>`. Its contract:
//!
//! - `Ok(())` means that the broker has taken responsibility for the message (see each sink for what that is
//!   worth), never that it was merely written to a socket.
//! - An error says what it means for the event ([`crate::error::Meaning`]); when in doubt it is
//!   `Unavailable`, which loses nothing.
//! - `poll_ready` never fails. A lost connection is reported by the call, and the next call may find it mended.
//! - Calls run concurrently. The pump has one call in flight per ordering key, so a sink need not order them.
//! - A dropped future may or may not have published: the event is published again, with the same id.

pub mod connect;
#[cfg(feature = "nats")]
pub mod jetstream;
pub mod mock;
#[cfg(feature = "nats")]
mod nats;
pub mod publisher;
pub mod stdout;

use std::sync::Arc;

use bytes::Bytes;
use tower::util::BoxCloneSyncService;
use uuid::Uuid;

use crate::error::PublishError;
use crate::event::Event;

/// Any sink, as the pipeline holds it.
pub type BoxSink = BoxCloneSyncService<Message, (), PublishError>;

/// An event made ready for one sink: where it goes and the bytes that go there.
#[derive(Debug, Clone)]
pub struct Message {
    /// The event that it was made of.
    pub event: Arc<Event>,
    /// Where this sink sends it.
    pub destination: Destination,
    /// Header names and values in the order in which they are sent. They hold `event_type`, `aggregate_id`,
    /// `content-type` and the event's own headers; the event's id travels where its broker looks for it.
    pub headers: Vec<(String, String)>,
    /// The body: the same bytes in every delivery of the event.
    pub body: Bytes,
}

impl Message {
    /// What brokers and consumers deduplicate by.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.event.id
    }

    /// The ordering key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.event.aggregate_id.as_deref()
    }
}

/// Where a sink sends a message, in its broker's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The sink has one place only (standard output).
    Implicit,
    /// A Kafka topic or a NATS subject.
    Name(String),
    /// A RabbitMQ exchange and routing key; the empty exchange routes to the queue that the key names.
    Exchange {
        /// The exchange's name.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Implicit => f.write_str("-"),
            Self::Name(name) => f.write_str(name),
            Self::Exchange {
                exchange,
                routing_key,
            } => write!(f, "{exchange}/{routing_key}"),
        }
    }
}

//! Sinks: what takes a message and awaits the broker's own acknowledgement.
//!
//! A sink is a `tower::Service<Message, Response = (), Error = PublishError>`. Its contract:
//!
//! - `Ok(())` means that the broker has taken responsibility for the message (see each sink for what that is
//!   worth), never that it was merely written to a socket.
//! - An error says what it means for the event ([`crate::error::Meaning`]); when in doubt it is
//!   `Unavailable`, which loses nothing.
//! - `poll_ready` never fails. A lost connection is reported by the call, and the next call may find it mended.
//! - Calls run concurrently. The pump has one call in flight per ordering key, so a sink need not order them,
//!   unless it says that it does ([`KeyOrder::Kept`]).
//! - A dropped future may or may not have published: the event is published again, with the same id.

pub mod connect;
#[cfg(feature = "nats")]
pub mod jetstream;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod mock;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "nats")]
mod nats_connection;
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
mod pem;
pub mod publisher;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
pub mod stdout;

use std::sync::Arc;

use bytes::Bytes;
use tower::Service;
use tower::util::BoxCloneSyncService;
use uuid::Uuid;

use crate::error::PublishError;
use crate::event::Event;

/// Any sink, as the pipeline holds it.
pub type BoxSink = BoxCloneSyncService<Message, (), PublishError>;

/// A sink that is connected, and what its pipeline must know of it.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The sink.
    pub service: BoxSink,
    /// Who keeps events of one key in order.
    pub order: KeyOrder,
    /// Takes back what a sink that keeps order itself still holds.
    pub recall: Option<Recall>,
}

/// Takes back what was handed over and not answered: nothing more of it is published, as far as the sink can still
/// help it, and all of it fails as [`Unavailable`](crate::error::Meaning::Unavailable). Doesn't wait for that.
#[derive(Clone)]
pub struct Recall(Arc<dyn Fn() + Send + Sync>);

impl Recall {
    /// Takes it back.
    pub fn recall(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Recall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recall")
    }
}

/// Who keeps the events of one key in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyOrder {
    /// The pipeline does: an event is handed over once the one before it on its key was answered.
    #[default]
    Gated,
    /// The sink does, so that a key is as fast as the connection. It promises:
    ///
    /// - It is always ready, and a message is handed over in `call` itself, not when the future is polled: calls
    ///   come from one task, in the order that is to be kept.
    /// - Once a message has failed as [`Unavailable`](crate::error::Meaning::Unavailable), none that was handed
    ///   over after it with the same key and destination is published, and each of them fails that way too, until
    ///   every future has ended. The pipeline then goes on with the first that was not acknowledged.
    /// - It has no limit of time of its own. The pipeline sets none either, for a message that waits within a
    ///   client after its time is up would be sent once more behind its successors; it reports an outage while
    ///   nothing at all is answered.
    /// - It gives back what it holds when it is told to ([`Recall`]): a client that goes on trying must not publish
    ///   beyond the end of the lease.
    ///
    /// - No message fails as [`Busy`](crate::error::Meaning::Busy): where one waits, its successors must.
    ///
    /// A message that is rejected doesn't come again: its successors are out already.
    Kept,
}

impl Connected {
    /// A sink whose order the pipeline keeps.
    pub fn gated<S>(sink: S) -> Self
    where
        S: Service<Message, Response = (), Error = PublishError> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self {
            service: BoxSink::new(sink),
            order: KeyOrder::Gated,
            recall: None,
        }
    }

    /// A sink that keeps order itself: see [`KeyOrder::Kept`] for what it promises.
    pub fn in_order<S>(sink: S, recall: impl Fn() + Send + Sync + 'static) -> Self
    where
        S: Service<Message, Response = (), Error = PublishError> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self {
            service: BoxSink::new(sink),
            order: KeyOrder::Kept,
            recall: Some(Recall(Arc::new(recall))),
        }
    }
}

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

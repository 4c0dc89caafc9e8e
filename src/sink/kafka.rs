//! Kafka: an idempotent producer that keeps order by itself, and awaits the acknowledgement of all replicas.
//!
//! - `Ok(())` means that every replica in sync has the message (`acks=all`); how many those are at least is the
//!   topic's `min.insync.replicas`. Delivery reports decide, never that the client took the message.
//! - The key is the event's aggregate id, its partition that of the Java client and of Debezium (`murmur2`); an
//!   event without one goes to any partition. The header `id` is the event's id as plain text, the value the body.
//! - Order is kept without a gate ([`KeyOrder::Kept`](super::KeyOrder::Kept)): the producer is idempotent, gives up
//!   on nothing by itself, and stops for good at any gap (`enable.gapless.guarantee`). It has one batch on its way
//!   to each broker (`max.in.flight`), which holds as many events of a key as there are; until one of a key was
//!   taken it holds one of it only (`firsts.rs`).
//!   What fails because of that is sent by a new producer (`producer.rs`), in order. Order holds per topic and
//!   partition, which is all that Kafka has: events of one key that routes send to two topics are not ordered.
//! - A lost acknowledgement within the life of a producer is no duplicate: the broker knows the sequence number.
//!   Across producers it is one, with the same `id`.
//! - An outage needs no attempt: the client connects again, and sends on. The pipeline reports it meanwhile.
//! - A topic that doesn't exist is a rejection, after `topic.metadata.propagation.max.ms` (10 s here): a broker
//!   that creates topics needs a moment. Those of a topic that had taken events before wait for one round more.
//!
//! The relay needs `Write` and `Describe` on its topics; brokers older than 2.8 want `IdempotentWrite` on the
//! cluster too.

mod complaints;
mod doubts;
mod firsts;
mod producer;
mod record;
mod refusal;
mod reports;
mod settings;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::Service;

use self::producer::Line;
use self::settings::Settings;
use super::connect::ConnectError;
use super::{Destination, Message};
use crate::config;
use crate::error::PublishError;

/// How long a broker may take to answer for the first time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long one look at the cluster may take, before the client's complaints are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Publishes to Kafka. Clones share one producer, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct KafkaSink {
    line: Arc<Closing>,
}

/// Hangs up when it is dropped. What is in flight is given up then, without waiting for anything.
#[derive(Debug)]
struct Closing(Arc<Line>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Makes a producer and waits until a broker has answered.
///
/// # Errors
///
/// `Config` names the key that the operator must change; `Unavailable` is worth another attempt.
pub async fn connect(config: &config::Kafka, client_name: &str) -> Result<KafkaSink, ConnectError> {
    let (sink, _) = reach(config, client_name).await?;
    Ok(sink)
}

/// Connects and publishes nothing: for `check --connect`. Each line of the result is something that the operator
/// may want to know.
///
/// # Errors
///
/// As [`connect`].
pub async fn probe(config: &config::Kafka) -> Result<Vec<String>, ConnectError> {
    let (_, cluster) = reach(config, "outbox-relay check").await?;
    Ok(vec![format!("connected to Kafka cluster {cluster}")])
}

/// The sink and the name of its cluster.
async fn reach(
    config: &config::Kafka,
    client_name: &str,
) -> Result<(KafkaSink, String), ConnectError> {
    let settings = Settings::new(config, client_name);
    // Reads certificates, and may look names up: not on the runtime's own threads.
    let begun = tokio::task::spawn_blocking(|| producer::begin(settings)).await;
    let line = begun.map_err(|error| {
        ConnectError::unavailable("the Kafka client could not be started").caused_by(error)
    })??;
    let sink = KafkaSink {
        line: Arc::new(Closing(Arc::clone(&line))),
    };
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    while Instant::now() < deadline {
        let looking = Arc::clone(&line);
        let cluster = tokio::task::spawn_blocking(move || looking.cluster(LOOK)).await;
        if let Ok(Some(cluster)) = cluster {
            return Ok((sink, cluster));
        }
        if let Some(error) = line.obstacle() {
            return Err(error);
        }
    }
    Err(ConnectError::unavailable(format!(
        "no broker has answered within {CONNECT_TIMEOUT:?}"
    )))
}

impl KafkaSink {
    /// Gives up what the client holds: what no broker has yet is not sent any more. A request that is on its way
    /// already can't be taken back.
    pub fn recall(&self) -> impl Fn() + Send + Sync + use<> {
        let line = Arc::downgrade(&self.line.0);
        move || {
            if let Some(line) = line.upgrade() {
                line.give_up("what it holds is taken back");
            }
        }
    }
}

impl Service<Message> for KafkaSink {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        // Here and now, as `KeyOrder::Kept` promises; only the report is awaited.
        let waiting = self.line.0.waiting();
        let sent = match &message.destination {
            Destination::Name(topic) => self.line.0.send(topic, &message),
            _ => Err(PublishError::invalid(
                "the kafka sink needs a topic as destination",
            )),
        };
        Box::pin(async move {
            // Also of what failed at once: until this ends, its successors must fail, too.
            let _waiting = waiting;
            let gone = |_| Err(PublishError::unavailable("the Kafka producer is closed"));
            sent?.await.unwrap_or_else(gone)
        })
    }
}

#[cfg(test)]
mod tests;

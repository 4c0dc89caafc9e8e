//! RabbitMQ: publishes to exchanges and queues, and awaits the broker's confirm.
//!
//! - `Ok(())` means that every queue that the message was routed to has taken it: a quorum queue once a majority
//!   has it on disk, a classic queue once it is on disk (`delivery_mode` is 2, and the queue must be durable).
//!   A message that no queue is bound for comes back (`mandatory`) and is a rejection.
//! - Each message carries `message_id` = event id. RabbitMQ drops no repetition: consumers do.
//! - Publishes are pipelined. The client attaches returned messages to other messages' confirms; `judge` says
//!   how each is judged exactly even so.
//! - A message that closes its channel (no such exchange, no permission, too large) is rejected by itself. Those that
//!   were in flight with it are published again.
//! - A message that ends the connection, because something in the broker crashes on it, is found out (`suspects`).
//! - A queue that takes nothing (`x-overflow = reject-publish`, and it is full) holds up what is for it and nothing
//!   else. Where an exchange routes a message to several queues of which one is full, the others get the message with
//!   each attempt: RabbitMQ takes nothing back. So few attempts are made (`full`).
//! - A lost connection fails everything in flight at once, and further calls at once until it is back, and so does
//!   a broker that blocks publishers (memory or disk alarm). There is no timeout here: the pipeline has one.
//!
//! The user needs write permission on the exchanges (`amq.default` for queues), and configure and read permission on
//! what `[….declare]` names.

mod alone;
mod full;
mod judge;
mod lane;
mod link;
mod parcel;
mod refusal;
mod session;
mod suspects;
mod tls;
mod topology;
mod trust;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tower::Service;

use self::full::Full;
use self::link::Link;
use self::parcel::Parcel;
use self::refusal::Failure;
use self::suspects::Suspects;
use super::Message;
use super::connect::ConnectError;
use crate::config::{DestinationTemplate, Rabbitmq};
use crate::error::PublishError;

/// Publishes to RabbitMQ. Clones share one connection.
#[derive(Debug, Clone)]
pub struct RabbitmqSink {
    link: Arc<Link>,
    found: Arc<Found>,
}

/// What was found out, whatever the connection.
#[derive(Debug, Default)]
struct Found {
    full: Full,
    suspects: Suspects,
}

/// Connects, and declares what `[….declare]` names. From then on the connection is kept, and made anew when it is
/// lost, for as long as a clone of the sink lives. `client_name` is what the broker shows of the connection.
///
/// # Errors
///
/// `Config` names the key that the operator must change; `Unavailable` is worth another attempt.
pub async fn connect(config: &Rabbitmq, client_name: &str) -> Result<RabbitmqSink, ConnectError> {
    let link = Link::open(config, client_name).await?;
    Ok(RabbitmqSink {
        link: Arc::new(link),
        found: Arc::default(),
    })
}

/// Connects, looks whether the exchanges and queues that `destinations` and `[….declare]` name are there, and changes
/// nothing: for `check --connect`. Each line of the result is something that the operator may want to know.
///
/// # Errors
///
/// As [`connect`].
pub async fn probe(
    config: &Rabbitmq,
    destinations: &[&DestinationTemplate],
) -> Result<Vec<String>, ConnectError> {
    let mut exchanges = BTreeSet::new();
    let mut queues = BTreeSet::new();
    for destination in destinations {
        if let DestinationTemplate::Exchange {
            exchange,
            routing_key,
        } = destination
        {
            exchanges.insert(exchange.as_str());
            // A queue whose name is made of events can't be looked for.
            queues.extend(routing_key.literal().filter(|_| exchange.is_empty()));
        }
    }
    let declared = &config.declare;
    let to_declare = declared.exchange.as_ref().map(|(name, _)| name.as_str());
    exchanges.extend(to_declare);
    queues.extend(declared.queues.iter().map(String::as_str));
    link::visit(config, "outbox-relay check", async |connection| {
        let mut findings = Vec::new();
        for exchange in exchanges {
            if !topology::has_exchange(connection, exchange).await? {
                let will_be = to_declare == Some(exchange);
                findings.push(missing("exchange", exchange, will_be));
            }
        }
        for queue in queues {
            if !topology::has_queue(connection, queue).await? {
                let will_be = declared.queues.iter().any(|name| name == queue);
                findings.push(missing("queue", queue, will_be));
            }
        }
        Ok(findings)
    })
    .await
}

fn missing(what: &str, name: &str, will_be_declared: bool) -> String {
    let outcome = if will_be_declared {
        "it will be declared"
    } else {
        "every event for it would be rejected"
    };
    format!("{what} {name} is not there: {outcome}")
}

impl Service<Message> for RabbitmqSink {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let sink = self.clone();
        Box::pin(async move { publish(&sink.link, &sink.found, message).await })
    }
}

async fn publish(link: &Link, found: &Found, message: Message) -> Result<(), PublishError> {
    let session = link.session().map_err(refusal::classify)?;
    let destination = message.destination.clone();
    let parcel = Parcel::of(message, session.frame_max())?;
    let Some(request) = found.full.ask(&parcel) else {
        return Err(refusal::classify(Failure::Full(destination)));
    };
    let flight = found.suspects.begin(&parcel);
    match session.publish(parcel).await {
        Ok(verdict) => {
            flight.answered();
            request.answered(&verdict);
            refusal::read(verdict, &destination)
        }
        Err(failure) => Err(refusal::classify(flight.failed(failure))),
    }
}

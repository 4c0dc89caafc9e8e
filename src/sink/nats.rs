//! Core NATS: publishes to subjects, and has the server confirm that it has taken what was published.
//!
//! - `Ok(())` means that the server has handled the message: it has handed it to everybody who is subscribed at that
//!   moment. Where nobody is, or a subscriber is cut off, it is gone: core NATS keeps nothing. Whoever needs that takes
//!   JetStream.
//! - Core NATS acknowledges nothing, and a flush proves nothing: batches are fenced instead (`fence`).
//! - Each message carries `Nats-Msg-Id` = event id, for consumers that deduplicate.
//! - Publishes are pipelined. The sink sets no limit of its own: what is in flight is what its callers hold. It sets
//!   no timeout either: the pipeline's timeout layer does.
//! - A lost connection fails everything that no fence has confirmed, at once, and further calls until it is back.
//!
//! The relay needs permission to publish to its subjects, and to publish and subscribe to `_INBOX.>`.

mod fence;
mod line;
mod refusal;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Event, HeaderMap, Statistics};
use futures::future::BoxFuture;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;
use uuid::Uuid;

use self::fence::Fences;
use self::line::{Errors, Line, connection};
use self::refusal::{Failure, classify};
use super::connect::ConnectError;
use super::nats_connection::{self, Violation};
use super::{Destination, Message};
use crate::config;
use crate::error::PublishError;

/// How long the first fence may take: as a request to a server that answers everything else.
const FIRST_FENCE: Duration = Duration::from_secs(5);

/// Publishes to core NATS. Clones share one connection.
#[derive(Debug, Clone)]
pub struct NatsSink {
    publisher: Arc<Publisher>,
}

#[derive(Debug)]
struct Publisher {
    client: Client,
    statistics: Arc<Statistics>,
    fences: Arc<Fences>,
    /// Ends with the last clone of the sink.
    _line: AbortOnDropHandle<()>,
}

/// Connects once, and sends a first fence: without its return nothing could ever be confirmed.
///
/// # Errors
///
/// `Config` names the key that the operator must change; `Unavailable` is worth another attempt.
pub async fn connect(config: &config::Nats, client_name: &str) -> Result<NatsSink, ConnectError> {
    let fences = Arc::new(Fences::new());
    let inbox = format!("_INBOX.{}", Uuid::new_v4().simple());
    let options = nats_connection::Options {
        servers: &config.servers,
        auth: &config.auth,
        tls: config.tls.as_ref(),
        name: client_name,
    };
    let errors = Arc::new(Errors::default());
    let client = nats_connection::connect(&options, {
        let (fences, errors) = (Arc::clone(&fences), Arc::clone(&errors));
        let inbox = inbox.clone();
        move |event| react(&fences, &errors, &inbox, event)
    })
    .await?;
    let returns = client
        .subscribe(inbox.clone())
        .await
        .map_err(|error| unfenced().caused_by(error))?;
    let line = Line::new(client.clone(), inbox, returns, Arc::clone(&fences), errors);
    let publisher = Publisher {
        statistics: client.statistics(),
        client,
        fences,
        _line: AbortOnDropHandle::new(tokio::spawn(line.run())),
    };
    publisher.first_fence().await?;
    Ok(NatsSink {
        publisher: Arc::new(publisher),
    })
}

/// Connects and sees a fence come back: for `check --connect`. Each line of the result is something that the operator
/// may want to know.
///
/// # Errors
///
/// As [`connect`].
pub async fn probe(config: &config::Nats) -> Result<Vec<String>, ConnectError> {
    let sink = connect(config, "outbox-relay check").await?;
    let server = sink.publisher.client.server_info();
    Ok(vec![format!(
        "connected to NATS server {} {}",
        server.server_name, server.version
    )])
}

fn unfenced() -> ConnectError {
    ConnectError::unavailable(
        "NATS does not return what is published to an inbox; may the relay publish and subscribe to _INBOX.>?",
    )
}

/// What an event of the connection means for publishes in flight.
fn react(fences: &Fences, errors: &Errors, inbox: &str, event: &Event) {
    match event {
        Event::Disconnected | Event::Closed => fences.fail_all(),
        Event::ServerError(error) => {
            match nats_connection::violation(error) {
                Some(Violation::Subject(subject)) if subject == inbox => fences.refuse_fence(),
                Some(Violation::Subject(subject)) => fences.forbid(&subject),
                Some(Violation::Size) => fences.refuse_largest(),
                // Nothing that is published here asks for a reply.
                Some(Violation::Reply(_)) | None => (),
            }
            errors.heard(error);
        }
        _ => (),
    }
}

impl Service<Message> for NatsSink {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let publisher = Arc::clone(&self.publisher);
        Box::pin(async move { publisher.publish(message).await })
    }
}

impl Publisher {
    async fn first_fence(&self) -> Result<(), ConnectError> {
        let mut ticket = self.fences.expect("", 0, connection(&self.statistics));
        ticket.sent();
        match tokio::time::timeout(FIRST_FENCE, ticket.outcome()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(unfenced().caused_by(classify(failure))),
            Err(elapsed) => Err(unfenced().caused_by(elapsed)),
        }
    }

    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        let headers = nats_connection::frame::headers(&message)?;
        let Destination::Name(subject) = message.destination else {
            return Err(PublishError::invalid(
                "the nats sink needs a subject as destination",
            ));
        };
        nats_connection::frame::check_subject(&subject)?;
        self.exchange(subject, headers, message.body)
            .await
            .map_err(classify)
    }

    /// Sends one message and awaits the fence behind it.
    async fn exchange(
        &self,
        subject: String,
        headers: HeaderMap,
        body: bytes::Bytes,
    ) -> Result<(), Failure> {
        // While there is no connection the client would queue the message, and write it long after the timeout.
        if self.client.connection_state() != State::Connected {
            return Err(Failure::Disconnected);
        }
        let size = nats_connection::frame::size(&headers, &body);
        let connection = connection(&self.statistics);
        let mut ticket = self.fences.expect(&subject, size, connection);
        let sending = self.client.publish_with_headers(subject, headers, body);
        // The send waits while the writer's queue is full; losing the connection must end that too.
        tokio::select! {
            biased;
            sent = sending => sent.map_err(Failure::Unsent)?,
            outcome = ticket.outcome() => return outcome,
        }
        ticket.sent();
        ticket.outcome().await
    }
}

//! JetStream: publishes to a stream's subject and awaits the stream's acknowledgement.
//!
//! - `Ok(())` means that a stream has stored the message, or has had it before (`duplicate`). A server writes to
//!   disk before it acknowledges, but by default doesn't wait for the disk (`sync_interval`, two minutes), so a
//!   stream with three replicas is what survives the loss of a machine.
//! - Each message carries `Nats-Msg-Id` = event id. A publish that timed out may still be stored later; its
//!   repetition is dropped by the stream within its `duplicate_window`.
//! - Publishes are pipelined. The sink sets no limit of its own: what is in flight is what its callers hold,
//!   and a dropped future gives everything back. It sets no timeout either: the pipeline's timeout layer does.
//! - A stream, or a subject of it, that takes nothing (`discard = new`, and it is full) holds up what is for it and
//!   nothing else.
//! - A message larger than `max_payload` is rejected before it is sent. Where the server lets its user send less than that,
//!   the server closes the connection and says why, not which: the largest in flight is refused for good.
//! - A lost connection fails everything in flight at once, and further calls at once until it is back.
//!
//! The relay needs permission to publish to its subjects, to subscribe to `_INBOX.>`, and to ask
//! `$JS.API.STREAM.NAMES` (plus `$JS.API.STREAM.INFO.NAME` and `….CREATE.NAME` where `[….stream]` is set).

mod acks;
mod capture;
mod refusal;
mod stream;

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{Context, ContextBuilder};
use async_nats::{Client, Event, HeaderMap, HeaderValue, Subscriber, header};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use self::acks::{Acks, Outcome};
use self::capture::Capture;
use self::refusal::Failure;
use super::connect::ConnectError;
use super::nats_connection::{self, Violation};
use super::{Destination, Message};
use crate::config;
use crate::error::PublishError;

/// Answers to requests about streams; publishes are not under it.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes to JetStream. Clones share one connection.
#[derive(Debug, Clone)]
pub struct JetstreamSink {
    publisher: Arc<Publisher>,
}

#[derive(Debug)]
struct Publisher {
    client: Client,
    acks: Arc<Acks>,
    capture: Capture,
    expected_stream: Option<HeaderValue>,
    /// Acknowledgements arrive on one subscription for all publishes.
    inbox: String,
    /// Ends with the last clone of the sink. The client's own tasks end then too, or, if that is during an
    /// outage, when the server is back.
    _reader: AbortOnDropHandle<()>,
}

/// Connects once, and creates the stream that `[….stream]` describes if it isn't there. One that is there is not
/// changed; where it differs, the log warns.
///
/// # Errors
///
/// `Config` names the key that the operator must change; `Unavailable` is worth another attempt.
pub async fn connect(
    config: &config::Jetstream,
    client_name: &str,
) -> Result<JetstreamSink, ConnectError> {
    let expected_stream = config
        .expected_stream
        .as_deref()
        .map(|name| stream::checked_name("expected_stream", name))
        .transpose()?;
    let acks = Arc::new(Acks::default());
    let client = nats_connection::connect(&connection(config, client_name), {
        let acks = Arc::clone(&acks);
        move |event| react(&acks, event)
    })
    .await?;
    let context = ContextBuilder::new()
        .timeout(API_TIMEOUT)
        .build(client.clone());
    if let Some(wanted) = &config.stream {
        stream::ensure(&context, wanted).await?;
    }
    let inbox = client.new_inbox();
    let replies = client
        .subscribe(format!("{inbox}.*"))
        .await
        .map_err(|error| {
            ConnectError::unavailable("can't subscribe to acknowledgements").caused_by(error)
        })?;
    let reader = tokio::spawn(read(replies, Arc::clone(&acks)));
    Ok(JetstreamSink {
        publisher: Arc::new(Publisher {
            client,
            acks,
            capture: Capture::new(context, config.stream.clone()),
            expected_stream,
            inbox,
            _reader: AbortOnDropHandle::new(reader),
        }),
    })
}

/// Connects, asks whether JetStream answers and whether the stream is there, and changes nothing: for
/// `check --connect`. Each line of the result is something that the operator may want to know.
///
/// # Errors
///
/// As [`connect`].
pub async fn probe(config: &config::Jetstream) -> Result<Vec<String>, ConnectError> {
    if let Some(name) = &config.expected_stream {
        stream::checked_name("expected_stream", name)?;
    }
    let client =
        nats_connection::connect(&connection(config, "outbox-relay check"), |_| ()).await?;
    let server = client.server_info();
    let context: Context = ContextBuilder::new().timeout(API_TIMEOUT).build(client);
    let mut findings = vec![format!(
        "connected to NATS server {} {}",
        server.server_name, server.version
    )];
    stream::answers(&context).await?;
    findings.push("JetStream answers".to_owned());
    if let Some(wanted) = &config.stream {
        findings.extend(stream::compare(&context, wanted).await?);
    }
    if let Some(name) = &config.expected_stream
        && config
            .stream
            .as_ref()
            .is_none_or(|stream| stream.name != *name)
        && stream::find(&context, name).await?.is_none()
    {
        findings.push(format!(
            "stream {name} (expected_stream) is not there: every event would be rejected"
        ));
    }
    Ok(findings)
}

fn connection<'a>(config: &'a config::Jetstream, name: &'a str) -> nats_connection::Options<'a> {
    nats_connection::Options {
        servers: &config.servers,
        auth: &config.auth,
        tls: config.tls.as_ref(),
        name,
    }
}

/// What an event of the connection means for publishes in flight.
fn react(acks: &Acks, event: &Event) {
    match event {
        // What was written is lost or answered to nobody; what was not written yet may still go out, and the
        // stream drops the repetition.
        Event::Disconnected | Event::Closed => acks.fail_all(),
        Event::ServerError(error) => match nats_connection::violation(error) {
            Some(Violation::Subject(subject)) => acks.forbid(&subject),
            Some(Violation::Reply(reply)) => acks.end(&reply, Outcome::Forbidden),
            Some(Violation::Size) => acks.refuse_largest(),
            None => (),
        },
        _ => (),
    }
}

/// Hands each reply to the publish that waits for it, until the connection is closed for good.
async fn read(mut replies: Subscriber, acks: Arc<Acks>) {
    while let Some(reply) = replies.next().await {
        acks.resolve(reply);
    }
    acks.fail_all();
}

impl Service<Message> for JetstreamSink {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let publisher = Arc::clone(&self.publisher);
        Box::pin(async move { publisher.publish(message).await })
    }
}

impl Publisher {
    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        let headers = self.headers(&message)?;
        let Destination::Name(subject) = message.destination else {
            return Err(PublishError::invalid(
                "the jetstream sink needs a subject as destination",
            ));
        };
        nats_connection::frame::check_subject(&subject)?;
        // While there is no connection the client would queue the message, and write it long after the timeout.
        if self.client.connection_state() != State::Connected {
            return Err(refusal::classify(Failure::Disconnected, &subject));
        }
        match self.exchange(&subject, headers, message.body).await {
            Ok(()) => Ok(()),
            Err(Failure::NoResponders) => Err(self.capture.explain(&subject).await),
            Err(failure) => Err(refusal::classify(failure, &subject)),
        }
    }

    /// Sends one message and awaits its acknowledgement.
    async fn exchange(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: bytes::Bytes,
    ) -> Result<(), Failure> {
        let size = nats_connection::frame::size(&headers, &body);
        let mut ack = self.acks.expect(subject, size);
        let reply_to = format!("{}.{}", self.inbox, ack.token());
        let subject = subject.to_owned();
        let sending = self
            .client
            .publish_with_reply_and_headers(subject, reply_to, headers, body);
        // The send waits while the writer's queue is full; losing the connection must end that too.
        let outcome = tokio::select! {
            biased;
            sent = sending => {
                sent.map_err(Failure::Unsent)?;
                ack.outcome().await
            }
            outcome = ack.outcome() => outcome,
        };
        match outcome {
            Outcome::Reply(reply) => refusal::read(&reply),
            Outcome::Disconnected => Err(Failure::Disconnected),
            Outcome::Forbidden => Err(Failure::Forbidden),
            Outcome::TooLarge(size) => Err(Failure::TooLarge(size)),
        }
    }

    fn headers(&self, message: &Message) -> Result<HeaderMap, PublishError> {
        let mut headers = nats_connection::frame::headers(message)?;
        if let Some(stream) = &self.expected_stream {
            headers.insert(header::NATS_EXPECTED_STREAM, stream.clone());
        }
        Ok(headers)
    }
}

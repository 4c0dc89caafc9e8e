//! Routing: an event becomes a message for this sink, or the sink doesn't take it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::config;
use crate::envelope;
use crate::error::PublishError;
use crate::event::Event;
use crate::route::{Resolution, Router};
use crate::sink::Message;

/// How an attempt succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// The broker acknowledged the message.
    Published,
    /// A route says that this sink doesn't take the event.
    Skipped,
}

/// Turns events into messages.
#[derive(Debug, Clone)]
pub struct RoutingLayer {
    rules: Arc<Rules>,
}

/// The service of [`RoutingLayer`].
#[derive(Debug, Clone)]
pub struct Routing<S> {
    inner: S,
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    router: Router,
    envelope: config::Envelope,
}

impl RoutingLayer {
    /// A layer for one sink.
    #[must_use]
    pub fn new(router: Router, envelope: config::Envelope) -> Self {
        Self {
            rules: Arc::new(Rules { router, envelope }),
        }
    }
}

impl<S> Layer<S> for RoutingLayer {
    type Service = Routing<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Routing {
            inner,
            rules: Arc::clone(&self.rules),
        }
    }
}

impl Rules {
    /// The message for this sink; `None` if it doesn't take the event.
    fn message(&self, event: Arc<Event>) -> Result<Option<Message>, PublishError> {
        #[cfg(feature = "sabotage")]
        let event = sabotaged(event);
        // Before the routes: its type may be what could not be read.
        if let Some(flaw) = &event.flaw {
            return Err(PublishError::invalid(flaw.clone()));
        }
        let destination = match self.router.resolve(&event)? {
            Resolution::Send(destination) => destination,
            Resolution::Skip => return Ok(None),
        };
        let contents = envelope::fill(&self.envelope, &event)?;
        Ok(Some(Message {
            destination,
            headers: contents.headers,
            body: contents.body,
            event,
        }))
    }
}

/// Another id from the second attempt on.
#[cfg(feature = "sabotage")]
fn sabotaged(event: Arc<Event>) -> Arc<Event> {
    use crate::sabotage::{Sabotage, is_on, other_time};
    if !is_on(Sabotage::FreshIds) || !other_time(event.id) {
        return event;
    }
    let mut event = Event::clone(&event);
    event.id = uuid::Uuid::new_v4();
    Arc::new(event)
}

impl<S> Service<Arc<Event>> for Routing<S>
where
    S: Service<Message, Response = (), Error = PublishError>,
{
    type Response = Routed;
    type Error = PublishError;
    type Future = RoutingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, event: Arc<Event>) -> Self::Future {
        match self.rules.message(event) {
            Ok(Some(message)) => RoutingFuture::Sent {
                inner: self.inner.call(message),
            },
            Ok(None) => RoutingFuture::Decided {
                result: Some(Ok(Routed::Skipped)),
            },
            Err(error) => RoutingFuture::Decided {
                result: Some(Err(error)),
            },
        }
    }
}

pin_project! {
    /// The future of [`Routing`].
    #[project = RoutingProjection]
    #[derive(Debug)]
    #[allow(missing_docs)] // `Sent`: the sink has it. `Decided`: nothing was sent.
    pub enum RoutingFuture<F> {
        Sent {
            #[pin]
            inner: F,
        },
        Decided {
            result: Option<Result<Routed, PublishError>>,
        },
    }
}

impl<F> Future for RoutingFuture<F>
where
    F: Future<Output = Result<(), PublishError>>,
{
    type Output = Result<Routed, PublishError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            RoutingProjection::Sent { inner } => {
                Poll::Ready(ready!(inner.poll(cx)).map(|()| Routed::Published))
            }
            RoutingProjection::Decided { result } => {
                // Polled again after it was ready, against the contract of futures: never ready once more.
                result.take().map_or(Poll::Pending, Poll::Ready)
            }
        }
    }
}

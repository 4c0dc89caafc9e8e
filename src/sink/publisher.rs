//! Publishers: sinks for programs that embed the relay, as one async method.

use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::future::BoxFuture;
use tower::Service;

use super::Message;
use crate::error::PublishError;

/// Publishes messages to whatever a program likes.
///
/// The contract is that of every sink ([`crate::sink`]): `Ok` means that somebody else has taken responsibility
/// for the message. Calls run concurrently, one at a time per ordering key; a call that is dropped is made again
/// with the same message.
#[async_trait]
pub trait EventPublisher: Send + Sync + 'static {
    /// Publishes one message and awaits its acknowledgement.
    ///
    /// # Errors
    /// What the failure means for the event: [`PublishError::unavailable`] is tried again for as long as it takes,
    /// and [`PublishError::busy`] too, but with its own key only; [`PublishError::rejected`] a few times,
    /// [`PublishError::invalid`] not at all.
    async fn publish(&self, message: &Message) -> Result<(), PublishError>;
}

/// A publisher as a sink.
#[derive(Debug)]
pub struct PublisherService<P> {
    publisher: Arc<P>,
}

impl<P> PublisherService<P> {
    /// A sink that hands its messages to `publisher`.
    #[must_use]
    pub fn new(publisher: P) -> Self {
        Self {
            publisher: Arc::new(publisher),
        }
    }
}

/// Clones share the publisher.
impl<P> Clone for PublisherService<P> {
    fn clone(&self) -> Self {
        Self {
            publisher: Arc::clone(&self.publisher),
        }
    }
}

impl<P: EventPublisher> Service<Message> for PublisherService<P> {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let publisher = Arc::clone(&self.publisher);
        Box::pin(async move { publisher.publish(&message).await })
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;
    use uuid::Uuid;

    use super::*;
    use crate::error::Meaning;
    use crate::fixture;

    struct Picky;

    #[async_trait]
    impl EventPublisher for Picky {
        async fn publish(&self, message: &Message) -> Result<(), PublishError> {
            if message.body.is_empty() {
                return Err(PublishError::rejected("empty"));
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_publisher_is_a_sink() {
        let sink = PublisherService::new(Picky);
        let message = |body: &'static str| fixture::message(Uuid::nil(), body);
        sink.clone().oneshot(message("{}")).await.expect("taken");
        let refused = sink.oneshot(message("")).await.expect_err("empty");
        assert_eq!(refused.meaning(), Meaning::Rejected);
    }
}

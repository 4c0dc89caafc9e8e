//! A pipeline: one source to one sink.
//!
//! [`stack`] shows what an event passes through. The pump drives it: it reads ahead, keeps order per key, waits
//! for retries, and stores the ledger.

mod flush;
mod measure;
mod order;
mod pump;
mod retry;
mod routing;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder};

use crate::config;
use crate::error::PublishError;
use crate::event::Event;
use crate::metrics::PipelineMetrics;
use crate::route::Router;
use crate::sink::Message;

pub use self::measure::{Measure, MeasureFuture, MeasureLayer};
pub use self::pump::{Exit, Limits, Pump, PumpParts};
pub use self::retry::{Retry, RetryFuture, RetryLayer, Verdict};
pub use self::routing::{Routed, Routing, RoutingFuture, RoutingLayer};

/// What the pump calls: an event in, a verdict out, never an error.
pub type Stack = BoxCloneSyncService<Arc<Event>, Verdict, Infallible>;

/// The whole stack of a pipeline, outermost layer first.
pub fn stack<S>(
    sink: S,
    config: &config::Sink,
    routing: Option<&config::Routing>,
    metrics: Arc<PipelineMetrics>,
) -> Stack
where
    S: Service<Message, Response = (), Error = PublishError> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let limit = config.timeout;
    let service = ServiceBuilder::new()
        // Outermost, for it turns whatever happened below into the one thing that the pump acts on.
        .layer(RetryLayer::new(config.retry))
        // Below retry, so that each attempt counts; above the timeout, so that a timeout is an outcome too.
        .layer(MeasureLayer::new(metrics))
        // The timeout boxes errors; what it boxed is taken out again, and its own is an outage.
        .map_err(move |error| publish_error(error, limit))
        // Around a single attempt: an acknowledgement that got lost must not hold its key for ever.
        .timeout(limit)
        // Innermost, so that everything above it speaks of events and only the sink speaks of messages.
        .layer(RoutingLayer::new(
            Router::new(config, routing),
            config.envelope.clone(),
        ))
        .service(sink);
    BoxCloneSyncService::new(service)
}

fn publish_error(error: BoxError, limit: Duration) -> PublishError {
    match error.downcast::<PublishError>() {
        Ok(error) => *error,
        Err(other) if other.is::<Elapsed>() => {
            PublishError::unavailable(format!("no acknowledgement within {limit:?}"))
        }
        Err(other) => PublishError::unavailable("the pipeline failed").caused_by(other),
    }
}

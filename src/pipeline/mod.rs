//! A pipeline: one source to one sink.
//!
//! [`stack`] shows what an event passes through. The pump drives it: it reads ahead, keeps order per key, waits
//! for retries, and stores the ledger.

#[doc(hidden)]
pub mod bench;
mod flush;
mod measure;
mod order;
mod pump;
mod retry;
mod routing;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder};

use crate::config;
use crate::error::PublishError;
use crate::event::Event;
use crate::metrics::PipelineMetrics;
use crate::route::Router;
use crate::sink::{Connected, KeyOrder};

pub use self::measure::{Measure, MeasureFuture, MeasureLayer};
pub use self::pump::{Exit, Limits, Pump, PumpParts};
pub use self::retry::{Retry, RetryFuture, RetryLayer, Verdict};
pub use self::routing::{Routed, Routing, RoutingFuture, RoutingLayer};

/// What the pump calls: an event in, a verdict out, never an error.
pub type Stack = BoxCloneSyncService<Arc<Event>, Verdict, Infallible>;

/// The whole stack of a pipeline, outermost layer first.
pub fn stack(
    sink: Connected,
    config: &config::Sink,
    routing: Option<&config::Routing>,
    metrics: Arc<PipelineMetrics>,
) -> Stack {
    let limit = config.timeout;
    // The timeout boxes errors; what it boxed is taken out again, and its own is an outage.
    let timeout = ServiceBuilder::new()
        .map_err(move |error| publish_error(error, limit))
        .timeout(limit);
    let service = ServiceBuilder::new()
        // Outermost, for it turns whatever happened below into the one thing that the pump acts on.
        .layer(RetryLayer::new(retries(sink.order, config.retry)))
        // Below retry, so that each attempt counts; above the timeout, so that a timeout is an outcome too.
        .layer(MeasureLayer::new(metrics))
        // Around a single attempt: an acknowledgement that got lost must not hold its key for ever. Not if the sink
        // keeps order: given up while its client still holds the message, the event would be sent once more behind
        // its successors. There the pump tells when nothing is answered (`pump/stall.rs`).
        .option_layer((sink.order == KeyOrder::Gated).then_some(timeout))
        // Innermost, so that everything above it speaks of events and only the sink speaks of messages.
        .layer(RoutingLayer::new(
            Router::new(config, routing),
            config.envelope.clone(),
        ))
        .service(sink.service);
    BoxCloneSyncService::new(service)
}

/// A sink that keeps order itself has sent the successors of a rejected event already: it has no second attempt.
fn retries(order: KeyOrder, retry: config::Retry) -> config::Retry {
    match order {
        KeyOrder::Gated => retry,
        KeyOrder::Kept => config::Retry {
            max_retries: 0,
            ..retry
        },
    }
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

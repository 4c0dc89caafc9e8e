//! Metrics of each attempt.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use chrono::{DateTime, Utc};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::routing::Routed;
use crate::error::{Meaning, PublishError};
use crate::event::Event;
use crate::metrics::PipelineMetrics;

/// Counts and times the attempts of the inner service.
#[derive(Debug, Clone)]
pub struct MeasureLayer {
    metrics: Arc<PipelineMetrics>,
}

/// The service of [`MeasureLayer`].
#[derive(Debug, Clone)]
pub struct Measure<S> {
    inner: S,
    metrics: Arc<PipelineMetrics>,
}

impl MeasureLayer {
    /// A layer that records to `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<PipelineMetrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measure {
            inner,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

impl<S> Service<Arc<Event>> for Measure<S>
where
    S: Service<Arc<Event>, Response = Routed, Error = PublishError>,
{
    type Response = Routed;
    type Error = PublishError;
    type Future = MeasureFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, event: Arc<Event>) -> Self::Future {
        MeasureFuture {
            created_at: event.created_at,
            began: Instant::now(),
            inner: self.inner.call(event),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

pin_project! {
    /// The future of [`Measure`].
    #[derive(Debug)]
    pub struct MeasureFuture<F> {
        #[pin]
        inner: F,
        created_at: DateTime<Utc>,
        began: Instant,
        metrics: Arc<PipelineMetrics>,
    }
}

impl<F> Future for MeasureFuture<F>
where
    F: Future<Output = Result<Routed, PublishError>>,
{
    type Output = Result<Routed, PublishError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let metrics = this.metrics;
        match &result {
            Ok(Routed::Published) => {
                metrics.duration.record(this.began.elapsed());
                // The database's clock against ours: a skew must not make a latency negative.
                let latency = (Utc::now() - *this.created_at).to_std().unwrap_or_default();
                metrics.acknowledged(latency);
            }
            Ok(Routed::Skipped) => metrics.skipped.increment(1),
            Err(error) => match error.meaning() {
                Meaning::Unavailable => metrics.unavailable.increment(1),
                Meaning::Busy => metrics.busy.increment(1),
                Meaning::Rejected => metrics.rejected.increment(1),
                Meaning::Invalid => metrics.invalid.increment(1),
            },
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt as _;

    use super::*;
    use crate::fixture::numbered;

    #[tokio::test(start_paused = true)]
    async fn each_outcome_is_counted_once() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let metrics = metrics::with_local_recorder(&recorder, || PipelineMetrics::new("a", "b"));
        let inner = tower::service_fn(|event: Arc<Event>| async move {
            match event.seq {
                1 => Ok(Routed::Published),
                2 => Ok(Routed::Skipped),
                3 => Err(PublishError::rejected("no")),
                4 => Err(PublishError::invalid("no")),
                6 => Err(PublishError::busy("full")),
                _ => Err(PublishError::unavailable("away")),
            }
        });
        let service = MeasureLayer::new(Arc::new(metrics)).layer(inner);
        for seq in [1, 2, 3, 4, 5, 5, 6] {
            service.clone().oneshot(numbered(seq)).await.ok();
        }
        let text = handle.render();
        for (outcome, count) in [
            ("acknowledged", 1),
            ("skipped", 1),
            ("rejected", 1),
            ("invalid", 1),
            ("unavailable", 2),
            ("busy", 1),
        ] {
            let line = format!(
                "outbox_publish_attempts_total{{source=\"a\",sink=\"b\",outcome=\"{outcome}\"}} {count}"
            );
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(
            text.contains("outbox_events_published_total{source=\"a\",sink=\"b\"} 1"),
            "{text}"
        );
    }

    /// The time of an attempt is that of its own answer, and none is recorded of what nobody acknowledged.
    #[tokio::test(start_paused = true)]
    async fn only_acknowledgements_are_timed() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let metrics = metrics::with_local_recorder(&recorder, || PipelineMetrics::new("a", "b"));
        let inner = tower::service_fn(|event: Arc<Event>| async move {
            tokio::time::sleep(Duration::from_secs(event.seq.unsigned_abs())).await;
            match event.seq {
                2 | 3 => Ok(Routed::Published),
                4 => Ok(Routed::Skipped),
                _ => Err(PublishError::unavailable("away")),
            }
        });
        let service = MeasureLayer::new(Arc::new(metrics)).layer(inner);
        let attempts = (1..=4).map(|seq| service.clone().oneshot(numbered(seq)));
        futures::future::join_all(attempts).await;
        // One that is given up has no outcome.
        let given_up = service.oneshot(numbered(2));
        let waited = tokio::time::timeout(Duration::from_secs(1), given_up).await;
        waited.expect_err("it takes longer");
        let text = handle.render();
        for line in ["count", "sum"].map(|what| {
            let value = if what == "count" { 2 } else { 5 };
            format!("outbox_publish_duration_seconds_{what}{{source=\"a\",sink=\"b\"}} {value}")
        }) {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(text.contains("outcome=\"acknowledged\"} 2"), "{text}");
    }
}

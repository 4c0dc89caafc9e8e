//! The admin endpoints: `/healthz`, `/readyz`, `/status` and `/metrics`, which only read and need no token, and the
//! status page at `/`.

mod feed;
mod letters;
mod owners;
mod page;
mod picture;
mod token;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::feed::Feed;
use self::letters::Letters;
use self::token::Access;
use crate::config::{self, Config};
use crate::metrics::{
    BUILD_INFO, DELIVERY_LATENCY, DURATION_BUCKETS, FLUSH_DURATION, PUBLISH_DURATION,
};
use crate::status::Status;

/// How often the recorder tidies up what nobody has scraped.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long answers under way may take when the endpoints close: a client that doesn't read keeps no process.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The endpoints, listening but not yet answering.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    config: config::Admin,
    recorder: Option<PrometheusHandle>,
}

/// Why the endpoints can't be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address can't be listened on.
    #[error("admin.listen: cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The metrics recorder can't be installed, for there is one already.
    #[error("cannot install the metrics recorder")]
    Recorder(#[source] BuildError),
}

impl Admin {
    /// Listens, and installs the metrics recorder: to be called before the first metric is recorded.
    ///
    /// # Errors
    /// If the address is taken, or there is a recorder already.
    pub async fn bind(config: config::Admin) -> Result<Self, AdminError> {
        let recorder = config.metrics.then(install_recorder).transpose()?;
        let listen = config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| AdminError::Listen { listen, source })?;
        tracing::info!(%listen, "the admin endpoints listen");
        Ok(Self {
            listener,
            config,
            recorder,
        })
    }

    /// Answers until `stop`. `config` is the configuration that the relay goes by.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(
        self,
        status: Status,
        config: watch::Receiver<Arc<Config>>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let mut router = Router::new();
        if self.config.health {
            let probes = Router::new()
                .route("/healthz", get(healthz))
                .route("/readyz", get(readyz))
                .route("/status", get(report))
                .with_state(status.clone());
            let page = page_routes(&self.config, status, config, &stop);
            router = router.merge(probes).merge(page);
        }
        if let Some(recorder) = self.recorder {
            let metrics = Router::new()
                .route("/metrics", get(metrics))
                .with_state(recorder.clone());
            router = router.merge(metrics);
            tokio::spawn(upkeep(recorder, stop.clone()));
        }
        let serving = axum::serve(self.listener, router)
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(CLOSE_LIMIT).await;
        };
        tokio::select! {
            served = serving => served,
            () = overdue => Ok(()),
        }
    }
}

/// The status page and what it asks for.
fn page_routes(
    admin: &config::Admin,
    status: Status,
    config: watch::Receiver<Arc<Config>>,
    stop: &CancellationToken,
) -> Router {
    let access = Access::of(admin);
    let feed = Feed::new(status.clone(), config.clone(), access.clone(), stop.clone());
    tokio::spawn(feed.clone().run());
    let letters = Letters::new(access.clone(), config, status);
    page::routes()
        .route("/events", get(async move || feed.subscribe()))
        .merge(letters::routes(letters))
        .layer(middleware::from_fn_with_state(
            access,
            page::only_local_names,
        ))
}

fn install_recorder() -> Result<PrometheusHandle, AdminError> {
    let mut builder = PrometheusBuilder::new();
    for name in [PUBLISH_DURATION, DELIVERY_LATENCY, FLUSH_DURATION] {
        let matcher = Matcher::Full(name.to_owned());
        builder = builder
            .set_buckets_for_metric(matcher, DURATION_BUCKETS)
            .map_err(AdminError::Recorder)?;
    }
    let handle = builder.install_recorder().map_err(AdminError::Recorder)?;
    crate::metrics::describe();
    ::metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

async fn upkeep(recorder: PrometheusHandle, stop: CancellationToken) {
    let pause = || tokio::time::sleep(UPKEEP_INTERVAL);
    while stop.run_until_cancelled(pause()).await.is_some() {
        recorder.run_upkeep();
    }
}

/// 200 while every task gives signs of life; else 503 with the names of those that don't.
async fn healthz(State(status): State<Status>) -> impl IntoResponse {
    verdict(&status.stuck())
}

/// 200 while the relay does its work or stands by for another; else 503 with what is in its way.
async fn readyz(State(status): State<Status>) -> impl IntoResponse {
    verdict(&status.obstacles())
}

/// What this process is doing, as JSON: see [`crate::status::report::Report`].
async fn report(State(status): State<Status>) -> Result<impl IntoResponse, StatusCode> {
    let json = serde_json::to_string_pretty(&status.report());
    let json = json.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, json + "\n"))
}

async fn metrics(State(recorder): State<PrometheusHandle>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        recorder.render(),
    )
}

fn verdict(problems: &[String]) -> (StatusCode, String) {
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
    }
}

//! Going over to a new configuration while the relay runs.
//!
//! Owns what comes before anything is touched: reading, comparing, refusing. What then happens to sources and
//! pipelines is the supervisor's and the sessions' part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::bookkeeping;
use super::open;
use super::plan::{Plan, needs_restart};
use super::supervisor::Request;
use crate::config::{Config, ConfigErrors, Loaded, Sink};
use crate::error::chain;
use crate::metrics::ReloadGauges;
use crate::status::Status;

/// How long a database may take to say which ledgers it has. Without an answer the reload goes on: a sink that
/// can't join then says so itself.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Has a running relay go over to another configuration. Clones do the same.
#[derive(Debug, Clone)]
pub struct Reloader {
    /// The configuration that the relay goes by.
    current: watch::Receiver<Arc<Config>>,
    requests: mpsc::Sender<Request>,
    status: Status,
    /// One reload at a time.
    turn: Arc<Mutex<()>>,
}

/// What came of a reload that nothing was wrong with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The configuration is the one that the relay runs by: nothing was done.
    Unchanged,
    /// The relay runs by the new one; everything of before has ended.
    Applied(Plan),
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration is bad.
    #[error("{0}")]
    Invalid(#[source] ConfigErrors),
    /// It is good, but this relay can't go over to it; one line for each reason.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// Reading it panicked: a fault of `load`. What it said is on standard error, and nowhere else: it may hold a
    /// secret.
    #[error(
        "reading the configuration panicked, a fault of the program: standard error says where"
    )]
    Panicked,
    /// The relay stops, or was never started.
    #[error("the relay does not run")]
    Stopped,
}

impl Reloader {
    pub(super) fn new(
        current: watch::Receiver<Arc<Config>>,
        requests: mpsc::Sender<Request>,
        status: Status,
    ) -> Self {
        Self {
            current,
            requests,
            status,
            turn: Arc::default(),
        }
    }

    /// Reads a configuration by `load` and goes over to it: pipelines and sources that it adds, removes or changes
    /// start and stop, all others don't notice. If anything is wrong with it, nothing changes. Either way the log,
    /// the metrics and `/status` say what came of it.
    ///
    /// Returns when everything of before has ended: `shutdown_timeout` and a few seconds at most, for what takes
    /// longer is aborted. New sinks may not be connected by then. Calls take turns, and `load` is called when it is
    /// the turn of its call. A relay that has not been started yet is waited for. Dropping the future takes back
    /// nothing.
    ///
    /// # Errors
    /// If nothing was changed, and why.
    pub async fn reload<F>(&self, load: F) -> Result<Reload, ReloadError>
    where
        F: FnOnce() -> Result<Loaded, ConfigErrors> + Send + 'static,
    {
        let _turn = self.turn.lock().await;
        let outcome = self.attempt(load).await;
        self.record(&outcome);
        outcome
    }

    async fn attempt<F>(&self, load: F) -> Result<Reload, ReloadError>
    where
        F: FnOnce() -> Result<Loaded, ConfigErrors> + Send + 'static,
    {
        // 1. Read and validate, apart from everybody else: a file may be on a disk that hangs.
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|error| match error.is_panic() {
            true => ReloadError::Panicked,
            false => ReloadError::Stopped,
        })?;
        let loaded = loaded.map_err(ReloadError::Invalid)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let new = Arc::new(loaded.config);
        let old = Arc::clone(&self.current.borrow());
        // 2. The same, secrets and certificates included: nothing to do.
        if new == old {
            return Ok(Reload::Unchanged);
        }
        // 3. Refuse what can't work, before anything is stopped for it.
        let plan = Plan::between(&old, &new);
        let reasons = refusals(&old, &new, &plan).await;
        if !reasons.is_empty() {
            return Err(ReloadError::Refused(reasons));
        }
        // 4. The supervisor stops what is gone or changed, and starts what is new once its name is free.
        tracing::info!(%plan, "the configuration changes");
        let (done, is_done) = oneshot::channel();
        let request = Request { config: new, done };
        let sent = self.requests.send(request).await;
        sent.map_err(|_| ReloadError::Stopped)?;
        // 5. Whoever reloads next does so after that.
        is_done.await.map_err(|_| ReloadError::Stopped)?;
        Ok(Reload::Applied(plan))
    }

    /// Tells everybody what came of it.
    fn record(&self, outcome: &Result<Reload, ReloadError>) {
        let mut summary = "not reloaded, everything goes on as before".to_owned();
        let errors = match outcome {
            Ok(Reload::Unchanged) => {
                tracing::info!("the configuration was read again and has not changed");
                "read again, nothing has changed".clone_into(&mut summary);
                Vec::new()
            }
            Ok(Reload::Applied(plan)) => {
                tracing::info!(%plan, "the configuration was reloaded");
                summary = format!("reloaded: {plan}");
                Vec::new()
            }
            // Nothing was wrong with it.
            Err(ReloadError::Stopped) => return,
            Err(ReloadError::Invalid(errors)) => {
                errors.findings().iter().map(ToString::to_string).collect()
            }
            Err(ReloadError::Refused(reasons)) => reasons.clone(),
            Err(error @ ReloadError::Panicked) => vec![error.to_string()],
        };
        for error in &errors {
            tracing::error!("{error}");
        }
        if outcome.is_err() {
            tracing::error!(
                errors = errors.len(),
                "the configuration was not reloaded, everything goes on as before"
            );
        }
        ReloadGauges.set(outcome.is_ok());
        self.status.set_reload(&summary, errors);
    }
}

/// Everything because of which this relay can't go over to `new`, one line each.
async fn refusals(old: &Config, new: &Config, plan: &Plan) -> Vec<String> {
    let mut reasons = needs_restart(old, new);
    for name in plan.sources.added.iter().chain(&plan.sources.changed) {
        if let Err(error) = open(new, name) {
            reasons.push(format!("sources.{name}: {}", chain(&error)));
        }
    }
    if reasons.is_empty() {
        reasons = missing_starts(new, plan).await;
    }
    reasons
}

/// Sinks that join a source whose ledgers don't include theirs, and don't say where they start.
async fn missing_starts(new: &Config, plan: &Plan) -> Vec<String> {
    let mut joining: BTreeMap<&str, Vec<&Sink>> = BTreeMap::new();
    for (source, sink) in plan.joining(new) {
        joining.entry(source).or_default().push(sink);
    }
    let looks = joining
        .into_iter()
        .map(async |(source, sinks)| without_start(new, source, sinks).await);
    join_all(looks).await.into_iter().flatten().collect()
}

/// Which sinks this source's ledgers don't include, though it has ledgers, of those that don't say where they start.
async fn without_start(config: &Config, source: &str, mut sinks: Vec<&Sink>) -> Vec<String> {
    sinks.retain(|sink| sink.start.is_none());
    if sinks.is_empty() {
        return Vec::new();
    }
    let stored = tokio::time::timeout(LOOK_TIMEOUT, stored_sinks(config, source));
    // Not known now: nothing is refused that may be right.
    let stored = stored.await.ok().flatten().unwrap_or_default();
    sinks.retain(|sink| !stored.is_empty() && !stored.contains(&sink.name));
    let reason = |sink: &Sink| {
        format!(
            "sinks.{}.start: is missing: the sink joins source {source}, which has ledgers already: say where \
             it starts by \"latest\", \"unsettled\" or \"earliest\"",
            sink.name
        )
    };
    sinks.into_iter().map(reason).collect()
}

/// Sinks of this configuration that can't join this source, one line each.
pub(crate) async fn cannot_join(config: &Config, source: &str) -> Vec<String> {
    without_start(config, source, config.fed_by(source).collect()).await
}

/// The sinks that have a ledger for this source; `None` if the database doesn't say.
async fn stored_sinks(config: &Config, source: &str) -> Option<Vec<String>> {
    let entries = bookkeeping(config, source).ok()?.list().await.ok()?;
    let names = entries.into_iter().map(|entry| entry.name);
    let own = names.filter(|name| name.relay == config.relay.name && name.source == source);
    Some(own.map(|name| name.sink).collect())
}

//! The set of running sources, and how it follows the configuration. The one place that starts and stops them.
//!
//! Everything here is a step that doesn't wait: what takes time is a task that ends, or a session that reports how
//! far it has come. So a stop is heard at any time, whatever a reload is waiting for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::roster::{Ended, Outcome, Roster};
use super::session::SourceTask;
use super::{Publishers, RelayError, open};
use crate::config::{self, Config};
use crate::metrics::set_configured;
use crate::source::SourceError;
use crate::status::{SourceState, Status};

/// What a source may take to stop beyond `shutdown_timeout`, for its last flush and to give up the lease. A database
/// that doesn't answer must not keep the process: the lease runs out by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A configuration to go over to.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) config: Arc<Config>,
    /// Answered when everything runs by it; dropped if the relay stops before.
    pub(super) done: oneshot::Sender<()>,
}

/// By source: the configuration that its session runs by. A source without a session has nothing to go over.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions(watch::Sender<BTreeMap<String, Arc<Config>>>);

/// The running sources.
#[derive(Debug)]
pub(super) struct Supervisor {
    publishers: Arc<Publishers>,
    status: Status,
    stop: CancellationToken,
    /// What sessions follow.
    config: watch::Sender<Arc<Config>>,
    /// How long pumps wait for acknowledgements.
    drain: watch::Sender<Duration>,
    sessions: Sessions,
    sources: Roster<config::Source, Result<(), SourceError>>,
    /// Who waits for the newest configuration to be everybody's.
    waiting: Option<oneshot::Sender<()>>,
}

impl Sessions {
    /// The session of `source` runs by `config`, and everything of before has ended.
    pub(super) fn runs(&self, source: &str, config: &Arc<Config>) {
        self.0.send_if_modified(|sessions| {
            let before = sessions.insert(source.to_owned(), Arc::clone(config));
            !before.is_some_and(|before| Arc::ptr_eq(&before, config))
        });
    }

    /// The session of `source` has ended.
    pub(super) fn ended(&self, source: &str) {
        self.0
            .send_if_modified(|sessions| sessions.remove(source).is_some());
    }

    fn all_run(&self, config: &Arc<Config>) -> bool {
        let sessions = self.0.borrow();
        sessions
            .values()
            .all(|running| Arc::ptr_eq(running, config))
    }
}

impl Supervisor {
    pub(super) fn new(
        config: watch::Sender<Arc<Config>>,
        publishers: Arc<Publishers>,
        status: Status,
        stop: CancellationToken,
    ) -> Self {
        let drain = watch::Sender::new(config.borrow().relay.shutdown_timeout);
        Self {
            publishers,
            status,
            sources: Roster::new(&stop),
            stop,
            config,
            drain,
            sessions: Sessions::default(),
            waiting: None,
        }
    }

    /// Runs every source until the stop, or until one ends by an error.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), RelayError> {
        let mut outcome = self.start_wanted(true);
        let mut progress = self.sessions.0.subscribe();
        let mut stopping = false;
        while !(stopping && self.sources.is_empty()) {
            self.answer_if_done();
            tokio::select! {
                ended = self.sources.ended() => outcome = outcome.and(self.source_ended(ended)),
                Some(request) = requests.recv(), if !stopping => outcome = outcome.and(self.take_over(request)),
                Ok(()) = progress.changed() => {}
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.waiting = None;
                    self.sources.limit_stop(self.stop_limit());
                }
            }
        }
        outcome
    }

    /// Goes over to a configuration: what has to stop is told to, what can start does, sessions follow by themselves.
    fn take_over(&mut self, request: Request) -> Result<(), RelayError> {
        // 1. What ends from here on has this long.
        let shutdown_timeout = request.config.relay.shutdown_timeout;
        self.drain.send_replace(shutdown_timeout);
        // 2. Sources that are gone or changed are told to stop, before their sessions could follow.
        self.sources
            .make_room(&request.config.sources, self.stop_limit());
        // 3. The sessions of the others stop and start pipelines.
        self.config.send_replace(request.config);
        self.waiting = Some(request.done);
        // 4. New sources start now, changed ones when the old one has ended.
        self.start_wanted(false)
    }

    /// Starts the sources that are wanted and whose name is free.
    fn start_wanted(&mut self, at_start: bool) -> Result<(), RelayError> {
        let config = Arc::clone(&self.config.borrow());
        let mut outcome = Ok(());
        for name in self.sources.make_room(&config.sources, self.stop_limit()) {
            let settings = config.sources[&name].clone();
            self.status
                .set_source(&name, SourceState::Connecting { error: None });
            set_configured(&name, true);
            match open(&config, &name) {
                Ok(source) => {
                    let task = SourceTask {
                        config: self.config.subscribe(),
                        publishers: Arc::clone(&self.publishers),
                        source_config: settings.clone(),
                        source,
                        status: self.status.clone(),
                        drain: self.drain.subscribe(),
                        sessions: self.sessions.clone(),
                        at_start,
                    };
                    self.sources
                        .start(&name, settings, None, |stop| task.run(stop));
                }
                Err(source) => {
                    self.stop.cancel();
                    outcome = Err(RelayError::Source { name, source });
                }
            }
        }
        outcome
    }

    fn source_ended(&mut self, ended: Ended<Result<(), SourceError>>) -> Result<(), RelayError> {
        let name = ended.name;
        self.sessions.ended(&name);
        let outcome = match ended.outcome {
            Outcome::Returned(Ok(())) => Ok(()),
            Outcome::Returned(Err(source)) => Err(RelayError::Source {
                name: name.clone(),
                source,
            }),
            Outcome::Aborted => {
                tracing::warn!(
                    source = name,
                    "the source did not stop in time and was aborted, a standby waits for the end of its lease"
                );
                self.status.end_pipelines(&name);
                Ok(())
            }
            Outcome::Died(error) => Err(RelayError::Died(error)),
        };
        if outcome.is_err() {
            self.stop.cancel();
        }
        if self.stop.is_cancelled() {
            return outcome;
        }
        if !self.config.borrow().sources.contains_key(&name) {
            self.status.remove_source(&name);
            set_configured(&name, false);
        }
        outcome.and(self.start_wanted(false))
    }

    /// Tells whoever waits that the newest configuration is everybody's.
    fn answer_if_done(&mut self) {
        if self.sources.is_settled()
            && self.sessions.all_run(&self.config.borrow())
            && let Some(done) = self.waiting.take()
        {
            // Whoever asked may have gone.
            done.send(()).ok();
        }
    }

    fn stop_limit(&self) -> Duration {
        *self.drain.borrow() + STOP_GRACE
    }
}

//! `run`: relay events until told to stop; SIGHUP reads the configuration again.

use clap::Args as ClapArgs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::Admin;
use crate::config::{Config, Origin, Overrides};
use crate::error::BoxError;
use crate::exit::Exit;
use crate::relay::{Relay, Reloader};

#[derive(Debug, Default, ClapArgs)]
pub(super) struct Args {
    /// Create the tables first if they are missing.
    #[arg(long)]
    migrate: bool,
}

/// The signals that stop the relay.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

pub(super) async fn run(config: Config, origin: Origin, args: Args) -> Result<(), BoxError> {
    // From here on a SIGHUP kills nobody, whatever the relay is doing.
    let hang_up = signal(SignalKind::hangup())?;
    if args.migrate {
        super::migrate::migrate_all(&config).await?;
    }
    let stop = CancellationToken::new();
    let signals = Signals::listen()?;
    tokio::spawn(signals.watch(stop.clone()));
    let admin = match &config.admin {
        Some(admin) => Some(Admin::bind(admin.clone()).await?),
        None => None,
    };
    let relay = Relay::new(config);
    // A task of its own: a stop is heard during a reload too.
    let reloading = tokio::spawn(reload_at(hang_up, relay.reloader(), origin));
    let _reloading = AbortOnDropHandle::new(reloading);
    // The endpoints outlive the relay: a stop is watched to its end.
    let closed = CancellationToken::new();
    let serving = admin
        .map(|admin| tokio::spawn(admin.serve(relay.status(), relay.config(), closed.clone())));
    let result = relay.run(stop).await;
    closed.cancel();
    if let Some(serving) = serving {
        serving.await??;
    }
    tracing::info!("stopped");
    Ok(result?)
}

/// Reads the configuration again at each SIGHUP. Signals that come during a reload are together one more, after it.
async fn reload_at(mut hang_up: Signal, reloader: Reloader, origin: Origin) {
    while hang_up.recv().await.is_some() {
        match &origin {
            Origin::File(path) => {
                tracing::info!(file = %path.display(), "SIGHUP: the configuration is read again");
            }
            Origin::Environment => tracing::info!(
                "SIGHUP: there is no configuration file, and the environment stays as it was at the start; only \
                 files that it names are read again"
            ),
        }
        let origin = origin.clone();
        let reload = reloader.reload(move || origin.load(&Overrides::none()));
        // It has said everything in the log.
        reload.await.ok();
    }
}

impl Signals {
    fn listen() -> Result<Self, std::io::Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Stops at the first SIGTERM or SIGINT, and at once at the second.
    async fn watch(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                tracing::warn!("stopped at once by a second signal");
                std::process::exit(Exit::Failure as i32);
            }
            tracing::info!("stopping: waiting for acknowledgements; a second signal stops at once");
            stop.cancel();
        }
    }
}

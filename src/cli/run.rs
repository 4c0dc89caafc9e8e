//! `run`: relay events until told to stop.

use clap::Args as ClapArgs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::Config;
use crate::error::BoxError;
use crate::exit::Exit;
use crate::relay::Relay;

#[derive(Debug, Default, ClapArgs)]
pub(super) struct Args {
    /// Create the tables first if they are missing.
    #[arg(long)]
    migrate: bool,
}

/// The signals that the relay listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

pub(super) async fn run(config: Config, args: Args) -> Result<(), BoxError> {
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
    // The endpoints outlive the relay: a stop is watched to its end.
    let closed = CancellationToken::new();
    let serving = admin.map(|admin| tokio::spawn(admin.serve(relay.status(), closed.clone())));
    let result = relay.run(stop).await;
    closed.cancel();
    if let Some(serving) = serving {
        serving.await??;
    }
    tracing::info!("stopped");
    Ok(result?)
}

impl Signals {
    fn listen() -> Result<Self, std::io::Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Stops at the first SIGTERM or SIGINT, and at once at the second.
    async fn watch(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hang_up.recv() => {
                    tracing::warn!("SIGHUP: this version reads its configuration at start only");
                    continue;
                }
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

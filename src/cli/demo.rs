//! `demo`: see it work without a server or a configuration.
//!
//! A writer makes picks in drafts, each a business row and an event in one transaction of a temporary SQLite file,
//! and rolls some back. The relay, the same as always, publishes to standard output. In the end both sides are
//! compared.

mod draft;
mod folder;
mod summary;
mod tally;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args as ClapArgs;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

use self::draft::Drafts;
use self::folder::Folder;
use self::summary::Summary;
use self::tally::Tally;
use crate::config::{Config, Environment};
use crate::error::{BoxError, PublishError};
use crate::relay::Relay;
use crate::sink::Message;
use crate::sink::publisher::EventPublisher;
use crate::sink::stdout::StdoutSink;

/// How long the demo waits for the next event to be published before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// How many events are committed; some more are rolled back.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    events: u64,

    /// Transactions per second.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

/// The demo's sink: standard output, with a look at what goes there.
#[derive(Debug)]
struct Watched {
    stdout: StdoutSink,
    tally: Arc<Tally>,
    /// Cancelled when nobody reads standard output any more.
    unread: CancellationToken,
}

#[async_trait]
impl EventPublisher for Watched {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let result = self.stdout.clone().oneshot(message.clone()).await;
        match &result {
            Ok(()) => self.tally.published(message.id()),
            Err(error) if is_broken_pipe(error) => self.unread.cancel(),
            Err(_) => {}
        }
        result
    }
}

pub(super) async fn run(args: &Args) -> Result<(), BoxError> {
    let folder = Folder::create()?;
    let file = folder.path().join("draft.db");
    let config = config(&file)?;
    super::migrate::migrate_all(&config).await?;
    let tally = Arc::new(Tally::default());
    let drafts = Drafts::open(&file, Arc::clone(&tally)).await?;
    let look = Summary::on_standard_error();
    look.introduce(args.events);

    let unread = CancellationToken::new();
    let publisher = Watched {
        stdout: StdoutSink::new(),
        tally: Arc::clone(&tally),
        unread: unread.clone(),
    };
    let stop = CancellationToken::new();
    let relay = Relay::builder(config).publisher("stdout", publisher);
    let mut relay = AbortOnDropHandle::new(tokio::spawn(relay.run(stop.clone())));
    let enough = CancellationToken::new();
    let written = async {
        drafts.run(args.events, args.rate, &enough).await?;
        tally.await_published(PATIENCE).await;
        Ok::<(), BoxError>(())
    };
    tokio::select! {
        ended = &mut relay => ended??,
        result = written => result?,
        result = interrupted_twice(&enough) => result?,
        () = unread.cancelled() => return Err("standard output was closed before the end of the demo".into()),
    }
    if !relay.is_finished() {
        stop.cancel();
        relay.await??;
    }

    let outcome = tally.outcome();
    look.sum_up(&outcome);
    if outcome.is_right() {
        Ok(())
    } else {
        Err("what was published is not what was committed".into())
    }
}

/// The first interrupt ends the drafts, the second the demo.
async fn interrupted_twice(enough: &CancellationToken) -> Result<(), BoxError> {
    tokio::signal::ctrl_c().await?;
    enough.cancel();
    tokio::signal::ctrl_c().await?;
    Err("interrupted before everything was published".into())
}

/// What a configuration file would say.
fn config(file: &Path) -> Result<Config, BoxError> {
    let file = toml::Value::from(file.to_string_lossy().into_owned());
    let text = format!(
        r#"
        [relay]
        shutdown_timeout = "2s"
        [sources.draft]
        type = "sqlite"
        path = {file}
        poll_interval = "5ms"
        [sinks.stdout]
        type = "stdout"
        timeout = "10m" # a pager may hold up standard output
        [envelope]
        aggregate_field = "draftId"
        "#
    );
    Ok(Config::from_toml(&text, &Environment::default())?.config)
}

/// Whether nobody reads what was written.
fn is_broken_pipe(error: &PublishError) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        let io = io.or_else(|| error.downcast_ref::<Arc<io::Error>>().map(AsRef::as_ref));
        if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = error.source();
    }
    false
}

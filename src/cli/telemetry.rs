//! Logs, on standard error.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::look::Look;

/// How log lines look.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// RabbitMQ's client warns of each message that comes back, and shows its payload; below `info` it shows every frame, the
/// one with the password too.
const SILENT: &str = "lapin=info,lapin::io_loop=off,lapin::returned_messages=off";

/// Starts logging: this program at `level` and its clients at `warn`, or as `RUST_LOG` says.
pub(super) fn init(format: LogFormat, level: &str) {
    let filter = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = filter.and_then(|text| EnvFilter::try_new(format!("{text},{SILENT}")).ok());
    // What becomes of its connections and messages the sink says itself.
    let filter = filter.unwrap_or_else(|| {
        EnvFilter::new(format!(
            "{level},sqlx=warn,async_nats=warn,{SILENT},lapin=off"
        ))
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(Look::of(&std::io::stderr()).has_colours());
    match format {
        LogFormat::Pretty => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

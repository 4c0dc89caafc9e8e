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

/// RabbitMQ's client warns of each message that comes back, and shows its payload.
const SILENT: &str = "lapin::io_loop=off,lapin::returned_messages=off";

/// Starts logging: this program at `level` and its clients at `warn`, or as `RUST_LOG` says.
pub(super) fn init(format: LogFormat, level: &str) {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let wanted = wanted.map(|text| EnvFilter::try_new(discreet(&text)));
    let (filter, misunderstood) = match wanted {
        Some(Ok(filter)) => (Some(filter), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let filter = filter
        .unwrap_or_else(|| EnvFilter::new(discreet(&format!("{level},sqlx=warn,async_nats=warn"))));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(Look::of(&std::io::stderr()).has_colours());
    match format {
        LogFormat::Pretty => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = misunderstood {
        tracing::warn!(%error, "RUST_LOG is not understood, and nothing of it counts");
    }
}

/// Directives without what nobody may see: below `info` RabbitMQ's client shows every frame, the one with the password
/// too. Unless it is named it says nothing: what becomes of its connections and messages the sink says itself.
fn discreet(directives: &str) -> String {
    let mut said = vec!["lapin=off".to_owned()];
    said.extend(directives.split(',').map(|directive| {
        let (target, level) = directive.split_once('=').unwrap_or((directive, ""));
        let harmless = ["off", "error", "warn", "info"];
        let is_harmless = harmless.contains(&level.trim().to_ascii_lowercase().as_str());
        if target.trim().starts_with("lapin") && !is_harmless {
            format!("{target}=info")
        } else {
            directive.to_owned()
        }
    }));
    said.push(SILENT.to_owned());
    said.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_that_shows_passwords_says_what_is_harmless_at_most() {
        for (given, kept) in [
            ("trace", "lapin=off,trace"),
            ("lapin", "lapin=off,lapin=info"),
            ("lapin=trace", "lapin=off,lapin=info"),
            ("lapin=5", "lapin=off,lapin=info"),
            (
                "info, lapin::channel=DEBUG",
                "lapin=off,info, lapin::channel=info",
            ),
            ("lapin=error", "lapin=off,lapin=error"),
            ("lapin=off,sqlx=debug", "lapin=off,lapin=off,sqlx=debug"),
        ] {
            assert_eq!(discreet(given), format!("{kept},{SILENT}"), "{given}");
        }
    }
}

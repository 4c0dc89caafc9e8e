//! The relay inside a program of your own, in real time: woken by the writers, publishing to JetStream.
//!
//!     DATABASE_URL=postgres://localhost/draft NATS_URL=nats://localhost:4222 cargo run --example realtime
//!
//! The stream `DRAFT` is created if it isn't there. Runs until Ctrl-C.

use std::error::Error;

use outbox_relay::config::Environment;
use outbox_relay::relay::CancellationToken;
use outbox_relay::{Config, Relay};

const CONFIG: &str = r#"
[sources.draft]
type = "postgres"
url = "${DATABASE_URL}"
mode = "notify"
fallback_interval = "30s"

[sinks.picks]
type = "jetstream"
url = "${NATS_URL:-nats://localhost:4222}"
subject = "draft.{event_type}"

[sinks.picks.stream]
name = "DRAFT"
subjects = ["draft.>"]

[envelope]
aggregate_field = "draftId"
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let loaded = Config::from_toml(CONFIG, &Environment::of_process())?;
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    tokio::spawn(async move {
        // Without a signal handler the program runs until it is killed, which loses nothing.
        if tokio::signal::ctrl_c().await.is_ok() {
            stopper.cancel();
        }
    });
    Ok(Relay::new(loaded.config).run(stop).await?)
}

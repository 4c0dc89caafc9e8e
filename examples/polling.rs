//! The relay inside a program of your own, polling: what a hand-written polling worker does, in ten lines.
//!
//!     DATABASE_URL=postgres://localhost/draft cargo run --example polling
//!
//! Events go to standard output, one JSON object per line, until Ctrl-C.

use std::error::Error;

use outbox_relay::config::Environment;
use outbox_relay::relay::CancellationToken;
use outbox_relay::{Config, Relay};

const CONFIG: &str = r#"
[sources.draft]
type = "postgres"
url = "${DATABASE_URL}"
mode = "poll"
poll_interval = "500ms"

[sinks.out]
type = "stdout"

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

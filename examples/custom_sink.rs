//! A sink of your own: an `EventPublisher` in place of a broker, with everything else as the configuration says.
//!
//!     DATABASE_URL=postgres://localhost/draft cargo run --example custom_sink
//!
//! This one appends to a file, and refuses what it can't take. Runs until Ctrl-C.

use std::error::Error;

use async_trait::async_trait;
use outbox_relay::config::Environment;
use outbox_relay::error::PublishError;
use outbox_relay::relay::CancellationToken;
use outbox_relay::sink::Message;
use outbox_relay::{Config, EventPublisher, Relay};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Mutex;

/// `mock` is what the sink would be without the publisher below; its destinations, envelope, retries and limits
/// are this sink's too.
const CONFIG: &str = r#"
[sources.draft]
type = "postgres"
url = "${DATABASE_URL}"
mode = "poll"
poll_interval = "500ms"

[sinks.audit]
type = "mock"

[sinks.audit.retry]
max_retries = 1
"#;

struct AuditLog(Mutex<File>);

#[async_trait]
impl EventPublisher for AuditLog {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        if message.key().is_none() {
            // This event can't be helped: it stands in the dead letters, and the others go on.
            return Err(PublishError::invalid("the audit log needs a key"));
        }
        let mut line = message.body.to_vec();
        line.push(b'\n');
        let mut file = self.0.lock().await;
        let written = async {
            file.write_all(&line).await?;
            file.sync_data().await
        };
        // A full disk is an outage: tried again for as long as it takes.
        written.await.map_err(|error| {
            PublishError::unavailable("cannot write the audit log").caused_by(error)
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::var("AUDIT_LOG").unwrap_or_else(|_| "audit.jsonl".into());
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await?;
    let loaded = Config::from_toml(CONFIG, &Environment::of_process())?;
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    tokio::spawn(async move {
        // Without a signal handler the program runs until it is killed, which loses nothing.
        if tokio::signal::ctrl_c().await.is_ok() {
            stopper.cancel();
        }
    });
    let relay = Relay::builder(loaded.config).publisher("audit", AuditLog(Mutex::new(file)));
    Ok(relay.run(stop).await?)
}

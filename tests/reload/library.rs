//! A program that embeds the relay reloads it by its handle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_relay::EventPublisher;
use outbox_relay::config::{Config, Environment};
use outbox_relay::error::PublishError;
use outbox_relay::relay::{CancellationToken, Relay, Reload, ReloadError};
use outbox_relay::sink::Message;

use crate::support::eventually::eventually;
use crate::support::relay::migrate;
use crate::support::settings::Settings;
use crate::support::temporary::TemporaryFolder;

/// Remembers the body of each message.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl EventPublisher for Recorder {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let body = String::from_utf8_lossy(&message.body).into_owned();
        self.0.lock().expect("nobody panics with it").push(body);
        Ok(())
    }
}

impl Recorder {
    async fn await_len(&self, count: usize) -> Vec<String> {
        eventually("events arrive", Duration::from_secs(10), async || {
            let bodies = self.0.lock().expect("nobody panics with it").clone();
            (bodies.len() >= count).then_some(bodies)
        })
        .await
    }
}

async fn insert(file: &std::path::Path, count: usize) {
    use sqlx::Connection as _;
    let url = format!("sqlite://{}", file.display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("opened");
    for _ in 0..count {
        sqlx::query("INSERT INTO outbox (event_type, payload) VALUES ('Counted', '1')")
            .execute(&mut connection)
            .await
            .expect("inserted");
    }
    connection.close().await.expect("closed");
}

#[tokio::test]
async fn publishers_of_the_program_stay_and_new_sinks_join() {
    let folder = TemporaryFolder::new("library");
    let file = folder.path().join("app.db");
    let settings = Settings::of_file(&file)
        .without("sinks.lines")
        .set("sinks.own.type", "mock");
    migrate(&settings);
    let load = |settings: &Settings| {
        let toml = settings.toml();
        move || Config::from_toml(&toml, &Environment::default())
    };
    let config = load(&settings)().expect("valid").config;
    let own = Recorder::default();
    let relay = Relay::builder(config)
        .publisher("own", own.clone())
        .build()
        .expect("a sink");
    let (reloader, status) = (relay.reloader(), relay.status());
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run(stop.clone()));
    insert(&file, 3).await;
    own.await_len(3).await;

    let unchanged = reloader.reload(load(&settings)).await.expect("valid");
    assert_eq!(unchanged, Reload::Unchanged);
    let changed = settings
        .clone()
        .set("sinks.own.envelope.aggregate_field", "own");
    let Reload::Applied(plan) = reloader.reload(load(&changed)).await.expect("valid") else {
        panic!("a change");
    };
    assert_eq!(plan.to_string(), "~main/own");
    insert(&file, 1).await;
    let bodies = own.await_len(4).await;
    assert!(
        bodies[3].contains("\"own\""),
        "the publisher is still there: {bodies:?}"
    );

    let unsaid = changed.clone().set("sinks.more.type", "mock");
    let refused = reloader.reload(load(&unsaid)).await;
    let Err(ReloadError::Refused(reasons)) = refused else {
        panic!("a sink without a start: {refused:?}");
    };
    assert!(reasons[0].contains("sinks.more.start"), "{reasons:?}");
    let said = unsaid.set("sinks.more.start", "earliest");
    reloader.reload(load(&said)).await.expect("valid");
    let bad = reloader
        .reload(load(&said.clone().set("colour", "red")))
        .await;
    assert!(matches!(bad, Err(ReloadError::Invalid(_))), "{bad:?}");
    let panicked = reloader.reload(|| panic!("a fault of the program")).await;
    assert!(
        matches!(panicked, Err(ReloadError::Panicked)),
        "{panicked:?}"
    );
    let shown = serde_json::to_value(status.report()).expect("JSON");
    assert_eq!(shown["reload"]["successful"], false, "{shown:#}");
    let unchanged = reloader.reload(load(&said)).await.expect("valid");
    assert_eq!(unchanged, Reload::Unchanged, "the old one goes on");
    stop.cancel();
    running.await.expect("joined").expect("a clean stop");
    let stopped = reloader.reload(load(&settings)).await;
    assert!(matches!(stopped, Err(ReloadError::Stopped)), "{stopped:?}");
    assert_eq!(own.await_len(4).await.len(), 4, "nothing came twice");
}

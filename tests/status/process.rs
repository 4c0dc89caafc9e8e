//! What the process says of itself: `/status` and metrics.

use std::time::Duration;

use serde_json::Value;

use super::{SOON, report};
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats::PrivateNats;
use crate::support::port;
use crate::support::private_server::PrivateServer;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

#[tokio::test]
async fn what_was_rolled_back_last_is_not_pending() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    database.insert("Kept", Some("key"), 1).await;
    database
        .execute(
            "BEGIN; INSERT INTO outbox (event_type, payload) SELECT 'Undone', '{}' FROM generate_series(1, 5); ROLLBACK",
        )
        .await;
    let relay = Relay::ready(&settings).await;
    relay
        .await_metric("outbox_events_published_total", &[], SOON, |count| {
            count == 1.0
        })
        .await;
    relay
        .await_metric("outbox_pending_events", &[], SOON, |pending| pending == 0.0)
        .await;
    relay.stop().await;
}

#[tokio::test]
async fn the_process_names_a_sink_that_cannot_be_reached() {
    let database = Database::fresh().await;
    let url = format!("nats://relay:s3cr3t-word@127.0.0.1:{}", port::free());
    let settings = Settings::of(&database)
        .set("sinks.away.type", "jetstream")
        .set("sinks.away.url", url)
        .set("sinks.away.subject", "events.{event_type}");
    migrate(&settings);
    let relay = Relay::start(&settings);
    let report = eventually("/status names the sink", SOON, async || {
        let report = report(&relay).await?;
        report["pipelines"][0]["sink_error"]
            .is_string()
            .then_some(report)
    })
    .await;
    let pipeline = &report["pipelines"][0];
    assert_eq!(pipeline["sink"], "away");
    assert_eq!(pipeline["sink_state"], "connecting");
    assert!(pipeline["away_since"].is_string(), "{report:#}");
    assert_eq!(report["ready"], false);
    assert_eq!(report["sources"][0]["state"], "active");
    assert!(!report.to_string().contains("s3cr3t-word"), "{report:#}");
    relay.stop().await;
}

#[tokio::test]
async fn the_process_shows_an_outage_and_what_it_has_to_do() {
    let database = Database::fresh().await;
    let mut server = PrivateNats::start("").await;
    let stream = Stream::create(&server.url()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("Counted", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    let pipeline = |wanted: &'static str| {
        let relay = &relay;
        async move {
            eventually(wanted, Duration::from_secs(20), async || {
                let report = report(relay).await?;
                let pipeline = report["pipelines"][0].clone();
                (pipeline["sink_state"] == wanted && pipeline["last_flush_seconds"].is_number())
                    .then_some(pipeline)
            })
            .await
        }
    };
    let connected = pipeline("connected").await;
    assert_eq!(connected["sink_error"], Value::Null);
    server.kill().await;
    database.insert("Late", Some("key"), 5).await;
    let away = pipeline("away").await;
    assert!(away["sink_error"].is_string() && away["away_since"].is_string());
    let pending = eventually("its events are pending", SOON, async || {
        let report = report(&relay).await?;
        let pipeline = report["pipelines"][0].clone();
        (pipeline["pending"] == 5).then_some(pipeline)
    })
    .await;
    let age = pending["oldest_pending_seconds"].as_f64();
    assert!(age.is_some_and(|age| age > 0.0), "{pending:#}");
    assert!(
        pending["heartbeat_seconds"]
            .as_f64()
            .is_some_and(|age| age < 5.0)
    );
    server.start_again().await;
    stream.await_len(15, Duration::from_secs(20)).await;
    pipeline("connected").await;
    relay.stop().await;
}

#[tokio::test]
async fn pending_events_go_on_growing_while_the_sink_is_away() {
    let mut server = PrivateNats::start("").await;
    let database = Database::fresh().await;
    let stream = Stream::create(&server.url()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("Before", Some("key"), 1).await;
    stream.await_len(1, SOON).await;
    server.kill().await;
    database.insert("Probe", Some("key"), 1).await;
    let away = |available: f64| available == 0.0;
    relay
        .await_metric("outbox_sink_available", &[], SOON, away)
        .await;
    for (more, pending) in [(500, 501.0), (1_000, 1_501.0)] {
        database.insert("Later", Some("key"), more).await;
        let is_pending = |metric: f64| metric == pending;
        relay
            .await_metric("outbox_pending_events", &[], SOON, is_pending)
            .await;
        let report = report(&relay).await.expect("an answer");
        assert_eq!(report["pipelines"][0]["pending"], pending, "{report:#}");
    }
    server.start_again().await;
    stream.await_len(1_502, SOON).await;
    relay
        .await_metric("outbox_pending_events", &[], SOON, |metric| metric == 0.0)
        .await;
    relay.stop().await;
}

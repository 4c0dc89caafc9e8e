//! The relay with a core NATS sink, from the table to a subscriber.

use std::time::Duration;

use super::PATIENCE;
use super::subscriber::Subscriber;
use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::nats::PrivateNats;
use crate::support::private_server::PrivateServer;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::writers::{Load, Writers};

fn settings(database: &Database, server: &PrivateNats) -> Settings {
    Settings::of(database)
        .set("sinks.live.type", "nats")
        .set("sinks.live.url", server.url())
        .set("sinks.live.subject", "live.{event_type}")
        .set("sinks.live.timeout", "1s")
        .set("sinks.live.flush_interval", "200ms")
}

#[tokio::test]
async fn events_reach_a_subscriber_in_order_though_the_server_hangs() {
    let database = Database::fresh().await;
    let server = PrivateNats::start("").await;
    let settings = settings(&database, &server);
    migrate(&settings);
    let subscriber = Subscriber::start(&server.url(), "live.>").await;
    let relay = Relay::ready(&settings).await;
    let writers = Writers::start(&database, Load::default()).await;
    writers.until(500).await;
    // The length of an outage, beyond the sink's timeout.
    server.freeze().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.thaw();
    writers.until(2_000).await;
    let record = writers.stop().await;
    subscriber.await_ids(&record.ids(), PATIENCE * 2).await;
    relay.stop().await;
    check("core NATS", &record, &subscriber.heard());
}

#[tokio::test]
async fn a_binary_cloudevent_travels_in_headers() {
    let database = Database::fresh().await;
    let server = PrivateNats::start("").await;
    let settings = settings(&database, &server).set("envelope.format", "cloudevents-binary");
    migrate(&settings);
    let subscriber = Subscriber::start(&server.url(), "live.>").await;
    let relay = Relay::ready(&settings).await;
    database.insert("PickMade", Some("Zoë 1"), 1).await;
    let id = database.value("SELECT id FROM outbox").await;
    subscriber.await_ids(&[id].into(), PATIENCE).await;
    relay.stop().await;
    let heard = subscriber.heard();
    assert_eq!(heard[0].body, r#"{"n":1}"#);
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", &*id.to_string()),
        ("ce-source", "/test"),
        ("ce-type", "PickMade"),
        ("ce-subject", "Zo%C3%AB%201"),
        ("ce-datacontenttype", "application/json"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(heard[0].header(name), Some(value), "header {name}");
    }
}

#[tokio::test]
async fn check_says_what_core_nats_does_not_do() {
    let database = Database::fresh().await;
    let server = PrivateNats::start("").await;
    let settings = settings(&database, &server);
    migrate(&settings);
    let ended = run(&settings, &["check", "--connect"]);
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.code, Some(0), "{shown}");
    assert!(shown.contains("sinks.live.type"), "{shown}");
    assert!(shown.contains("keeps nothing"), "{shown}");
    assert!(
        shown.contains("sink live: reached; connected to NATS server"),
        "{shown}"
    );
}

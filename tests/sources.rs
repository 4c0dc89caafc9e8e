//! Several sources in one file: each has its own lease, its own ledgers and its own troubles (I5).

use std::time::Duration;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::postgres::{PrivatePostgres, Stop};
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(10);
/// A lease that nobody gave up, on a busy machine.
const TAKE_OVER: Duration = Duration::from_secs(30);

async fn stream() -> Stream {
    Stream::create_forgetful(&nats::shared()).await
}

async fn await_lease(relay: &Relay, source: &str, held: f64) {
    let label = format!("source=\"{source}\"");
    let is_so = |value: f64| (value - held).abs() < 0.5;
    relay
        .await_metric("outbox_lease_held", &[&label], TAKE_OVER, is_so)
        .await;
}

async fn ledgers(database: &Database) -> String {
    database
        .value("SELECT string_agg(source || '/' || sink, ' ' ORDER BY source, sink) FROM outbox_ledger")
        .await
}

#[tokio::test]
async fn sources_have_their_own_leases_and_feed_the_sinks_that_name_them() {
    let (first, second) = (Database::fresh().await, Database::fresh().await);
    let (both, one) = (stream().await, stream().await);
    let settings = Settings::of(&first)
        .reading("other", &second.url)
        .publishing("both", &both)
        .publishing("one", &one)
        .set("sinks.one.inputs", "other");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    first.insert("First", Some("key"), 10).await;
    second.insert("Second", Some("key"), 5).await;
    both.await_len(15, SOON).await;
    let deliveries = one.await_len(5, SOON).await;
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery.subject == one.subject("Second"))
    );
    assert_eq!(ledgers(&first).await, "main/both");
    assert_eq!(ledgers(&second).await, "other/both other/one");
    for (database, source) in [(&first, "main"), (&second, "other")] {
        let leases: String = database
            .value("SELECT string_agg(source, ' ') FROM outbox_lease")
            .await;
        assert_eq!(leases, source);
        await_lease(&relay, source, 1.0).await;
    }
    relay.stop().await;
    assert_eq!((both.len().await, one.len().await), (15, 5));
}

#[tokio::test]
async fn a_database_that_is_down_stops_no_other_source() {
    let mut server = PrivatePostgres::start(&[]).await;
    let (down, up) = (
        Database::fresh_on(&server.url()).await,
        Database::fresh().await,
    );
    let stream = stream().await;
    let settings = Settings::of(&up)
        .reading("down", &down.url)
        .publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    server.stop(Stop::Immediate).await;
    up.insert("Up", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    eventually("/readyz names the source", TAKE_OVER, async || {
        let answer = relay.get("/readyz").await?;
        (answer.status == 503 && answer.body.contains("source down")).then_some(())
    })
    .await;
    assert_eq!(
        relay
            .metric("outbox_lease_held", &["source=\"main\""])
            .await,
        Some(1.0)
    );
    server.start_again().await;
    down.insert("Down", Some("key"), 5).await;
    stream.await_len(15, TAKE_OVER).await;

    // From the start on, too.
    relay.stop().await;
    server.stop(Stop::Fast).await;
    let relay = Relay::start(&settings);
    up.insert("Up", Some("key"), 10).await;
    stream.await_len(25, TAKE_OVER).await;
    relay.stop().await;
    server.start_again().await;
}

#[tokio::test]
async fn a_source_whose_tables_vanish_halts_alone_until_they_are_back() {
    let (vanishing, other) = (Database::fresh().await, Database::fresh().await);
    let stream = stream().await;
    let settings = Settings::of(&vanishing)
        .reading("other", &other.url)
        .publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    vanishing
        .execute("ALTER TABLE outbox RENAME TO elsewhere")
        .await;
    eventually("/readyz says what is missing", TAKE_OVER, async || {
        let answer = relay.get("/readyz").await?;
        let named = answer.body.contains("main") && answer.body.contains("migrate");
        (answer.status == 503 && named).then_some(())
    })
    .await;
    other.insert("Other", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    vanishing
        .execute("ALTER TABLE elsewhere RENAME TO outbox")
        .await;
    vanishing.insert("Back", Some("key"), 5).await;
    stream.await_len(15, TAKE_OVER).await;
    relay.stop().await;
}

#[tokio::test]
async fn two_relays_may_each_hold_one_of_the_leases() {
    let (first, second) = (Database::fresh().await, Database::fresh().await);
    let stream = stream().await;
    let one = Settings::of(&first).publishing_to(&stream);
    let two = one.clone().reading("other", &second.url);
    migrate(&two);
    let left = Relay::ready(&one).await;
    await_lease(&left, "main", 1.0).await;
    let right = Relay::ready(&two).await;
    await_lease(&right, "other", 1.0).await;
    await_lease(&right, "main", 0.0).await;
    // From now on they have the same configuration, and each a source of its own.
    let reload = left.reload(&two).await;
    assert_eq!(reload["successful"], true, "{reload:#}");
    eventually("it stands by for the other", SOON, async || {
        let report = left.report().await?;
        let sources = report["sources"].as_array().expect("a list").clone();
        let state = |name: &str| {
            sources
                .iter()
                .find(|s| s["source"] == name)
                .map(|s| s["state"].clone())
        };
        (state("main")? == "active" && state("other")? == "standby").then_some(())
    })
    .await;
    first.insert("First", Some("key"), 10).await;
    second.insert("Second", Some("key"), 10).await;
    stream.await_len(20, SOON).await;
    // Sinks of a standby change without any ado, and count when it takes over.
    let more = two
        .set("sinks.more.type", "mock")
        .set("sinks.more.start", "latest");
    for relay in [&left, &right] {
        assert_eq!(relay.reload(&more).await["successful"], true);
    }
    right.stop().await;
    await_lease(&left, "other", 1.0).await;
    second.insert("Second", Some("key"), 10).await;
    stream.await_len(30, SOON).await;
    // It joins, if the lease was asked for a moment before the configuration had it.
    eventually("it counts", SOON, async || {
        (ledgers(&second).await == "other/events other/more").then_some(())
    })
    .await;
    left.stop().await;
    assert_eq!(stream.len().await, 30, "nothing twice");
}

#[tokio::test]
async fn sources_come_and_go_and_one_without_tables_halts_alone() {
    let (first, second) = (Database::fresh().await, Database::fresh().await);
    let stream = stream().await;
    let one = Settings::of(&first).publishing_to(&stream);
    migrate(&one);
    let relay = Relay::ready(&one).await;
    let two = one.clone().reading("other", &second.url);
    let reload = relay.reload(&two).await;
    assert_eq!(reload["successful"], true, "{reload:#}");
    eventually("/readyz says what to do", SOON, async || {
        let body = relay.get("/readyz").await?.body;
        (body.contains("source other") && body.contains("outbox-relay migrate")).then_some(())
    })
    .await;
    first.insert("First", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    migrate(&two);
    second.insert("Second", Some("key"), 10).await;
    stream.await_len(20, TAKE_OVER).await;

    let reload = relay.reload(&one).await;
    assert_eq!(reload["successful"], true, "{reload:#}");
    let report = relay.report().await.expect("an answer");
    assert!(!report.to_string().contains("\"other\""), "{report:#}");
    for (source, configured) in [("main", 1.0), ("other", 0.0)] {
        let label = format!("source=\"{source}\"");
        let shown = relay.metric("outbox_source_configured", &[&label]).await;
        assert_eq!(shown, Some(configured), "{source}");
    }
    await_lease(&relay, "other", 0.0).await;
    let held: bool = second
        .value("SELECT expires_at > clock_timestamp() FROM outbox_lease")
        .await;
    assert!(!held, "the lease was given up");
    second.insert("Late", Some("key"), 10).await;
    first.insert("First", Some("key"), 10).await;
    stream.await_len(30, SOON).await;
    relay.stop().await;
    assert_eq!(stream.len().await, 30);
}

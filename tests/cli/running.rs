//! A relay that runs: what its endpoints answer, what it names that cannot be reached, and how it stops.

use std::time::{Duration, Instant};

use super::unreachable;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::port;
use crate::support::private_server::PrivateServer;
use crate::support::process::Signal;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

#[tokio::test]
async fn what_cannot_be_reached_is_named_and_tried_again() {
    let mut relay = Relay::start(&unreachable());
    let answer = eventually("/readyz says 503", Duration::from_secs(10), async || {
        relay
            .get("/readyz")
            .await
            .filter(|answer| answer.status == 503)
    })
    .await;
    assert!(
        answer.body.contains("main"),
        "it names the source: {}",
        answer.body
    );
    let alive = relay.get("/healthz").await.map(|answer| answer.status);
    assert_eq!(alive, Some(200), "waiting is not being ill");
    assert!(relay.exited().is_none());
    let log = relay.stderr();
    assert!(
        !log.contains("s3cr3t-word"),
        "a password in the log:\n{log}"
    );
    relay.stop().await;
}

#[tokio::test]
async fn a_sink_that_cannot_be_reached_at_the_start_is_named() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("sinks.away.type", "jetstream")
        .set(
            "sinks.away.url",
            format!("nats://127.0.0.1:{}", port::free()),
        )
        .set("sinks.away.subject", "events.{event_type}");
    migrate(&settings);
    database.insert("Counted", Some("key"), 10).await;
    let relay = Relay::start(&settings);
    eventually(
        "/readyz names the sink",
        Duration::from_secs(10),
        async || {
            let answer = relay.get("/readyz").await?;
            (answer.status == 503 && answer.body.contains("away")).then_some(())
        },
    )
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_no_dead_broker_longer_than_it_says() {
    let database = Database::fresh().await;
    let mut server = nats::PrivateNats::start("").await;
    let stream = Stream::create(&server.url()).await;
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("relay.shutdown_timeout", "2s");
    migrate(&settings);
    let mut relay = Relay::ready(&settings).await;
    database.insert("Counted", Some("key"), 10).await;
    stream.await_len(10, Duration::from_secs(10)).await;
    server.freeze().await;
    database.insert("Counted", Some("key"), 10).await;
    relay
        .await_metric("outbox_in_flight", &[], Duration::from_secs(10), |n| {
            n > 0.0
        })
        .await;
    let begun = Instant::now();
    relay.signal(Signal::Terminate);
    let status = relay.exit(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(20),
        "{took:?} for a timeout of 2 s instead of 30 s"
    );
    server.thaw();
    server.kill().await;
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("relay.shutdown_timeout", "60s")
        .set("sinks.slow.type", "mock")
        .set("sinks.slow.timeout", "120s")
        .set("sinks.slow.delay", "60s");
    migrate(&settings);
    database.insert("Counted", Some("key"), 10).await;
    let mut relay = Relay::ready(&settings).await;
    relay
        .await_metric("outbox_in_flight", &[], Duration::from_secs(10), |n| {
            n > 0.0
        })
        .await;
    relay.signal(Signal::Terminate);
    // It is stopping: it waits for the acknowledgement.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        relay.exited().is_none(),
        "the first signal waits for what is in flight"
    );
    relay.signal(Signal::Terminate);
    relay.exit(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn the_endpoints_answer_and_the_metrics_have_their_names() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    database.insert("Counted", Some("key"), 10).await;
    let relay = Relay::ready(&settings).await;
    stream.await_len(10, Duration::from_secs(10)).await;
    relay
        .await_metric("outbox_pending_events", &[], Duration::from_secs(5), |n| {
            n == 0.0
        })
        .await;
    let labels = ["source=\"main\"", "sink=\"events\""];
    assert_eq!(
        relay.metric("outbox_events_published_total", &labels).await,
        Some(10.0)
    );
    for name in [
        "outbox_publish_attempts_total",
        "outbox_publish_duration_seconds_count",
        "outbox_delivery_latency_seconds_count",
        "outbox_oldest_pending_seconds",
        "outbox_in_flight",
        "outbox_parked_events",
        "outbox_dead_letters",
        "outbox_sink_available",
        "outbox_unstored_acknowledgements",
    ] {
        assert!(relay.metric(name, &labels).await.is_some(), "{name}");
    }
    for name in ["outbox_lease_held", "outbox_holes"] {
        assert!(relay.metric(name, &[labels[0]]).await.is_some(), "{name}");
    }
    assert_eq!(relay.metric("outbox_build_info", &[]).await, Some(1.0));
    assert_eq!(relay.get("/healthz").await.map(|a| a.status), Some(200));
    assert_eq!(relay.get("/none").await.map(|a| a.status), Some(404));
    relay.stop().await;
}

#[tokio::test]
async fn health_asks_the_relay_that_runs() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.lines.type", "stdout");
    let silent = run(&settings, &["health"]);
    assert_eq!(silent.code, Some(1), "{silent:#?}");
    assert!(silent.stderr.contains("admin.listen"), "{silent:#?}");
    let mute = settings.clone().set("admin.health", false);
    let ended = run(&mute, &["health"]);
    assert!(ended.stderr.contains("admin.health"), "{ended:#?}");
    let nobody = settings
        .clone()
        .set("admin.listen", format!("127.0.0.1:{}", port::free()));
    let ended = run(&nobody, &["health"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("does the relay run?"), "{ended:#?}");

    migrate(&settings);
    let away = settings
        .clone()
        .set("sinks.away.type", "jetstream")
        .set(
            "sinks.away.url",
            format!("nats://127.0.0.1:{}", port::free()),
        )
        .set("sinks.away.subject", "away.{event_type}");
    let relay = Relay::start(&away);
    let everywhere = settings
        .clone()
        .set("admin.listen", format!("0.0.0.0:{}", relay.port()));
    eventually("it is alive", Duration::from_secs(20), async || {
        (run(&everywhere, &["health"]).code == Some(0)).then_some(())
    })
    .await;
    let unready = eventually("it names the sink", Duration::from_secs(20), async || {
        let ended = run(&everywhere, &["health", "--ready"]);
        ended.stderr.contains("sink away").then_some(ended)
    })
    .await;
    assert_eq!(unready.code, Some(1), "{unready:#?}");
    assert!(unready.stderr.contains("answers 503: "), "{unready:#?}");
    relay.reload(&settings).await;
    let ready = eventually("it is ready", Duration::from_secs(20), async || {
        let ended = run(&everywhere, &["health", "--ready"]);
        (ended.code == Some(0)).then_some(ended)
    })
    .await;
    assert_eq!(ready.stdout, "ok\n");
    relay.stop().await;
}

//! A reload that takes its time: others go on, signals are heard.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{ARRIVAL, SOON, assert_successful, named, pipelines, stream};
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats::PrivateNats;
use crate::support::private_server::PrivateServer;
use crate::support::process::Signal;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SAID: &str = "the configuration is read again";

/// A sink whose broker answers after `delay`, with an event on its way: it can't stop before.
async fn draining(database: &Database, relay: &Relay) {
    database.insert("Slow", Some("slow"), 1).await;
    relay
        .await_metric("outbox_in_flight", &["sink=\"slow\""], SOON, |count| {
            count == 1.0
        })
        .await;
}

async fn await_said(relay: &Relay, what: &str, count: usize) {
    eventually(what, SOON, async || {
        (relay.stderr().matches(what).count() >= count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn signals_during_a_reload_are_one_more_after_it() {
    let database = Database::fresh().await;
    let stream = stream().await;
    let settings = Settings::of(&database).publishing_to(&stream);
    let with_slow = settings
        .clone()
        .set("sinks.slow.type", "mock")
        .set("sinks.slow.delay", "4s");
    migrate(&with_slow);
    let relay = Relay::ready(&with_slow).await;
    draining(&database, &relay).await;
    relay.rewrite(&settings);
    relay.signal(Signal::HangUp);
    await_said(&relay, SAID, 1).await;
    await_said(&relay, "the configuration changes", 1).await;
    // Others go on meanwhile.
    database.insert("Counted", Some("key"), 10).await;
    stream.await_len(11, Duration::from_secs(3)).await;
    let last = settings
        .set("sinks.last.type", "mock")
        .set("sinks.last.start", "latest");
    relay.rewrite(&last);
    for _ in 0..5 {
        relay.signal(Signal::HangUp);
    }
    assert!(
        relay.last_reload().await.expect("an answer").is_null(),
        "the first is not over"
    );
    eventually("the last one counts", SOON, async || {
        (pipelines(&relay).await == ["main/events", "main/last"]).then_some(())
    })
    .await;
    eventually("and is over", SOON, async || {
        let over = relay
            .stderr()
            .matches("the configuration was reloaded")
            .count();
        (over == 2).then_some(())
    })
    .await;
    let log = relay.stderr();
    assert_eq!(
        log.matches(SAID).count(),
        2,
        "one, and one more for all the others:\n{log}"
    );
    assert!(
        !log.contains("without their acknowledgements"),
        "it waited for the answer:\n{log}"
    );
    relay.stop().await;
}

#[tokio::test]
async fn a_stop_is_heard_during_a_reload() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("relay.shutdown_timeout", "3s")
        .set("sinks.events.type", "mock")
        .set("sinks.slow.type", "mock")
        .set("sinks.slow.delay", "1h")
        .set("sinks.slow.timeout", "10m");
    migrate(&settings);
    let mut relay = Relay::ready(&settings).await;
    draining(&database, &relay).await;
    relay.rewrite(&settings.without("sinks.slow"));
    relay.signal(Signal::HangUp);
    await_said(&relay, "the configuration changes", 1).await;
    let asked = Instant::now();
    relay.signal(Signal::Terminate);
    let status = relay.exit(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0), "after {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_broker_that_hangs_is_left_after_the_time_of_a_stop_and_nothing_is_lost() {
    let database = Database::fresh().await;
    let server = PrivateNats::start("").await;
    let (frozen, other) = (
        Stream::create_forgetful(&server.url()).await,
        stream().await,
    );
    let (settings, _) = named(Settings::of(&database).publishing("frozen", &frozen));
    let settings = settings
        .publishing("other", &other)
        .set("relay.shutdown_timeout", "10m");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("Counted", Some("key"), 5).await;
    frozen.await_len(5, SOON).await;
    server.freeze().await;
    database.insert("Counted", Some("key"), 5).await;
    other.await_len(10, SOON).await;
    // The time of a stop changes too, and counts at once.
    let next = settings
        .set("relay.shutdown_timeout", "1s")
        .set("sinks.frozen.timeout", "4s");
    let begun = Instant::now();
    assert_successful(&relay.reload(&next).await);
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{:?}",
        begun.elapsed()
    );
    server.thaw();
    let deliveries = eventually("all of them arrive", ARRIVAL, async || {
        let deliveries = frozen.deliveries().await;
        let ids: HashSet<_> = deliveries.iter().map(|delivery| delivery.id).collect();
        (ids.len() == 10).then_some(deliveries)
    })
    .await;
    let count = deliveries.len();
    assert!(count <= 12, "only what was in flight comes twice: {count}");
    relay.stop().await;
}

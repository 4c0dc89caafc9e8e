//! Crashes and outages under load: nothing is lost, and what is sent twice is bounded (I1, I4, I6, I9).

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::support::checker::check;
use crate::support::database::{Database, TEST_APPLICATION};
use crate::support::eventually::eventually;
use crate::support::nats::{self, PrivateNats};
use crate::support::postgres::{PrivatePostgres, Stop};
use crate::support::private_server::PrivateServer;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::{Delivery, Stream};
use crate::support::writers::{Load, Writers};

/// How long everything may take to arrive in the end.
const ARRIVAL: Duration = Duration::from_secs(30);
/// A lease that a killed relay leaves behind ends after ten seconds.
const LEASE: Duration = Duration::from_secs(20);

/// Waits until this many more events are published.
async fn progress(stream: &Stream, more: u64) {
    let before = stream.len().await;
    eventually("the relay goes on", LEASE, async || {
        (stream.len().await > before + more).then_some(())
    })
    .await;
}

/// Ids that are in the stream more than once.
fn repeated(deliveries: &[Delivery]) -> HashSet<Uuid> {
    let mut seen = HashSet::new();
    let again = deliveries.iter().filter(|d| !seen.insert(d.id));
    again.map(|delivery| delivery.id).collect()
}

#[tokio::test]
async fn kill_9_loses_nothing_and_repeats_only_what_the_last_flush_did_not_hold() {
    /// Two flushes (200 ms), and what a busy machine adds.
    const SINCE_FLUSH: Duration = Duration::from_millis(1_500);
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let writers = Writers::start(&database, Load::default()).await;

    let relay = Relay::ready(&settings).await;
    progress(&stream, 500).await;
    let killed = SystemTime::now();
    relay.kill().await;
    // What the ledger lacks of what the broker has: all that may come again.
    let at_kill = stream.deliveries().await;
    let stored = stored_ids(&database).await;
    let unstored: HashSet<Uuid> = at_kill
        .iter()
        .map(|delivery| delivery.id)
        .filter(|id| !stored.contains(id))
        .collect();

    let relay = Relay::ready(&settings).await;
    progress(&stream, 200).await;
    let record = writers.stop().await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    relay.stop().await;

    let deliveries = stream.deliveries().await;
    let figures = check("kill -9", &record, &deliveries);
    report!("kill -9: {} acknowledged and not stored", unstored.len());
    let repeated = repeated(&deliveries);
    assert!(repeated.is_subset(&unstored), "what was stored comes again");
    assert!(figures.duplicates <= unstored.len());
    let oldest = at_kill
        .iter()
        .filter(|delivery| unstored.contains(&delivery.id))
        .map(|delivery| killed.duration_since(delivery.at).unwrap_or_default())
        .max()
        .unwrap_or_default();
    assert!(
        oldest < SINCE_FLUSH,
        "a delivery of {oldest:?} before the kill was not stored, with a flush every 200 ms"
    );
}

/// Ids of the events that the stored ledger counts as delivered.
async fn stored_ids(database: &Database) -> HashSet<Uuid> {
    let ids: Vec<Uuid> = database
        .value(
            "SELECT coalesce(array_agg(id), '{}') FROM outbox \
             WHERE seq <@ (SELECT delivered FROM outbox_ledger WHERE sink = 'events')",
        )
        .await;
    ids.into_iter().collect()
}

#[tokio::test]
async fn jetstreams_deduplication_leaves_nothing_twice_after_kill_9() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    // Rare flushes, so that there is something to send again.
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sinks.events.flush_interval", "5s");
    migrate(&settings);
    let writers = Writers::start(&database, Load::default()).await;
    let relay = Relay::ready(&settings).await;
    progress(&stream, 500).await;
    relay.kill().await;
    let relay = Relay::ready(&settings).await;
    progress(&stream, 100).await;
    let record = writers.stop().await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    relay.stop().await;
    let figures = check("kill -9, deduplicated", &record, &stream.deliveries().await);
    assert_eq!(figures.duplicates, 0);
}

#[tokio::test]
async fn postgres_killed_and_restarted_under_load_loses_nothing() {
    let mut server = PrivatePostgres::start(&[]).await;
    let database = Database::fresh_on(&server.url()).await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let writers = Writers::start(&database, Load::default()).await;
    let mut relay = Relay::ready(&settings).await;
    for how in [Stop::Kill, Stop::Immediate, Stop::Fast] {
        progress(&stream, 200).await;
        server.stop(how).await;
        server.start_again().await;
    }
    progress(&stream, 200).await;
    let mut record = writers.stop().await;
    record.settle(&database).await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    assert!(relay.exited().is_none(), "it goes on by itself");
    relay.stop().await;
    check("PostgreSQL restarted", &record, &stream.deliveries().await);
}

#[tokio::test]
async fn terminated_backends_lose_nothing() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let writers = Writers::start(&database, Load::default()).await;
    let mut relay = Relay::ready(&settings).await;
    let terminate = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name <> '{TEST_APPLICATION}'"
    );
    let mut terminated = 0;
    for _ in 0..8 {
        progress(&stream, 50).await;
        terminated += database.value::<i64>(&terminate).await;
    }
    progress(&stream, 50).await;
    let record = writers.stop().await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    assert!(terminated >= 8, "the relay had connections to lose");
    assert!(relay.exited().is_none(), "it goes on by itself");
    relay.stop().await;
    check("backends terminated", &record, &stream.deliveries().await);
}

#[tokio::test]
async fn nats_killed_and_back_burns_no_attempt() {
    let mut server = PrivateNats::start("").await;
    survive_outages("NATS killed", &mut server, async |server| {
        server.kill().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.start_again().await;
    })
    .await;
}

#[tokio::test]
async fn nats_frozen_and_thawed_burns_no_attempt() {
    let mut server = PrivateNats::start("").await;
    survive_outages("NATS frozen", &mut server, async |server| {
        server.freeze().await;
        // Longer than the sink waits for an acknowledgement.
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.thaw();
    })
    .await;
}

/// Two outages under load, with no attempt to spare: a single one that counted would be a dead letter.
async fn survive_outages(
    name: &str,
    server: &mut PrivateNats,
    mut outage: impl AsyncFnMut(&mut PrivateNats),
) {
    let database = Database::fresh().await;
    let stream = Stream::create(&server.url()).await;
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sinks.events.timeout", "1s")
        .set("sinks.events.retry.max_retries", 0)
        .set("sinks.events.retry.initial_delay", "100ms")
        .set("sinks.events.retry.max_delay", "500ms");
    migrate(&settings);
    let writers = Writers::start(&database, Load::default()).await;
    let relay = Relay::ready(&settings).await;
    for _ in 0..2 {
        progress(&stream, 200).await;
        outage(server).await;
    }
    progress(&stream, 200).await;
    let record = writers.stop().await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    let dead: i64 = database
        .value("SELECT count(*) FROM outbox_dead_letter")
        .await;
    assert_eq!(dead, 0, "an outage is not a rejection");
    relay.stop().await;
    let figures = check(name, &record, &stream.deliveries().await);
    assert_eq!(figures.duplicates, 0, "the broker knows the ids");
}

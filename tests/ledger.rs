//! `outbox-relay ledger`: what the sinks have, and what becomes of what is left of them (DESIGN: command line).

use std::time::Duration;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(20);
/// A halted source is looked at every five seconds.
const WHILE: Duration = Duration::from_secs(60);

/// A source whose ten events are delivered, and no relay that runs.
async fn delivered() -> (Database, Stream, Settings) {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    database.insert("First", Some("key"), 10).await;
    let relay = Relay::ready(&settings).await;
    stream.await_len(10, SOON).await;
    relay.stop().await;
    (database, stream, settings)
}

#[tokio::test]
async fn list_says_what_each_lacks_and_who_holds_it() {
    let (database, _stream, settings) = delivered().await;
    database
        .execute("UPDATE outbox_ledger SET delivered = '{[1,5),[7,11)}'")
        .await;
    let ended = run(&settings, &["ledger", "list"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{ended:#?}");
    let cells: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(cells[..5], ["test", "main", "events", "5", "2"]);
    assert_eq!(cells[6..], ["-"], "nobody holds it");

    let relay = Relay::ready(&settings).await;
    let ended = run(&settings, &["ledger", "list"]);
    let owner: String = database.value("SELECT owner FROM outbox_lease").await;
    assert!(ended.stdout.contains(&owner), "{ended:#?}");
    relay.stop().await;

    let without = Settings::of(&database).set("sinks.other.type", "mock");
    let ended = run(&without, &["ledger", "list"]);
    assert!(
        ended.stdout.contains("no sink in the configuration"),
        "{ended:#?}"
    );
}

#[tokio::test]
async fn rename_carries_on_where_the_other_name_stopped() {
    let (database, stream, settings) = delivered().await;
    database
        .execute(
            "INSERT INTO outbox_dead_letter (relay, source, sink, seq, event_id, event_type, payload, payload_type, \
             created_at, reason, attempts) VALUES ('test', 'main', 'events', 3, gen_random_uuid(), 'First', '', \
             'json', now(), 'no', 1)",
        )
        .await;
    let rename = ["ledger", "rename", "--sink", "events", "--to", "picks"];
    let relay = Relay::ready(&settings).await;
    let ended = run(&settings, &rename);
    assert_eq!(ended.code, Some(1), "while a relay runs: {ended:#?}");
    relay.stop().await;
    let ended = run(&settings, &rename);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let ended = run(&settings, &rename);
    assert_eq!(ended.code, Some(1), "it is there no more: {ended:#?}");
    let letters: i64 = database
        .value("SELECT count(*) FROM outbox_dead_letter WHERE sink = 'picks'")
        .await;
    assert_eq!(letters, 1, "its dead letters go with it");

    let renamed = Settings::of(&database).publishing("picks", &stream);
    let relay = Relay::ready(&renamed).await;
    database.insert("Second", Some("key"), 1).await;
    let deliveries = stream.await_len(11, SOON).await;
    assert_eq!(deliveries[10].subject, stream.subject("Second"));
    relay.stop().await;
    assert_eq!(stream.len().await, 11, "nothing is repeated");
}

#[tokio::test]
async fn reset_starts_anew_on_a_sequence_that_started_anew() {
    let (database, stream, settings) = delivered().await;
    let restart = "TRUNCATE outbox RESTART IDENTITY; \
         INSERT INTO outbox (event_type, payload, sent_at) SELECT 'Restored', '{}', now() FROM generate_series(1, 3); \
         INSERT INTO outbox (event_type, payload) SELECT 'New', '{}' FROM generate_series(1, 2)";
    database.execute(restart).await;
    let ended = run(&settings, &["ledger", "list"]);
    assert!(
        ended.stdout.contains("ledger reset"),
        "it is stale: {ended:#?}"
    );
    let ended = run(&settings, &["ledger", "reset", "--source", "main"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.contains("from seq 4"), "{ended:#?}");
    let relay = Relay::ready(&settings).await;
    let deliveries = stream.await_len(12, SOON).await;
    assert!(
        deliveries[10..]
            .iter()
            .all(|d| d.subject == stream.subject("New"))
    );
    relay.stop().await;

    for (start, sent) in [("latest", 12), ("earliest", 17)] {
        let relay = Relay::ready(&settings).await;
        let reset = ["ledger", "reset", "--source", "main", "--start", start];
        assert_eq!(run(&settings, &reset).code, Some(1), "while a relay runs");
        let forced = [reset.as_slice(), &["--force"]].concat();
        assert_eq!(run(&settings, &forced).code, Some(0));
        // The relay notices when it next stores something, and reads its ledger anew.
        database.insert("Notice", None, 1).await;
        let notices = if start == "latest" { 1 } else { 3 };
        eventually("the ledger is read anew", SOON, async || {
            (stream.len().await >= sent + notices).then_some(())
        })
        .await;
        relay.stop().await;
    }
}

/// The same table for a relay of another name, with a stream of its own.
async fn of_another_relay(database: &Database) -> (Stream, Settings) {
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(database)
        .set("relay.name", "other")
        .publishing_to(&stream);
    (stream, settings)
}

const SET_BACK: &str =
    "DELETE FROM outbox; SELECT setval(pg_get_serial_sequence('outbox', 'seq'), 1, false)";
const RESET: [&str; 4] = ["ledger", "reset", "--source", "main"];

async fn await_halted(relay: &Relay, times: usize) {
    eventually("the source is halted", WHILE, async || {
        (relay.stderr().matches("the source is halted").count() >= times).then_some(())
    })
    .await;
    assert!(relay.stderr().contains("ledger reset"), "the way out");
}

#[tokio::test]
async fn reset_after_setval_takes_what_other_relays_recorded_as_void() {
    let (database, stream, settings) = delivered().await;
    let (theirs, other) = of_another_relay(&database).await;
    let relay = Relay::ready(&other).await;
    theirs.await_len(10, SOON).await;
    relay.stop().await;

    // As far as every ledger reaches: nobody could tell from the numbers alone.
    database.execute(SET_BACK).await;
    database.insert("Again", Some("key"), 10).await;
    let running = Relay::ready(&other).await;
    let ended = run(&settings, &RESET);
    assert_eq!(ended.code, Some(1), "while the other runs: {ended:#?}");
    running.stop().await;
    let ended = run(&settings, &RESET);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.contains("relay other"), "{ended:#?}");

    let relay = Relay::ready(&settings).await;
    stream.await_len(20, SOON).await;
    let halted = Relay::start(&other);
    await_halted(&halted, 1).await;
    halted.stop().await;
    let ended = run(&other, &RESET);
    assert_eq!(ended.code, Some(0), "a known case: {ended:#?}");
    assert!(!ended.stdout.contains("relay test"), "{ended:#?}");
    let second = Relay::ready(&other).await;
    let deliveries = theirs.await_len(20, SOON).await;
    let again = deliveries[10..]
        .iter()
        .filter(|d| d.subject == theirs.subject("Again"));
    assert_eq!(again.count(), 10, "nothing is lost to the other relay");
    second.stop().await;
    relay.stop().await;
    assert_eq!(stream.len().await, 20, "nothing is repeated to the first");
}

#[tokio::test]
async fn a_sequence_that_was_set_back_is_not_forgotten_when_it_comes_as_far_again() {
    let (database, stream, settings) = delivered().await;
    let (theirs, other) = of_another_relay(&database).await;
    let second = Relay::ready(&other).await;
    theirs.await_len(10, SOON).await;
    second.stop().await;
    let relay = Relay::ready(&settings).await;
    database.execute(SET_BACK).await;
    await_halted(&relay, 1).await;
    database.insert("Again", Some("key"), 20).await;
    await_halted(&relay, 3).await;
    let second = Relay::start(&other);
    await_halted(&second, 1).await;
    assert_eq!((stream.len().await, theirs.len().await), (10, 10));
    for settings in [&settings, &other] {
        let ended = run(settings, &RESET);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
    }
    stream.await_len(30, WHILE).await;
    theirs.await_len(30, WHILE).await;
    relay.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_sequence_that_is_set_to_where_it_is_was_not_set_back() {
    let (database, stream, settings) = delivered().await;
    let (theirs, other) = of_another_relay(&database).await;
    let second = Relay::ready(&other).await;
    theirs.await_len(10, SOON).await;
    second.stop().await;
    let relay = Relay::ready(&settings).await;
    // What is often run after a restore.
    database
        .execute(
            "SELECT setval(pg_get_serial_sequence('outbox', 'seq'), (SELECT coalesce(max(seq), 0) + 1 FROM outbox), false)",
        )
        .await;
    // Acquires and lists while nothing is drawn; the first reads on and on.
    let second = Relay::ready(&other).await;
    let ended = run(&settings, &["ledger", "list"]);
    assert!(!ended.stdout.contains("ledger reset"), "{ended:#?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    database.insert("After", Some("key"), 1).await;
    stream.await_len(11, WHILE).await;
    theirs.await_len(11, WHILE).await;
    assert!(!relay.stderr().contains("halted"), "{}", relay.stderr());
    relay.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn reset_outlives_a_relay_that_still_remembers_what_was_before() {
    let (database, stream, settings) = delivered().await;
    let (theirs, other) = of_another_relay(&database).await;
    // Looks when something is inserted, and not before.
    let other = other
        .set("sources.main.mode", "notify")
        .set("sources.main.poll_interval", "10m")
        .set("sources.main.fallback_interval", "10m");
    migrate(&other);
    let second = Relay::ready(&other).await;
    theirs.await_len(10, SOON).await;
    database.execute(SET_BACK).await;
    let ended = run(&settings, &RESET);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    database.insert("Again", Some("key"), 1).await;
    await_halted(&second, 1).await;
    second.stop().await;
    let void: bool = database
        .value("SELECT sequence_filenode = 0 FROM outbox_source WHERE relay = 'test'")
        .await;
    assert!(!void, "what was reset is not taken as void again");
    let relay = Relay::ready(&settings).await;
    stream.await_len(11, SOON).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_ledger_that_is_dropped_under_a_running_relay_is_its_own_sinks_matter() {
    let (database, stream, settings) = delivered().await;
    let second = Stream::create_forgetful(&nats::shared()).await;
    let settings = settings
        .publishing("second", &second)
        .set("sinks.second.start", "earliest")
        // Whatever is read anew is delivered anew.
        .set("sinks.events.flush_interval", "1m");
    let relay = Relay::ready(&settings).await;
    second.await_len(10, SOON).await;
    database.insert("Before", Some("key"), 10).await;
    stream.await_len(20, SOON).await;
    second.await_len(20, SOON).await;
    let token = "SELECT token::text FROM outbox_lease";
    let session: String = database.value(token).await;

    let drop = ["ledger", "drop", "--sink", "second", "--force"];
    let ended = run(&settings, &drop);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    second.await_len(40, WHILE).await;
    // One that doesn't say where it starts waits until it does, alone.
    let silent = settings.clone().without("sinks.second.start");
    let report = relay.reload(&silent).await;
    assert_eq!(report["successful"], true, "{report}");
    database
        .execute("DELETE FROM outbox_ledger WHERE sink = 'second'")
        .await;
    eventually("it says what to do", WHILE, async || {
        relay.stderr().contains("sinks.second.start").then_some(())
    })
    .await;
    database.insert("After", Some("key"), 10).await;
    stream.await_len(30, SOON).await;
    assert_eq!(
        database.value::<String>(token).await,
        session,
        "the session goes on"
    );
    relay.stop().await;
    assert_eq!(stream.len().await, 30, "nothing is repeated to the other");
    assert_eq!(second.len().await, 40);
}

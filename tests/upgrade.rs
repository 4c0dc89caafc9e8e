//! Tables of a former version: a relay goes on with them, `migrate` renews them under writers and under a relay that
//! runs, and nothing is lost or sent twice.

use std::time::Duration;

use sqlx::Executor;

use crate::notify::await_armed;
use crate::support::database::Database;
use crate::support::nats;
use crate::support::relay::{Relay, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(30);

/// The tables as the first version made them, with the doorbell of the second, which tried its lock in a condition.
const FORMER: &str = concat!(
    include_str!("upgrade/one.sql"),
    include_str!("upgrade/two.sql")
);

/// That doorbell by itself.
const FORMER_DOORBELL: &str = include_str!("upgrade/two.sql");

/// Whether the doorbell is the one of today.
const RENEWED: &str = "SELECT tgqual IS NULL FROM pg_trigger WHERE tgname = 'outbox_relay_ring'";

/// A relay that learns of events by its doorbell, or much too late.
fn unhurried(database: &Database, stream: &Stream) -> Settings {
    Settings::of(database)
        .set("sources.main.mode", "notify")
        .set("sources.main.poll_interval", "10m")
        .set("sources.main.fallback_interval", "10m")
        .publishing_to(stream)
}

/// What `migrate` says.
fn migrated(settings: &Settings) -> String {
    let ended = run(settings, &["migrate"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    ended.stdout
}

/// Of the ids that were committed, in the order of `seq`.
async fn committed(database: &Database) -> Vec<String> {
    let ids: String = database
        .value("SELECT string_agg(id::text, ' ' ORDER BY seq) FROM outbox")
        .await;
    ids.split(' ').map(str::to_owned).collect()
}

async fn delivered(stream: &Stream, count: u64) -> Vec<String> {
    let deliveries = stream.await_len(count, SOON).await;
    deliveries.iter().map(|one| one.id.to_string()).collect()
}

#[tokio::test]
async fn tables_of_the_former_version_are_renewed_and_nothing_is_lost_or_sent_twice() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = unhurried(&database, &stream).set("sources.main.after_delivery", "mark");
    database.execute(FORMER).await;

    // As it was: ledgers, dead letters of nobody, events with and without.
    database.insert("Before", Some("key"), 20).await;
    let relay = Relay::ready(&settings).await;
    delivered(&stream, 20).await;
    await_armed(&database).await;
    database.insert("Rung", Some("key"), 5).await;
    delivered(&stream, 25).await;
    relay.stop().await;
    assert!(!database.value::<bool>(RENEWED).await);
    database.insert("Between", Some("key"), 7).await;

    let said = migrated(&settings);
    assert!(
        said.contains("the doorbell of \"outbox\" renewed"),
        "{said}"
    );
    assert!(database.value::<bool>(RENEWED).await);
    let said = migrated(&settings);
    assert!(!said.contains("doorbell"), "once is enough: {said}");

    let relay = Relay::ready(&settings).await;
    delivered(&stream, 32).await;
    await_armed(&database).await;
    database.insert("After", Some("key"), 5).await;
    assert_eq!(delivered(&stream, 37).await, committed(&database).await);
    relay.stop().await;
    assert_eq!(stream.len().await, 37, "nothing twice");
}

#[tokio::test]
async fn a_relay_and_writers_go_on_while_the_tables_are_renewed() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = unhurried(&database, &stream);
    database.execute(FORMER).await;
    let relay = Relay::ready(&settings).await;
    await_armed(&database).await;
    let writers = async {
        for _ in 0..50 {
            database.insert("During", Some("key"), 2).await;
        }
    };
    let renewal = async {
        delivered(&stream, 10).await;
        let settings = settings.clone();
        let migrating = tokio::task::spawn_blocking(move || migrated(&settings));
        migrating.await.expect("it ends")
    };
    let ((), said) = tokio::join!(writers, renewal);
    assert!(said.contains("renewed"), "{said}");
    delivered(&stream, 100).await;
    await_armed(&database).await;
    database.insert("Last", Some("key"), 1).await;
    assert_eq!(delivered(&stream, 101).await, committed(&database).await);
    relay.stop().await;
    assert_eq!(stream.len().await, 101, "nothing twice");
}

#[tokio::test]
async fn a_doorbell_that_can_not_be_renewed_rings_on() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = unhurried(&database, &stream);
    database.execute(FORMER).await;
    database
        .execute(
            "ALTER TABLE outbox ENABLE ALWAYS TRIGGER outbox_relay_ring; CREATE TABLE other (n int); \
             CREATE TRIGGER other BEFORE UPDATE ON other FOR EACH ROW WHEN (old.n <> new.n) \
             EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        )
        .await;
    let mut held = database.connect().await;
    held.execute("BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Held', '{}')")
        .await
        .expect("an open transaction");
    let said = migrated(&settings);
    assert!(said.contains("stays"), "{said}");
    assert!(!database.value::<bool>(RENEWED).await);
    held.execute("COMMIT").await.expect("commit");
    let relay = Relay::ready(&settings).await;
    delivered(&stream, 1).await;
    await_armed(&database).await;
    database.insert("Rung", Some("key"), 1).await;
    delivered(&stream, 2).await;

    // The next time it can, and rings for replicas' writers as before.
    let said = migrated(&settings);
    assert!(said.contains("renewed"), "{said}");
    let always = "SELECT tgenabled = 'A' FROM pg_trigger WHERE tgname = 'outbox_relay_ring'";
    assert!(database.value::<bool>(RENEWED).await && database.value::<bool>(always).await);
    await_armed(&database).await;
    let mut replica = database.connect().await;
    replica
        .execute(
            "SET session_replication_role = replica; \
             INSERT INTO outbox (event_type, payload) VALUES ('Rung', '{}')",
        )
        .await
        .expect("a replica's writer");
    delivered(&stream, 3).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_doorbell_that_is_disabled_is_named() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("sources.main.mode", "notify")
        .set("sinks.lines.type", "stdout");
    migrated(&settings);
    // One of a former version, too: it isn't renewed, for that would enable it.
    for (form, disabled) in [
        ("", "DISABLE"),
        ("", "ENABLE REPLICA"),
        (FORMER_DOORBELL, "DISABLE"),
    ] {
        database
            .execute(&format!(
                "{form} ALTER TABLE outbox {disabled} TRIGGER outbox_relay_ring"
            ))
            .await;
        for command in [&["check", "--connect"][..], &["migrate"]] {
            let ended = run(&settings, command);
            assert!(ended.code != Some(0), "{ended:#?}");
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(said.contains("is disabled"), "{said}");
            assert!(said.contains("ENABLE TRIGGER"), "{said}");
        }
        database
            .execute("ALTER TABLE outbox ENABLE TRIGGER outbox_relay_ring")
            .await;
        let ended = run(&settings, &["check", "--connect"]);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
    }
}

/// Tools that change a table by copying it copy its triggers as they are written.
#[tokio::test]
async fn a_doorbell_of_another_table_is_none() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("sources.main.mode", "notify")
        .set("sinks.lines.type", "stdout");
    migrated(&settings);
    let copied = FORMER_DOORBELL.replace("'outbox'", "'former'");
    database.execute("CREATE TABLE former (LIKE outbox)").await;
    database.execute(&copied).await;
    let ended = run(&settings, &["check", "--connect"]);
    assert!(ended.code != Some(0), "{ended:#?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("has no doorbell"), "{said}");
    let said = migrated(&settings);
    assert!(said.contains("installed"), "{said}");
    let ended = run(&settings, &["check", "--connect"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

//! `outbox-relay replay`: one sink is sent once more what it was sent, in order per key, and no other sink is (I3, I5).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::database::Database;
use crate::support::eventually::{eventually, throughout};
use crate::support::nats;
use crate::support::relay::{Ended, Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::{Delivery, Stream};
use crate::support::temporary::TemporaryFolder;

const SOON: Duration = Duration::from_secs(60);

/// Rows of three keys and two types, `n` as their number, written a minute apart from the year 2024 on.
async fn insert(database: &Database, first: i64, last: i64) {
    database
        .execute(&format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload, created_at) \
             SELECT CASE WHEN n % 2 = 0 THEN 'Even' ELSE 'Odd' END, 'key-' || n % 3, \
             format('{{\"n\":%s,\"k\":%s}}', n, n % 3)::json, '2024-01-01Z'::timestamptz + n * interval '1 minute' \
             FROM generate_series({first}, {last}) AS n"
        ))
        .await;
}

fn replay(settings: &Settings, arguments: &[&str]) -> Ended {
    run(settings, &[&["replay"], arguments].concat())
}

/// Replays to the sink `events`, and checks how many events the command says.
fn replayed(settings: &Settings, arguments: &[&str], expected: usize) {
    let ended = replay(settings, &[&["--sink", "events"], arguments].concat());
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let events = if expected == 1 { "event" } else { "events" };
    let said = format!("sink events (source main): {expected} {events} to be delivered again\n");
    assert_eq!(ended.stdout, said);
}

fn numbers(deliveries: &[Delivery]) -> Vec<i64> {
    let mut numbers: Vec<i64> = deliveries.iter().map(|d| d.number("n")).collect();
    numbers.sort_unstable();
    numbers
}

/// Each key's events are in their order.
fn assert_in_order(deliveries: &[Delivery]) {
    let mut last = BTreeMap::new();
    for delivery in deliveries {
        let (key, n) = (delivery.number("k"), delivery.number("n"));
        let before = last.insert(key, n);
        assert!(before < Some(n), "key {key}: {before:?} before {n}");
    }
}

/// Waits until the ledgers have all that the sinks acknowledged: nothing is repeated from there on.
async fn await_stored(database: &Database, delivered: &str) {
    let sql = "SELECT string_agg(DISTINCT delivered::text, ' ') FROM outbox_ledger";
    eventually("the ledgers are stored", SOON, async || {
        (database.value::<String>(sql).await == delivered).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_running_relay_replays_to_one_sink_in_the_order_of_keys() {
    let database = Database::fresh().await;
    let events = Stream::create_forgetful(&nats::shared()).await;
    let other = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database)
        .publishing_to(&events)
        .publishing("other", &other)
        .set("sources.main.batch_size", 7);
    migrate(&settings);
    insert(&database, 1, 60).await;
    let relay = Relay::ready(&settings).await;
    await_stored(&database, "{[1,61)}").await;
    let dry = replay(
        &settings,
        &["--sink", "events", "--from-seq", "1", "--dry-run"],
    );
    assert_eq!(dry.code, Some(0), "{dry:#?}");
    assert!(dry.stdout.contains("60 events would be"), "{dry:#?}");
    assert_eq!(events.len().await, 60, "a dry run changes nothing");

    // By place, while writers go on: what is new comes behind what is replayed.
    replayed(&settings, &["--from-seq", "11", "--to-seq", "40"], 30);
    // The ledger was read anew: what comes now is in no flush that the command fenced off.
    events.await_len(61, SOON).await;
    insert(&database, 61, 80).await;
    let deliveries = events.await_len(110, SOON).await;
    let (before, since) = deliveries.split_at(60);
    assert_in_order(before);
    let expected: Vec<i64> = (11..=40).chain(61..=80).collect();
    assert_eq!(numbers(since), expected);
    let again: Vec<Delivery> = since
        .iter()
        .filter(|d| d.number("n") <= 40)
        .cloned()
        .collect();
    assert_in_order(&again);
    await_stored(&database, "{[1,81)}").await;

    // By key, by type and by time.
    let mut count = 110;
    for (selection, chosen) in [
        (
            &["--key", "key-1"][..],
            (1..=80).filter(|n| n % 3 == 1).collect::<Vec<i64>>(),
        ),
        (
            &["--type", "Ev*", "--to-seq", "20"],
            (1..=20).filter(|n| n % 2 == 0).collect(),
        ),
        (
            &[
                "--from-time",
                "2024-01-01T00:05:00Z",
                "--to-time",
                "2024-01-01T01:09:00+01:00",
            ],
            (5..=8).collect(),
        ),
    ] {
        replayed(&settings, selection, chosen.len());
        let from = usize::try_from(count).expect("a few");
        count += chosen.len() as u64;
        let deliveries = events.await_len(count, SOON).await;
        assert_eq!(numbers(&deliveries[from..]), chosen, "{selection:?}");
        assert_in_order(&deliveries[from..]);
        await_stored(&database, "{[1,81)}").await;
    }
    relay.stop().await;
    assert_eq!(events.len().await, count);
    assert_eq!(
        other.len().await,
        80,
        "the other sink is sent nothing again"
    );
}

#[tokio::test]
async fn what_is_replayed_while_no_relay_runs_is_kept_until_it_is_delivered() {
    let database = Database::fresh().await;
    let events = Stream::create_forgetful(&nats::shared()).await;
    let other = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database)
        .publishing_to(&events)
        .publishing("other", &other)
        .set("sources.main.settle_interval", "50ms");
    migrate(&settings);
    insert(&database, 1, 20).await;
    let relay = Relay::ready(&settings).await;
    await_stored(&database, "{[1,21)}").await;
    relay.stop().await;
    replayed(&settings, &["--from-seq", "6", "--to-seq", "10"], 5);

    // The broker of the sink is away, and everything is deleted that every sink has.
    let deleting = settings.set("sources.main.after_delivery", "delete");
    let away = deleting
        .clone()
        .set("sinks.events.url", "nats://127.0.0.1:1");
    let relay = Relay::start(&away);
    insert(&database, 21, 21).await;
    let rows = "SELECT coalesce(string_agg(seq::text, ',' ORDER BY seq), '') FROM outbox";
    eventually("the others are deleted", SOON, async || {
        (database.value::<String>(rows).await == "6,7,8,9,10,21").then_some(())
    })
    .await;
    throughout(
        "what is replayed stays",
        Duration::from_secs(1),
        async || database.value::<String>(rows).await == "6,7,8,9,10,21",
    )
    .await;
    relay.stop().await;

    let relay = Relay::ready(&deleting).await;
    let deliveries = events.await_len(26, SOON).await;
    assert_eq!(numbers(&deliveries[20..]), [6, 7, 8, 9, 10, 21]);
    assert_in_order(&deliveries[20..]);
    eventually("all are deleted", SOON, async || {
        database
            .value::<String>(rows)
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    relay.stop().await;
    assert_eq!((events.len().await, other.len().await), (26, 21));
    let nothing = replay(&deleting, &["--sink", "events", "--from-seq", "1"]);
    assert!(nothing.stdout.contains(" 0 events to be"), "{nothing:#?}");
}

#[tokio::test]
async fn a_replay_on_a_file_leaves_dead_letters_and_what_is_pending_alone() {
    let folder = TemporaryFolder::new("replay");
    let settings = Settings::of_file(&folder.path().join("app.db"));
    migrate(&settings);
    let emit = |count: &str| {
        let emitted = run(
            &settings,
            &["emit", "Written", "--key", "k", "--count", count],
        );
        assert_eq!(emitted.code, Some(0), "{emitted:#?}");
    };
    let early = replay(&settings, &["--sink", "lines", "--from-seq", "1"]);
    assert_eq!(early.code, Some(1), "{early:#?}");
    assert!(early.stderr.contains("has no ledger"), "{early:#?}");
    emit("5");
    let relay = Relay::ready(&settings).await;
    let printed = async |count: usize| {
        eventually("all are printed", SOON, async || {
            (relay.stdout().len() == count).then_some(())
        })
        .await;
    };
    printed(5).await;
    // Stored, or the dry run would not find them in the ledger.
    eventually("the ledger is stored", SOON, async || {
        let dry = replay(&settings, &["--sink", "lines", "--key", "k", "--dry-run"]);
        dry.stdout.contains(" 5 events would be").then_some(())
    })
    .await;
    let mut app = crate::sqlite::open(&folder.path().join("app.db")).await;
    sqlx::query(
        "INSERT INTO outbox_dead_letter (relay, source, sink, seq, event_id, event_type, payload, payload_type, \
         created_at, reason, attempts) SELECT 'test', 'main', 'lines', seq, id, event_type, payload, 'text', \
         created_at, 'no', 1 FROM outbox WHERE seq = 2",
    )
    .execute(&mut app)
    .await
    .expect("a letter");
    let ended = replay(
        &settings,
        &["--sink", "lines", "--key", "k", "--type", "Writ*"],
    );
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(
        ended.stdout.contains(" 4 events to be delivered again"),
        "{ended:#?}"
    );
    assert!(
        ended.stdout.contains("1 that are selected stand in"),
        "{ended:#?}"
    );
    printed(9).await;
    let ids = |line: &String| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        event["eventId"].to_string()
    };
    let lines: Vec<String> = relay.stdout().iter().map(ids).collect();
    let mut expected = lines[..5].to_vec();
    expected.remove(1);
    assert_eq!(lines[5..], expected);
    relay.stop().await;

    emit("2");
    let ended = replay(&settings, &["--sink", "lines", "--to-seq", "1"]);
    assert!(ended.stdout.contains(" 1 event to be"), "{ended:#?}");
    let twice = replay(&settings, &["--sink", "lines", "--to-seq", "1"]);
    assert!(twice.stdout.contains(" 0 events to be"), "{twice:#?}");
    assert!(
        twice
            .stdout
            .contains("1 that are selected were not delivered yet"),
        "{twice:#?}"
    );
    for (wrong, code, said) in [
        (&["--sink", "lines"][..], 2, "required"),
        (&["--sink", "none", "--from-seq", "1"], 1, "no sink none"),
        (
            &["--sink", "lines", "--source", "x", "--to-seq", "1"],
            1,
            "source x feeds no sink",
        ),
        (
            &["--sink", "lines", "--from-time", "yesterday"],
            2,
            "no time such as",
        ),
    ] {
        let ended = replay(&settings, wrong);
        assert_eq!(ended.code, Some(code), "{ended:#?}");
        assert!(ended.stderr.contains(said), "{ended:#?}");
    }
}

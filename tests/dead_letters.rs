//! `outbox-relay dead-letters`: what brokers refused is kept until someone retries or discards it (I1, I3, I9).

use std::time::Duration;

use serde_json::Value;

use crate::support::database::Database;
use crate::support::eventually::{eventually, throughout};
use crate::support::nats;
use crate::support::relay::{Ended, Relay, migrate, run};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::temporary::TemporaryFolder;

const SOON: Duration = Duration::from_secs(20);

/// A sink `refusing` that refuses everything at once.
fn refusing(database: &Database) -> Settings {
    Settings::of(database)
        .set("sinks.refusing.type", "mock")
        .set("sinks.refusing.reject", 1.0)
        .set("sinks.refusing.retry.max_retries", 0)
}

fn letters(settings: &Settings, arguments: &[&str]) -> Ended {
    run(settings, &[&["dead-letters"], arguments].concat())
}

fn listed(settings: &Settings, arguments: &[&str]) -> Vec<Value> {
    let ended = letters(settings, &[&["list", "--json"], arguments].concat());
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let listing: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(listing["more"], false);
    listing["dead_letters"]
        .as_array()
        .expect("an array")
        .clone()
}

async fn count(database: &Database) -> i64 {
    database
        .value("SELECT count(*) FROM outbox_dead_letter")
        .await
}

async fn await_count(database: &Database, expected: i64) {
    let what = format!("{expected} dead letters");
    eventually(&what, SOON, async || {
        (count(database).await == expected).then_some(())
    })
    .await;
}

/// Waits until metric and `/status` say so of the sink `events`.
async fn await_counted(relay: &Relay, expected: u64) {
    let what = format!("{expected} letters are counted");
    eventually(&what, SOON, async || {
        let answer = relay.get("/status").await?;
        let status: Value = serde_json::from_str(&answer.body).ok()?;
        let labels = ["sink=\"events\""];
        let metric = relay.metric("outbox_dead_letters", &labels).await?;
        #[allow(clippy::cast_precision_loss)] // a few
        let is_metric = metric == expected as f64;
        (is_metric && status["pipelines"][0]["dead_letters"] == expected).then_some(())
    })
    .await;
}

/// Five dead letters of type `First`, and no relay that runs.
async fn five_dead() -> (Database, Settings) {
    let database = Database::fresh().await;
    let settings = refusing(&database);
    migrate(&settings);
    database.insert("First", Some("key"), 5).await;
    let relay = Relay::ready(&settings).await;
    await_count(&database, 5).await;
    relay.stop().await;
    (database, settings)
}

#[tokio::test]
async fn what_no_stream_captured_is_delivered_once_there_is_one() {
    let database = Database::fresh().await;
    let missing = Stream::named(&nats::shared());
    let other = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database)
        .publishing_to(&missing)
        .publishing("other", &other)
        .set("retry.max_retries", 0);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("Lost", Some("key"), 3).await;
    await_count(&database, 3).await;
    other.await_len(3, SOON).await;
    let letter = &listed(&settings, &["--sink", "events"])[0];
    assert_eq!(letter["seq"], 1);
    let id = letter["id"].to_string();
    let shown = letters(&settings, &["show", &id]);
    assert!(
        shown.stdout.contains(&missing.subject("Lost")),
        "{shown:#?}"
    );
    assert!(
        !shown.stdout.contains(r#"{"n":1}"#),
        "no payload: {shown:#?}"
    );
    let shown = letters(&settings, &["show", &id, "--payload"]);
    assert!(shown.stdout.ends_with("{\"n\":1}\n"), "{shown:#?}");

    // Nothing is written and nothing to be stored: the relay is idle.
    await_counted(&relay, 3).await;
    missing.make(|_| {}).await;
    let ended = letters(&settings, &["retry", "--type", "L*st"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(
        ended.stdout,
        "sink events (source main): 3 dead letters to be delivered again\n"
    );
    let deliveries = missing.await_len(3, SOON).await;
    let numbers: Vec<i64> = deliveries.iter().map(|d| d.number("n")).collect();
    assert_eq!(numbers, [1, 2, 3], "in the order of their key");
    assert_eq!(count(&database).await, 0);
    await_counted(&relay, 0).await;
    relay.stop().await;
    assert_eq!(other.len().await, 3, "the other sink is sent nothing again");
}

#[tokio::test]
async fn a_retry_while_no_relay_runs_is_for_the_next_one_and_may_be_refused_again() {
    let (database, settings) = five_dead().await;
    let dry = letters(&settings, &["retry", "--all", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{dry:#?}");
    assert!(dry.stdout.contains("5 dead letters would be"), "{dry:#?}");
    assert_eq!(count(&database).await, 5, "a dry run changes nothing");
    let ledger = "SELECT delivered::text FROM outbox_ledger";
    assert_eq!(database.value::<String>(ledger).await, "{[1,6)}");

    let second = listed(&settings, &[])[1]["id"].to_string();
    let ended = letters(&settings, &["retry", "--id", &second]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(database.value::<String>(ledger).await, "{[1,2),[3,6)}");
    let relay = Relay::ready(&settings).await;
    await_count(&database, 5).await;
    relay.stop().await;
    let again = listed(&settings, &[]);
    let seqs: Vec<&Value> = again.iter().map(|letter| &letter["seq"]).collect();
    assert_eq!(seqs, [1, 3, 4, 5, 2], "it is a new letter");

    let accepting = settings.set("sinks.refusing.reject", 0.0);
    assert_eq!(letters(&accepting, &["retry", "--all"]).code, Some(0));
    let relay = Relay::ready(&accepting).await;
    let published = "outbox_events_published_total";
    let all = |count: f64| count == 5.0;
    relay.await_metric(published, &[], SOON, all).await;
    relay.stop().await;
    assert_eq!(count(&database).await, 0);
}

#[tokio::test]
async fn letters_are_selected_by_what_is_given_and_never_by_nothing() {
    let (database, settings) = five_dead().await;
    for act in ["retry", "discard"] {
        let ended = letters(&settings, &[act]);
        assert_eq!(ended.code, Some(2), "{ended:#?}");
        let ended = letters(&settings, &[act, "--all", "--sink", "refusing"]);
        assert_eq!(ended.code, Some(2), "{ended:#?}");
    }
    database
        .execute(
            "UPDATE outbox_dead_letter SET dead_at = now() - interval '8 days' WHERE seq = 1; \
             UPDATE outbox_dead_letter SET event_type = 'Second' WHERE seq IN (2, 3); \
             UPDATE outbox_dead_letter SET sink = 'gone' WHERE seq = 3",
        )
        .await;
    for (selection, expected) in [
        (&["--older-than", "7d"][..], vec![1]),
        (&["--newer-than", "7d", "--type", "F*"], vec![4, 5]),
        (
            &["--type", "Second", "--type", "First"],
            vec![1, 2, 3, 4, 5],
        ),
        (&["--sink", "gone"], vec![3]),
        (&["--source", "main", "--type", "second"], vec![]),
    ] {
        let found = listed(&settings, selection);
        let seqs: Vec<i64> = found.iter().filter_map(|l| l["seq"].as_i64()).collect();
        assert_eq!(seqs, expected, "{selection:?}");
    }
    let ended = letters(&settings, &["retry", "--sink", "gone"]);
    assert_eq!(ended.code, Some(1), "nobody would deliver it: {ended:#?}");
    assert!(ended.stderr.contains("feeds no sink gone"), "{ended:#?}");
    let ended = letters(&settings, &["discard", "--older-than", "1h"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(
        ended.stdout.contains("1 dead letter discarded"),
        "{ended:#?}"
    );
    assert_eq!(count(&database).await, 4);
    let ended = letters(&settings, &["discard", "--older-than", "1h"]);
    assert_eq!(ended.code, Some(0), "nothing is fine: {ended:#?}");
    let ended = letters(&settings, &["discard", "--id", "99"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("99"), "{ended:#?}");
    let table = letters(&settings, &["list"]);
    assert_eq!(table.stdout.lines().count(), 5, "{table:#?}");
    assert!(table.stdout.starts_with("ID  SOURCE"), "{table:#?}");
}

#[tokio::test]
async fn a_row_is_not_deleted_while_a_letter_of_it_stands() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = refusing(&database)
        .publishing_to(&stream)
        .set("sources.main.after_delivery", "delete")
        .set("sources.main.settle_interval", "50ms")
        .set("sinks.refusing.reject", 0.0);
    migrate(&settings);
    database.insert("Fine", Some("a"), 5).await;
    let relay = Relay::ready(&settings).await;
    let rows = "SELECT count(*) FROM outbox";
    let await_rows = async |expected: i64| {
        eventually("rows are deleted", SOON, async || {
            (database.value::<i64>(rows).await == expected).then_some(())
        })
        .await;
    };
    await_rows(0).await;
    relay.stop().await;
    let settings = settings.set("sinks.refusing.reject", 1.0);
    let relay = Relay::ready(&settings).await;
    database.insert("Refused", Some("a"), 3).await;
    await_count(&database, 3).await;
    stream.await_len(8, SOON).await;
    // A later row goes, so settling has come past them.
    let settled = "SELECT deleted @> 5::int8 AND NOT deleted @> 6::int8 FROM outbox_source";
    throughout("the rows stay", Duration::from_secs(1), async || {
        database.value::<i64>(rows).await == 3 && database.value::<bool>(settled).await
    })
    .await;
    assert_eq!(letters(&settings, &["discard", "--all"]).code, Some(0));
    await_rows(0).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_letter_whose_row_somebody_deleted_stays() {
    let (database, settings) = five_dead().await;
    database
        .execute("DELETE FROM outbox WHERE seq IN (2, 4)")
        .await;
    let ended = letters(&settings, &["retry", "--all"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stdout.contains("3 dead letters to be"), "{ended:#?}");
    assert!(ended.stderr.contains("2 of source main stay"), "{ended:#?}");
    assert_eq!(count(&database).await, 2);
    let ledger = "SELECT delivered::text FROM outbox_ledger";
    assert_eq!(
        database.value::<String>(ledger).await,
        "{[2,3),[4,5)}",
        "their seq count as delivered still"
    );
}

#[tokio::test]
async fn discarded_letters_are_counted_down_and_never_come_back() {
    let (database, settings) = five_dead().await;
    let relay = Relay::ready(&settings).await;
    let labels = ["sink=\"refusing\""];
    let metric = "outbox_dead_letters";
    relay
        .await_metric(metric, &labels, SOON, |dead| dead == 5.0)
        .await;
    assert_eq!(letters(&settings, &["discard", "--all"]).code, Some(0));
    relay
        .await_metric(metric, &labels, SOON, |dead| dead == 0.0)
        .await;
    relay.stop().await;
    let attempts = "SELECT delivered::text FROM outbox_ledger";
    assert_eq!(database.value::<String>(attempts).await, "{[1,6)}");
}

#[tokio::test]
async fn in_sqlite_a_letter_is_retried_and_its_row_is_kept_for_it() {
    let folder = TemporaryFolder::new("letters");
    let settings = Settings::of_file(&folder.path().join("app.db"))
        .set("sources.main.after_delivery", "delete")
        .set("sources.main.settle_interval", "50ms");
    let refusing = settings
        .clone()
        .set("sinks.lines.type", "mock")
        .set("sinks.lines.reject", 1.0)
        .set("sinks.lines.retry.max_retries", 0);
    migrate(&settings);
    let emit = ["emit", "Refused", "--count", "4", "--key", "key"];
    assert_eq!(run(&settings, &emit).code, Some(0));
    let relay = Relay::ready(&refusing).await;
    eventually("four are dead", SOON, async || {
        (listed(&refusing, &[]).len() == 4).then_some(())
    })
    .await;
    relay.stop().await;
    let status = run(&settings, &["status", "--json"]);
    assert_eq!(status.code, Some(0), "{status:#?}");
    let survey: Value = serde_json::from_str(&status.stdout).expect("JSON");
    let sink = &survey["sources"][0]["sinks"][0];
    assert_eq!(
        (&sink["dead_letters"], &sink["ledger"]["pending"]),
        (&4.into(), &0.into())
    );
    let shown = letters(&settings, &["show", "1", "--payload", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown["payload"], r#"{"n":1}"#);
    assert_eq!(shown["destination"], "-");

    // A relay that settles, and is idle.
    let relay = Relay::ready(&settings).await;
    assert_eq!(run(&settings, &["emit", "Fine"]).code, Some(0));
    let lines = async |count: usize| {
        eventually("lines are printed", SOON, async || {
            (relay.stdout().len() >= count).then_some(())
        })
        .await;
    };
    lines(1).await;
    relay
        .await_metric("outbox_settled_total", &[], SOON, |settled| settled == 1.0)
        .await;
    let ended = letters(&settings, &["retry", "--all"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    lines(5).await;
    relay
        .await_metric("outbox_settled_total", &[], SOON, |settled| settled == 5.0)
        .await;
    assert!(listed(&settings, &[]).is_empty());
    relay.stop().await;
}

/// Two sinks of one relay, which differ in that one refuses 1 % of the events: what they have published is compared
/// at one moment, so that the machine's pace is the same for both.
#[tokio::test]
async fn one_refused_event_in_a_hundred_leaves_the_others_their_pace() {
    const EVENTS: i64 = 10_000;
    let database = Database::fresh().await;
    let mut settings = Settings::of(&database);
    for (sink, reject) in [("clean", 0.0), ("refusing", 0.01)] {
        settings = settings
            .set(&format!("sinks.{sink}.type"), "mock")
            .set(&format!("sinks.{sink}.delay"), "20ms")
            .set(&format!("sinks.{sink}.max_in_flight"), 64)
            .set(&format!("sinks.{sink}.reject"), reject)
            .set(&format!("sinks.{sink}.retry.initial_delay"), "100ms");
    }
    migrate(&settings);
    database
        .execute(&format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload) \
             SELECT 'Counted', 'key-' || n % 2000, '{{}}' FROM generate_series(1, {EVENTS}) n"
        ))
        .await;
    let relay = Relay::ready(&settings).await;
    let published = "outbox_events_published_total";
    let clean = ["sink=\"clean\""];
    #[allow(clippy::cast_precision_loss)] // ten thousand
    let all = EVENTS as f64;
    relay
        .await_metric(published, &clean, Duration::from_secs(60), |count| {
            count == all
        })
        .await;
    let others = relay.metric(published, &["sink=\"refusing\""]).await;
    let share = others.unwrap_or_default() / all;
    report!(
        "dead letters: with 1 % refused, {:.0} % of the pace",
        share * 100.0
    );
    let dead = || async {
        let count: i64 = database
            .value("SELECT count(*) FROM outbox_dead_letter")
            .await;
        count
    };
    eventually("each is published or dead", SOON, async || {
        let others = relay.metric(published, &["sink=\"refusing\""]).await?;
        #[allow(clippy::cast_precision_loss)] // ten thousand
        let dead = dead().await as f64;
        (others + dead == all).then_some(())
    })
    .await;
    let dead = dead().await;
    assert!((50..200).contains(&dead), "about 1 %: {dead}");
    assert!(share >= 0.8, "only {share:.2} of the pace");
    relay.stop().await;
}

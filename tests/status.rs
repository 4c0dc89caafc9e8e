//! What the relay says of itself: `status` from the database, `/status` and metrics from the process.

mod process;

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, Executor};

use crate::support::database::{Database, TEST_APPLICATION};
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::port;
use crate::support::postgres::PrivatePostgres;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(10);

/// What `status --json` prints, if all goes well.
fn status(settings: &Settings) -> Value {
    let ended = run(settings, &["status", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// The sink of this name in a survey of one source.
fn sink<'a>(survey: &'a Value, name: &str) -> &'a Value {
    let sinks = survey["sources"][0]["sinks"].as_array().expect("sinks");
    let mut found = sinks.iter().filter(|sink| sink["sink"] == name);
    found
        .next()
        .unwrap_or_else(|| panic!("no {name}: {survey:#}"))
}

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// What `/status` answers.
async fn report(relay: &Relay) -> Option<Value> {
    let answer = relay.get("/status").await?;
    assert_eq!(answer.status, 200);
    Some(serde_json::from_str(&answer.body).expect("JSON"))
}

/// A mock that refuses everything at once.
fn refusing(database: &Database) -> Settings {
    Settings::of(database)
        .set("sinks.refusing.type", "mock")
        .set("sinks.refusing.reject", 1.0)
        .set("sinks.refusing.retry.max_retries", 0)
}

async fn await_dead_letters(relay: &Relay, count: f64) {
    let labels = ["source=\"main\"", "sink=\"refusing\""];
    let is_count = |dead: f64| (dead - count).abs() < 0.5;
    relay
        .await_metric("outbox_dead_letters", &labels, SOON, is_count)
        .await;
}

#[tokio::test]
async fn pending_events_are_exact_while_the_relay_runs_and_after_it_was_killed() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let survey = status(&settings);
    assert_eq!(survey["sources"][0]["lease"], Value::Null, "nobody yet");
    assert_eq!(sink(&survey, "events")["ledger"], Value::Null);

    database.insert("Counted", Some("key"), 40).await;
    let relay = Relay::ready(&settings).await;
    let survey = eventually("all are delivered", SOON, async || {
        let survey = status(&settings);
        (sink(&survey, "events")["ledger"]["pending"] == 0).then_some(survey)
    })
    .await;
    assert_eq!(survey["sources"][0]["lease"]["held"], true, "{survey:#}");
    assert_eq!(survey["sources"][0]["last_value"], 40);
    let ledger = &sink(&survey, "events")["ledger"];
    assert_eq!(ledger["lowest_undelivered"], 41);
    assert_eq!(ledger["highest_delivered"], 40);
    assert_eq!(ledger["ranges"], 1);
    assert_eq!(ledger["oldest_pending"], Value::Null);

    relay.kill().await;
    // Neither a rolled-back nor an open transaction is pending.
    let mut open = database.connect().await;
    let insert = "INSERT INTO outbox (event_type, payload) VALUES ('Open', '{}')";
    open.execute("BEGIN").await.expect("begin");
    open.execute(insert).await.expect("insert");
    database
        .execute(&format!("BEGIN; {insert}; ROLLBACK"))
        .await;
    database.insert("Late", Some("key"), 25).await;
    database
        .execute("UPDATE outbox_lease SET expires_at = now() - interval '1 hour'")
        .await;
    let survey = status(&settings);
    let source = &survey["sources"][0];
    assert_eq!(source["lease"]["held"], false, "{survey:#}");
    assert_eq!(source["last_value"], 67);
    let ledger = &sink(&survey, "events")["ledger"];
    assert_eq!(ledger["pending"], 25);
    assert_eq!(ledger["pending_is_exact"], true);
    assert_eq!(ledger["lowest_undelivered"], 41);
    assert_eq!(ledger["oldest_pending"]["seq"], 43);
    assert_eq!(ledger["holes"], 2);
    let holder = &source["open_transactions"][0];
    let who = format!(
        "backend {} ({TEST_APPLICATION}, user postgres)",
        holder["pid"]
    );
    assert_eq!(holder["who"], who.as_str(), "{survey:#}");
    let text = run(&settings, &["status"]).stdout;
    let line = format!("2 seq were drawn and have no event; they may be held by {who} for ");
    assert!(text.contains(&line), "{text}");
    let age = ledger["oldest_pending"]["age_seconds"].as_f64();
    assert!(
        age.is_some_and(|age| (0.0..60.0).contains(&age)),
        "{survey:#}"
    );
    open.close().await.expect("close");
}

#[tokio::test]
async fn the_json_has_the_documented_fields_and_the_table_the_same_figures() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    Relay::ready(&settings).await.stop().await;
    database.insert("Counted", Some("key"), 17).await;
    let survey = status(&settings);
    assert_eq!(keys(&survey), ["relay", "sources", "version"]);
    let source = &survey["sources"][0];
    let expected = [
        "abandoned_ledgers",
        "error",
        "last_value",
        "lease",
        "open_transactions",
        "reachable",
        "sequence_changed",
        "sinks",
        "source",
        "table",
    ];
    assert_eq!(keys(source), expected);
    assert_eq!(
        keys(&source["lease"]),
        ["expires_in_seconds", "held", "owner"]
    );
    assert_eq!(source["lease"]["expires_in_seconds"], Value::Null);
    let sink = sink(&survey, "events");
    assert_eq!(keys(sink), ["configured", "dead_letters", "ledger", "sink"]);
    let expected = [
        "highest_delivered",
        "holes",
        "last_flush",
        "last_flush_seconds",
        "lowest_undelivered",
        "oldest_pending",
        "pending",
        "pending_is_exact",
        "ranges",
    ];
    assert_eq!(keys(&sink["ledger"]), expected);
    let oldest = &sink["ledger"]["oldest_pending"];
    assert_eq!(keys(oldest), ["age_seconds", "created_at", "seq"]);

    let text = run(&settings, &["status"]).stdout;
    let line = text.lines().find(|line| line.trim().starts_with("events"));
    let cells: Vec<&str> = line.expect("a line").split_whitespace().collect();
    assert_eq!(cells[1..5], ["1", "-", "0", "17"], "{text}");
    assert!(text.contains("lease given up by"), "{text}");
}

#[tokio::test]
async fn dead_letters_are_those_in_the_table() {
    let database = Database::fresh().await;
    let settings = refusing(&database);
    migrate(&settings);
    database.insert("Refused", None, 3).await;
    let relay = Relay::ready(&settings).await;
    await_dead_letters(&relay, 3.0).await;
    let shown = eventually("/status shows them", SOON, async || {
        let report = report(&relay).await?;
        Some(report["pipelines"][0]["dead_letters"].clone())
    })
    .await;
    assert_eq!(shown, 3);
    relay.stop().await;
    assert_eq!(sink(&status(&settings), "refusing")["dead_letters"], 3);

    // A restart forgets none, and what was discarded is not counted.
    let relay = Relay::ready(&settings).await;
    await_dead_letters(&relay, 3.0).await;
    database
        .execute("DELETE FROM outbox_dead_letter WHERE seq < 3")
        .await;
    database.insert("Refused", None, 1).await;
    await_dead_letters(&relay, 2.0).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_ledger_without_a_sink_is_marked() {
    let database = Database::fresh().await;
    let settings = refusing(&database);
    migrate(&settings);
    database.insert("Refused", None, 2).await;
    let relay = Relay::ready(&settings).await;
    await_dead_letters(&relay, 2.0).await;
    relay.stop().await;

    let without = Settings::of(&database).set("sinks.other.type", "mock");
    let survey = status(&without);
    let stranger = sink(&survey, "refusing");
    assert_eq!(stranger["configured"], false);
    assert_eq!(stranger["ledger"]["highest_delivered"], 2);
    assert_eq!(stranger["dead_letters"], 2);
    assert_eq!(sink(&survey, "other")["configured"], true);
    let text = run(&without, &["status"]).stdout;
    let marked = |line: &&str| line.contains("refusing") && line.contains("not in the config");
    assert_eq!(text.lines().filter(marked).count(), 1, "{text}");

    database.execute("DELETE FROM outbox_ledger").await;
    let survey = status(&without);
    assert_eq!(sink(&survey, "refusing")["ledger"], Value::Null);
    assert_eq!(sink(&survey, "refusing")["dead_letters"], 2, "they stay");
}

#[tokio::test]
async fn counting_is_bounded_and_goes_by_the_index() {
    let server = PrivatePostgres::start(&[
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "log_line_prefix=<%a>",
        "autovacuum=off",
    ])
    .await;
    let database = Database::fresh_on(&server.url()).await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    Relay::ready(&settings).await.stop().await;
    database
        .execute(
            "INSERT INTO outbox (event_type, payload) SELECT 'Many', '{}' FROM generate_series(1, 200000); \
             ANALYZE outbox",
        )
        .await;
    // As fragmented as a stored ledger can be.
    let set = |ranges: &str| {
        format!(
            "UPDATE outbox_ledger SET delivered = (SELECT range_agg(int8range(n, n + {ranges})) \
             FROM generate_series(1, 150000, 150) n)"
        )
    };
    for (width, pending, exact) in [("149", 51_000, true), ("30", 100_000, false)] {
        database.execute(&set(width)).await;
        let begun = server.log().len();
        let survey = status(&settings);
        let ledger = &sink(&survey, "events")["ledger"];
        assert_eq!(ledger["ranges"], 1_000);
        assert_eq!(ledger["pending"], pending);
        assert_eq!(ledger["pending_is_exact"], exact);
        let log = server.log();
        let own = format!("{TEST_APPLICATION}>");
        let plans: Vec<&str> = log[begun..]
            .split("\n<")
            .filter(|entry| entry.contains("plan:") && !entry.starts_with(&own))
            .collect();
        assert!(
            plans.iter().any(|plan| plan.contains("outbox_pkey")),
            "the count was seen"
        );
        let whole = plans
            .iter()
            .find(|plan| plan.contains("Seq Scan on outbox "));
        assert!(whole.is_none(), "{whole:?}");
    }
    let text = run(&settings, &["status"]).stdout;
    assert!(text.contains(" 100000+ "), "{text}");
}

#[tokio::test]
async fn a_source_that_cannot_be_reached_fails_the_command_behind_the_others() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let url = format!("postgres://u:s3cr3t-word@127.0.0.1:{}/none", port::free());
    let settings = settings
        .set("sources.away.type", "postgres")
        .set("sources.away.mode", "poll")
        .set("sources.away.url", url);
    let ended = run(&settings, &["status", "--json"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let survey: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let sources = survey["sources"].as_array().expect("sources");
    let reached = |name: &str| {
        let mut named = sources.iter().filter(|source| source["source"] == name);
        named.next().expect("the source")["reachable"].clone()
    };
    assert_eq!(
        (reached("main"), reached("away")),
        (true.into(), false.into())
    );
    let ended_text = run(&settings, &["status"]);
    assert_eq!(ended_text.code, Some(1), "{ended_text:#?}");
    assert!(ended_text.stdout.contains("source away: not reached"));
    assert!(ended_text.stdout.contains("source main: table outbox"));
    for said in [&ended.stdout, &ended.stderr, &ended_text.stdout] {
        assert!(!said.contains("s3cr3t-word"), "a password: {said}");
    }
}

#[tokio::test]
async fn what_keeps_a_source_from_running_is_said_beside_its_ledgers() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    let ended = run(&settings, &["status"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stdout.contains("outbox-relay migrate"), "{ended:#?}");

    migrate(&settings);
    Relay::ready(&settings).await.stop().await;
    database.insert("Counted", None, 2).await;
    let notify = settings.clone().set("sources.main.mode", "notify");
    let ended = run(&notify, &["status", "--json"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let survey: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let error = survey["sources"][0]["error"].as_str();
    assert!(error.is_some_and(|error| error.contains("doorbell")));
    assert_eq!(sink(&survey, "events")["ledger"]["pending"], 2);

    database.execute("TRUNCATE outbox RESTART IDENTITY").await;
    let survey = status(&settings);
    assert_eq!(survey["sources"][0]["sequence_changed"], true);
    let text = run(&settings, &["status"]).stdout;
    assert!(text.contains("outbox-relay ledger reset"), "{text}");
}

//! SIGHUP: what the configuration changes is changed, and everything else goes on (DESIGN: hot reload).

mod files;
mod library;
mod random;
mod waiting;

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats::{self, PrivateNats, connections};
use crate::support::port;
use crate::support::private_server::PrivateServer;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::writers::{Load, Writers};

const SOON: Duration = Duration::from_secs(10);
const ARRIVAL: Duration = Duration::from_secs(30);

/// A relay of a name of its own: its connections are told from others' by it.
fn named(settings: Settings) -> (Settings, String) {
    let name = Uuid::new_v4().simple().to_string();
    (settings.set("relay.name", name.as_str()), name)
}

async fn stream() -> Stream {
    Stream::create_forgetful(&nats::shared()).await
}

fn errors(reload: &Value) -> Vec<&str> {
    let errors = reload["errors"].as_array().expect("a list");
    errors
        .iter()
        .map(|error| error.as_str().expect("text"))
        .collect()
}

fn assert_successful(reload: &Value) {
    assert_eq!(reload["successful"], true, "{reload:#}");
}

/// Source and sink of every pipeline that runs.
async fn pipelines(relay: &Relay) -> Vec<String> {
    let report = relay.report().await.expect("the endpoint answers");
    let pipelines = report["pipelines"].as_array().expect("a list");
    let name =
        |pipeline: &Value| format!("{}/{}", pipeline["source"], pipeline["sink"]).replace('"', "");
    pipelines.iter().map(name).collect()
}

async fn token(database: &Database) -> String {
    database.value("SELECT token::text FROM outbox_lease").await
}

#[tokio::test]
async fn sinks_come_go_and_change_while_events_flow() {
    let database = Database::fresh().await;
    let (kept, changed, removed, added) = (
        stream().await,
        stream().await,
        stream().await,
        stream().await,
    );
    let (settings, name) = named(Settings::of(&database));
    let settings = settings
        .publishing("kept", &kept)
        .publishing("changed", &changed)
        .publishing("removed", &removed);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let client = |sink: &str| format!("outbox-relay {name} {sink}");
    let before = (
        connections(&client("kept")).await,
        connections(&client("changed")).await,
        token(&database).await,
    );
    let writers = Writers::start(&database, Load::default()).await;
    writers.until(500).await;

    let next = settings
        .without("sinks.removed")
        .set("sinks.changed.timeout", "4s")
        .publishing("added", &added)
        .set("sinks.added.start", "earliest");
    assert_successful(&relay.reload(&next).await);
    assert_eq!(
        pipelines(&relay).await,
        ["main/added", "main/changed", "main/kept"]
    );
    let taken_out = removed.len().await;
    writers.until(1_500).await;
    let record = writers.stop().await;
    for stream in [&kept, &changed, &added] {
        stream.await_ids(&record.ids(), ARRIVAL).await;
    }
    assert_eq!(
        connections(&client("kept")).await,
        before.0,
        "it has not noticed"
    );
    assert_ne!(connections(&client("changed")).await, before.1);
    assert!(
        connections(&client("removed")).await.is_empty(),
        "it has said good-bye"
    );
    assert_eq!(
        token(&database).await,
        before.2,
        "the lease and its session stay"
    );
    assert_eq!(
        removed.len().await,
        taken_out,
        "nothing more is published to it"
    );
    for gauge in [
        "outbox_in_flight",
        "outbox_pending_events",
        "outbox_oldest_pending_seconds",
    ] {
        let value = relay.metric(gauge, &["sink=\"removed\""]).await;
        assert_eq!(value, Some(0.0), "{gauge} of a pipeline that is gone");
    }
    assert!(
        relay.stderr().contains("ledger drop"),
        "its ledger is warned of"
    );
    relay.stop().await;
    for (name, stream) in [("kept", kept), ("changed", changed), ("added", added)] {
        let figures = check(name, &record, &stream.deliveries().await);
        assert_eq!(
            figures.duplicates, 0,
            "{name}: all of them stopped in order, if at all"
        );
    }
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_all_that_is_wrong() {
    let database = Database::fresh().await;
    let stream = stream().await;
    let (settings, name) = named(Settings::of(&database).publishing_to(&stream));
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let client = format!("outbox-relay {name} events");
    let before = connections(&client).await;
    let bad = settings
        .clone()
        .set("sinks.events.colour", "red")
        .set("sources.main.batch_size", 0)
        .without("sinks.events.subject");
    let reload = relay.reload(&bad).await;
    assert_eq!(reload["successful"], false);
    let toml = relay.toml();
    let line_of = |fragment: &str| {
        1 + toml
            .lines()
            .position(|line| line.contains(fragment))
            .expect("a line")
    };
    for (key, fragment) in [
        ("sinks.events.colour", "colour"),
        ("sources.main.batch_size", "batch_size"),
        ("sinks.events.subject", "[sinks.events]"),
    ] {
        let wanted = format!(":{}: {key}: ", line_of(fragment));
        let said = errors(&reload).iter().any(|error| error.contains(&wanted));
        assert!(said, "{wanted} is not in {reload:#}");
        assert!(relay.stderr().contains(&wanted), "the log says it too");
    }
    assert_eq!(errors(&reload).len(), 3, "{reload:#}");
    let gauge = async |name: &str| relay.metric(name, &[]).await.expect("the gauge");
    assert_eq!(gauge("outbox_config_last_reload_successful").await, 0.0);
    assert_eq!(relay.get("/readyz").await.expect("an answer").status, 200);
    database.insert("Counted", Some("key"), 10).await;
    stream.await_len(10, SOON).await;

    relay.rewrite_as("[relay\n");
    let reload = relay.hang_up().await;
    assert!(errors(&reload)[0].contains("is not TOML"), "{reload:#}");
    // Back to what it was.
    assert_successful(&relay.reload(&settings).await);
    assert_eq!(gauge("outbox_config_last_reload_successful").await, 1.0);
    assert!(gauge("outbox_config_last_reload_timestamp_seconds").await > 1e9);
    assert_eq!(connections(&client).await, before);
    relay.stop().await;
}

#[tokio::test]
async fn the_same_once_more_is_no_change() {
    let database = Database::fresh().await;
    let stream = stream().await;
    let (settings, name) = named(Settings::of(&database).publishing_to(&stream));
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let client = format!("outbox-relay {name} events");
    let before = (connections(&client).await, token(&database).await);
    for text in [
        relay.toml(),
        format!("# rolled out again\n{}", relay.toml()),
    ] {
        relay.rewrite_as(&text);
        assert_successful(&relay.hang_up().await);
    }
    assert_eq!((connections(&client).await, token(&database).await), before);
    let said = relay.stderr().matches("has not changed").count();
    assert_eq!(said, 2, "both times");
    relay.stop().await;
}

#[tokio::test]
async fn name_and_endpoints_are_refused_in_words() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let renamed = settings
        .clone()
        .set("relay.name", "another")
        .set("sinks.more.type", "mock");
    let listening = renamed.set("admin.listen", format!("127.0.0.1:{}", port::free()));
    relay.rewrite_as(&listening.toml());
    let reload = relay.hang_up().await;
    assert_eq!(reload["successful"], false);
    for key in [
        "relay.name: needs a restart",
        "admin.listen: needs a restart",
    ] {
        assert!(
            errors(&reload).iter().any(|error| error.starts_with(key)),
            "{reload:#}"
        );
    }
    assert_eq!(
        pipelines(&relay).await,
        ["main/events"],
        "the rest isn't applied either"
    );
    let log = relay.stderr();
    assert!(log.contains("everything goes on as before"), "{log}");
    relay.stop().await;
}

#[tokio::test]
async fn a_new_sink_starts_where_it_says_and_must_say_so() {
    let database = Database::fresh().await;
    let first = stream().await;
    let settings = Settings::of(&database).publishing("first", &first);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("Counted", Some("key"), 10).await;
    first.await_len(10, SOON).await;
    database
        .execute("UPDATE outbox SET sent_at = now() WHERE seq <= 4")
        .await;

    let (latest, unsettled, earliest) = (stream().await, stream().await, stream().await);
    let unsaid = settings
        .publishing("latest", &latest)
        .publishing("unsettled", &unsettled)
        .publishing("earliest", &earliest);
    let reload = relay.reload(&unsaid).await;
    assert_eq!(reload["successful"], false);
    for sink in ["latest", "unsettled", "earliest"] {
        let key = format!("sinks.{sink}.start: ");
        assert!(
            errors(&reload).iter().any(|error| error.starts_with(&key)),
            "{reload:#}"
        );
    }
    assert_eq!(pipelines(&relay).await, ["main/first"]);

    let said = ["latest", "unsettled", "earliest"]
        .iter()
        .fold(unsaid, |settings, sink| {
            settings.set(&format!("sinks.{sink}.start"), *sink)
        });
    assert_successful(&relay.reload(&said).await);
    unsettled.await_len(6, SOON).await;
    earliest.await_len(10, SOON).await;
    database.insert("Counted", Some("key"), 5).await;
    let counts = [(latest, 5), (unsettled, 11), (earliest, 15), (first, 15)];
    for (stream, count) in &counts {
        stream.await_len(*count, SOON).await;
    }
    relay.stop().await;
    for (stream, count) in &counts {
        assert_eq!(stream.len().await, *count, "and no more");
    }
}

#[tokio::test]
async fn a_sink_that_does_not_say_where_it_starts_holds_up_itself_alone() {
    let database = Database::fresh().await;
    let stream = stream().await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    Relay::ready(&settings).await.stop().await;
    let unsaid = settings.set("sinks.more.type", "mock");
    let relay = Relay::start(&unsaid);
    database.insert("Counted", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    eventually("/readyz says what to do", SOON, async || {
        let body = relay.get("/readyz").await?.body;
        body.contains("sinks.more.start").then_some(())
    })
    .await;
    assert_successful(
        &relay
            .reload(&unsaid.set("sinks.more.start", "latest"))
            .await,
    );
    eventually("it has joined", SOON, async || {
        (relay.get("/readyz").await?.status == 200).then_some(())
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_away_holds_up_neither_the_reload_nor_anybody_else() {
    let database = Database::fresh().await;
    let stream = stream().await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let mut server = PrivateNats::start("").await;
    let late = Stream::create(&server.url()).await;
    server.kill().await;
    let next = settings
        .publishing("late", &late)
        .set("sinks.late.start", "latest");
    assert_successful(&relay.reload(&next).await);
    eventually("its ledger is stored", SOON, async || {
        let ledgers: i64 = database.value("SELECT count(*) FROM outbox_ledger").await;
        (ledgers == 2).then_some(())
    })
    .await;
    database.insert("Counted", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    let obstacles = relay.get("/readyz").await.expect("an answer").body;
    assert!(obstacles.contains("sink late"), "{obstacles}");
    // From the reload on, however long the broker was away.
    server.start_again().await;
    late.await_len(10, Duration::from_secs(40)).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_changed_source_starts_anew_and_repeats_nothing() {
    let database = Database::fresh().await;
    let stream = stream().await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let before = token(&database).await;
    let writers = Writers::start(&database, Load::default()).await;
    for batch_size in [7, 100] {
        let next = settings.clone().set("sources.main.batch_size", batch_size);
        assert_successful(&relay.reload(&next).await);
        let goal = stream.len().await + 200;
        stream.await_len(goal, ARRIVAL).await;
    }
    assert_ne!(token(&database).await, before, "a lease of its own");
    let record = writers.stop().await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    relay.stop().await;
    let figures = check("changed source", &record, &stream.deliveries().await);
    assert_eq!(figures.duplicates, 0, "it was stopped in order");
}

#[tokio::test]
async fn check_guards_a_reload() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let good = run(&settings, &["check"]);
    assert_eq!(good.code, Some(0), "{good:#?}");
    let bad = run(&settings.set("sinks.events.type", "pigeon"), &["check"]);
    assert_eq!(
        bad.code,
        Some(78),
        "`check && kill -HUP` sends nothing: {bad:#?}"
    );
}

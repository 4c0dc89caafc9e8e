//! The command line: what it prints where, how it ends, and what it starts (DESIGN: command line).

use std::time::{Duration, Instant};

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::port;
use crate::support::private_server::PrivateServer;
use crate::support::process::Signal;
use crate::support::relay::{PROGRAM, Relay, migrate, run, run_alone, run_by_environment};
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::temporary::TemporaryFolder;

/// A configuration that nothing is wrong with and that nothing can be reached by.
fn unreachable() -> Settings {
    Settings::of_url(&format!(
        "postgres://relay:s3cr3t-word@127.0.0.1:{}/none",
        port::free()
    ))
    .set("sinks.events.type", "jetstream")
    .set(
        "sinks.events.url",
        format!("nats://relay:s3cr3t-word@127.0.0.1:{}", port::free()),
    )
    .set("sinks.events.subject", "events.{event_type}")
}

#[tokio::test]
async fn check_with_connect_names_a_sink_that_joins_and_says_not_where_it_starts() {
    let folder = TemporaryFolder::new("cli");
    let settings = Settings::of_file(&folder.path().join("app.db"));
    migrate(&settings);
    let joining = settings.clone().set("sinks.audit.type", "mock");
    let connect = ["check", "--connect"];
    // Nobody joins what has no ledger yet.
    assert_eq!(run(&joining, &connect).code, Some(0));
    let relay = Relay::ready(&settings).await;
    relay.stop().await;
    let ended = run(&joining, &connect);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let line = "sinks.audit.start: is missing: the sink joins source main";
    assert!(ended.stdout.contains(line), "{}", ended.stdout);
    let said = joining.set("sinks.audit.start", "latest");
    assert_eq!(run(&said, &connect).code, Some(0));
}

#[test]
fn check_is_offline_unless_told() {
    let ended = run(&unreachable(), &["check"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let ended = run(&unreachable(), &["check", "--connect"]);
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:#?}");
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains("s3cr3t-word"), "a password: {ended:#?}");
    }
}

#[test]
fn who_reads_no_further_hears_no_complaint() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let ended = std::process::Command::new(PROGRAM)
        .arg("schema")
        .stdout(writer)
        .output()
        .expect("the program starts");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[test]
fn check_lists_sinks_that_a_more_general_route_would_have_reached() {
    let route = |event_types: &[&str], sinks: &[&str]| {
        let types: Vec<toml::Value> = event_types.iter().map(|t| (*t).into()).collect();
        let to: toml::Table = sinks
            .iter()
            .map(|s| ((*s).to_owned(), true.into()))
            .collect();
        let keys = [("event_type", types.into()), ("to", to.into())];
        toml::Table::from_iter(keys.map(|(key, value)| (key.to_owned(), value)))
    };
    let routes = vec![
        route(&["OrderPaid", "Refund*"], &["a"]),
        route(&["*"], &["a", "b"]),
    ];
    let settings = Settings::of_url("postgres://h")
        .set("sinks.a.type", "stdout")
        .set("sinks.b.type", "stdout")
        .set("routes", routes);
    let ended = run(&settings, &["check"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let line =
        "routes[0]: b gets none of OrderPaid, Refund*, which routes[1] alone would send there";
    assert!(ended.stdout.lines().any(|said| said == line), "{ended:#?}");
}

#[test]
fn check_names_every_error_at_once() {
    let broken = unreachable()
        .set("relay.shutdown_timeout", "soon")
        .set("sources.main.batch_size", 0)
        .set("sources.main.colour", "red")
        .set("sinks.events.type", "pigeon")
        .set("retry.max_delay", "-1s");
    let ended = run(&broken, &["check"]);
    assert_eq!(ended.code, Some(78), "{ended:#?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    for key in [
        "shutdown_timeout",
        "batch_size",
        "colour",
        "pigeon",
        "max_delay",
    ] {
        assert!(said.contains(key), "{key} is not named:\n{said}");
    }
    let started = run(&broken, &[]);
    assert_eq!(started.code, Some(78), "nothing is started: {started:#?}");
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &["fly"][..],
        &["emit", "--keys", "0"],
        &["dead-letters", "list", "--limit", "0"],
        &["ledger", "rename", "--sink", "events", "--to", "no name"],
    ] {
        let ended = run(&unreachable(), arguments);
        assert_eq!(ended.code, Some(2), "{ended:#?}");
    }
}

#[test]
fn a_source_that_is_not_there_is_named_with_those_that_are() {
    for arguments in [
        &["emit", "--source", "none"][..],
        &["migrate", "--source", "none"],
        &["route", "Any", "--source", "none"],
        &["dead-letters", "list", "--source", "none"],
        &["ledger", "reset", "--source", "none"],
    ] {
        let ended = run(&unreachable(), arguments);
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        let expected = "there is no source none in the configuration, only main\n";
        assert!(ended.stderr.ends_with(expected), "{ended:#?}");
    }
}

#[test]
fn the_sql_of_several_sources_is_told_apart() {
    let printed = |settings: &Settings| run(settings, &["migrate", "--print"]).stdout;
    assert!(!printed(&unreachable()).contains("-- source"));
    let two = unreachable()
        .set("sources.other.type", "sqlite")
        .set("sources.other.path", "other.db");
    for name in ["main", "other"] {
        assert!(printed(&two).contains(&format!("-- source {name}\n")));
    }
}

#[test]
fn a_filter_of_the_log_that_is_not_understood_is_said() {
    let ended = run_by_environment(&[("RUST_LOG", "info=warn=off")], &["schema"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(
        ended.stderr.contains("RUST_LOG is not understood"),
        "{ended:#?}"
    );
}

#[tokio::test]
async fn migrate_prints_without_doing_and_can_be_repeated() {
    let printed = run(&unreachable(), &["migrate", "--print"]);
    assert_eq!(printed.code, Some(0), "{printed:#?}");
    for part in ["CREATE TABLE", "outbox_ledger", "GRANT"] {
        assert!(printed.stdout.contains(part), "{part}:\n{}", printed.stdout);
    }
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    migrate(&settings);
    database.insert("Counted", None, 1).await;
    migrate(&settings);
    let rows: i64 = database.value("SELECT count(*) FROM outbox").await;
    assert_eq!(rows, 1, "a repeated migrate changes nothing");
    let triggers: i64 = database
        .value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'outbox'::regclass AND NOT tgisinternal")
        .await;
    assert_eq!(triggers, 0, "poll mode needs none");
}

#[tokio::test]
async fn emit_inserts_events() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let ended = run(&settings, &["emit", "PickMade"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let ended = run(
        &settings,
        &["emit", "PickMade", "--count", "25", "--key", "draft"],
    );
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let rows: i64 = database
        .value("SELECT count(*) FROM outbox WHERE event_type = 'PickMade'")
        .await;
    assert_eq!(rows, 26);
    let keyed: i64 = database
        .value("SELECT count(*) FROM outbox WHERE aggregate_id = 'draft'")
        .await;
    assert_eq!(keyed, 25);
}

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

#[test]
fn schema_and_completions_need_no_configuration() {
    let ended = run_alone(&["schema"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let kept = include_str!("../config/outbox.schema.json");
    assert!(ended.stdout == kept, "config/outbox.schema.json is another");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = run_alone(&["completions", shell]);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert!(ended.stdout.contains("dead-letters"), "{ended:#?}");
    }
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

//! The command line: what it prints where, how it ends, and what it starts (DESIGN: command line).

mod check;
mod running;

use crate::support::database::Database;
use crate::support::port;
use crate::support::relay::{PROGRAM, migrate, run, run_alone, run_by_environment};
use crate::support::settings::Settings;

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
async fn a_command_prints_no_progress_where_there_is_no_terminal() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let ended = run(&settings, &["emit", "--count", "50"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str()),
        ("50 events\n", "")
    );
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

//! `check`: what it finds in a configuration, and beyond it only if it is told to connect.

use super::unreachable;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::temporary::TemporaryFolder;

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

//! `outbox-relay route`: where an event would go, and why; and that the relay does what it says (DESIGN: command line).

use std::time::Duration;

use serde_json::Value;
use toml::Table;

use crate::support::eventually::eventually;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::temporary::TemporaryFolder;

/// Sinks `picks` and `bills` on a broker that isn't there, `lines`, and routes.
fn settings(folder: &TemporaryFolder) -> Settings {
    let routes: Table = toml::from_str(
        r#"
        [[routes]]
        event_type = ["PickMade", "Pick?"]
        to = { picks = "draft.picks.{aggregate_id}" }

        [[routes]]
        event_type = "Pick*"
        to = { picks = true, bills = "bills.{header.tenant}" }

        [[routes]]
        event_type = "Draft*"
        to = { lines = true }
        "#,
    )
    .expect("TOML");
    let mut settings = Settings::of_file(&folder.path().join("app.db"))
        .set("routing.unrouted", "skip")
        .set("routes", routes["routes"].clone());
    for sink in ["picks", "bills"] {
        settings = settings
            .set(&format!("sinks.{sink}.type"), "jetstream")
            .set(&format!("sinks.{sink}.url"), "nats://127.0.0.1:1")
            .set(&format!("sinks.{sink}.subject"), "draft.{event_type}");
    }
    settings
}

fn explained(settings: &Settings, arguments: &[&str]) -> String {
    let ended = run(settings, &[&["route"], arguments].concat());
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    ended.stdout
}

#[test]
fn each_sink_says_where_and_why() {
    let folder = TemporaryFolder::new("route");
    let settings = settings(&folder);
    assert_eq!(
        explained(&settings, &["PickMade", "--aggregate-id", "42"]),
        "sink bills: nothing (routes[0] (\"PickMade\", \"Pick?\") matches first and doesn't name this sink; \
         routes[1] would send it here and comes too late)\n\
         sink lines: nothing (routes[0] (\"PickMade\", \"Pick?\") matches first and doesn't name this sink)\n\
         sink picks: sent to draft.picks.42 (routes[0] (\"PickMade\", \"Pick?\") matches first)\n"
    );
    assert_eq!(
        explained(&settings, &["PickUndone", "--header", "tenant=acme"]),
        "sink bills: sent to bills.acme (routes[1] (\"Pick*\") matches first)\n\
         sink lines: nothing (routes[1] (\"Pick*\") matches first and doesn't name this sink)\n\
         sink picks: sent to draft.PickUndone (routes[1] (\"Pick*\") matches first)\n"
    );
    let unrouted = explained(&settings, &["Trade"]);
    let nothing = "nothing (no route matches, and [routing] unrouted = \"skip\")";
    assert_eq!(unrouted.matches(nothing).count(), 3, "{unrouted}");
}

#[test]
fn what_can_not_be_rendered_is_a_dead_letter_with_its_reason() {
    let folder = TemporaryFolder::new("route");
    let settings = settings(&folder);
    for (arguments, sink, reason) in [
        (&["PickMade"][..], "picks", "aggregate_id"),
        (
            &["PickMade", "--aggregate-id", "a b"],
            "picks",
            "white space",
        ),
        (&["PickUndone"], "bills", "tenant"),
    ] {
        let lines = explained(&settings, arguments);
        let prefix = format!("sink {sink}: a dead letter (routes[");
        let line = lines.lines().find(|line| line.starts_with(&prefix));
        assert!(line.is_some_and(|line| line.contains(reason)), "{lines}");
    }
    let strict = settings.set("routing.unrouted", "dead-letter");
    let json = explained(&strict, &["Trade", "--json", "--source", "main"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["sinks"][0]["outcome"], "dead-letter", "{json:#}");
    assert_eq!(json["sinks"][0]["route"], Value::Null);
    let ended = run(&strict, &["route", "Trade", "--source", "none"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
}

#[tokio::test]
async fn the_relay_does_what_it_says() {
    let folder = TemporaryFolder::new("route");
    let routes: Table = toml::from_str(
        "[[routes]]\nevent_type = 'Draft*'\nto = { lines = true }\n\
         [[routes]]\nevent_type = '*'\nto = { picks = true }\n",
    )
    .expect("TOML");
    let settings = Settings::of_file(&folder.path().join("app.db"))
        .set("sinks.picks.type", "mock")
        .set("routes", routes["routes"].clone());
    migrate(&settings);
    let expected = explained(&settings, &["DraftStarted"]);
    assert!(
        expected.contains("sink lines: sent (routes[0]"),
        "{expected}"
    );
    assert!(expected.contains("sink picks: nothing"), "{expected}");
    let relay = Relay::ready(&settings).await;
    assert_eq!(run(&settings, &["emit", "DraftStarted"]).code, Some(0));
    eventually("it is printed", Duration::from_secs(10), async || {
        (relay.stdout().len() == 1).then_some(())
    })
    .await;
    let published = "outbox_events_published_total";
    let elsewhere = relay.metric(published, &["sink=\"picks\""]).await;
    assert_eq!(elsewhere.unwrap_or(0.0), 0.0);
    relay.stop().await;
}

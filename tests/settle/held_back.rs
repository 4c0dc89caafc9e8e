//! What holds a table back: a ledger that lacks a row, whoever keeps it, if anybody does.

use std::time::Duration;

use super::{ROWS, SOON, UNMARKED, await_count, await_stored, setting, stays, with_dead_sink};
use crate::support::eventually::eventually;
use crate::support::nats::{self, PrivateNats};
use crate::support::private_server::PrivateServer;
use crate::support::relay::{Relay, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

#[tokio::test]
async fn nothing_is_settled_before_every_sink_has_it() {
    let (database, stream, settings) = setting("delete").await;
    let mut down = PrivateNats::start("").await;
    let second = Stream::create(&down.url()).await;
    down.kill().await;
    let settings = settings.publishing("second", &second);
    let relay = Relay::start(&settings);
    database.insert("Both", Some("key"), 100).await;
    stream.await_len(100, SOON).await;
    await_stored(&database, "events").await;
    stays(&database, ROWS, 100).await;
    down.start_again().await;
    second.await_len(100, SOON).await;
    await_count(&database, ROWS, 0).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_replayed_row_is_not_deleted_although_it_is_marked() {
    let (database, stream, settings) = setting("mark").await;
    let relay = Relay::ready(&settings).await;
    database.insert("Replayed", Some("key"), 100).await;
    stream.await_len(100, SOON).await;
    await_count(&database, UNMARKED, 0).await;
    relay.stop().await;
    database
        .execute("UPDATE outbox_ledger SET delivered = '{[41,101)}', token = gen_random_uuid()")
        .await;
    let deleting = settings
        .clone()
        .set("sources.main.after_delivery", "delete");
    let relay = Relay::start(&with_dead_sink(&deleting, "events"));
    await_count(&database, ROWS, 40).await;
    stays(&database, ROWS, 40).await;
    relay.stop().await;
    let relay = Relay::ready(&deleting).await;
    stream.await_len(140, SOON).await;
    await_count(&database, ROWS, 0).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_ledger_of_a_sink_that_is_gone_holds_the_table_back_until_it_is_dropped() {
    let (database, stream, settings) = setting("mark").await;
    let second = Stream::create(&nats::shared()).await;
    let relay = Relay::ready(&settings.clone().publishing("second", &second)).await;
    database.insert("Before", Some("key"), 10).await;
    await_count(&database, UNMARKED, 0).await;
    relay.stop().await;

    let relay = Relay::ready(&settings).await;
    database.insert("After", Some("key"), 10).await;
    stream.await_len(20, SOON).await;
    await_stored(&database, "events").await;
    stays(&database, UNMARKED, 10).await;
    assert!(relay.stderr().contains("sink=\"second\""), "it is named");

    let ended = run(&settings, &["ledger", "drop", "--sink", "events"]);
    assert_eq!(ended.code, Some(1), "a configured sink: {ended:#?}");
    let ended = run(&settings, &["ledger", "drop", "--sink", "second"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    await_count(&database, UNMARKED, 0).await;
    relay.stop().await;
}

#[tokio::test]
async fn another_relay_on_the_same_table_holds_it_back_whatever_it_calls_it() {
    let (database, stream, settings) = setting("delete").await;
    let other = with_dead_sink(&settings, "events")
        .set("relay.name", "other")
        .set("sources.main.table", "public.outbox");
    let held = Relay::start(&other);
    await_count(&database, "SELECT count(*) FROM outbox_ledger", 1).await;
    let relay = Relay::ready(&settings).await;
    database.insert("Shared", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    eventually("the ledger holds every event", SOON, async || {
        let sql = "SELECT delivered @> 10::int8 FROM outbox_ledger WHERE relay = 'test'";
        database.value::<bool>(sql).await.then_some(())
    })
    .await;
    stays(&database, ROWS, 10).await;
    held.stop().await;
    relay.stop().await;
}

#[tokio::test]
async fn a_ledger_that_no_relay_keeps_is_named_until_it_is_dropped() {
    let (database, stream, settings) = setting("mark").await;
    let former = settings.clone().set("relay.name", "former");
    Relay::ready(&former).await.stop().await;
    let halted = settings.clone().set("relay.name", "halted");
    Relay::ready(&halted).await.stop().await;
    database
        .execute("UPDATE outbox_source SET sequence_filenode = 0 WHERE relay = 'halted'")
        .await;
    let relay = Relay::ready(&settings).await;
    let await_abandoned = async |count: f64| {
        let is_count = |abandoned: f64| (abandoned - count).abs() < 0.5;
        let labels = ["source=\"main\""];
        relay
            .await_metric("outbox_abandoned_ledgers", &labels, SOON * 2, is_count)
            .await;
    };
    database.insert("Held", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    await_abandoned(2.0).await;
    let drop = "ledger drop --relay former --source main --sink events";
    eventually("it is named", Duration::from_secs(60), async || {
        relay.stderr().contains(drop).then_some(())
    })
    .await;
    assert_eq!(relay.stderr().matches(drop).count(), 1, "and not again");
    let status = run(&settings, &["status"]);
    assert!(status.stdout.contains(drop), "{status:#?}");
    for said in [&relay.stderr(), &status.stdout] {
        assert!(said.contains("(relay halted, source main)"), "{said}");
        assert!(said.contains("ledger reset --source main"), "{said}");
        assert!(!said.contains("ledger drop --relay halted"), "{said}");
    }
    database
        .execute("DELETE FROM outbox_source WHERE relay = 'halted'")
        .await;
    let json = run(&settings, &["status", "--json"]).stdout;
    assert!(json.contains("\"abandoned_ledgers\""), "{json}");
    stays(&database, UNMARKED, 10).await;

    let ended = run(&settings, &drop.split(' ').collect::<Vec<_>>());
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    await_count(&database, UNMARKED, 0).await;
    let status = run(&settings, &["status"]);
    assert!(!status.stdout.contains("ledger drop"), "{status:#?}");
    await_abandoned(0.0).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_renamed_table_is_held_back_by_every_ledger_that_it_had() {
    let (database, stream, settings) = setting("delete").await;
    let theirs = Stream::create(&nats::shared()).await;
    let other = settings
        .clone()
        .set("relay.name", "other")
        .publishing_to(&theirs);
    // Both have a ledger of it by its old name.
    for settings in [&other, &settings] {
        Relay::ready(settings).await.stop().await;
    }
    await_count(&database, "SELECT count(*) FROM outbox_ledger", 2).await;
    database.insert("Renamed", Some("key"), 10).await;
    database
        .execute("ALTER TABLE outbox RENAME TO events")
        .await;
    let renamed = |settings: &Settings| settings.clone().set("sources.main.table", "events");
    let rows = "SELECT count(*) FROM events";
    let relay = Relay::ready(&renamed(&settings)).await;
    stream.await_len(10, SOON).await;
    eventually("the ledger holds every event", SOON, async || {
        let sql = "SELECT delivered @> 10::int8 FROM outbox_ledger WHERE relay = 'test'";
        database.value::<bool>(sql).await.then_some(())
    })
    .await;
    stays(&database, rows, 10).await;
    let second = Relay::ready(&renamed(&other)).await;
    theirs.await_len(10, SOON).await;
    await_count(&database, rows, 0).await;
    second.stop().await;
    relay.stop().await;
}

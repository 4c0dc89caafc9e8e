//! What client, topic or broker refuse: dead letters, and nothing else that was on its way is lost or overtaken.

use std::collections::HashSet;

use super::ARRIVAL;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::kafka::{Broker, Listeners, Topic};
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;

/// Inserts so many events of one key, every hundredth with a payload of 30,000 bytes.
async fn insert_some_large(database: &Database, count: u32) {
    let insert = format!(
        "INSERT INTO outbox (event_type, aggregate_id, payload) SELECT 'Big', 'k' || n % 5, \
         json_build_object('counter', n, 'filler', repeat('x', CASE WHEN n % 100 = 0 THEN 30000 ELSE 10 END)) \
         FROM generate_series(1, {count}) n"
    );
    database.execute(&insert).await;
}

async fn assert_large_are_dead_letters(database: &Database, topic: &Topic, count: u32) {
    let what = "the large ones are dead letters";
    eventually(what, ARRIVAL, async || {
        let dead: i64 = database
            .value("SELECT count(*) FROM outbox_dead_letter WHERE reason LIKE '%larger%'")
            .await;
        (dead == i64::from(count / 100)).then_some(())
    })
    .await;
    let expected: Vec<i64> = (1..=i64::from(count)).filter(|n| n % 100 != 0).collect();
    let deliveries = eventually("the others are there", ARRIVAL, async || {
        let deliveries = topic.deliveries().await;
        let ids: HashSet<_> = deliveries.iter().map(|delivery| delivery.id).collect();
        (ids.len() >= expected.len()).then_some(deliveries)
    })
    .await;
    let mut seen = HashSet::new();
    let first = deliveries
        .iter()
        .filter(|delivery| seen.insert(delivery.id));
    let counters: Vec<i64> = first.map(|delivery| delivery.number("counter")).collect();
    for key in 0..5 {
        let of_key: Vec<i64> = counters.iter().copied().filter(|n| n % 5 == key).collect();
        assert!(of_key.is_sorted(), "key {key}: {of_key:?}");
    }
    let mut all = counters;
    all.sort_unstable();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn what_the_client_finds_too_large_is_a_dead_letter_and_holds_nothing_back() {
    let database = Database::fresh().await;
    let broker = Broker::any();
    let topic = broker.topic(3, &[]).await;
    let settings = topic.sink(Settings::of(&database)).set(
        "sinks.events.options",
        toml::Table::from_iter([("message.max.bytes".to_owned(), "20000".into())]),
    );
    migrate(&settings);
    insert_some_large(&database, 2_000).await;
    let relay = Relay::ready(&settings).await;
    assert_large_are_dead_letters(&database, &topic, 2_000).await;
    relay.stop().await;
}

#[tokio::test]
async fn what_the_topic_finds_too_large_is_found_out_among_others() {
    if Listeners::real().is_none() {
        return;
    }
    let database = Database::fresh().await;
    let broker = Broker::any();
    // Batches of what it takes are larger than this, too.
    let topic = broker.topic(3, &[("max.message.bytes", "20000")]).await;
    let settings = topic.sink(Settings::of(&database));
    migrate(&settings);
    insert_some_large(&database, 1_000).await;
    let relay = Relay::ready(&settings).await;
    assert_large_are_dead_letters(&database, &topic, 1_000).await;
    relay.stop().await;
}

#[tokio::test]
async fn large_events_that_share_a_batch_with_a_refused_one_are_no_dead_letters() {
    if Listeners::real().is_none() {
        return;
    }
    let database = Database::fresh().await;
    let broker = Broker::any();
    let topic = broker.topic(1, &[("max.message.bytes", "40000")]).await;
    // A batch has room for the refused one and two others, of which each is more than a quarter.
    let settings = topic.sink(Settings::of(&database)).set(
        "sinks.events.options",
        toml::Table::from_iter([("batch.size".to_owned(), "120000".into())]),
    );
    migrate(&settings);
    let insert = "INSERT INTO outbox (event_type, aggregate_id, payload) SELECT 'Big', 'k', \
         json_build_object('counter', n, 'filler', repeat('x', CASE WHEN n = 6 THEN 45000 ELSE 32000 END)) \
         FROM generate_series(1, 12) n";
    database.execute(insert).await;
    let relay = Relay::ready(&settings).await;
    eventually("everything is somewhere", ARRIVAL, async || {
        let dead: i64 = database
            .value("SELECT count(*) FROM outbox_dead_letter")
            .await;
        let ids: HashSet<_> = topic.deliveries().await.iter().map(|one| one.id).collect();
        (ids.len() + usize::try_from(dead).expect("a count") >= 12).then_some(())
    })
    .await;
    relay.stop().await;
    let dead: String = database
        .value("SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM outbox_dead_letter")
        .await;
    assert_eq!(dead, "6");
}

#[tokio::test]
async fn what_shares_a_batch_with_a_refused_event_stays_before_its_successors() {
    // Keys of two partitions. The broker knows the first producer in both when it refuses the sixth event; of the next
    // it takes whatever comes first in the second partition, for the event that probes goes to the first.
    assert_order_around_a_refused_event(6, 3).await;
}

#[tokio::test]
async fn what_shares_a_producers_very_first_batch_with_a_refused_event_stays_before_its_successors()
{
    assert_order_around_a_refused_event(2, 0).await;
}

/// The event `refused` is too large, and the broker has `known` others of the producer when it comes.
async fn assert_order_around_a_refused_event(refused: u32, known: usize) {
    if Listeners::real().is_none() {
        return;
    }
    let database = Database::fresh().await;
    let broker = Broker::any();
    let topic = broker.topic(3, &[("max.message.bytes", "40000")]).await;
    let settings = topic.sink(Settings::of(&database)).set(
        "sinks.events.options",
        toml::Table::from_iter([
            ("batch.num.messages".to_owned(), "3".into()),
            ("linger.ms".to_owned(), "100".into()),
        ]),
    );
    migrate(&settings);
    let insert = async |from: usize, to: usize| {
        let insert = format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload) SELECT 'Big', \
             CASE WHEN n % 4 = 0 THEN '21' ELSE 'a-little-bit-long-string' END, json_build_object('counter', n, \
             'filler', repeat('x', CASE WHEN n = {refused} THEN 45000 ELSE 100 END)) FROM generate_series({from}, {to}) n"
        );
        database.execute(&insert).await;
    };
    let arrived = async |count: usize| {
        eventually("the events are there", ARRIVAL, async || {
            let deliveries = topic.deliveries().await;
            let ids: HashSet<_> = deliveries.iter().map(|one| one.id).collect();
            (ids.len() == count).then_some(deliveries)
        })
        .await
    };
    insert(1, known).await;
    let relay = if known == 0 {
        // All at once, from the start.
        insert(1, 60).await;
        Relay::ready(&settings).await
    } else {
        let relay = Relay::ready(&settings).await;
        arrived(known).await;
        insert(known + 1, 60).await;
        relay
    };
    let deliveries = arrived(59).await;
    relay.stop().await;
    let mut seen = HashSet::new();
    let first = deliveries.iter().filter(|one| seen.insert(one.id));
    let (one, other): (Vec<i64>, Vec<i64>) = first
        .map(|delivery| delivery.number("counter"))
        .partition(|n| n % 4 == 0);
    assert!(one.is_sorted(), "{one:?}");
    assert!(other.is_sorted(), "{other:?}");
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_a_dead_letter_and_no_outage() {
    if Listeners::real().is_none() {
        return;
    }
    let database = Database::fresh().await;
    let broker = Broker::any();
    let topic = broker.topic(1, &[]).await;
    let settings = topic
        .sink(Settings::of(&database))
        .set("sinks.events.timeout", "30s")
        .set(
            "sinks.events.options",
            toml::Table::from_iter([(
                "topic.metadata.propagation.max.ms".to_owned(),
                "2000".into(),
            )]),
        );
    let missing = format!("{}-missing", topic.name);
    let routes: toml::Value = toml::from_str::<toml::Table>(&format!(
        "routes = [{{ event_type = 'Lost', to = {{ events = '{missing}' }} }}, \
         {{ event_type = '*', to = {{ events = true }} }}]"
    ))
    .expect("routes")
    .remove("routes")
    .expect("routes");
    let settings = settings.set("routes", routes);
    migrate(&settings);
    database.insert("Lost", Some("a"), 3).await;
    database.insert("Kept", Some("a"), 3).await;
    let relay = Relay::ready(&settings).await;
    eventually("three dead letters", ARRIVAL, async || {
        let dead: i64 = database
            .value("SELECT count(*) FROM outbox_dead_letter WHERE reason LIKE '%topic doesn''t exist%'")
            .await;
        (dead == 3).then_some(())
    })
    .await;
    eventually("the others are there", ARRIVAL, async || {
        (topic.len().await == 3).then_some(())
    })
    .await;
    relay.stop().await;
}

//! Kafka: complete and in order under pipelining, whatever becomes of the broker; what it refuses; who it lets in.

mod access;
mod refusals;

use std::time::Duration;

use rdkafka::mocking::MockCluster;

use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::kafka::{Broker, PrivateKafka, Topic};
use crate::support::private_server::PrivateServer;
use crate::support::proxy::Proxy;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::writers::{Load, Writers};

/// How long everything may take to arrive in the end.
const ARRIVAL: Duration = Duration::from_secs(60);

/// A busy service with few keys: most events find one of their key in flight.
fn load() -> Load {
    Load {
        keys: 40,
        ..Load::default()
    }
}

/// Waits until this many more messages are in the topic.
async fn progress(topic: &Topic, more: u64) {
    let before = topic.len().await;
    eventually("the relay goes on", ARRIVAL, async || {
        (topic.len().await >= before + more).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_relay_loses_nothing_and_keys_stay_in_order_over_partitions() {
    let database = Database::fresh().await;
    let broker = Broker::any();
    let topic = broker.topic(6, &[]).await;
    let settings = topic.sink(Settings::of(&database));
    migrate(&settings);
    let writers = Writers::start(&database, load()).await;
    for _ in 0..2 {
        let relay = Relay::ready(&settings).await;
        progress(&topic, 1_000).await;
        relay.kill().await;
    }
    let relay = Relay::ready(&settings).await;
    progress(&topic, 500).await;
    let record = writers.stop().await;
    let deliveries = topic.await_ids(&record.ids(), ARRIVAL).await;
    relay.stop().await;
    check("Kafka, relay killed", &record, &deliveries);
}

#[tokio::test]
async fn a_broker_that_is_killed_or_frozen_loses_nothing_and_shows() {
    let database = Database::fresh().await;
    let Some(mut broker) = PrivateKafka::start().await else {
        return;
    };
    let topic = Topic::named(&broker.address(), 3);
    topic.create(&[]).await;
    let settings = topic
        .sink(Settings::of(&database))
        .set("sinks.events.timeout", "1s");
    migrate(&settings);
    let writers = Writers::start(&database, load()).await;
    let relay = Relay::ready(&settings).await;
    progress(&topic, 500).await;

    broker.kill().await;
    let available = async |is: f64| {
        relay
            .await_metric(
                "outbox_sink_available",
                &["sink=\"events\""],
                ARRIVAL,
                |value| (value - is).abs() < 0.5,
            )
            .await;
    };
    available(0.0).await;
    broker.start_again().await;
    available(1.0).await;
    progress(&topic, 500).await;

    broker.freeze().await;
    available(0.0).await;
    broker.thaw();
    available(1.0).await;
    progress(&topic, 500).await;

    let record = writers.stop().await;
    let deliveries = topic.await_ids(&record.ids(), ARRIVAL).await;
    let letters = relay
        .metric("outbox_dead_letters", &["sink=\"events\""])
        .await;
    assert_eq!(letters, Some(0.0), "an outage uses up no attempts");
    relay.stop().await;
    check("Kafka, broker killed and frozen", &record, &deliveries);
}

#[tokio::test]
async fn a_relay_whose_lease_has_ended_publishes_nothing_of_what_its_client_held() {
    let database = Database::fresh().await;
    // A mock loses its leader and has it back at once; what Kafka does is the client's affair here. Nor does its port
    // get free meanwhile, for others to take.
    let broker = MockCluster::new(1).expect("a mock cluster");
    let topic = Topic::named(&broker.bootstrap_servers(), 1);
    broker
        .create_topic(&topic.name, 1, 1)
        .expect("create a topic");
    let direct = topic.sink(Settings::of(&database));
    migrate(&direct);
    let server = database.url.split(['@', '/']).nth(3).expect("host:port");
    let proxy = Proxy::before(server).await;
    let through = database.url_through(proxy.port);
    let cut_off = Relay::ready(&topic.sink(Settings::of_url(&through))).await;
    broker
        .partition_leader(&topic.name, 0, None)
        .expect("no leader");
    database.insert("Held", Some("a"), 300).await;
    let shows = async |name: &str, is: f64| {
        let is_it = |value: f64| (value - is).abs() < 0.5;
        cut_off.await_metric(name, &[], ARRIVAL, is_it).await;
    };
    shows("outbox_in_flight", 300.0).await;
    shows("outbox_lease_held", 1.0).await;
    drop(proxy);
    shows("outbox_lease_held", 0.0).await;
    shows("outbox_in_flight", 0.0).await;
    broker
        .partition_leader(&topic.name, 0, Some(1))
        .expect("a leader");
    let successor = Relay::ready(&direct).await;
    eventually("the successor publishes", ARRIVAL, async || {
        (topic.len().await >= 300).then_some(())
    })
    .await;
    successor.stop().await;
    assert_eq!(topic.len().await, 300, "each event once");
    cut_off.kill().await;
}

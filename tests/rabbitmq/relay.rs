//! The whole relay, from a table to queues.

use std::collections::HashSet;
use std::time::Duration;

use toml::{Table, Value};

use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::{self, Broker, unique};
use crate::support::relay::{self, Relay, migrate};
use crate::support::settings::Settings;
use crate::support::writers::{Load, Writers};

/// How long everything may take to arrive in the end.
const ARRIVAL: Duration = Duration::from_secs(60);

/// With a sink `events` that publishes into a queue by way of an exchange, both declared by it.
fn publishing(database: &Database, url: &str, name: &str) -> Settings {
    Settings::of(database)
        .set("sinks.events.type", "rabbitmq")
        .set("sinks.events.url", url)
        .set("sinks.events.exchange", name)
        .set("sinks.events.routing_key", "{event_type}")
        .set("sinks.events.flush_interval", "200ms")
        .set("sinks.events.retry.initial_delay", "50ms")
        .set("sinks.events.retry.max_delay", "500ms")
        .set("sinks.events.declare.exchange_type", "topic")
        .set("sinks.events.declare.queues", name)
        .set("sinks.events.declare.bind", "#")
}

fn route(event_type: &str, to: impl Into<Value>) -> Table {
    let to = Table::from_iter([("events".to_owned(), to.into())]);
    Table::from_iter([
        ("event_type".to_owned(), event_type.into()),
        ("to".to_owned(), to.into()),
    ])
}

#[tokio::test]
async fn routes_choose_exchange_key_and_queue_and_the_unroutable_is_a_dead_letter() {
    let broker = Broker::shared().await;
    let database = Database::fresh().await;
    let (name, picks) = (unique("orders"), broker.queue("classic").await);
    let missing = unique("missing");
    let table = |pairs: &[(&str, &str)]| {
        Table::from_iter(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).into())),
        )
    };
    let routes = vec![
        route("Pick*", table(&[("queue", &picks)])),
        route(
            "Trade*",
            table(&[("exchange", &name), ("routing_key", "trade.{aggregate_id}")]),
        ),
        route("Nowhere", table(&[("queue", &unique("nobody"))])),
        route(
            "Lost",
            table(&[("exchange", &missing), ("routing_key", "k")]),
        ),
        route("*", true),
    ];
    let settings = publishing(&database, &rabbitmq::shared(), &name)
        .set("routes", routes)
        .set("sinks.events.retry.max_retries", 1);
    migrate(&settings);
    let checked = relay::run(&settings, &["check", "--connect"]);
    assert_eq!(checked.code, Some(0), "{checked:#?}");
    for text in [
        format!("exchange {name} is not there: it will be declared"),
        format!("exchange {missing} is not there: every event for it would be rejected"),
    ] {
        assert!(checked.stdout.contains(&text), "{checked:#?}");
    }
    for (event_type, key) in [
        ("PickMade", "1"),
        ("TradeMade", "7"),
        ("Nowhere", "2"),
        ("Lost", "3"),
        ("Other", "4"),
    ] {
        database.insert(event_type, Some(key), 3).await;
    }
    let relay = Relay::ready(&settings).await;
    let taken = broker.await_len(&name, 6, ARRIVAL).await;
    let keys: HashSet<String> = taken.iter().map(|d| d.routing_key.clone()).collect();
    assert_eq!(
        keys,
        HashSet::from(["trade.7".to_owned(), "Other".to_owned()])
    );
    let picked = broker.await_len(&picks, 3, ARRIVAL).await;
    let numbers: Vec<_> = picked
        .iter()
        .map(|delivery| delivery.envelope()["payload"]["n"].as_i64())
        .collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    assert_eq!(picked[0].headers()["aggregate_id"], "1");
    relay
        .await_metric("outbox_dead_letters", &[], ARRIVAL, |count| count >= 6.0)
        .await;
    relay.stop().await;
    let letters: String = database
        .value(
            "SELECT string_agg(DISTINCT event_type || ' ' || reason, '; ' ORDER BY event_type || ' ' || reason) \
             FROM outbox_dead_letter",
        )
        .await;
    assert!(
        letters.contains(&format!("no exchange '{missing}'")),
        "{letters}"
    );
    assert!(letters.contains("NO_ROUTE"), "{letters}");
    let others: i64 = database
        .value(
            "SELECT count(*) FROM outbox_dead_letter WHERE event_type NOT IN ('Nowhere', 'Lost')",
        )
        .await;
    assert_eq!(others, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_and_kill_9_under_load_lose_nothing_and_keep_the_order_of_keys() {
    let broker = Broker::shared().await;
    let database = Database::fresh().await;
    let name = unique("load");
    let address = rabbitmq::shared().replace("amqp://", "");
    let proxy = Proxy::before(&address).await;
    let url = format!("amqp://127.0.0.1:{}", proxy.port);
    let settings = publishing(&database, &url, &name);
    migrate(&settings);
    let writers = Writers::start(&database, Load::default()).await;
    let relay = Relay::ready(&settings).await;
    for _ in 0..5 {
        progress(&broker, &name, 200).await;
        proxy.cut();
    }
    progress(&broker, &name, 200).await;
    relay.kill().await;
    let relay = Relay::ready(&settings).await;
    progress(&broker, &name, 200).await;
    let record = writers.stop().await;
    relay
        .await_metric("outbox_pending_events", &[], ARRIVAL, |pending| {
            pending == 0.0
        })
        .await;
    relay.stop().await;

    let deliveries = rabbitmq::numbered(broker.drain(&name).await);
    check("RabbitMQ, cut and killed", &record, &deliveries);
    let dead: i64 = database
        .value("SELECT count(*) FROM outbox_dead_letter")
        .await;
    assert_eq!(dead, 0, "an outage burns no attempts");
}

/// Waits until this many more events are published.
async fn progress(broker: &Broker, queue: &str, more: u32) {
    let before = broker.len(queue).await;
    eventually("the relay goes on", Duration::from_secs(20), async || {
        (broker.len(queue).await > before + more).then_some(())
    })
    .await;
}

/// A message that something in the broker crashes on ends the connection for all: it is found out, and becomes a dead
/// letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_ends_the_connection_is_found_out() {
    let server = PrivateRabbitmq::start("").await;
    let broker = Broker::at(&server.url()).await;
    let database = Database::fresh().await;
    let name = unique("orders");
    // A binding to something that is no queue: to route by it crashes the broker's channel.
    let exchange = r#"{resource, <<"/">>, exchange, <<"amq.direct">>}"#;
    let binding = format!(r#"{{binding, {exchange}, <<"poison">>, nothing, []}}"#);
    let insert = format!("ets:insert(rabbit_route, {{route, {binding}, const}}).");
    tokio::task::block_in_place(|| server.control(&["eval", &insert]));
    let direct = |key: &str| {
        let to = [("exchange", "amq.direct"), ("routing_key", key)];
        Table::from_iter(to.map(|(key, value)| (key.to_owned(), value.into())))
    };
    let routes = vec![
        route("Poison", direct("poison")),
        route("Fine", direct("fine")),
        route("*", true),
    ];
    let fine = broker.queue("classic").await;
    broker.bind(&fine, "amq.direct", "fine").await;
    let settings = publishing(&database, &server.url(), &name)
        .set("routes", routes)
        .set("sinks.events.retry.max_retries", 1);
    migrate(&settings);
    for key in 0..20 {
        let event_type = if key == 7 { "Poison" } else { "Other" };
        let key = key.to_string();
        database.insert(event_type, Some(&key), 1).await;
    }
    let relay = Relay::ready(&settings).await;
    // That others to the same exchange pass is what convicts it.
    let mut passed = 0;
    eventually("a dead letter", ARRIVAL, async || {
        passed += 1;
        database.insert("Fine", Some(&passed.to_string()), 1).await;
        let letters = relay.metric("outbox_dead_letters", &[]).await;
        (letters == Some(1.0)).then_some(())
    })
    .await;
    database.insert("Other", Some("later"), 1).await;
    let mut ids = HashSet::new();
    eventually("all others arrive", ARRIVAL, async || {
        ids.extend(broker.take(&name).await.iter().map(|delivery| delivery.id));
        (ids.len() == 20).then_some(())
    })
    .await;
    relay.stop().await;
    let letter: String = database
        .value("SELECT event_type || ': ' || reason FROM outbox_dead_letter")
        .await;
    assert!(
        letter.starts_with("Poison: RabbitMQ ended the connection"),
        "{letter}"
    );
}

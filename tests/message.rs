//! A message is what its row says: bytes, headers, id and destination (DESIGN: TOML, the `json` envelope).

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

#[tokio::test]
async fn a_message_is_what_its_row_says() {
    let database = Database::fresh().await;
    let stream = Stream::named(&nats::shared());
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sinks.events.stream.name", stream.name.as_str())
        .set("sinks.events.stream.subjects", vec![stream.subject(">")])
        .set("envelope.aggregate_field", "draftId");
    migrate(&settings);
    let id = Uuid::new_v4();
    let insert = format!(
        "INSERT INTO outbox (id, event_type, aggregate_type, aggregate_id, payload, headers, created_at) VALUES \
         ('{id}', 'PickMade', 'Draft', 'd-1', '{{\"z\": 1.50,  \"a\":12345678901234567890, \"z\":\"ü\"}}', \
          '{{\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}}', \
          '2024-01-01T01:00:00.120Z')"
    );
    database.execute(&insert).await;

    let relay = Relay::ready(&settings).await;
    let deliveries = stream.await_len(1, Duration::from_secs(10)).await;
    relay.stop().await;

    let delivery = &deliveries[0];
    assert_eq!(delivery.id, id);
    assert_eq!(delivery.subject, stream.subject("PickMade"));
    // The payload byte for byte: spelling, order and doubled keys too.
    let body = format!(
        "{{\"eventId\":\"{id}\",\"eventType\":\"PickMade\",\"draftId\":\"d-1\",\
         \"timestamp\":\"2024-01-01T01:00:00.12Z\",\
         \"payload\":{{\"z\": 1.50,  \"a\":12345678901234567890, \"z\":\"ü\"}}}}"
    );
    assert_eq!(String::from_utf8_lossy(&delivery.body), body);
    for (name, value) in [
        ("event_type", "PickMade"),
        ("aggregate_id", "d-1"),
        ("content-type", "application/json"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ] {
        assert_eq!(delivery.header(name), Some(value), "header {name}");
    }
}

#[tokio::test]
async fn standard_output_gets_one_envelope_per_line() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.out.type", "stdout");
    migrate(&settings);
    database.insert("Counted", Some("key"), 3).await;
    database.insert("Unordered", None, 2).await;

    let relay = Relay::start(&settings);
    let lines = eventually("five lines", Duration::from_secs(20), async || {
        Some(relay.stdout()).filter(|lines| lines.len() >= 5)
    })
    .await;
    relay.stop().await;

    let mut seen = HashSet::new();
    let mut ordered = Vec::new();
    for line in &lines {
        let envelope: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(seen.insert(envelope["eventId"].to_string()), "{line} twice");
        if envelope["eventType"] == "Counted" {
            assert_eq!(envelope["aggregateId"], "key");
            ordered.push(envelope["payload"]["n"].as_i64());
        }
    }
    assert_eq!(ordered, [Some(1), Some(2), Some(3)]);
    assert_eq!(lines.len(), 5);
}

//! Kafka: one idempotent producer with the settings of the relay's.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Semaphore;

use super::Pages;
use crate::Result;

/// Messages without a report: enough that the client always has a full batch.
const WINDOW: usize = 4_096;

#[derive(Clone)]
struct Reports {
    room: Arc<Semaphore>,
    failure: Arc<Mutex<Option<String>>>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && let Ok(mut failure) = self.failure.lock()
        {
            failure.get_or_insert(error.to_string());
        }
        self.room.add_permits(1);
    }
}

pub(super) async fn publish(pages: &mut Pages, brokers: &str, topic: &str, _: u64) -> Result {
    let reports = Reports {
        room: Arc::new(Semaphore::new(WINDOW)),
        failure: Arc::default(),
    };
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("bootstrap.servers", brokers),
        ("partitioner", "murmur2_random"),
        ("max.in.flight", "1"),
        ("linger.ms", "0"),
        ("socket.nagle.disable", "true"),
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("message.timeout.ms", "0"),
        ("enable.gapless.guarantee", "true"),
        ("queue.buffering.max.messages", "0"),
        ("queue.buffering.max.kbytes", "2147483647"),
    ] {
        config.set(name, value);
    }
    let producer = ThreadedProducer::from_config_and_context(&config, reports.clone())?;
    while let Some(page) = pages.recv().await {
        for row in page {
            reports.room.acquire().await?.forget();
            let id = row.id.to_string();
            let headers = OwnedHeaders::new_with_capacity(2)
                .insert(Header {
                    key: "id",
                    value: Some(&id),
                })
                .insert(Header {
                    key: "event_type",
                    value: Some(&row.event_type),
                });
            let record = BaseRecord::to(topic)
                .key(&row.key)
                .payload(&row.payload[..])
                .headers(headers);
            producer.send(record).map_err(|(error, _)| error)?;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    match reports
        .failure
        .lock()
        .map_err(|error| error.to_string())?
        .take()
    {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}

//! A topic of four partitions.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;

use super::{Receipts, receipt};
use crate::Result;
use crate::target::Target;

const PARTITIONS: i32 = 4;

/// How long the broker may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Topic {
    brokers: String,
    name: String,
    watcher: BaseConsumer,
}

impl Topic {
    pub(super) async fn create(brokers: &str, name: &str) -> Result<Self> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", brokers);
        let admin: AdminClient<DefaultClientContext> = client.create()?;
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        for created in admin.create_topics([&topic], &AdminOptions::new()).await? {
            created.map_err(|(name, code)| format!("the topic {name}: {code}"))?;
        }
        let topic = Self {
            brokers: brokers.to_owned(),
            name: name.to_owned(),
            watcher: consumer(brokers)?,
        };
        // Its partitions have no leader at first.
        let deadline = Instant::now() + TIMEOUT;
        while let Err(error) = topic.count() {
            if Instant::now() > deadline {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(topic)
    }

    pub(super) fn target(&self) -> Target {
        Target::Kafka {
            brokers: self.brokers.clone(),
            topic: self.name.clone(),
        }
    }

    pub(super) fn count(&self) -> Result<u64> {
        let mut count = 0;
        for partition in 0..PARTITIONS {
            let (first, end) = self
                .watcher
                .fetch_watermarks(&self.name, partition, TIMEOUT)?;
            count += (end - first).unsigned_abs();
        }
        Ok(count)
    }

    pub(super) fn consume(&self, receipts: Receipts) -> Result<JoinHandle<()>> {
        let consumer = consumer(&self.brokers)?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(&self.name, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        Ok(tokio::task::spawn_blocking(move || {
            while !receipts.is_closed() {
                let taken = match consumer.poll(Duration::from_millis(100)) {
                    None => continue,
                    Some(Ok(message)) => receipt(message.payload().unwrap_or_default()),
                    Some(Err(error)) => Err(error.into()),
                };
                receipts.send(taken).ok();
            }
        }))
    }

    pub(super) async fn remove(self) -> Result {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers);
        let admin: AdminClient<DefaultClientContext> = client.create()?;
        admin
            .delete_topics(&[&self.name], &AdminOptions::new())
            .await?;
        Ok(())
    }
}

fn consumer(brokers: &str) -> Result<BaseConsumer> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", brokers)
        .set("group.id", "outbox-bench")
        .set("enable.auto.commit", "false")
        // A lone message comes at once.
        .set("fetch.wait.max.ms", "10");
    Ok(client.create()?)
}

//! A quorum queue, published to by the default exchange.

use futures::StreamExt as _;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::task::JoinHandle;

use super::{Receipts, receipt};
use crate::Result;
use crate::target::Target;

pub(crate) struct Queue {
    url: String,
    name: String,
    channel: Channel,
    _connection: Connection,
}

impl Queue {
    pub(super) async fn create(url: &str, name: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let mut arguments = FieldTable::default();
        let quorum = AMQPValue::LongString("quorum".into());
        arguments.insert("x-queue-type".into(), quorum);
        channel
            .queue_declare(name.into(), options, arguments)
            .await?;
        Ok(Self {
            url: url.to_owned(),
            name: name.to_owned(),
            channel,
            _connection: connection,
        })
    }

    pub(super) fn target(&self) -> Target {
        Target::Rabbitmq {
            url: self.url.clone(),
            queue: self.name.clone(),
        }
    }

    pub(super) async fn count(&mut self) -> Result<u64> {
        let options = QueueDeclareOptions {
            passive: true,
            durable: true,
            ..Default::default()
        };
        let queue = self
            .channel
            .queue_declare(self.name.as_str().into(), options, FieldTable::default())
            .await?;
        Ok(queue.message_count().into())
    }

    pub(super) async fn consume(&self, receipts: Receipts) -> Result<JoinHandle<()>> {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let mut deliveries = self
            .channel
            .basic_consume(
                self.name.as_str().into(),
                "".into(),
                options,
                FieldTable::default(),
            )
            .await?;
        Ok(tokio::spawn(async move {
            while let Some(delivery) = deliveries.next().await {
                let taken = match delivery {
                    Ok(delivery) => receipt(&delivery.data),
                    Err(error) => Err(error.into()),
                };
                if receipts.send(taken).is_err() {
                    return;
                }
            }
        }))
    }

    pub(super) async fn remove(self) -> Result {
        self.channel
            .queue_delete(self.name.as_str().into(), QueueDeleteOptions::default())
            .await?;
        Ok(())
    }
}

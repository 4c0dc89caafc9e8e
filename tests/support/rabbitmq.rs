//! RabbitMQ: the shared broker, brokers of a test's own, and what their queues hold.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use uuid::Uuid;

use super::eventually::eventually;
use super::stream;

/// The URL of the broker that `tests/run` started. It takes messages of 1 MiB at most.
pub(crate) fn shared() -> String {
    std::env::var("OUTBOX_TEST_RABBITMQ").expect(
        "RabbitMQ for the tests is missing: run tests/run, or set OUTBOX_TEST_RABBITMQ to the URL of a broker",
    )
}

/// A name that no other test has.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::new_v4().simple())
}

/// A test's own connection to a broker.
pub(crate) struct Broker {
    connection: Connection,
}

/// A message of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) id: Uuid,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

impl Delivery {
    /// The headers that are long strings.
    pub(crate) fn headers(&self) -> BTreeMap<String, String> {
        let headers = self.properties.headers().iter();
        headers
            .flat_map(FieldTable::inner)
            .filter_map(|(name, value)| match value {
                AMQPValue::LongString(text) => Some((name.to_string(), text.to_string())),
                _ => None,
            })
            .collect()
    }

    /// The body as JSON.
    pub(crate) fn envelope(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("an envelope is JSON")
    }
}

impl Broker {
    pub(crate) async fn shared() -> Self {
        Self::at(&shared()).await
    }

    pub(crate) async fn at(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .unwrap_or_else(|error| panic!("{url}: {error}"));
        Self { connection }
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel")
    }

    /// A durable queue of this type with a name of its own.
    pub(crate) async fn queue(&self, kind: &str) -> String {
        let name = unique("queue");
        self.declare_queue(&name, kind).await;
        name
    }

    /// A durable queue that refuses what comes once it holds so many messages.
    pub(crate) async fn queue_of_at_most(&self, length: i32) -> String {
        let name = unique("queue");
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(length));
        let overflow = AMQPValue::LongString("reject-publish".into());
        arguments.insert("x-overflow".into(), overflow);
        self.declare(&name, arguments).await;
        name
    }

    pub(crate) async fn declare_queue(&self, name: &str, kind: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        self.declare(name, arguments).await;
    }

    async fn declare(&self, name: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.channel()
            .await
            .queue_declare(name.into(), options, arguments)
            .await
            .expect("declare a queue");
    }

    /// A durable topic exchange with a name of its own.
    pub(crate) async fn exchange(&self) -> String {
        let name = unique("exchange");
        self.declare_exchange(&name).await;
        name
    }

    pub(crate) async fn declare_exchange(&self, name: &str) {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let arguments = FieldTable::default();
        self.channel()
            .await
            .exchange_declare(name.into(), ExchangeKind::Topic, options, arguments)
            .await
            .expect("declare an exchange");
    }

    /// With all of its bindings.
    #[allow(dead_code, reason = "for the torture test")]
    pub(crate) async fn delete_exchange(&self, name: &str) {
        self.channel()
            .await
            .exchange_delete(name.into(), ExchangeDeleteOptions::default())
            .await
            .expect("delete an exchange");
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.channel()
            .await
            .queue_bind(
                queue.into(),
                exchange.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("bind a queue");
    }

    /// How many messages a queue holds that no consumer has.
    pub(crate) async fn len(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = self
            .channel()
            .await
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .expect("the queue is there");
        found.message_count()
    }

    /// Takes everything that a queue holds, in its order.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<Delivery> {
        let count = self.len(queue).await as usize;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let channel = self.channel().await;
        let consumer = channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await
            .expect("consume");
        consumer
            .take(count)
            .map(|message| delivery(message.expect("a message")))
            .collect()
            .await
    }

    /// Takes what a queue holds one by one, so that nothing is taken that comes meanwhile and is not returned.
    pub(crate) async fn take(&self, queue: &str) -> Vec<Delivery> {
        let channel = self.channel().await;
        let options = BasicGetOptions { no_ack: true };
        let mut deliveries = Vec::new();
        while let Some(message) = channel
            .basic_get(queue.into(), options)
            .await
            .expect("get a message")
        {
            deliveries.push(delivery(message.delivery));
        }
        deliveries
    }

    /// Waits until a queue holds this many messages, and takes them.
    pub(crate) async fn await_len(
        &self,
        queue: &str,
        count: u32,
        within: Duration,
    ) -> Vec<Delivery> {
        let what = format!("{count} messages in queue {queue}");
        eventually(&what, within, async || {
            (self.len(queue).await >= count).then_some(())
        })
        .await;
        self.drain(queue).await
    }
}

/// The same as all brokers' deliveries are compared, numbered in their order. RabbitMQ doesn't say when it took them.
pub(crate) fn numbered(deliveries: Vec<Delivery>) -> Vec<stream::Delivery> {
    (1..)
        .zip(deliveries)
        .map(|(place, delivery)| stream::Delivery {
            place,
            at: SystemTime::UNIX_EPOCH,
            subject: delivery.routing_key.clone(),
            id: delivery.id,
            headers: Vec::from_iter(delivery.headers()),
            body: delivery.body.into(),
        })
        .collect()
}

/// The message as a test sees it.
pub(crate) fn delivery(message: lapin::message::Delivery) -> Delivery {
    let id = message.properties.message_id().as_ref();
    Delivery {
        id: id
            .and_then(|id| id.as_str().parse().ok())
            .expect("every message has a message_id, a UUID"),
        exchange: message.exchange.to_string(),
        routing_key: message.routing_key.to_string(),
        properties: message.properties,
        body: message.data,
    }
}

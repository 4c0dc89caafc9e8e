//! Where the relay publishes to: a topic, a stream or a queue of the test's own, and what it holds.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::support::eventually::eventually;
use crate::support::kafka::{Broker, Topic};
use crate::support::nats;
use crate::support::rabbitmq::{self, unique};
use crate::support::settings::Settings;
use crate::support::stream::{Delivery, Stream};

/// A place at a broker, with a sink of that broker's name.
pub(super) struct Outlet {
    name: &'static str,
    place: Place,
}

enum Place {
    Kafka {
        topic: Topic,
        /// It may be a mock of the test's own.
        _broker: Option<Broker>,
    },
    Jetstream(Stream),
    Rabbitmq(Queue),
}

impl Outlet {
    /// A topic of the broker that nobody stops.
    pub(super) async fn kafka() -> Self {
        let broker = Broker::any();
        let topic = broker.topic(6, &[]).await;
        let _broker = Some(broker);
        Self::of("kafka", Place::Kafka { topic, _broker })
    }

    /// A topic of a broker at this address.
    pub(super) async fn kafka_at(address: &str) -> Self {
        let topic = Topic::named(address, 6);
        topic.create(&[]).await;
        let _broker = None;
        Self::of("kafka", Place::Kafka { topic, _broker })
    }

    /// A stream of the server that nobody stops.
    pub(super) async fn jetstream() -> Self {
        Self::jetstream_at(&nats::shared()).await
    }

    /// A stream of the server of this URL. It shows what is sent to it twice.
    pub(super) async fn jetstream_at(url: &str) -> Self {
        let stream = Stream::create_forgetful(url).await;
        Self::of("jetstream", Place::Jetstream(stream))
    }

    /// A queue of the broker that nobody stops.
    pub(super) async fn rabbitmq() -> Self {
        let outlet = Self::rabbitmq_at(&rabbitmq::shared()).await;
        outlet.consume().await;
        outlet
    }

    /// A queue of the broker of this URL. Nothing is taken from it before `consume`.
    pub(super) async fn rabbitmq_at(url: &str) -> Self {
        let queue = Queue {
            url: url.to_owned(),
            name: unique("fanout"),
            taken: Arc::default(),
            consumer: Mutex::new(None),
        };
        let broker = rabbitmq::Broker::at(url).await;
        broker.declare_queue(&queue.name, "quorum").await;
        Self::of("rabbitmq", Place::Rabbitmq(queue))
    }

    fn of(name: &'static str, place: Place) -> Self {
        Self { name, place }
    }

    /// Of its sink.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// With a sink that publishes to it, and soon notices an outage.
    pub(super) fn sink(&self, settings: Settings) -> Settings {
        let settings = match &self.place {
            Place::Kafka { topic, .. } => topic.sink_named(self.name, settings),
            Place::Jetstream(stream) => settings.publishing(self.name, stream),
            Place::Rabbitmq(queue) => settings
                .set("sinks.rabbitmq.type", "rabbitmq")
                .set("sinks.rabbitmq.url", queue.url.as_str())
                .set("sinks.rabbitmq.queue", queue.name.as_str())
                .set("sinks.rabbitmq.flush_interval", "200ms"),
        };
        settings.set(&format!("sinks.{}.timeout", self.name), "2s")
    }

    /// Takes from now on what a queue holds, as it comes: only who takes it can say when it came.
    pub(super) async fn consume(&self) {
        if let Place::Rabbitmq(queue) = &self.place {
            queue.consume().await;
        }
    }

    async fn len(&self) -> u64 {
        match &self.place {
            Place::Kafka { topic, .. } => topic.len().await,
            Place::Jetstream(stream) => stream.len().await,
            Place::Rabbitmq(queue) => queue.taken().len() as u64,
        }
    }

    /// Everything that it holds, or held: what has one key is in its order.
    pub(super) async fn deliveries(&self) -> Vec<Delivery> {
        match &self.place {
            Place::Kafka { topic, .. } => topic.deliveries().await,
            Place::Jetstream(stream) => stream.deliveries().await,
            Place::Rabbitmq(queue) => queue.taken(),
        }
    }

    /// Waits until it has all of these ids, or for as long as is given: the checker then says what is missing.
    pub(super) async fn await_ids(&self, ids: &HashSet<Uuid>, within: Duration) {
        let deadline = Instant::now() + within;
        let mut read = 0;
        let what = format!("the events are at {}", self.name);
        eventually(&what, within * 2, async || {
            let len = self.len().await;
            if len >= ids.len() as u64 && len != read {
                read = len;
                let deliveries = self.deliveries().await;
                let seen: HashSet<Uuid> = deliveries.iter().map(|d| d.id).collect();
                if ids.is_subset(&seen) {
                    return Some(());
                }
            }
            (Instant::now() > deadline).then_some(())
        })
        .await;
    }
}

/// A quorum queue, and what was taken from it.
struct Queue {
    url: String,
    name: String,
    taken: Arc<Mutex<Vec<Delivery>>>,
    consumer: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Queue {
    fn taken(&self) -> Vec<Delivery> {
        self.taken.lock().expect("nobody panics with it").clone()
    }

    async fn consume(&self) {
        let broker = rabbitmq::Broker::at(&self.url).await;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let queue = self.name.as_str().into();
        let messages = broker.channel().await;
        let messages = messages.basic_consume(queue, "".into(), options, FieldTable::default());
        let mut messages = messages.await.expect("consume");
        let taken = Arc::clone(&self.taken);
        let task = tokio::spawn(async move {
            // It stays connected for as long as its broker is here.
            let _broker = broker;
            while let Some(message) = messages.next().await {
                let message = rabbitmq::delivery(message.expect("the broker stays"));
                let mut taken = taken.lock().expect("nobody panics with it");
                let place = taken.len() as u64;
                taken.push(Delivery {
                    place,
                    at: SystemTime::now(),
                    subject: message.routing_key.clone(),
                    id: message.id,
                    headers: Vec::from_iter(message.headers()),
                    body: message.body.into(),
                });
            }
        });
        let task = AbortOnDropHandle::new(task);
        *self.consumer.lock().expect("nobody panics with it") = Some(task);
    }
}

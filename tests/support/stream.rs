//! A JetStream stream of a test's own, and what it holds in the end.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures::StreamExt;
use uuid::Uuid;

use super::eventually::{SLOWNESS, eventually};

/// A stream that captures every subject under a prefix of its own. It stays until the server's store is thrown
/// away; its name is never used again.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The server's URL.
    pub(crate) url: String,
    pub(crate) name: String,
}

/// A message of the stream.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// Its place in the stream.
    pub(crate) place: u64,
    /// When the broker took it, by the broker's clock.
    pub(crate) at: SystemTime,
    pub(crate) subject: String,
    /// `Nats-Msg-Id`.
    pub(crate) id: Uuid,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Delivery {
    /// The body as JSON.
    pub(crate) fn envelope(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("an envelope is JSON")
    }

    /// A number of the payload.
    pub(crate) fn number(&self, field: &str) -> i64 {
        self.envelope()["payload"][field]
            .as_i64()
            .expect("a number in the payload")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(given, _)| given == name);
        values.next().map(|(_, value)| value.as_str())
    }
}

impl Stream {
    /// A stream with the server's usual deduplication.
    pub(crate) async fn create(url: &str) -> Self {
        Self::create_with(url, |_| {}).await
    }

    /// One that shows duplicates: its server forgets ids at once.
    pub(crate) async fn create_forgetful(url: &str) -> Self {
        Self::create_with(url, |config| {
            config.duplicate_window = Duration::from_millis(100);
        })
        .await
    }

    /// One with other settings.
    pub(crate) async fn create_with(
        url: &str,
        change: impl FnOnce(&mut jetstream::stream::Config),
    ) -> Self {
        let stream = Self::named(url);
        stream.make(change).await;
        stream
    }

    /// Creates it on its server.
    pub(crate) async fn make(&self, change: impl FnOnce(&mut jetstream::stream::Config)) {
        let mut config = jetstream::stream::Config {
            name: self.name.clone(),
            subjects: vec![self.subject(">")],
            ..Default::default()
        };
        change(&mut config);
        let context = self.context().await;
        context.create_stream(config).await.expect("create stream");
    }

    /// Changes a stream that is there.
    #[allow(dead_code, reason = "for the torture test")]
    pub(crate) async fn change(&self, change: impl FnOnce(&mut jetstream::stream::Config)) {
        let context = self.context().await;
        let stream = context.get_stream(&self.name).await.expect("the stream");
        let mut config = stream.cached_info().config.clone();
        change(&mut config);
        context.update_stream(config).await.expect("change it");
    }

    /// The name of a stream that is not there yet.
    pub(crate) fn named(url: &str) -> Self {
        let name = format!("test-{}", Uuid::new_v4().simple());
        let url = url.to_owned();
        Self { url, name }
    }

    /// A stream that somebody else has created.
    pub(crate) fn existing(url: &str, name: &str) -> Self {
        let (url, name) = (url.to_owned(), name.to_owned());
        Self { url, name }
    }

    /// A subject that the stream captures.
    pub(crate) fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.name)
    }

    async fn context(&self) -> jetstream::Context {
        let mut options = async_nats::ConnectOptions::new();
        let address: async_nats::ServerAddr = self.url.parse().expect("a NATS URL");
        if let (Some(user), Some(password)) = (address.username(), address.password()) {
            // The client takes none from its URL.
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        let client = options.connect(address).await.expect("connect to NATS");
        jetstream::new(client)
    }

    /// How many messages it holds; 0 if it isn't there.
    pub(crate) async fn len(&self) -> u64 {
        match self.context().await.get_stream(&self.name).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        }
    }

    /// Everything that it holds, in its order.
    pub(crate) async fn deliveries(&self) -> Vec<Delivery> {
        let context = self.context().await;
        let stream = context.get_stream(&self.name).await.expect("the stream");
        let state = &stream.cached_info().state;
        if state.messages == 0 {
            return Vec::new();
        }
        let last = state.last_sequence;
        let consumer = stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::All,
                ..Default::default()
            })
            .await
            .expect("create a consumer");
        let mut messages = consumer.messages().await.expect("consume");
        let mut deliveries = Vec::new();
        while let Some(message) = messages.next().await {
            let delivery = delivery(&message.expect("a message"));
            let place = delivery.place;
            deliveries.push(delivery);
            if place >= last {
                break;
            }
        }
        deliveries
    }

    /// Takes out everything that it holds.
    pub(crate) async fn drain(&self) -> Vec<Delivery> {
        let deliveries = self.deliveries().await;
        if let Some(last) = deliveries.last() {
            let context = self.context().await;
            let stream = context.get_stream(&self.name).await.expect("the stream");
            let purge = stream.purge().sequence(last.place + 1);
            purge.await.expect("purge the stream");
        }
        deliveries
    }

    /// Waits until it holds this many messages, and returns them.
    pub(crate) async fn await_len(&self, count: u64, within: Duration) -> Vec<Delivery> {
        let what = format!("{count} messages in the stream");
        eventually(&what, within, async || {
            (self.len().await >= count).then_some(())
        })
        .await;
        self.deliveries().await
    }

    /// Waits until it holds all of these ids, or for as long as is given: the checker then says what is missing.
    pub(crate) async fn await_ids(&self, ids: &HashSet<Uuid>, within: Duration) {
        let deadline = Instant::now() + within * SLOWNESS;
        let mut read = 0;
        eventually("the events are in the stream", within * 2, async || {
            let len = self.len().await;
            // Reading everything is dear: only when there may be enough, and there is something new.
            if len >= ids.len() as u64 && len != read {
                read = len;
                let seen: HashSet<Uuid> = self.deliveries().await.iter().map(|d| d.id).collect();
                if ids.is_subset(&seen) {
                    return Some(());
                }
            }
            (Instant::now() > deadline).then_some(())
        })
        .await;
    }
}

fn delivery(message: &jetstream::Message) -> Delivery {
    let info = message.info().expect("a message from a stream");
    let headers: Vec<(String, String)> = message
        .headers
        .iter()
        .flat_map(async_nats::HeaderMap::iter)
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let id = headers
        .iter()
        .find(|(name, _)| name == "Nats-Msg-Id")
        .and_then(|(_, value)| value.parse().ok())
        .expect("every message carries Nats-Msg-Id, a UUID");
    Delivery {
        place: info.stream_sequence,
        at: info.published.into(),
        subject: message.subject.to_string(),
        id,
        headers,
        body: message.payload.clone(),
    }
}

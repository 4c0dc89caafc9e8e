//! Kafka brokers, and topics of a test's own.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::eventually::{SLOWNESS, eventually};
use super::port;
use super::private_server::PrivateServer;
use super::process::{Process, User, command};
use super::report::report;
use super::settings::Settings;
use super::stream::Delivery;
use super::temporary::TemporaryFolder;

/// What a broker may take to answer a test.
const ANSWER: Duration = Duration::from_secs(30);

/// A broker that nobody stops: the one of `tests/run`, or where Apache Kafka can't be had a mock of the test's own.
#[allow(missing_debug_implementations)] // a mock has none
pub(crate) struct Broker {
    pub(crate) address: String,
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Broker {
    pub(crate) fn any() -> Self {
        if let Ok(address) = std::env::var("OUTBOX_TEST_KAFKA") {
            return Self {
                address,
                mock: None,
            };
        }
        std::env::var("OUTBOX_TEST_KAFKA_FALLBACK").expect(
            "Kafka for the tests is missing: run tests/run, or set OUTBOX_TEST_KAFKA to a broker's host:port",
        );
        report!("librdkafka's mock cluster, not Apache Kafka");
        let mock = MockCluster::new(1).expect("a mock cluster");
        Self {
            address: mock.bootstrap_servers(),
            mock: Some(mock),
        }
    }

    /// A topic with these settings, which a mock does without.
    pub(crate) async fn topic(&self, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        let topic = Topic::named(&self.address, partitions);
        match &self.mock {
            Some(mock) => mock
                .create_topic(&topic.name, partitions, 1)
                .expect("create a topic"),
            None => topic.create(settings).await,
        }
        topic
    }
}

/// The listeners of Apache Kafka, and the files that belong to them.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) ssl: String,
    pub(crate) sasl: String,
    pub(crate) sasl_ssl: String,
    pub(crate) folder: PathBuf,
}

impl Listeners {
    /// `None`, and a line that says so, where only a mock can be had.
    pub(crate) fn real() -> Option<Self> {
        if is_mocked() {
            return None;
        }
        let variable = |name: &str| std::env::var(name).expect(name);
        Some(Self {
            ssl: variable("OUTBOX_TEST_KAFKA_SSL"),
            sasl: variable("OUTBOX_TEST_KAFKA_SASL"),
            sasl_ssl: variable("OUTBOX_TEST_KAFKA_SASL_SSL"),
            folder: variable("OUTBOX_TEST_KAFKA_FOLDER").into(),
        })
    }
}

fn is_mocked() -> bool {
    let mocked = std::env::var("OUTBOX_TEST_KAFKA_FALLBACK").is_ok();
    if mocked {
        report!("NOT TRIED: this needs Apache Kafka, and a mock stands in for it");
    }
    mocked
}

/// Apache Kafka with its own ports and data: to be killed, frozen and restarted.
#[derive(Debug)]
pub(crate) struct PrivateKafka {
    process: Option<Process>,
    ports: [u16; 5],
    folder: TemporaryFolder,
}

impl PrivateKafka {
    /// A running broker; `None`, and a line that says so, where only a mock can be had.
    pub(crate) async fn start() -> Option<Self> {
        if is_mocked() {
            return None;
        }
        let mut broker = Self {
            process: None,
            ports: std::array::from_fn(|_| port::free()),
            folder: TemporaryFolder::new("kafka"),
        };
        broker.start_again().await;
        Some(broker)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }
}

#[async_trait(?Send)]
impl PrivateServer for PrivateKafka {
    fn process(&mut self) -> &mut Option<Process> {
        &mut self.process
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running server")
    }

    async fn start_again(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/broker");
        let jars = std::env::var("OUTBOX_TEST_KAFKA_JARS").expect("the jars' folder");
        let mut command = command(User::Same, script);
        command.arg(jars).arg(self.folder.path());
        command.args(self.ports.map(|port| port.to_string()));
        command.stdout(Stdio::null());
        let mut process = Process::start(&mut command, self.folder.path().join("log"));
        let address = self.address();
        eventually("Kafka starts", Duration::from_secs(120), async || {
            process.assert_running();
            let answer = tokio::net::TcpStream::connect(&address).await;
            answer.is_ok().then_some(())
        })
        .await;
        self.process = Some(process);
    }
}

/// A topic whose name is never used again.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    brokers: String,
    pub(crate) name: String,
    pub(crate) partitions: i32,
}

impl Topic {
    /// One that is not there yet.
    pub(crate) fn named(brokers: &str, partitions: i32) -> Self {
        Self {
            brokers: brokers.to_owned(),
            name: format!("test-{}", Uuid::new_v4().simple()),
            partitions,
        }
    }

    /// Creates it at a real broker, whose clock gives messages their time.
    pub(crate) async fn create(&self, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            self.client().create().expect("an admin client");
        let mut topic = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime");
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(ANSWER));
        let created = admin.create_topics([&topic], &options).await;
        let created = created.expect("an answer about the topic");
        created[0].as_ref().expect("create a topic");
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "tests")
            .set("enable.partition.eof", "true")
            .set("reconnect.backoff.max.ms", "500");
        client
    }

    /// Settings with a sink `events` that publishes to it.
    pub(crate) fn sink(&self, settings: Settings) -> Settings {
        self.sink_named("events", settings)
    }

    /// The same with a sink of this name.
    pub(crate) fn sink_named(&self, name: &str, settings: Settings) -> Settings {
        let key = |key: &str| format!("sinks.{name}.{key}");
        settings
            .set(&key("type"), "kafka")
            .set(&key("brokers"), self.brokers.as_str())
            .set(&key("topic"), self.name.as_str())
            .set(&key("flush_interval"), "200ms")
    }

    /// How many messages it holds.
    pub(crate) async fn len(&self) -> u64 {
        let topic = self.clone();
        let counting = move || {
            let consumer: BaseConsumer = topic.client().create().expect("a consumer");
            let count = |partition| {
                let marks = consumer.fetch_watermarks(&topic.name, partition, ANSWER);
                marks.map_or(0, |(low, high)| high.abs_diff(low))
            };
            (0..topic.partitions).map(count).sum()
        };
        tokio::task::spawn_blocking(counting)
            .await
            .expect("no panic")
    }

    /// Everything that it holds: each partition in its order, one after the other.
    pub(crate) async fn deliveries(&self) -> Vec<Delivery> {
        let topic = self.clone();
        tokio::task::spawn_blocking(move || topic.read())
            .await
            .expect("no panic")
    }

    fn read(&self) -> Vec<Delivery> {
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..self.partitions {
            partitions
                .add_partition_offset(&self.name, partition, Offset::Beginning)
                .expect("a partition");
        }
        consumer.assign(&partitions).expect("assigned");
        let deadline = Instant::now() + 2 * ANSWER;
        let mut read: HashMap<i32, Vec<Delivery>> = HashMap::new();
        let mut ends = HashSet::new();
        while ends.len() < self.partitions.unsigned_abs() as usize {
            assert!(
                Instant::now() < deadline,
                "{} was not read to its end",
                self.name
            );
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let partition = read.entry(message.partition()).or_default();
                    partition.push(delivery(&message));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ends.insert(partition);
                }
                Some(Err(_)) | None => {}
            }
        }
        (0..self.partitions)
            .flat_map(|partition| read.remove(&partition).unwrap_or_default())
            .collect()
    }

    /// Waits until it holds all of these ids, or for as long as is given: the checker then says what is missing.
    pub(crate) async fn await_ids(&self, ids: &HashSet<Uuid>, within: Duration) -> Vec<Delivery> {
        let deadline = Instant::now() + within * SLOWNESS;
        eventually("the events are in the topic", within * 2, async || {
            if self.len().await < ids.len() as u64 && Instant::now() < deadline {
                return None;
            }
            let deliveries = self.deliveries().await;
            let seen: HashSet<Uuid> = deliveries.iter().map(|delivery| delivery.id).collect();
            (ids.is_subset(&seen) || Instant::now() > deadline).then_some(deliveries)
        })
        .await
    }
}

fn delivery(message: &BorrowedMessage<'_>) -> Delivery {
    let headers: Vec<(String, String)> = message
        .headers()
        .into_iter()
        .flat_map(|headers| headers.iter())
        .map(|header| {
            let value = header.value.expect("a value");
            let value = String::from_utf8(value.to_vec()).expect("text");
            (header.key.to_owned(), value)
        })
        .collect();
    let id = headers
        .iter()
        .find(|(name, _)| name == "id")
        .and_then(|(_, value)| value.parse().ok())
        .expect("every message carries its id, a UUID as text");
    let millis = message.timestamp().to_millis().expect("a time");
    let since = Duration::from_millis(millis.unsigned_abs());
    Delivery {
        place: message.offset().unsigned_abs(),
        at: SystemTime::UNIX_EPOCH + since,
        subject: message.topic().to_owned(),
        id,
        headers,
        body: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }
}

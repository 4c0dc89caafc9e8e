//! The sink against librdkafka's mock cluster, a server of the protocol inside this process that fails as told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tower::Service as _;

use super::{KafkaSink, connect};
use crate::config::{Contents, Kafka, Secret};
use crate::error::{Meaning, PublishError};
use crate::event::Event;
use crate::fixture;
use crate::sink::{Destination, Message};

const TOPIC: &str = "events";
const PARTITIONS: i32 = 3;
/// Slow machines get there too.
const DEADLINE: Duration = Duration::from_secs(60);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(brokers: i32) -> Cluster {
    let cluster = MockCluster::new(brokers).expect("a mock cluster");
    cluster.create_topic(TOPIC, PARTITIONS, 1).expect("a topic");
    cluster
}

fn config(brokers: String, options: &[(&str, &str)]) -> Kafka {
    Kafka {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        auth: None,
        tls: None,
        options: options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::new(*value)))
            .collect(),
        option_files: Contents::default(),
    }
}

async fn sink(cluster: &Cluster, options: &[(&str, &str)]) -> KafkaSink {
    let config = config(cluster.bootstrap_servers(), options);
    connect(&config, "a test").await.expect("connected")
}

/// The event `seq` of one of seven keys.
fn message(topic: &str, seq: i64) -> Message {
    let event = fixture::keyed(seq, &format!("key-{}", seq % 7));
    let body = format!("{{\"seq\":{seq}}}");
    Message {
        event,
        destination: Destination::Name(topic.to_owned()),
        ..fixture::message(uuid::Uuid::nil(), body)
    }
}

type Outcome = (i64, Result<(), PublishError>);

/// Hands all over at once, in their order, and then hears what became of each, as the pump does.
async fn send(sink: &mut KafkaSink, messages: impl IntoIterator<Item = Message>) -> Vec<Outcome> {
    let sent: Vec<_> = messages
        .into_iter()
        .map(|message| (message.event.seq, sink.call(message)))
        .collect();
    let mut outcomes = Vec::new();
    for (seq, answer) in sent {
        let answer = tokio::time::timeout(DEADLINE, answer).await;
        outcomes.push((seq, answer.expect("an answer")));
    }
    outcomes
}

fn failed(outcomes: &[Outcome], meaning: Meaning) -> Vec<i64> {
    let is_it = |outcome: &&Outcome| matches!(&outcome.1, Err(error) if error.meaning() == meaning);
    outcomes.iter().filter(is_it).map(|(seq, _)| *seq).collect()
}

/// Sends as the pipeline does: after an outage, once all have ended, from the first that was not acknowledged.
/// Returns the rejected ones.
async fn deliver(sink: &mut KafkaSink, seqs: impl IntoIterator<Item = i64>) -> Vec<i64> {
    let deadline = Instant::now() + DEADLINE;
    let mut left: Vec<i64> = seqs.into_iter().collect();
    let mut rejected = Vec::new();
    while !left.is_empty() {
        assert!(Instant::now() < deadline, "{} are left", left.len());
        let outcomes = send(sink, left.iter().map(|seq| message(TOPIC, *seq))).await;
        rejected.extend(failed(&outcomes, Meaning::Rejected));
        left = failed(&outcomes, Meaning::Unavailable);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rejected
}

/// Sends so that there are always some in flight, and goes back to the first that failed once all have ended.
async fn stream(sink: &mut KafkaSink, first: i64, last: i64) {
    let deadline = Instant::now() + DEADLINE;
    let (mut next, mut failed, mut sent) = (first, None, VecDeque::new());
    loop {
        while failed.is_none() && sent.len() < 50 && next <= last {
            sent.push_back((next, sink.call(message(TOPIC, next))));
            next += 1;
        }
        if let Some((seq, answer)) = sent.pop_front() {
            if answer.await.is_err() {
                failed.get_or_insert(seq);
            }
        } else if let Some(seq) = failed.take() {
            assert!(Instant::now() < deadline, "{seq} is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
            next = seq;
        } else {
            return;
        }
    }
}

/// Messages as consumers see them, in each partition's order, until the ends of all partitions.
fn consumed(cluster: &Cluster) -> Vec<(i32, rdkafka::message::OwnedMessage)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "checker")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions
            .add_partition_offset(TOPIC, partition, Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&partitions).expect("assigned");
    let deadline = Instant::now() + DEADLINE;
    let (mut messages, mut ends) = (Vec::new(), 0);
    while ends < PARTITIONS {
        assert!(Instant::now() < deadline, "not all was consumed");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => messages.push((message.partition(), message.detach())),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(_)) | None => {}
        }
    }
    messages
}

/// Asserts that consumers see each of these at least once, and the first deliveries of each key in order.
fn assert_complete(cluster: &Cluster, expected: impl IntoIterator<Item = i64>) {
    let messages = tokio::task::block_in_place(|| consumed(cluster));
    let mut of_key: BTreeMap<Vec<u8>, Vec<i64>> = BTreeMap::new();
    for (_, message) in messages {
        let body = message.payload().expect("a body");
        let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        let seq = body["seq"].as_i64().expect("a number");
        let key = of_key
            .entry(message.key().expect("a key").to_vec())
            .or_default();
        if !key.contains(&seq) {
            key.push(seq);
        }
    }
    let mut seen: Vec<i64> = Vec::new();
    for (key, seqs) in of_key {
        assert!(
            seqs.is_sorted(),
            "{}: {seqs:?}",
            String::from_utf8_lossy(&key)
        );
        seen.extend(seqs);
    }
    seen.sort_unstable();
    assert_eq!(seen, expected.into_iter().collect::<Vec<_>>());
}

/// Has the broker find a gap in the sequence numbers. The client has one request ready behind the one that fails, and
/// sends it: a real broker, which counts, refuses that too.
fn lose_sequence(cluster: &Cluster) {
    let gap = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[gap, gap]);
}

/// What was left of that, if nothing was ready.
fn find_sequence(cluster: &Cluster) {
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_the_clients_business() {
    use RDKafkaRespErr::*;
    let cluster = cluster(2);
    let mut sink = sink(&cluster, &[]).await;
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RD_KAFKA_RESP_ERR__TRANSPORT,
            RD_KAFKA_RESP_ERR_NO_ERROR,
            RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        ],
    );
    let outcomes = send(&mut sink, (1..=2_000).map(|seq| message(TOPIC, seq))).await;
    assert!(outcomes.iter().all(|(_, answer)| answer.is_ok()));
    assert_complete(&cluster, 1..=2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_sequence_is_an_outage_and_a_new_producer_goes_on() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[("batch.num.messages", "10")]).await;
    assert!(deliver(&mut sink, 1..=50).await.is_empty());
    lose_sequence(&cluster);
    let outcomes = send(&mut sink, (51..=500).map(|seq| message(TOPIC, seq))).await;
    find_sequence(&cluster);
    let away = failed(&outcomes, Meaning::Unavailable);
    assert!(!away.is_empty());
    assert!(deliver(&mut sink, away).await.is_empty());
    assert!(deliver(&mut sink, 501..=600).await.is_empty());
    assert_complete(&cluster, 1..=600);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_over_behind_a_failure_fails_too_until_all_have_heard_of_it() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[("batch.num.messages", "10")]).await;
    assert!(deliver(&mut sink, 1..=50).await.is_empty());
    lose_sequence(&cluster);
    // Long enough for the next producer, and longer: nobody listens to answers meanwhile.
    let mut unheard = Vec::new();
    for seq in 51..=1_000 {
        unheard.push((seq, sink.call(message(TOPIC, seq))));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut failed = std::collections::BTreeSet::new();
    for (seq, answer) in unheard {
        match answer.await {
            Ok(()) => assert!(
                !failed.contains(&(seq % 7)),
                "{seq} went before one of its key"
            ),
            Err(_) => {
                failed.insert(seq % 7);
            }
        }
    }
    assert!(!failed.is_empty());
    find_sequence(&cluster);
    assert!(deliver(&mut sink, 1_001..=1_010).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_loses_nothing() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[]).await;
    assert!(deliver(&mut sink, 1..=10).await.is_empty());
    cluster.broker_down(1).expect("down");
    let waiting = tokio::spawn({
        let mut sink = sink.clone();
        async move { send(&mut sink, (11..=100).map(|seq| message(TOPIC, seq))).await }
    });
    // They wait in the client: the length of an outage.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    cluster.broker_up(1).expect("up");
    let outcomes = waiting.await.expect("no panic");
    assert!(outcomes.iter().all(|(_, answer)| answer.is_ok()));
    assert_complete(&cluster, 1..=100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_ends_with_the_sink() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[]).await;
    assert!(deliver(&mut sink, [1]).await.is_empty());
    cluster.broker_down(1).expect("down");
    let waiting: Vec<_> = (2..20)
        .map(|seq| tokio::spawn(sink.call(message(TOPIC, seq))))
        .collect();
    drop(sink);
    for answer in waiting {
        let answer = tokio::time::timeout(DEADLINE, answer)
            .await
            .expect("an end");
        let error = answer.expect("no panic").expect_err("not published");
        assert_eq!(error.meaning(), Meaning::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_back_is_not_published_when_the_broker_is_back() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[]).await;
    assert!(deliver(&mut sink, 1..=10).await.is_empty());
    cluster.broker_down(1).expect("down");
    let recall = sink.recall();
    let waiting: Vec<_> = (11..=100)
        .map(|seq| sink.call(message(TOPIC, seq)))
        .collect();
    recall();
    for answer in waiting {
        let answer = tokio::time::timeout(DEADLINE, answer).await;
        let error = answer.expect("an end").expect_err("not published");
        assert_eq!(error.meaning(), Meaning::Unavailable);
    }
    cluster.broker_up(1).expect("up");
    assert!(deliver(&mut sink, 101..=110).await.is_empty());
    assert_complete(&cluster, (1..=10).chain(101..=110));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable_and_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let error = connect(&config(address, &[]), "a test")
        .await
        .expect_err("nobody");
    assert!(error.is_transient());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_of_debezium_find_what_they_expect() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[]).await;
    // What the Java client's murmur2 makes of these keys, of three partitions.
    let known = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
    ];
    let keyed = known.iter().zip(1..).map(|((key, _), seq)| Message {
        event: Arc::new(Event {
            aggregate_id: Some((*key).to_owned()),
            ..(*fixture::keyed(seq, "")).clone()
        }),
        ..message(TOPIC, seq)
    });
    let outcomes = send(&mut sink, keyed.collect::<Vec<_>>()).await;
    assert!(outcomes.iter().all(|(_, answer)| answer.is_ok()));
    let messages = tokio::task::block_in_place(|| consumed(&cluster));
    assert_eq!(messages.len(), 3);
    for (partition, message) in messages {
        let key = std::str::from_utf8(message.key().expect("a key")).expect("text");
        let (_, hash) = known
            .iter()
            .find(|(known, _)| *known == key)
            .expect("known");
        assert_eq!(partition, (hash & 0x7fff_ffff) % PARTITIONS, "{key}");
        let header = message.headers().expect("headers").get(0);
        assert_eq!(header.key, "id");
        assert_eq!(header.value.map(<[u8]>::len), Some(36));
    }
}

mod refused;

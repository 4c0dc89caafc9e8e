//! What brokers and the client refuse: which of the messages it was, and what becomes of the others.

use super::*;

const TOO_LARGE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;

/// Hands all over at once to a broker that refuses the first batch, and what the client has ready behind it as well,
/// for a broker that has seen batches of a producer takes none behind a gap.
async fn send_refused(
    cluster: &Cluster,
    sink: &mut KafkaSink,
    refusal: RDKafkaRespErr,
    messages: impl IntoIterator<Item = Message>,
) -> Vec<Outcome> {
    cluster.request_errors(RDKafkaApiKey::Produce, &[refusal, refusal]);
    let outcomes = send(sink, messages).await;
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_topic_rejects_its_own_messages_only() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[("batch.num.messages", "1")]).await;
    assert!(deliver(&mut sink, 1..=10).await.is_empty());
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let outcomes = send(&mut sink, [message(TOPIC, 11)]).await;
    assert_eq!(failed(&outcomes, Meaning::Rejected), [11]);
    // For a while nobody is asked again, and so no broker has answered.
    let outcomes = send(&mut sink, [message(TOPIC, 12)]).await;
    assert_eq!(failed(&outcomes, Meaning::Invalid), [12]);
    cluster.create_topic("others", 1, 1).expect("a topic");
    let deadline = Instant::now() + DEADLINE;
    while !failed(
        &send(&mut sink, [message("others", 13)]).await,
        Meaning::Unavailable,
    )
    .is_empty()
    {
        assert!(Instant::now() < deadline, "no new producer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_refused_shows_which_message_it_was() {
    // Brokers that don't name the record give each message of its batch the last two as well.
    for refusal in [
        TOO_LARGE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
    ] {
        let cluster = cluster(1);
        let mut sink = sink(&cluster, &[("linger.ms", "50")]).await;
        assert!(deliver(&mut sink, 1..=5).await.is_empty());
        // Refused with others: nobody is rejected.
        let messages = (6..=200).map(|seq| message(TOPIC, seq));
        let outcomes = send_refused(&cluster, &mut sink, refusal, messages).await;
        let left = failed(&outcomes, Meaning::Unavailable);
        assert_eq!(left, (6..=200).collect::<Vec<_>>(), "{refusal:?}");
        assert!(deliver(&mut sink, left).await.is_empty());
        assert_complete(&cluster, 1..=200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shares_a_refused_batch_is_innocent_however_large() {
    let cluster = cluster(1);
    // Three of them are a batch.
    let mut sink = sink(&cluster, &[("batch.size", "100000"), ("linger.ms", "50")]).await;
    let large = |seq: i64| Message {
        event: fixture::keyed(seq, "key"),
        body: vec![b'x'; 30_000].into(),
        ..message(TOPIC, seq)
    };
    let outcomes = send_refused(&cluster, &mut sink, TOO_LARGE, (1..=6).map(large)).await;
    assert_eq!(failed(&outcomes, Meaning::Rejected), [0; 0]);
    assert_eq!(failed(&outcomes, Meaning::Unavailable), [1, 2, 3, 4, 5, 6]);
    // The next producer sends each alone, and what is refused then is meant.
    cluster.request_errors(RDKafkaApiKey::Produce, &[TOO_LARGE]);
    let deadline = Instant::now() + DEADLINE;
    let mut rejected = Vec::new();
    while rejected.is_empty() {
        assert!(Instant::now() < deadline, "no new producer");
        let outcomes = send(&mut sink, (1..=6).map(large)).await;
        rejected = failed(&outcomes, Meaning::Rejected);
    }
    assert_eq!(rejected, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_sent_again_once_many_messages_were_taken_alone() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[("linger.ms", "50")]).await;
    let messages = (1..=20).map(|seq| message(TOPIC, seq));
    send_refused(&cluster, &mut sink, TOO_LARGE, messages).await;
    assert!(deliver(&mut sink, 1..=20).await.is_empty());
    assert!(sink.line.0.doubts().are_there());
    // The change of producers comes in the middle of them.
    stream(&mut sink, 21, 2_000).await;
    let deadline = Instant::now() + DEADLINE;
    while sink.line.0.doubts().are_there() {
        assert!(Instant::now() < deadline, "no producer that sends batches");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(deliver(&mut sink, 2_001..=2_100).await.is_empty());
    assert_complete(&cluster, 1..=2_100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_takes_nothing_holds_up_no_change_of_producers() {
    let cluster = cluster(1);
    cluster.create_topic("stuck", 1, 1).expect("a topic");
    cluster
        .partition_leader("stuck", 0, None)
        .expect("no leader");
    let mut sink = sink(&cluster, &[("linger.ms", "50")]).await;
    let messages = (1..=20).map(|seq| message(TOPIC, seq));
    send_refused(&cluster, &mut sink, TOO_LARGE, messages).await;
    assert!(deliver(&mut sink, 1..=20).await.is_empty());
    let stuck = tokio::spawn(sink.call(message("stuck", 1)));
    // Behind it comes the change to the producer that sends batches again.
    stream(&mut sink, 21, 2_000).await;
    let answer = stuck.await.expect("no panic");
    assert_eq!(
        answer.expect_err("given up").meaning(),
        Meaning::Unavailable
    );
    assert_complete(&cluster, 1..=2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_client_finds_too_large_fails_alone() {
    let cluster = cluster(1);
    let mut sink = sink(&cluster, &[("message.max.bytes", "1000")]).await;
    let large = |seq: i64| Message {
        body: vec![b'x'; 2_000].into(),
        ..message(TOPIC, seq)
    };
    let messages = (1..=100).map(|seq| {
        if seq % 10 == 0 {
            large(seq)
        } else {
            message(TOPIC, seq)
        }
    });
    let outcomes = send(&mut sink, messages).await;
    let tens: Vec<i64> = (10..=100).step_by(10).collect();
    assert_eq!(failed(&outcomes, Meaning::Invalid), tens);
    assert!(failed(&outcomes, Meaning::Unavailable).is_empty());
    assert_complete(&cluster, (1..=100).filter(|seq| seq % 10 != 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_a_rejection() {
    let cluster = cluster(1);
    let patience = ("topic.metadata.propagation.max.ms", "300");
    let mut sink = sink(&cluster, &[patience]).await;
    cluster
        .topic_error(
            "missing",
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        )
        .expect("an error");
    let outcomes = send(&mut sink, [message("missing", 1), message(TOPIC, 2)]).await;
    assert_eq!(failed(&outcomes, Meaning::Rejected), [1]);
    assert!(failed(&outcomes, Meaning::Unavailable).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_key_goes_behind_a_producers_very_first_batch_until_that_was_taken() {
    let cluster = cluster(1);
    let options = [("batch.num.messages", "2"), ("linger.ms", "50")];
    let mut sink = sink(&cluster, &options).await;
    // Once: what the client has ready behind it is taken, as by a broker that has nothing of this producer yet.
    cluster.request_errors(RDKafkaApiKey::Produce, &[TOO_LARGE]);
    let one_key = (1..=20).map(|seq| message(TOPIC, 7 * seq));
    let outcomes = send(&mut sink, one_key).await;
    let left = failed(&outcomes, Meaning::Unavailable);
    assert!(deliver(&mut sink, left).await.is_empty());
    assert_complete(&cluster, (1..=20).map(|seq| 7 * seq));
}

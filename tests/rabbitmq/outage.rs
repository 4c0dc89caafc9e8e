//! What the sink makes of a broker that dies, hangs, or blocks publishers; TLS and permissions.

use std::fs;
use std::time::{Duration, Instant};

use futures::future::join_all;
use outbox_relay::config::{Secret, Tls};
use outbox_relay::error::{Meaning, PublishError};
use outbox_relay::sink::Message;
use outbox_relay::sink::connect::ConnectError;
use outbox_relay::sink::rabbitmq::{RabbitmqSink, connect, probe};
use tokio::time::timeout;
use tower::ServiceExt;

use super::{config, connected, message, publish, refusal};
use crate::support::certs::Authority;
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::private_server::PrivateServer;
use crate::support::proxy::{ELSEWHERE, Proxy};
use crate::support::rabbitmq::Broker;

/// Well below what a heartbeat or a timeout would take.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What the pipeline's timeout layer makes of a publish.
async fn attempt(sink: &RabbitmqSink, message: &Message) -> Result<(), PublishError> {
    timeout(AT_ONCE, sink.clone().oneshot(message.clone()))
        .await
        .unwrap_or_else(|_| Err(PublishError::unavailable("no answer in time")))
}

/// Publishes until it succeeds; every failure on the way must be an outage. Returns the failures.
async fn publish_through_outage(sink: &RabbitmqSink, message: &Message) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut failures = Vec::new();
    while let Err(error) = attempt(sink, message).await {
        assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
        assert!(Instant::now() < deadline, "still {}", error.chain());
        failures.push(error.chain());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    failures
}

/// Every one is acknowledged, or it is an outage.
fn assert_outages(results: &[Result<(), PublishError>]) {
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_lose_nothing_and_end_by_themselves() {
    let mut server = PrivateRabbitmq::start("").await;
    let broker = Broker::at(&server.url()).await;
    let queue = broker.queue("quorum").await;
    let sink = connected(&config(&server.url())).await;
    let messages: Vec<Message> = (0..300).map(|_| message("", &queue, 100)).collect();
    publish_through_outage(&sink, &messages[0]).await;

    blocked(&server, &sink, &messages[1]).await;

    // Closed by an operator, with publishes in flight.
    let in_flight = async {
        let mut results = Vec::new();
        for _ in 0..20 {
            results.extend(join_all(messages.iter().map(|m| attempt(&sink, m))).await);
        }
        results
    };
    let closing = async {
        tokio::task::block_in_place(|| server.control(&["close_all_connections", "a test"]));
    };
    let (results, ()) = tokio::join!(in_flight, closing);
    assert_outages(&results);
    publish_through_outage(&sink, &messages[2]).await;

    frozen(&server, &sink, &messages).await;
    killed(&mut server, &sink, &messages).await;

    let broker = Broker::at(&server.url()).await;
    let seen = broker.drain(&queue).await;
    for message in &messages {
        assert!(seen.iter().any(|delivery| delivery.id == message.id()));
    }
}

/// A memory alarm is an outage that says what it is.
async fn blocked(server: &PrivateRabbitmq, sink: &RabbitmqSink, message: &Message) {
    let watermark = |value: &str| {
        tokio::task::block_in_place(|| server.control(&["set_vm_memory_high_watermark", value]));
    };
    watermark("0.0000001");
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        // The broker says so to those that publish.
        let result = attempt(sink, message).await;
        assert_outages(std::slice::from_ref(&result));
        if result.is_err_and(|error| {
            error
                .chain()
                .contains("RabbitMQ blocks publishers: low on memory")
        }) {
            break;
        }
        assert!(Instant::now() < deadline, "never blocked");
    }
    watermark("0.6");
    publish_through_outage(sink, message).await;
}

/// What is in flight can be given up; the sink works when the broker does.
async fn frozen(server: &PrivateRabbitmq, sink: &RabbitmqSink, messages: &[Message]) {
    server.freeze().await;
    let results = join_all(messages.iter().map(|m| attempt(sink, m))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 0);
    assert_outages(&results);
    server.thaw();
    for message in messages {
        publish_through_outage(sink, message).await;
    }
}

/// All in flight fail at once, and further calls too.
async fn killed(server: &mut PrivateRabbitmq, sink: &RabbitmqSink, messages: &[Message]) {
    server.freeze().await;
    let calls = join_all(messages.iter().map(|m| publish(sink, m.clone())));
    let mut in_flight = Box::pin(calls);
    assert!(futures::poll!(&mut in_flight).is_pending());
    server.kill().await;
    let results = timeout(AT_ONCE, in_flight).await.expect("nobody waits");
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 0);
    assert_outages(&results);
    let attempt = refusal(sink, messages[0].clone());
    let (meaning, chain) = timeout(AT_ONCE, attempt).await.expect("fails at once");
    assert_eq!(meaning, Meaning::Unavailable, "{chain}");
    server.start_again().await;
    for message in messages {
        publish_through_outage(sink, message).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_permissions() {
    let authority = Authority::new();
    let certificate = authority.issue("broker");
    let client = authority.issue("relay");
    let stranger = Authority::new();
    let port = crate::support::port::free();
    let folder = crate::support::temporary::TemporaryFolder::new("rabbitmq-tls");
    let copy = |from: &std::path::Path, name: &str| {
        // The broker's user must be able to read them.
        let path = folder.path().join(name);
        fs::write(&path, fs::read(from).expect("read")).expect("copy");
        path
    };
    let extra = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\n\
         ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true",
        copy(&authority.ca(), "ca.pem").display(),
        copy(&certificate.cert, "cert.pem").display(),
        copy(&certificate.key, "key.pem").display(),
    );
    let server = PrivateRabbitmq::start(&extra).await;
    let broker = Broker::at(&server.url()).await;
    let queue = broker.queue("classic").await;
    let mut encrypted = config(&format!("amqp://localhost:{port}"));
    encrypted.encrypted = true;
    let files = |ca: &Authority| Tls {
        ca: Some(ca.ca()),
        client: Some((client.cert.clone(), client.key.clone())),
        ..Tls::default()
    };
    encrypted.tls = Some(files(&authority));
    let sink = connected(&encrypted).await;
    publish(&sink, message("", &queue, 100_000))
        .await
        .expect("taken");
    assert_eq!(broker.await_len(&queue, 1, AT_ONCE).await.len(), 1);

    encrypted.tls = Some(files(&stranger));
    let error = connect(&encrypted, "test").await.expect_err("a stranger");
    let text = outbox_relay::error::chain(&error);
    assert!(
        error.is_transient() && text.contains("certificate"),
        "{text}"
    );
    let proxy = Proxy::elsewhere(&format!("127.0.0.1:{port}")).await;
    let mut other_name = config(&format!("amqp://{ELSEWHERE}:{}", proxy.port));
    other_name.encrypted = true;
    other_name.tls = Some(files(&authority));
    let error = connect(&other_name, "test")
        .await
        .expect_err("no name of it");
    let text = outbox_relay::error::chain(&error);
    assert!(
        error.is_transient() && text.contains("certificate"),
        "{text}"
    );
    encrypted.tls = Some(Tls {
        client: None,
        ..files(&authority)
    });
    connect(&encrypted, "test")
        .await
        .expect_err("the broker wants a certificate");
    let nowhere = folder.path().join("nowhere.pem");
    encrypted.tls = Some(Tls {
        ca: Some(nowhere),
        ..Tls::default()
    });
    let error = probe(&encrypted, &[]).await.expect_err("no such file");
    assert!(
        matches!(error, ConnectError::Config { key: "tls.ca", .. }),
        "{error:?}"
    );

    permissions(&server, &broker, &queue).await;
}

/// A user who may not write to an exchange: those events are rejected, others flow.
async fn permissions(server: &PrivateRabbitmq, broker: &Broker, queue: &str) {
    let exchange = broker.exchange().await;
    tokio::task::block_in_place(|| {
        server.control(&["add_user", "relay", "s3cret"]);
        server.control(&["set_permissions", "relay", "^$", "^amq\\.default$", "^$"]);
    });
    let mut limited = config(&server.url());
    limited.user = "relay".to_owned();
    limited.password = Secret::new("s3cret");
    let sink = connected(&limited).await;
    for _ in 0..3 {
        publish(&sink, message("", queue, 1)).await.expect("taken");
        let refused = publish(&sink, message(&exchange, "k", 1)).await;
        let error = refused.expect_err("not allowed");
        assert_eq!(error.meaning(), Meaning::Rejected, "{}", error.chain());
        assert!(
            error.chain().contains("access to exchange"),
            "{}",
            error.chain()
        );
    }
    limited.declare.queues = vec!["mine".to_owned()];
    limited.declare.quorum = true;
    let error = connect(&limited, "test").await.expect_err("not allowed");
    assert!(
        matches!(error, ConnectError::Config { key: "declare", .. }),
        "{error:?}"
    );
}

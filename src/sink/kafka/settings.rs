//! What librdkafka is told.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::config::{Kafka, KafkaMechanism};
use crate::sink::connect::ConnectError;

/// What `[….options]` may override.
const DEFAULTS: [(&str, &str); 10] = [
    // What the Java client does, and with it everything that Debezium's consumers expect.
    ("partitioner", "murmur2_random"),
    // Requests to one broker at a time. A broker checks the order of a producer's batches from the first that it has
    // stored in the partition: if it refuses a producer's very first (too large, too few replicas), it may take what
    // is in flight behind it. Batches fill meanwhile: five at a time were a quarter faster, with a broker next door.
    // Not enough by itself: the client has the next one ready behind a small one, and sends that even after a fatal
    // error (`firsts.rs`).
    ("max.in.flight", "1"),
    // The client waits this long for company before it sends a batch. While a request is on its way the next batch
    // fills anyway, so waiting buys little and costs each lone event its latency.
    ("linger.ms", "0"),
    // A topic that is created at its first event shows within a second or two; one that isn't there by then is a
    // rejection. The client's own default is 30 s.
    ("topic.metadata.propagation.max.ms", "10000"),
    // A broker that restarts is back in seconds: the client's 10 s would add to the outage.
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "1000"),
    // A dead connection shows by itself, even if nothing is sent.
    ("socket.keepalive.enable", "true"),
    // Connections are closed by brokers after ten idle minutes: no news.
    ("log.connection.close", "false"),
    // The authorities of the system, wherever it keeps them; without this a client with an OpenSSL of its own
    // finds none.
    ("ssl.ca.location", "probe"),
    // Small requests that wait for the one before would wait for its acknowledgement.
    ("socket.nagle.disable", "true"),
];

/// What the relay's promises rest on. The configuration refuses these in `[….options]`.
const PROMISES: [(&str, &str); 6] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // Never: a message that is given up comes back behind its successors.
    ("message.timeout.ms", "0"),
    // A message that fails stops the producer, before one behind it can succeed.
    ("enable.gapless.guarantee", "true"),
    // `max_in_flight` and `max_in_flight_bytes` bound what the client holds.
    ("queue.buffering.max.messages", "0"),
    ("queue.buffering.max.kbytes", "2147483647"),
];

/// Makes the client's configuration.
pub(super) struct Settings {
    config: Kafka,
    client_name: String,
}

impl Settings {
    pub(super) fn new(config: &Kafka, client_name: &str) -> Self {
        Self {
            config: config.clone(),
            client_name: client_name.to_owned(),
        }
    }

    /// The configuration of a producer. `alone`: each message is a batch of its own.
    pub(super) fn client(&self, alone: bool) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set_log_level(RDKafkaLogLevel::Info);
        client.set("client.id", client_id(&self.client_name));
        for (name, value) in DEFAULTS {
            client.set(name, value);
        }
        for (name, value) in &self.config.options {
            client.set(name, value.expose());
        }
        if alone {
            client.set("batch.num.messages", "1");
        }
        client.set("bootstrap.servers", self.config.brokers.join(","));
        self.secure(&mut client);
        for (name, value) in PROMISES {
            client.set(name, value);
        }
        client
    }

    /// Encryption and authentication.
    fn secure(&self, client: &mut ClientConfig) {
        let Kafka { tls, auth, .. } = &self.config;
        let protocol = match (tls, auth) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(tls) = tls {
            if let Some(ca) = &tls.ca {
                client.set("ssl.ca.location", ca.to_string_lossy());
            }
            if let Some((certificate, key)) = &tls.client {
                client.set("ssl.certificate.location", certificate.to_string_lossy());
                client.set("ssl.key.location", key.to_string_lossy());
            }
        }
        if let Some(auth) = auth {
            let mechanism = match auth.mechanism {
                KafkaMechanism::Plain => "PLAIN",
                KafkaMechanism::ScramSha256 => "SCRAM-SHA-256",
                KafkaMechanism::ScramSha512 => "SCRAM-SHA-512",
            };
            client.set("sasl.mechanism", mechanism);
            client.set("sasl.username", auth.user.as_str());
            client.set("sasl.password", auth.password.expose());
        }
    }
}

/// Brokers show it in their logs and quotas; Kafka wants no spaces in it.
fn client_id(name: &str) -> String {
    name.replace(' ', "-")
}

/// Why the client refuses its settings, by the key that they come from.
pub(super) fn refused_setting(error: KafkaError) -> ConnectError {
    let text = match &error {
        // The error itself would show the setting's value.
        KafkaError::ClientConfig(_, _, name, _) => format!("librdkafka refuses {name}"),
        KafkaError::ClientCreation(reason) => reason.trim().to_owned(),
        other => other.to_string(),
    };
    let files = [
        ("ssl.ca.location", "tls.ca"),
        ("ssl.certificate.location", "tls.cert"),
        ("ssl.key.location", "tls.key"),
    ];
    let file = files.iter().find(|(setting, _)| text.contains(setting));
    ConnectError::config(file.map_or("options", |(_, key)| key), text)
}

//! What is tortured: a database, brokers behind bad networks, relays, and the writers who know the truth.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::kafka::{PrivateKafka, Topic};
use crate::support::nats::PrivateNats;
use crate::support::postgres::PrivatePostgres;
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::process::Signal;
use crate::support::proxy::{Proxy, Weather};
use crate::support::rabbitmq::{self, unique};
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::{Delivery, Stream};
use crate::support::writers::{Load, Record, Writers};

/// Until every sink has everything.
const CONVERGENCE: Duration = Duration::from_secs(90);

/// How many relays stand by for one another when nothing is wrong.
const RELAYS: usize = 2;

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    pub(crate) rabbitmq: Rabbitmq,
    /// Not where only a mock can be had, which has no process to torture.
    pub(crate) kafka: Option<Kafka>,
    pub(crate) relays: Relays,
}

pub(crate) struct Postgres {
    pub(crate) server: PrivatePostgres,
    /// Between it and the relays; writers go straight.
    pub(crate) network: Proxy,
    pub(crate) url: String,
}

pub(crate) struct Nats {
    pub(crate) server: PrivateNats,
    pub(crate) network: Proxy,
    stream: Stream,
}

pub(crate) struct Rabbitmq {
    pub(crate) server: PrivateRabbitmq,
    pub(crate) network: Proxy,
    queue: String,
}

pub(crate) struct Kafka {
    pub(crate) server: PrivateKafka,
    topic: Topic,
}

/// Relays that share one configuration.
pub(crate) struct Relays {
    pub(crate) settings: Settings,
    pub(crate) running: Vec<Relay>,
}

impl World {
    pub(crate) async fn build() -> Self {
        let server = PrivatePostgres::start(&[]).await;
        let database = Database::fresh_on(&server.url()).await;
        let network = Proxy::before(&format!("127.0.0.1:{}", server.port)).await;
        let postgres = Postgres {
            url: database.url.clone(),
            server,
            network,
        };
        let server = PrivateNats::start("").await;
        let nats = Nats {
            network: Proxy::before(&format!("127.0.0.1:{}", server.port)).await,
            stream: Stream::create_forgetful(&server.url()).await,
            server,
        };
        let server = PrivateRabbitmq::start("").await;
        let rabbitmq = Rabbitmq {
            network: Proxy::before(&format!("127.0.0.1:{}", server.port)).await,
            queue: unique("torture"),
            server,
        };
        let kafka = match PrivateKafka::start().await {
            Some(server) => {
                let topic = Topic::named(&server.address(), 4);
                topic.create(&[]).await;
                Some(Kafka { server, topic })
            }
            None => None,
        };
        let settings = settings(&database, &postgres, &nats, &rabbitmq, kafka.as_ref());
        // Straight: this waits for the command, and the proxy runs on the same thread.
        let straight = settings
            .clone()
            .set("sources.main.url", database.url.as_str());
        migrate(&straight);
        let mut relays = Relays {
            settings,
            running: Vec::new(),
        };
        for _ in 0..RELAYS {
            relays.running.push(Relay::ready(&relays.settings).await);
        }
        Self {
            database,
            postgres,
            nats,
            rabbitmq,
            kafka,
            relays,
        }
    }

    /// Starts the writers.
    pub(crate) async fn write(&self, seed: u64) -> Writers {
        let load = Load {
            writers: 8,
            keys: 200,
            pause: Duration::from_millis(20),
            large_every: 1_000,
            held: Duration::from_secs(10),
            seed,
            ..Load::default()
        };
        Writers::start(&self.database, load).await
    }

    /// When all faults are over: ends the writers, and waits until the ledger of every sink has everything.
    pub(crate) async fn calm(&mut self, writers: Writers) -> Record {
        for network in [
            &self.postgres.network,
            &self.nats.network,
            &self.rabbitmq.network,
        ] {
            network.set(Weather::default());
        }
        let mut record = writers.stop().await;
        record.settle(&self.database).await;
        for sink in self.sinks() {
            let missing = format!(
                "SELECT count(*) FROM outbox WHERE NOT seq <@ \
                 (SELECT delivered FROM outbox_ledger WHERE sink = '{sink}')"
            );
            let what = format!("the ledger of {sink} has everything");
            eventually(&what, CONVERGENCE, async || {
                for relay in &mut self.relays.running {
                    assert!(relay.exited().is_none(), "a relay ended by itself");
                }
                (self.database.value::<i64>(&missing).await == 0).then_some(())
            })
            .await;
        }
        record
    }

    /// The names of the sinks that are compared with the record.
    pub(crate) fn sinks(&self) -> Vec<&'static str> {
        let kafka = self.kafka.is_some().then_some("kafka");
        ["jetstream", "rabbitmq"].into_iter().chain(kafka).collect()
    }

    /// What each broker holds.
    pub(crate) async fn deliveries(&self) -> BTreeMap<&'static str, Vec<Delivery>> {
        let broker = rabbitmq::Broker::at(&self.rabbitmq.server.url()).await;
        let mut all = BTreeMap::from([
            ("jetstream", self.nats.stream.deliveries().await),
            (
                "rabbitmq",
                rabbitmq::numbered(broker.drain(&self.rabbitmq.queue).await),
            ),
        ]);
        if let Some(kafka) = &self.kafka {
            all.insert("kafka", kafka.topic.deliveries().await);
        }
        all
    }
}

impl Relays {
    /// Starts one more, which need not get ready: what it needs may be down.
    pub(crate) fn start(&mut self) {
        self.running.push(Relay::start(&self.settings));
    }

    /// The most that one of them had in memory, in MiB.
    pub(crate) fn memory(&self) -> u64 {
        let peaks = self.running.iter().filter_map(Relay::memory);
        peaks.max().unwrap_or_default()
    }

    /// Gives all of them another configuration.
    pub(crate) fn reload(&self, toml: &Settings) {
        for relay in &self.running {
            relay.rewrite(toml);
            relay.signal(Signal::HangUp);
        }
    }

    /// The same with text that may be no configuration.
    pub(crate) fn reload_as(&self, toml: &str) {
        for relay in &self.running {
            relay.rewrite_as(toml);
            relay.signal(Signal::HangUp);
        }
    }
}

fn settings(
    database: &Database,
    postgres: &Postgres,
    nats: &Nats,
    rabbitmq: &Rabbitmq,
    kafka: Option<&Kafka>,
) -> Settings {
    let amqp = format!("amqp://127.0.0.1:{}", rabbitmq.network.port);
    let settings = Settings::of_url(&database.url_through(postgres.network.port))
        .set("sources.main.mode", "notify")
        .set("sources.main.fallback_interval", "5s")
        .set("sinks.jetstream.type", "jetstream")
        .set(
            "sinks.jetstream.url",
            format!("nats://127.0.0.1:{}", nats.network.port),
        )
        .set(
            "sinks.jetstream.subject",
            nats.stream.subject("{event_type}"),
        )
        .set("sinks.rabbitmq.type", "rabbitmq")
        .set("sinks.rabbitmq.url", amqp)
        .set("sinks.rabbitmq.queue", rabbitmq.queue.as_str())
        .set("sinks.rabbitmq.declare.queues", rabbitmq.queue.as_str());
    let settings = match kafka {
        Some(kafka) => settings
            .set("sinks.kafka.type", "kafka")
            .set("sinks.kafka.brokers", kafka.server.address())
            .set("sinks.kafka.topic", kafka.topic.name.as_str()),
        None => settings,
    };
    let mut patient = settings;
    for sink in ["jetstream", "rabbitmq", "kafka"] {
        if sink == "kafka" && kafka.is_none() {
            continue;
        }
        patient = patient
            .set(&format!("sinks.{sink}.timeout"), "2s")
            .set(&format!("sinks.{sink}.flush_interval"), "200ms")
            .set(&format!("sinks.{sink}.retry.initial_delay"), "50ms")
            .set(&format!("sinks.{sink}.retry.max_delay"), "1s")
            // An outage that burnt one attempt would be a dead letter.
            .set(&format!("sinks.{sink}.retry.max_retries"), 0);
    }
    patient
}

//! What is tortured: a database, brokers behind bad networks, relays, and the writers who know the truth.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::pooled::{self, Pooled};
use crate::support::database::Database;
use crate::support::kafka::{PrivateKafka, Topic};
use crate::support::nats::PrivateNats;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::PrivatePostgres;
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::process::Signal;
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::{self, unique};
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::{Delivery, Stream};
use crate::support::writers::{Load, Record, Writers};
use crate::watch::Watch;

/// How long nothing may arrive anywhere before all sinks have everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes note of a stored ledger that lacks what it had: only a command may take something out.
const WATCH: &str = "CREATE TABLE forgotten (sink text); \
    CREATE FUNCTION note_forgotten() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN INSERT INTO forgotten VALUES (OLD.sink); RETURN NEW; END $$; \
    CREATE TRIGGER note_forgotten BEFORE UPDATE ON outbox_ledger FOR EACH ROW \
    WHEN (NOT OLD.delivered <@ NEW.delivered) EXECUTE FUNCTION note_forgotten()";

/// How many relays stand by for one another when nothing is wrong.
const RELAYS: usize = 2;

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    pub(crate) rabbitmq: Option<Rabbitmq>,
    /// Not where only a mock can be had, which has no process to torture.
    pub(crate) kafka: Option<Kafka>,
    /// Not without Kafka.
    pub(crate) pooled: Option<Pooled>,
    pub(crate) pooler: Option<PgBouncer>,
    pub(crate) relays: Relays,
    /// Looks at what writers wait for.
    pub(crate) watch: Watch,
    /// How long nothing may arrive anywhere before every sink has everything.
    pub(crate) patience: Duration,
    /// What was taken out of the ledger of `jetstream`: it must come again.
    pub(crate) replayed: Vec<Uuid>,
}

/// Who is there beside PostgreSQL and NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brokers {
    All,
    #[cfg_attr(not(feature = "sabotage"), allow(dead_code))]
    Rabbitmq,
    #[cfg_attr(not(feature = "sabotage"), allow(dead_code))]
    None,
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
    /// What they do wrong, if this is to be noticed.
    sabotage: &'static str,
}

impl World {
    pub(crate) async fn build(brokers: Brokers, sabotage: &'static str) -> Self {
        let server = PrivatePostgres::start(&[]).await;
        let database = Database::fresh_on(&server.url()).await;
        let network = Proxy::before(&format!("127.0.0.1:{}", server.port)).await;
        let postgres = Postgres {
            url: database.url.clone(),
            server,
            network,
        };
        let server = PrivateNats::start(&pooled::permissions(None)).await;
        let nats = Nats {
            network: Proxy::before(&format!("127.0.0.1:{}", server.port)).await,
            stream: Stream::create_forgetful(&server.url()).await,
            server,
        };
        let rabbitmq = match brokers {
            Brokers::None => None,
            _ => Some(Rabbitmq::start().await),
        };
        let kafka = match brokers {
            Brokers::All => Kafka::start().await,
            _ => None,
        };
        let mut settings = settings(
            &database,
            &postgres,
            &nats,
            rabbitmq.as_ref(),
            kafka.as_ref(),
        );
        let mut pooler = None;
        let mut pooled = None;
        if let (Some(rabbitmq), Some(kafka)) = (&rabbitmq, &kafka) {
            let topic = Topic::named(&kafka.server.address(), 4);
            let sinks = Pooled::make(&nats.server, &rabbitmq.server, &topic).await;
            let before = PgBouncer::before(&database.url).await;
            let ports = (nats.network.port, rabbitmq.network.port);
            settings = sinks.settings(settings, &database, &before, ports);
            for sink in [pooled::JETSTREAM, pooled::RABBITMQ, pooled::KAFKA] {
                settings = impatient(settings, sink);
            }
            (pooler, pooled) = (Some(before), Some(sinks));
        }
        // Straight: this waits for the command, and the proxy runs on the same thread.
        let straight = settings
            .clone()
            .set("sources.main.url", database.url.as_str());
        migrate(&straight);
        database.execute(WATCH).await;
        let mut relays = Relays {
            settings,
            running: Vec::new(),
            sabotage,
        };
        for _ in 0..RELAYS {
            relays.start();
        }
        for relay in &mut relays.running {
            relay.await_ready().await;
        }
        Self {
            watch: Watch::start(&database),
            database,
            postgres,
            nats,
            rabbitmq,
            kafka,
            pooled,
            pooler,
            relays,
            patience: PATIENCE,
            replayed: Vec::new(),
        }
    }

    /// Starts the writers. Some of their transactions are held open for as long as `held`, and lock their keys.
    pub(crate) async fn write(&self, seed: u64, held: Duration) -> Writers {
        let load = Load {
            writers: 8,
            keys: 200,
            pause: Duration::from_millis(20),
            large_every: 1_000,
            held,
            seed,
            ..Load::default()
        };
        Writers::start(&self.database, load).await
    }

    /// When all faults are over: ends the writers, and waits until the ledger of every sink has everything.
    pub(crate) async fn calm(&mut self, writers: Writers) -> Record {
        let mut record = writers.stop().await;
        record.take_back(&self.database).await;
        record.settle(&self.database).await;
        self.settled().await;
        if self.pooled.is_some() {
            let straight = self.relays.settings.clone();
            let straight = straight.set("sources.main.url", self.database.url.as_str());
            record.excused = pooled::retry(&self.database, &straight).await;
            self.settled().await;
        }
        record
    }

    /// Waits until the ledger of every sink has everything. If they never have, the verdict says what is missing.
    async fn settled(&mut self) {
        let mut least = i64::MAX;
        let mut progress = Instant::now();
        while progress.elapsed() < self.patience {
            let unsettled = self.unsettled().await;
            if unsettled == 0 {
                break;
            }
            if unsettled < least {
                least = unsettled;
                progress = Instant::now();
            }
            for relay in &mut self.relays.running {
                assert!(relay.exited().is_none(), "a relay ended by itself");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Events that the stored ledgers lack, of all sinks together.
    pub(crate) async fn unsettled(&self) -> i64 {
        self.database
            .value(
                "SELECT count(*) FROM outbox, outbox_ledger \
                 WHERE sink <> 'extra' AND NOT seq <@ delivered",
            )
            .await
    }

    /// What each broker holds.
    pub(crate) async fn deliveries(&self) -> BTreeMap<&'static str, Vec<Delivery>> {
        let mut all = BTreeMap::from([("jetstream", self.nats.stream.deliveries().await)]);
        if let Some(Rabbitmq { server, queue, .. }) = &self.rabbitmq {
            let broker = rabbitmq::Broker::at(&server.url()).await;
            all.insert("rabbitmq", rabbitmq::numbered(broker.drain(queue).await));
        }
        if let Some(kafka) = &self.kafka {
            all.insert("kafka", kafka.topic.deliveries().await);
        }
        if let (Some(pooled), Some(rabbitmq)) = (&self.pooled, &self.rabbitmq) {
            pooled.deliveries(&rabbitmq.server, &mut all).await;
        }
        all
    }
}

impl Relays {
    /// Starts one more, which need not get ready: what it needs may be down.
    pub(crate) fn start(&mut self) {
        self.running.push(self.another());
    }

    /// One that is not among those that are to run.
    pub(crate) fn another(&self) -> Relay {
        Relay::start_with(&self.settings, &[("OUTBOX_SABOTAGE", self.sabotage)])
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

impl Rabbitmq {
    async fn start() -> Self {
        let server = PrivateRabbitmq::start("").await;
        Self {
            network: Proxy::before(&format!("127.0.0.1:{}", server.port)).await,
            queue: unique("torture"),
            server,
        }
    }

    fn sink(&self, settings: Settings) -> Settings {
        let url = format!("amqp://127.0.0.1:{}", self.network.port);
        let queue = self.queue.as_str();
        settings
            .set("sinks.rabbitmq.type", "rabbitmq")
            .set("sinks.rabbitmq.url", url)
            .set("sinks.rabbitmq.queue", queue)
            .set("sinks.rabbitmq.declare.queues", queue)
    }
}

impl Kafka {
    async fn start() -> Option<Self> {
        let server = PrivateKafka::start().await?;
        let topic = Topic::named(&server.address(), 4);
        topic.create(&[]).await;
        Some(Self { server, topic })
    }

    fn sink(&self, settings: Settings) -> Settings {
        settings
            .set("sinks.kafka.type", "kafka")
            .set("sinks.kafka.brokers", self.server.address())
            .set("sinks.kafka.topic", self.topic.name.as_str())
    }
}

fn settings(
    database: &Database,
    postgres: &Postgres,
    nats: &Nats,
    rabbitmq: Option<&Rabbitmq>,
    kafka: Option<&Kafka>,
) -> Settings {
    let settings = Settings::of_url(&database.url_through(postgres.network.port))
        .set("sources.main.mode", "notify")
        .set("sources.main.fallback_interval", "5s")
        // The janitor at work as well; marked rows stay, so that tests can compare.
        .set("sources.main.after_delivery", "mark")
        .set("sinks.jetstream.type", "jetstream")
        .set(
            "sinks.jetstream.url",
            format!("nats://127.0.0.1:{}", nats.network.port),
        )
        .set(
            "sinks.jetstream.subject",
            nats.stream.subject("{event_type}"),
        );
    let mut sinks = vec!["jetstream"];
    let mut patient = settings;
    if let Some(rabbitmq) = rabbitmq {
        patient = rabbitmq.sink(patient);
        sinks.push("rabbitmq");
    }
    if let Some(kafka) = kafka {
        patient = kafka.sink(patient);
        sinks.push("kafka");
    }
    for sink in sinks {
        patient = impatient(patient, sink).set(&format!("sinks.{sink}.inputs"), vec!["main"]);
    }
    patient
}

/// With short delays, and no second attempt.
fn impatient(settings: Settings, sink: &str) -> Settings {
    settings
        .set(&format!("sinks.{sink}.timeout"), "2s")
        .set(&format!("sinks.{sink}.flush_interval"), "200ms")
        .set(&format!("sinks.{sink}.retry.initial_delay"), "50ms")
        .set(&format!("sinks.{sink}.retry.max_delay"), "1s")
        // An outage that burnt one attempt would be a dead letter.
        .set(&format!("sinks.{sink}.retry.max_retries"), 0)
}

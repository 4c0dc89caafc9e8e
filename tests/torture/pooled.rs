//! A second source on the same table, polled through PgBouncer, and sinks whose destinations go missing or are forbidden,
//! and are mended under load. What was refused meanwhile is a dead letter, and is retried when all is well again.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use crate::support::database::Database;
use crate::support::kafka::{PrivateKafka, Topic};
use crate::support::nats::PrivateNats;
use crate::support::pgbouncer::PgBouncer;
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::rabbitmq::{self, Broker, unique};
use crate::support::relay::run;
use crate::support::settings::Settings;
use crate::support::stream::{Delivery, Stream};

/// The source and its sinks.
pub(crate) const SOURCE: &str = "pooled";
pub(crate) const JETSTREAM: &str = "pooled-jetstream";
pub(crate) const RABBITMQ: &str = "pooled-rabbitmq";
pub(crate) const KAFKA: &str = "pooled-kafka";

/// The user of NATS that permissions are taken from; everybody else needs none.
const USER: &str = "pooled";

/// The destinations.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub(crate) stream: Stream,
    pub(crate) exchange: Exchange,
    pub(crate) topic: LateTopic,
}

/// An exchange that comes and goes, before a queue that stays.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    name: String,
    queue: String,
}

/// A topic that is not there at first. Not one that goes: its messages would go with it.
#[derive(Debug, Clone)]
pub(crate) struct LateTopic {
    topic: Topic,
}

/// What the server of NATS allows: that user may publish anything but for `denied`.
pub(crate) fn permissions(denied: Option<&str>) -> String {
    let denied = denied.unwrap_or("none.whatever");
    format!(
        "authorization {{ users: [ {{ user: anybody, password: p }}, {{ user: {USER}, password: p, \
         permissions: {{ publish: {{ allow: \">\", deny: \"{denied}\" }}, subscribe: \">\" }} }} ] }}\n\
         no_auth_user: anybody\n"
    )
}

impl Pooled {
    pub(crate) async fn make(nats: &PrivateNats, broker: &PrivateRabbitmq, kafka: &Topic) -> Self {
        let exchange = Exchange {
            name: unique("pooled"),
            queue: unique("pooled"),
        };
        let connection = Broker::at(&broker.url()).await;
        connection.declare_queue(&exchange.queue, "quorum").await;
        exchange.declare(broker).await;
        Self {
            stream: Stream::create_forgetful(&nats.url()).await,
            exchange,
            topic: LateTopic {
                topic: kafka.clone(),
            },
        }
    }

    /// With that source, read through `pooler`, and with those sinks beside the others.
    pub(crate) fn settings(
        &self,
        settings: Settings,
        database: &Database,
        pooler: &PgBouncer,
        (nats, rabbitmq): (u16, u16),
    ) -> Settings {
        let mut settings = settings.reading(SOURCE, &database.url_through(pooler.port));
        for sink in [JETSTREAM, RABBITMQ, KAFKA] {
            settings = settings.set(&format!("sinks.{sink}.inputs"), vec![SOURCE]);
        }
        let Exchange { name, .. } = &self.exchange;
        let settings = settings
            .set("sinks.pooled-jetstream.type", "jetstream")
            .set(
                "sinks.pooled-jetstream.url",
                format!("nats://127.0.0.1:{nats}"),
            )
            .set(
                "sinks.pooled-jetstream.subject",
                self.stream.subject("{event_type}"),
            )
            .set("sinks.pooled-jetstream.auth.user", USER)
            .set("sinks.pooled-jetstream.auth.password", "p")
            .set("sinks.pooled-rabbitmq.type", "rabbitmq")
            .set(
                "sinks.pooled-rabbitmq.url",
                format!("amqp://127.0.0.1:{rabbitmq}"),
            )
            .set("sinks.pooled-rabbitmq.exchange", name.as_str())
            .set("sinks.pooled-rabbitmq.routing_key", "event.{event_type}");
        self.topic.topic.sink_named(KAFKA, settings)
    }

    /// What each of the sinks has delivered.
    pub(crate) async fn deliveries(
        &self,
        broker: &PrivateRabbitmq,
        into: &mut BTreeMap<&'static str, Vec<Delivery>>,
    ) {
        into.insert(JETSTREAM, self.stream.deliveries().await);
        let broker = Broker::at(&broker.url()).await;
        let drained = broker.drain(&self.exchange.queue).await;
        into.insert(RABBITMQ, rabbitmq::numbered(drained));
        into.insert(KAFKA, self.topic.topic.deliveries().await);
    }
}

impl Exchange {
    pub(crate) async fn declare(&self, broker: &PrivateRabbitmq) {
        let broker = Broker::at(&broker.url()).await;
        broker.declare_exchange(&self.name).await;
        broker.bind(&self.queue, &self.name, "#").await;
    }

    pub(crate) async fn delete(&self, broker: &PrivateRabbitmq) {
        let broker = Broker::at(&broker.url()).await;
        broker.delete_exchange(&self.name).await;
    }

    /// Whether anybody may publish to it.
    pub(crate) async fn allow(&self, broker: &PrivateRabbitmq, allowed: bool) {
        let write = match allowed {
            true => ".*".to_owned(),
            false => format!("^(?!{}$).*", self.name),
        };
        let arguments = ["set_permissions", "guest", ".*", &write, ".*"];
        broker.control_aside(&arguments).await;
    }
}

impl LateTopic {
    pub(crate) async fn create(&self, _running: &PrivateKafka) {
        self.topic.create(&[]).await;
    }
}

/// Has every dead letter of that source, but for those of odd events, delivered again; returns the events that they
/// were of.
pub(crate) async fn retry(database: &Database, settings: &Settings) -> HashSet<Uuid> {
    let refused = "SELECT coalesce(array_agg(DISTINCT event_id), '{}') FROM outbox_dead_letter \
                   WHERE source = 'pooled' AND event_type = 'Counted'";
    let refused: Vec<Uuid> = database.value(refused).await;
    // The command takes them out of a ledger, which a relay never does.
    database
        .execute("ALTER TABLE outbox_ledger DISABLE TRIGGER note_forgotten")
        .await;
    let command = [
        "dead-letters",
        "retry",
        "--source",
        SOURCE,
        "--type",
        "Counted",
    ];
    let ended = run(settings, &command);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    refused.into_iter().collect()
}

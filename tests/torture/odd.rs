//! Events that a broker refuses, or that something between writer and broker could stumble over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use rand::Rng;
use rand::rngs::StdRng;
use sqlx::Row as _;
use uuid::Uuid;

use crate::pooled;
use crate::support::database::{Database, connect};
use crate::support::stream::Delivery;

/// What marks them, in `aggregate_type`.
const MARK: &str = "odd";

/// What NATS and Kafka take unless they are told otherwise is about 1 MB; RabbitMQ takes 128 MiB. Room for the envelope
/// is left on either side.
const FITTING: Range<usize> = 100_000..900_000;
const TOO_LARGE: Range<usize> = 1_200_000..10_000_000;

/// The types of events whose only oddity is their size.
const FITS: &str = "OddFits";
const LARGE: &str = "OddLarge";

/// One of them.
#[derive(Debug)]
pub(crate) struct Odd {
    pub(crate) name: &'static str,
    event_type: &'static str,
    key: Option<&'static str>,
    payload: String,
    /// Instead of the payload, one of so many bytes.
    size: Option<Range<usize>>,
    headers: &'static str,
}

/// All kinds of them.
pub(crate) fn kinds() -> Vec<Odd> {
    let odd = |name| Odd {
        name,
        event_type: "Odd",
        key: Some("odd"),
        payload: r#"{"counter":0}"#.to_owned(),
        size: None,
        headers: "{}",
    };
    vec![
        Odd {
            event_type: FITS,
            size: Some(FITTING),
            ..odd("a large payload")
        },
        Odd {
            event_type: LARGE,
            size: Some(TOO_LARGE),
            ..odd("a payload of up to 10 MB")
        },
        Odd {
            payload: r#"{"nul":"\u0000","lone":"\ud800"}"#.to_owned(),
            ..odd("escapes of what is no text")
        },
        Odd {
            headers: r#"{"note":"two\nlines\r\n\r\nand more"}"#,
            ..odd("a header of several lines")
        },
        Odd {
            headers: r#"{"CC":"elsewhere","Nats-Msg-Id":"mine"}"#,
            ..odd("headers that mean something to brokers")
        },
        Odd {
            event_type: "Odd *.> type",
            ..odd("a type that is no subject")
        },
        Odd {
            event_type: "Odd.\u{e9}\u{1f600}",
            ..odd("a type that is not ASCII")
        },
        Odd {
            key: Some(""),
            ..odd("an empty key")
        },
        Odd {
            key: Some("a b.*>#\n"),
            ..odd("a key with blanks and wildcards")
        },
        Odd {
            key: None,
            ..odd("no key")
        },
    ]
}

impl Odd {
    /// Draws its size, if it has one.
    pub(crate) fn drawn(&self, random: &mut StdRng) -> String {
        match &self.size {
            Some(size) => {
                let size = random.random_range(size.clone());
                format!(r#"{{"blob":"{}"}}"#, "x".repeat(size))
            }
            None => self.payload.clone(),
        }
    }

    /// Writes it, if the server is there.
    pub(crate) async fn write(&self, url: &str, payload: &str) {
        let Ok(mut connection) = connect(url).await else {
            return;
        };
        let insert = "INSERT INTO outbox (event_type, aggregate_type, aggregate_id, payload, headers) \
                      VALUES ($1, $2, $3, $4::text::json, $5::text::jsonb)";
        let query = sqlx::query(insert).bind(self.event_type).bind(MARK);
        let query = query.bind(self.key).bind(payload).bind(self.headers);
        // It may be killed meanwhile.
        drop(query.execute(&mut connection).await);
    }
}

/// What became of them: they are whatever the table has of them in the end.
pub(crate) struct Oddities {
    /// With their types.
    ids: HashMap<Uuid, String>,
    /// Dead letters of each sink.
    dead: BTreeMap<String, HashSet<Uuid>>,
}

impl Oddities {
    pub(crate) async fn of(database: &Database) -> Self {
        let mut connection = database.connect().await;
        let ids: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT id, event_type FROM outbox WHERE aggregate_type = $1")
                .bind(MARK)
                .fetch_all(&mut connection)
                .await
                .expect("read the outbox");
        let rows = sqlx::query("SELECT sink, event_id FROM outbox_dead_letter")
            .fetch_all(&mut connection)
            .await
            .expect("read the dead letters");
        let mut dead: BTreeMap<String, HashSet<Uuid>> = BTreeMap::new();
        for row in rows {
            dead.entry(row.get(0)).or_default().insert(row.get(1));
        }
        Self {
            ids: ids.into_iter().collect(),
            dead,
        }
    }

    /// Dead letters of events that nothing is wrong with.
    pub(crate) fn innocent(&self) -> usize {
        let dead = self.dead.values().flatten();
        dead.filter(|id| !self.ids.contains_key(id)).count()
    }

    /// Those that `sink` neither got nor refused.
    pub(crate) fn lost(&self, sink: &str, deliveries: &[Delivery]) -> usize {
        let delivered: HashSet<Uuid> = deliveries.iter().map(|delivery| delivery.id).collect();
        let dead = self.dead.get(sink);
        let is_known =
            |id: &&Uuid| delivered.contains(*id) || dead.is_some_and(|dead| dead.contains(*id));
        self.ids.keys().filter(|id| !is_known(id)).count()
    }

    /// Those that `sink` judged by another limit than its broker's: what fits was refused, or what doesn't was not, or
    /// the one of a broker without such a limit was refused.
    pub(crate) fn misjudged(&self, sink: &str) -> usize {
        // Where destinations go missing anything may be refused; what is too large for the broker must be.
        let limited = sink != "rabbitmq" && sink != pooled::RABBITMQ;
        let is_reliable = !sink.starts_with(pooled::SOURCE);
        let dead = self.dead.get(sink);
        let is_misjudged = |(id, event_type): &(&Uuid, &String)| {
            let dead = dead.is_some_and(|dead| dead.contains(*id));
            match event_type.as_str() {
                FITS => dead && is_reliable,
                LARGE if limited => !dead,
                LARGE => dead && is_reliable,
                _ => false,
            }
        };
        self.ids.iter().filter(is_misjudged).count()
    }

    /// The deliveries of all others. Not by the ids: a fail-over may have taken some back.
    pub(crate) fn without(deliveries: &[Delivery]) -> Vec<Delivery> {
        let ordinary = br#""eventType":"Counted""#;
        let is_ordinary = |delivery: &&Delivery| {
            let mut pieces = delivery.body.windows(ordinary.len());
            pieces.any(|piece| piece == ordinary)
        };
        deliveries.iter().filter(is_ordinary).cloned().collect()
    }
}

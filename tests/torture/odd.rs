//! Events that a broker refuses, or that something between writer and broker could stumble over.

use std::collections::{BTreeMap, HashSet};

use sqlx::Row as _;
use uuid::Uuid;

use crate::support::database::{Database, connect};
use crate::support::stream::Delivery;

/// What marks them, in `aggregate_type`.
const MARK: &str = "odd";

/// Larger than what NATS and Kafka take unless they are told otherwise.
const TOO_LARGE: usize = 2 << 20;

/// One of them.
#[derive(Debug)]
pub(crate) struct Odd {
    pub(crate) name: &'static str,
    event_type: &'static str,
    key: Option<&'static str>,
    payload: String,
    headers: &'static str,
}

/// All kinds of them.
pub(crate) fn kinds() -> Vec<Odd> {
    let odd = |name| Odd {
        name,
        event_type: "Odd",
        key: Some("odd"),
        payload: r#"{"counter":0}"#.to_owned(),
        headers: "{}",
    };
    vec![
        Odd {
            payload: format!(r#"{{"blob":"{}"}}"#, "x".repeat(TOO_LARGE)),
            ..odd("a payload that is too large for some")
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
    /// Writes it, if the server is there.
    pub(crate) async fn write(&self, url: &str) {
        let Ok(mut connection) = connect(url).await else {
            return;
        };
        let insert = "INSERT INTO outbox (event_type, aggregate_type, aggregate_id, payload, headers) \
                      VALUES ($1, $2, $3, $4::text::json, $5::text::jsonb)";
        let query = sqlx::query(insert).bind(self.event_type).bind(MARK);
        let query = query.bind(self.key).bind(&self.payload).bind(self.headers);
        // It may be killed meanwhile.
        drop(query.execute(&mut connection).await);
    }
}

/// What became of them: they are whatever the table has of them in the end.
pub(crate) struct Oddities {
    ids: HashSet<Uuid>,
    /// Dead letters of each sink.
    dead: BTreeMap<String, HashSet<Uuid>>,
}

impl Oddities {
    pub(crate) async fn of(database: &Database) -> Self {
        let mut connection = database.connect().await;
        let ids = sqlx::query_scalar("SELECT id FROM outbox WHERE aggregate_type = $1")
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
        dead.filter(|id| !self.ids.contains(id)).count()
    }

    /// Those that `sink` neither got nor refused.
    pub(crate) fn lost(&self, sink: &str, deliveries: &[Delivery]) -> usize {
        let delivered: HashSet<Uuid> = deliveries.iter().map(|delivery| delivery.id).collect();
        let dead = self.dead.get(sink);
        let is_known =
            |id: &&Uuid| delivered.contains(*id) || dead.is_some_and(|dead| dead.contains(*id));
        self.ids.iter().filter(|id| !is_known(id)).count()
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

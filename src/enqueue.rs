//! Writing events: the application's side of the outbox.
//!
//! Any language writes an event with one `INSERT` in the transaction of the business rows. For Rust with sqlx
//! there is [`enqueue`]:
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn pick(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! use outbox_relay::{NewEvent, enqueue};
//!
//! let mut tx = pool.begin().await?;
//! // First the lock on the aggregate: events of one key are then committed in the order of their inserts.
//! sqlx::query("SELECT FROM draft WHERE id = $1 FOR UPDATE").bind("draft-1").execute(&mut *tx).await?;
//! sqlx::query("INSERT INTO pick (draft_id, player) VALUES ($1, $2)")
//!     .bind("draft-1").bind("J. Chase").execute(&mut *tx).await?;
//! let event = NewEvent::new("PickMade", &serde_json::json!({"player": "J. Chase"}))?.key("draft-1");
//! enqueue(&mut tx, &event).await?;
//! tx.commit().await?;
//! # Ok(())
//! # }
//! ```

use serde::Serialize;
#[cfg(feature = "postgres")]
use uuid::Uuid;

/// An event to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened.
    pub event_type: String,
    /// The kind of thing it happened to.
    pub aggregate_type: Option<String>,
    /// The ordering key.
    pub aggregate_id: Option<String>,
    /// JSON text.
    pub payload: String,
    /// Header names and values, which travel with the message.
    pub headers: Vec<(String, String)>,
}

impl NewEvent {
    /// An event without key or headers.
    ///
    /// # Errors
    /// If `payload` can't be written as JSON.
    pub fn new(
        event_type: impl Into<String>,
        payload: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            event_type: event_type.into(),
            aggregate_type: None,
            aggregate_id: None,
            payload: serde_json::to_string(payload)?,
            headers: Vec::new(),
        })
    }

    /// Events of one key are delivered in the order in which they are committed.
    #[must_use]
    pub fn key(mut self, aggregate_id: impl Into<String>) -> Self {
        self.aggregate_id = Some(aggregate_id.into());
        self
    }

    /// The kind of thing it happened to.
    #[must_use]
    pub fn aggregate_type(mut self, aggregate_type: impl Into<String>) -> Self {
        self.aggregate_type = Some(aggregate_type.into());
        self
    }

    /// A header that travels with the message, `traceparent` for example.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Inserts `event` into the table `outbox` with the statements of the transaction `tx`, and returns its id: it is
/// published if `tx` commits, and never heard of if it doesn't.
///
/// The id is a version 7 UUID. For a table of another name or shape write the `INSERT` yourself.
///
/// # Errors
/// If the database refuses the event: the table is missing, or the role may not insert into it.
#[cfg(feature = "postgres")]
pub async fn enqueue(tx: &mut sqlx::PgConnection, event: &NewEvent) -> Result<Uuid, sqlx::Error> {
    let id = Uuid::now_v7();
    let headers =
        (!event.headers.is_empty()).then(|| crate::source::headers::headers_json(&event.headers));
    sqlx::query(
        "INSERT INTO outbox (id, event_type, aggregate_type, aggregate_id, payload, headers) \
         VALUES ($1, $2, $3, $4, $5::text::json, $6::text::jsonb)",
    )
    .bind(id)
    .bind(&event.event_type)
    .bind(&event.aggregate_type)
    .bind(&event.aggregate_id)
    .bind(&event.payload)
    .bind(headers)
    .execute(tx)
    .await?;
    Ok(id)
}

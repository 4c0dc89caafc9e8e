//! Writing events, for `outbox-relay emit`.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::link::{Link, limited};
use super::sql::Names;
use crate::config;
use crate::enqueue::NewEvent;
use crate::source::headers::headers_json;
use crate::source::{EventWriter, SourceError};

const INSERT: &str = "cannot insert the event";

/// Inserts events into an outbox table.
#[derive(Debug)]
pub struct Writer {
    link: Link,
    sql: String,
}

impl Writer {
    /// A writer that opens the file at its first insert.
    #[must_use]
    pub fn new(sqlite: &config::Sqlite) -> Self {
        let table = Names::new(&sqlite.table).table;
        Self {
            link: Link::new(&sqlite.path),
            sql: format!(
                "INSERT INTO {table} (id, event_type, aggregate_type, aggregate_id, payload, headers) \
                 VALUES (?, ?, ?, ?, ?, ?)"
            ),
        }
    }
}

#[async_trait]
impl EventWriter for Writer {
    async fn write(&mut self, event: &NewEvent) -> Result<Uuid, SourceError> {
        let id = Uuid::now_v7();
        let headers = (!event.headers.is_empty()).then(|| headers_json(&event.headers));
        let mut connected = self.link.checkout(INSERT).await?;
        let query = sqlx::query(AssertSqlSafe(self.sql.clone())).bind(id.to_string());
        let query = query.bind(&event.event_type).bind(&event.aggregate_type);
        let query = query
            .bind(&event.aggregate_id)
            .bind(&event.payload)
            .bind(headers);
        limited(INSERT, query.execute(&mut connected.connection)).await?;
        self.link.give_back(connected);
        Ok(id)
    }
}

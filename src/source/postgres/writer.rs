//! Writing events, for `outbox-relay emit`.

use async_trait::async_trait;
use uuid::Uuid;

use super::inspect::no_table;
use super::link::{Link, is_undefined_table};
use super::sql::{Names, literal, quoted};
use crate::config;
use crate::enqueue::NewEvent;
use crate::source::headers::headers_json;
use crate::source::{EventWriter, SourceError};

const INSERT: &str = "cannot insert the event";

/// Inserts events into an outbox table.
#[derive(Debug)]
pub struct Writer {
    link: Link,
    table: String,
    columns: config::Columns,
}

impl Writer {
    /// A writer that connects at its first insert.
    ///
    /// # Errors
    /// If the URL can't be read.
    pub fn new(postgres: &config::Postgres) -> Result<Self, SourceError> {
        Ok(Self {
            link: Link::new(super::connect_options(postgres, "emit")?),
            table: Names::new(&postgres.table, &postgres.columns).table,
            columns: postgres.columns.clone(),
        })
    }

    /// Values stand in the text as literals without a type: the payload's column may be json, jsonb or text.
    fn insert_sql(&self, id: Uuid, event: &NewEvent) -> String {
        let headers = (!event.headers.is_empty()).then(|| headers_json(&event.headers));
        let columns = &self.columns;
        let values = [
            (Some(&columns.id), Some(id.to_string())),
            (Some(&columns.event_type), Some(event.event_type.clone())),
            (Some(&columns.payload), Some(event.payload.clone())),
            (
                columns.aggregate_type.as_ref(),
                event.aggregate_type.clone(),
            ),
            (columns.aggregate_id.as_ref(), event.aggregate_id.clone()),
            (columns.headers.as_ref(), headers),
        ];
        let given = values
            .into_iter()
            .filter_map(|(column, value)| Some((quoted(column?), literal(&value?))));
        let (columns, values): (Vec<_>, Vec<_>) = given.unzip();
        format!(
            "INSERT INTO {} ({}) VALUES ({})",
            self.table,
            columns.join(", "),
            values.join(", ")
        )
    }
}

#[async_trait]
impl EventWriter for Writer {
    async fn write(&mut self, event: &NewEvent) -> Result<Uuid, SourceError> {
        let id = Uuid::now_v7();
        let sql = self.insert_sql(id, event);
        match self.link.query(INSERT, sql, |_| Ok(())).await {
            Ok(()) => Ok(id),
            Err(error) if is_undefined_table(&error) => Err(no_table(&self.table)),
            Err(error) => Err(error),
        }
    }
}

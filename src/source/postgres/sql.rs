//! How SQL text is put together: quoted names and literals.
//!
//! Statements that run often are sent by the simple protocol with their numbers in the text. sqlx prepares and
//! executes in two steps, and between them a pooler in transaction mode may hand over another server
//! connection; one message is always executed by one. What the database or a broker says never gets into a
//! statement this way: it is bound, inside a transaction.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::config::{Columns, TableName};
use crate::ledger::RangeSet;

/// The names of a source's relations and columns, quoted once.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// The outbox table.
    pub(super) table: String,
    /// The schema's prefix for the relay's own tables, with its dot; empty: by `search_path`.
    pub(super) schema: String,
    /// Columns of the outbox table; absent ones are `NULL`.
    pub(super) columns: QuotedColumns,
}

/// Columns of the outbox table as expressions.
#[derive(Debug, Clone)]
pub(super) struct QuotedColumns {
    pub(super) seq: String,
    pub(super) created_at: String,
    pub(super) sent_at: Option<String>,
    /// All that an event is made of, in the order in which `rows` reads them.
    pub(super) event: String,
}

impl Names {
    pub(super) fn new(table: &TableName, columns: &Columns) -> Self {
        let schema = table.schema.as_deref().map(quoted);
        let schema = schema.map_or_else(String::new, |schema| schema + ".");
        Self {
            table: format!("{schema}{}", quoted(&table.name)),
            columns: QuotedColumns::new(columns),
            schema,
        }
    }

    /// The table's name as a literal, for `to_regclass`.
    pub(super) fn table_literal(&self) -> String {
        literal(&self.table)
    }
}

impl QuotedColumns {
    fn new(columns: &Columns) -> Self {
        let optional =
            |name: &Option<String>| name.as_deref().map_or_else(|| "NULL::text".into(), quoted);
        let event = [
            quoted(&columns.seq),
            quoted(&columns.id),
            quoted(&columns.event_type),
            optional(&columns.aggregate_type),
            optional(&columns.aggregate_id),
            quoted(&columns.payload),
            optional(&columns.headers),
            quoted(&columns.created_at),
        ];
        let aliases = [
            "seq",
            "id",
            "event_type",
            "aggregate_type",
            "aggregate_id",
            "payload",
            "headers",
            "created_at",
        ];
        let event = event.iter().zip(aliases);
        Self {
            seq: quoted(&columns.seq),
            created_at: quoted(&columns.created_at),
            sent_at: columns.sent_at.as_deref().map(quoted),
            event: event
                .map(|(column, alias)| format!("{column} AS {alias}"))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

/// An `int8multirange` that was selected as text.
pub(super) fn ranges(row: &PgRow, column: &str) -> Result<RangeSet, sqlx::Error> {
    let text: String = row.try_get(column)?;
    RangeSet::parse(&text).map_err(|error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: error.into(),
    })
}

/// An identifier in double quotes.
pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A string literal that reads the same whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}

/// An `int8[]` literal.
pub(super) fn int8_array(values: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::from("'{");
    for value in values {
        if text.len() > 2 {
            text.push(',');
        }
        text.push_str(&value.to_string());
    }
    text.push_str("}'::int8[]");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal(r"it's \ here"), r"E'it''s \\ here'");
        assert_eq!(int8_array([]), "'{}'::int8[]");
        assert_eq!(int8_array([1, -2]), "'{1,-2}'::int8[]");
    }
}

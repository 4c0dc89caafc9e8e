//! How SQL text is put together: quoted names and literals.
//!
//! Statements that run often are sent by the simple protocol with their numbers in the text. sqlx prepares and
//! executes in two steps, and between them a pooler in transaction mode may hand over another server
//! connection; one message is always executed by one. What the database or a broker says never gets into a
//! statement this way: it is bound, inside a transaction.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::INCARNATION;
use crate::config::{Columns, TableName};
use crate::ledger::RangeSet;
use crate::sabotage::{self, Sabotage};
use crate::source::LeaseId;

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
    /// The name of `seq` as a literal.
    pub(super) seq_literal: String,
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

    /// The sequence that `seq` is drawn from, as both names resolve now.
    pub(super) fn sequence(&self) -> String {
        let (table, seq) = (self.table_literal(), &self.columns.seq_literal);
        format!("pg_get_serial_sequence({table}, {seq})::regclass")
    }

    /// The table's name with its schema, as it resolves now and as it is recorded: a table has one name, whatever
    /// the configurations call it.
    pub(super) fn qualified(&self) -> String {
        format!(
            "(SELECT format('%I.%I', space.nspname, class.relname) FROM pg_class AS class \
             JOIN pg_namespace AS space ON space.oid = class.relnamespace WHERE class.oid = to_regclass({}))",
            self.table_literal()
        )
    }

    /// The table's OID, as its name resolves now; NULL if there is none.
    pub(super) fn oid(&self) -> String {
        format!("to_regclass({})::oid", self.table_literal())
    }

    /// Whether the server is still the one that granted the lease, and its memory the same: a crash of one
    /// backend makes all of them start anew, which shows in nothing but the emptied unlogged table.
    pub(super) fn unchanged(&self, lease: &LeaseId) -> String {
        if sabotage::is_on(Sabotage::LongMemory) {
            return "true".to_owned();
        }
        format!(
            "({INCARNATION} = {} AND EXISTS (SELECT FROM {}outbox_incarnation WHERE token = '{}'))",
            literal(&lease.incarnation),
            self.schema,
            lease.token,
        )
    }

    /// The same, and the sequence is the one of the lease, and the table hides no row; NULL if there is none any more.
    pub(super) fn unchanged_with_sequence(&self, lease: &LeaseId) -> String {
        format!(
            "({} AND pg_relation_filenode({})::int8 = {} AND {})",
            self.unchanged(lease),
            self.sequence(),
            lease.sequence_filenode,
            self.all_visible(),
        )
    }

    /// Whether no row security hides rows of the table from this role, by what holds while the statement runs.
    pub(super) fn all_visible(&self) -> String {
        format!("NOT row_security_active({})", self.oid())
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
            // A key may be a number or a uuid where the table was not made for the relay.
            format!("{}::text", optional(&columns.aggregate_id)),
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
            seq_literal: literal(&columns.seq),
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

/// How far a sequence, an expression, has come: the number that it gave out last, or would have before the next; 0 if it
/// is gone.
///
/// The catalog's function tells nothing of a sequence that was set and not drawn from since (`setval(…, false)`). Then
/// the sequence is asked itself, by the one function of every server that runs a statement whose names are only known
/// as it runs. Who may not SELECT from the sequence gets an error, never a number.
pub(super) fn last_value(sequence: &str) -> String {
    format!(
        "coalesce(pg_sequence_last_value({sequence}), (SELECT word::int8 FROM ts_stat('SELECT array_to_tsvector(\
         ARRAY[(last_value - (NOT is_called)::int)::text]) FROM ' || ({sequence})::text)), 0)"
    )
}

/// A time as microseconds since 1970; NULL if no `DateTime` could hold it. That one ends some ten thousand years later.
pub(super) fn micros(time: &str) -> String {
    const MAX_SECONDS: i64 = 7_900_000_000_000;
    format!(
        "CASE WHEN isfinite({time}) AND abs(extract(epoch FROM {time})) <= {MAX_SECONDS} \
         THEN (extract(epoch FROM {time}) * 1000000)::int8 END"
    )
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

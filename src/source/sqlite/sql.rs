//! Names in SQL text. Values are always bound.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::ledger::RangeSet;

/// Milliseconds of Unix time, by the database's clock.
pub(super) const NOW_MILLIS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// Makes the triggers that guard `seq`.
pub(super) const GUARD: &str = include_str!("../../../migrations/sqlite/guard.sql");

/// The names of a source's outbox table.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// The table as it is bound as a value.
    pub(super) plain: String,
    /// The table as it stands in statements.
    pub(super) table: String,
}

impl Names {
    pub(super) fn new(table: &str) -> Self {
        Self {
            plain: table.to_owned(),
            table: quoted(table),
        }
    }

    /// The triggers that guard `seq`.
    pub(super) fn triggers(&self) -> [String; 2] {
        ["seq_is_drawn", "seq_is_kept"].map(|what| format!("{}_{what}", self.plain))
    }

    /// The triggers that guard `seq`, each with the statement that makes it, as the file keeps it.
    pub(super) fn guards(&self) -> Vec<(String, String)> {
        let script = self.filled(GUARD);
        // What stands before the first is a comment.
        let statements = script.split("CREATE TRIGGER IF NOT EXISTS").skip(1);
        let statements = statements.map(|statement| {
            let statement = statement.trim_end().trim_end_matches(';');
            format!("CREATE TRIGGER{statement}")
        });
        self.triggers().into_iter().zip(statements).collect()
    }

    /// Takes the triggers that guard `seq` away, to make them anew.
    pub(super) fn unguard(&self) -> String {
        let drops = self.triggers();
        let drops = drops
            .iter()
            .map(|name| format!("DROP TRIGGER IF EXISTS {};\n", quoted(name)));
        drops.collect()
    }

    /// A migration's text with the names put in.
    pub(super) fn filled(&self, template: &str) -> String {
        let [drawn, kept] = self.triggers();
        template
            .replace("{table}", &self.table)
            .replace("{name}", &literal(&self.plain))
            .replace("{drawn}", &quoted(&drawn))
            .replace("{kept}", &quoted(&kept))
    }
}

/// An identifier in double quotes.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A string literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A column that holds a set of `seq`.
pub(super) fn ranges(row: &SqliteRow, column: &str) -> Result<RangeSet, sqlx::Error> {
    let text: String = row.try_get(column)?;
    RangeSet::parse(&text).map_err(|error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: error.into(),
    })
}

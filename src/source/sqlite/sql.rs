//! Names in SQL text. Values are always bound.

/// Milliseconds of Unix time, by the database's clock.
pub(super) const NOW_MILLIS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

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

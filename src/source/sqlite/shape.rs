//! What an outbox table must be like, and what beside it must not change its rows: `migrate` can't mend it.
//!
//! SQLite tells much of a table only by the statement that made it, so that is read, word by word.

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::sql::Names;

/// Columns of the outbox table.
const COLUMNS: [&str; 9] = [
    "seq",
    "id",
    "event_type",
    "aggregate_type",
    "aggregate_id",
    "payload",
    "headers",
    "created_at",
    "sent_at",
];

/// The outbox table, or what stands in its place, as the file describes it.
#[derive(Debug)]
pub(super) struct Shape {
    /// `table` or `view`.
    kind: String,
    /// The statement that made it.
    made_by: Vec<Word>,
    columns: Vec<String>,
    /// The first column of the primary key, with its type.
    key: Option<(String, String)>,
    /// What a foreign key does to a row when the row that it names is deleted or changed.
    key_actions: Vec<String>,
    triggers: Vec<Trigger>,
    is_utf8: bool,
}

/// A trigger of the file.
#[derive(Debug)]
struct Trigger {
    name: String,
    table: String,
    made_by: Vec<Word>,
}

/// A part of a statement, without its comments and white space.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// A keyword, a name or a number, in capitals.
    Bare(String),
    /// A name in quotes, in capitals.
    Name(String),
    /// A string.
    Text(String),
    /// Anything else.
    Sign(char),
}

impl Shape {
    /// Looks at what has the table's name; `None`: nothing has.
    pub(super) async fn gather(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Option<Self>, sqlx::Error> {
        let sql = "SELECT type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE";
        let query = sqlx::query(sql).bind(&names.plain);
        let Some(row) = query.fetch_optional(&mut *connection).await? else {
            return Ok(None);
        };
        let made_by: String = row.try_get("sql")?;
        let mut shape = Self {
            kind: row.try_get("type")?,
            made_by: words(&made_by),
            columns: Vec::new(),
            key: None,
            key_actions: Vec::new(),
            triggers: Vec::new(),
            is_utf8: sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM pragma_encoding WHERE encoding = 'UTF-8')",
            )
            .fetch_one(&mut *connection)
            .await?,
        };
        let sql = "SELECT name, type, pk FROM pragma_table_info(?)";
        let query = sqlx::query(sql).bind(&names.plain);
        for row in query.fetch_all(&mut *connection).await? {
            let name: String = row.try_get("name")?;
            if row.try_get::<i64, _>("pk")? == 1 {
                shape.key = Some((name.clone(), row.try_get("type")?));
            }
            shape.columns.push(name);
        }
        let sql = "SELECT action FROM (SELECT 'ON DELETE ' || on_delete AS action FROM pragma_foreign_key_list(?1) \
             UNION ALL SELECT 'ON UPDATE ' || on_update FROM pragma_foreign_key_list(?1)) \
             WHERE action NOT LIKE '%NO ACTION' AND action NOT LIKE '%RESTRICT'";
        let query = sqlx::query_scalar(sql).bind(&names.plain);
        shape.key_actions = query.fetch_all(&mut *connection).await?;
        let sql =
            "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name";
        for row in sqlx::query(sql).fetch_all(connection).await? {
            let made_by: String = row.try_get("sql")?;
            shape.triggers.push(Trigger {
                name: row.try_get("name")?,
                table: row.try_get("tbl_name")?,
                made_by: words(&made_by),
            });
        }
        Ok(Some(shape))
    }

    /// Whether the triggers that guard `seq` are there and as they should be.
    pub(super) fn is_guarded(&self, names: &Names) -> bool {
        names.guards().iter().all(|(name, made_by)| {
            let mut triggers = self.triggers.iter();
            triggers.any(|found| found.name == *name && found.made_by == words(made_by))
        })
    }

    /// # Errors
    /// Why nothing can be promised on the table, in words for an operator.
    pub(super) fn check(&self, names: &Names) -> Result<(), String> {
        let table = &names.table;
        if self.kind != "table" || self.made_with(&["CREATE", "VIRTUAL", "TABLE"]) {
            let kind = if self.kind == "table" {
                "virtual table"
            } else {
                &self.kind
            };
            return Err(format!(
                "{table} is a {kind}: events must be rows of a table, for the relay reads them by seq and no other \
                 table must change them; see `outbox-relay migrate --print`"
            ));
        }
        if !self.is_utf8 {
            return Err(
                "the file's encoding is UTF-16, in which text would not be published as it was written: make a file \
                 with PRAGMA encoding = 'UTF-8' and copy the tables into it"
                    .to_owned(),
            );
        }
        if let Some(column) = COLUMNS
            .iter()
            .find(|name| !self.columns.iter().any(|has| has == *name))
        {
            return Err(format!("the table {table} has no column {column}"));
        }
        let is_key =
            |(name, kind): &(String, String)| name == "seq" && kind.eq_ignore_ascii_case("integer");
        if !self.key.as_ref().is_some_and(is_key)
            || self.made_with(&["WITHOUT", "ROWID"])
            || !self.made_with(&["AUTOINCREMENT"])
        {
            return Err(format!(
                "the table {table} has no column seq INTEGER PRIMARY KEY AUTOINCREMENT: without it a number \
                 could be given out twice, and the second event would count as delivered; see `outbox-relay \
                 migrate --print`"
            ));
        }
        self.check_keeps_rows(names)
    }

    /// Nobody but the relay may change or delete a row, or it could vanish before it was delivered.
    fn check_keeps_rows(&self, names: &Names) -> Result<(), String> {
        let table = &names.table;
        if self.made_with(&["ON", "CONFLICT", "REPLACE"]) {
            return Err(format!(
                "the table {table} has a constraint ON CONFLICT REPLACE: an INSERT would delete another event, \
                 delivered or not; make it a constraint without that clause"
            ));
        }
        if let Some(action) = self.key_actions.first() {
            return Err(format!(
                "the table {table} has a foreign key with {action}: a change of another table would delete or change \
                 events, delivered or not; make it a foreign key without that clause, or none"
            ));
        }
        for trigger in &self.triggers {
            if names.triggers().contains(&trigger.name) {
                continue;
            }
            if let Some(change) = trigger.change(names) {
                return Err(format!(
                    "the trigger {} {change} rows of {table}: an event that is committed must stay as it is until the \
                     relay has delivered it; drop the trigger",
                    trigger.name
                ));
            }
        }
        Ok(())
    }

    /// Whether these keywords stand in a row in the statement that made it.
    fn made_with(&self, keywords: &[&str]) -> bool {
        self.made_by
            .windows(keywords.len())
            .any(|words| words.iter().zip(keywords).all(|(word, key)| word.is(key)))
    }
}

impl Trigger {
    /// What it does to rows of the outbox table, if anything. To insert is what triggers of other tables are for.
    fn change(&self, names: &Names) -> Option<&'static str> {
        let body = self.made_by.iter().position(|word| word.is("BEGIN"))?;
        let body = &self.made_by[body..];
        let inserts = self.table.eq_ignore_ascii_case(&names.plain);
        (0..body.len()).find_map(|at| {
            let (keyword, mut rest) = body[at..].split_first()?;
            let change = if keyword.is("UPDATE") {
                "changes"
            } else if keyword.is("DELETE") {
                "deletes"
            } else if inserts && (keyword.is("INSERT") || keyword.is("REPLACE")) {
                "inserts"
            } else {
                return None;
            };
            if let [or, _, after @ ..] = rest
                && or.is("OR")
            {
                rest = after;
            }
            if let [into, after @ ..] = rest
                && (into.is("FROM") || into.is("INTO"))
            {
                rest = after;
            }
            if let [_, Word::Sign('.'), after @ ..] = rest {
                rest = after;
            }
            let is_meant = rest.first().is_some_and(|word| word.names(&names.plain));
            is_meant.then_some(change)
        })
    }
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Bare(word) if word == keyword)
    }

    fn names(&self, table: &str) -> bool {
        // SQLite takes a string as a name where only a name can stand.
        let (Self::Bare(name) | Self::Name(name) | Self::Text(name)) = self else {
            return false;
        };
        name.eq_ignore_ascii_case(table)
    }
}

/// Takes a statement apart. What SQLite has stored is well-formed.
fn words(sql: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let length = match first {
            c if c.is_whitespace() => c.len_utf8(),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '\'' | '"' | '`' | '[' => {
                let close = if first == '[' { ']' } else { first };
                let (text, length) = quoted(rest, close);
                words.push(match first {
                    '\'' => Word::Text(text),
                    _ => Word::Name(text.to_uppercase()),
                });
                length
            }
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                words.push(Word::Bare(rest[..length].to_uppercase()));
                length
            }
            sign => {
                words.push(Word::Sign(sign));
                sign.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    words
}

/// The text between quotes at the beginning of `sql`, and how much of it that is; a doubled quote stands for itself.
fn quoted(sql: &str, close: char) -> (String, usize) {
    let mut text = String::new();
    let mut characters = sql.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != close {
            text.push(character);
        } else if characters.next_if(|(_, next)| *next == close).is_some() {
            text.push(close);
        } else {
            return (text, at + close.len_utf8());
        }
    }
    (text, sql.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sql: &str) -> Option<&'static str> {
        let trigger = Trigger {
            name: "t".into(),
            table: "pick".into(),
            made_by: words(sql),
        };
        trigger.change(&Names::new("outbox"))
    }

    #[test]
    fn statements_are_read_word_by_word() {
        let read = words("CREATE \"a\"\"b\" (x 'it''s' /* AUTOINCREMENT */ -- WITHOUT\n, [c d].e)");
        let bare = |word: &str| Word::Bare(word.into());
        let expected = [
            bare("CREATE"),
            Word::Name("A\"B".into()),
            Word::Sign('('),
            bare("X"),
            Word::Text("it's".into()),
            Word::Sign(','),
            Word::Name("C D".into()),
            Word::Sign('.'),
            bare("E"),
            Word::Sign(')'),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_trigger_that_changes_events_is_told_from_one_that_writes_them() {
        let on = "CREATE TRIGGER t AFTER DELETE ON pick BEGIN";
        for (body, expected) in [
            ("DELETE FROM outbox WHERE seq < 5", Some("deletes")),
            ("SELECT 1; DELETE FROM main.\"Outbox\"", Some("deletes")),
            ("DELETE FROM 'outbox'", Some("deletes")),
            ("UPDATE OR IGNORE [outbox] SET sent_at = 1", Some("changes")),
            ("UPDATE pick SET n = (SELECT max(seq) FROM outbox)", None),
            ("DELETE FROM pick WHERE x = 'DELETE FROM outbox'", None),
            ("INSERT INTO outbox (payload) VALUES (OLD.n)", None),
        ] {
            assert_eq!(change(&format!("{on} {body}; END")), expected, "{body}");
        }
    }
}

//! The columns of an outbox table: which there are, and whether events can be made of them.

use sqlx::Row as _;

use super::link::Link;
use super::rows::PayloadType;
use super::sql::Names;
use crate::config::Columns;
use crate::source::SourceError;

const LOOK: &str = "cannot look at the columns of the outbox table";

pub(super) const TIME: &[&str] = &["timestamp with time zone", "timestamp without time zone"];
pub(super) const ID: &[&str] = &["uuid"];
const TEXT: &[&str] = &["text", "character varying", "character"];
const JSON: &[&str] = &["json", "jsonb"];
const KEY: &[&str] = &[
    "text",
    "character varying",
    "character",
    "uuid",
    "bigint",
    "integer",
];
const PAYLOAD: &[&str] = &[
    "json",
    "jsonb",
    "text",
    "character varying",
    "character",
    "bytea",
];

/// What to do about a column that isn't there.
const OR_FALSE: &str = "or set it to false if there is none";
const OR_ADOPT: &str = "or name a new one, which `outbox-relay migrate --adopt` adds";
const OR_NO_MARK: &str =
    "or set it to false if there is none, and after_delivery to \"keep\" or \"delete\"";

/// A column of the outbox table.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its type as PostgreSQL spells it, without a length.
    pub(super) kind: String,
    pub(super) required: bool,
    /// Computed by the database: nobody inserts into it.
    pub(super) generated: bool,
}

/// A column that the configuration names.
struct Wanted<'a> {
    /// Its key under `[sources.NAME.columns]`.
    key: &'static str,
    name: &'a str,
    kinds: &'static [&'static str],
    otherwise: &'static str,
}

/// The columns of the table, in their order.
pub(super) async fn columns_of(link: &mut Link, names: &Names) -> Result<Vec<Column>, SourceError> {
    let mut found = Vec::new();
    let sql = format!(
        "SELECT attname::text AS name, format_type(atttypid, NULL) AS type, attnotnull AS required, \
         attgenerated <> '' AS generated FROM pg_attribute \
         WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        names.table_literal()
    );
    link.query(LOOK, sql, |row| {
        found.push(Column {
            name: row.try_get("name")?,
            kind: row.try_get("type")?,
            required: row.try_get("required")?,
            generated: row.try_get("generated")?,
        });
        Ok(())
    })
    .await?;
    Ok(found)
}

/// Checks every column that the configuration names, and returns what the payload's is.
///
/// # Errors
/// [`SourceError::Refused`]: names the key, the column, its type, and what would work.
pub(super) fn check_columns(
    found: &[Column],
    names: &Names,
    columns: &Columns,
) -> Result<PayloadType, SourceError> {
    for wanted in wanted(columns) {
        check(found, names, &wanted)?;
    }
    for (key, name) in [("id", &columns.id), ("event_type", &columns.event_type)] {
        if found
            .iter()
            .any(|column| column.name == *name && !column.required)
        {
            let table = &names.table;
            return Err(SourceError::Refused(format!(
                "columns.{key}: the column {name} of {table} can be NULL, which no event's can: \
                 ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL"
            )));
        }
    }
    let payload = found.iter().find(|column| column.name == columns.payload);
    Ok(match payload.map(|column| column.kind.as_str()) {
        Some("json" | "jsonb") => PayloadType::Json,
        Some("bytea") => PayloadType::Binary,
        _ => PayloadType::Text,
    })
}

fn wanted(columns: &Columns) -> Vec<Wanted<'_>> {
    let all = [
        ("seq", Some(&columns.seq), &["bigint"][..], OR_ADOPT),
        ("id", Some(&columns.id), ID, OR_ADOPT),
        ("event_type", Some(&columns.event_type), TEXT, ""),
        (
            "aggregate_type",
            columns.aggregate_type.as_ref(),
            TEXT,
            OR_FALSE,
        ),
        ("aggregate_id", columns.aggregate_id.as_ref(), KEY, OR_FALSE),
        ("payload", Some(&columns.payload), PAYLOAD, ""),
        ("headers", columns.headers.as_ref(), JSON, OR_FALSE),
        ("created_at", Some(&columns.created_at), TIME, OR_ADOPT),
        ("sent_at", columns.sent_at.as_ref(), TIME, OR_NO_MARK),
    ];
    let named = all.into_iter().filter_map(|(key, name, kinds, otherwise)| {
        Some(Wanted {
            key,
            name: name?,
            kinds,
            otherwise,
        })
    });
    named.collect()
}

fn check(found: &[Column], names: &Names, wanted: &Wanted<'_>) -> Result<(), SourceError> {
    let Wanted {
        key,
        name,
        kinds,
        otherwise,
    } = wanted;
    let table = &names.table;
    let column = found.iter().find(|column| column.name == *name);
    let fault = match column {
        Some(column) if kinds.contains(&column.kind.as_str()) => return Ok(()),
        Some(column) => format!("the column {name} of {table} is of type {}", column.kind),
        None => format!("the table {table} has no column {name}"),
    };
    let fitting: Vec<&str> = of_kinds(found, kinds).collect();
    let fitting = match &fitting[..] {
        [] => "no column is".to_owned(),
        some => some.join(", "),
    };
    let otherwise = if otherwise.is_empty() {
        String::new()
    } else {
        format!("; {otherwise}")
    };
    Err(SourceError::Refused(format!(
        "columns.{key}: {fault}; it must be {} ({fitting}): name it under [sources.….columns]{otherwise}",
        kinds.join(" or ")
    )))
}

/// The names of the columns of these types.
pub(super) fn of_kinds<'a>(found: &'a [Column], kinds: &[&str]) -> impl Iterator<Item = &'a str> {
    let fitting = found
        .iter()
        .filter(move |column| kinds.contains(&column.kind.as_str()));
    fitting.map(|column| column.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableName;

    fn column(name: &str, kind: &str) -> Column {
        Column {
            name: name.into(),
            kind: kind.into(),
            required: true,
            generated: false,
        }
    }

    /// A table that everything is right with, and its configuration.
    fn sound() -> (Vec<Column>, Columns) {
        let found = [
            ("seq", "bigint"),
            ("id", "uuid"),
            ("type", "character varying"),
            ("draft_id", "uuid"),
            ("payload", "jsonb"),
            ("at", "timestamp without time zone"),
        ];
        let columns = Columns {
            seq: "seq".into(),
            id: "id".into(),
            event_type: "type".into(),
            aggregate_type: None,
            aggregate_id: Some("draft_id".into()),
            payload: "payload".into(),
            headers: None,
            created_at: "at".into(),
            sent_at: None,
        };
        (found.map(|(name, kind)| column(name, kind)).into(), columns)
    }

    fn checked(found: &[Column], columns: &Columns) -> Result<PayloadType, String> {
        let table = TableName {
            schema: None,
            name: "outbox".into(),
        };
        check_columns(found, &Names::new(&table, columns), columns).map_err(|e| e.to_string())
    }

    #[test]
    fn takes_columns_of_other_names_and_types() {
        let (found, columns) = sound();
        assert_eq!(checked(&found, &columns), Ok(PayloadType::Json));
    }

    #[test]
    fn names_the_key_the_type_and_what_works() {
        let (found, columns) = sound();
        let with = |change: fn(&mut Columns)| {
            let mut columns = columns.clone();
            change(&mut columns);
            checked(&found, &columns).expect_err("it must be refused")
        };
        let missing = with(|columns| columns.event_type = "event_type".into());
        assert_eq!(
            missing,
            "columns.event_type: the table \"outbox\" has no column event_type; it must be text or character \
             varying or character (type): name it under [sources.….columns]"
        );
        let bigint = with(|columns| columns.id = "seq".into());
        assert!(
            bigint.contains(
                "the column seq of \"outbox\" is of type bigint; it must be uuid (id, draft_id)"
            ),
            "{bigint}"
        );
        assert!(bigint.contains("migrate --adopt"), "{bigint}");
        let unmarked = with(|columns| columns.sent_at = Some("sent_at".into()));
        assert!(
            unmarked.contains("after_delivery to \"keep\""),
            "{unmarked}"
        );
        let headers = with(|columns| columns.headers = Some("type".into()));
        assert!(headers.contains("set it to false"), "{headers}");
    }

    #[test]
    fn an_events_identity_and_type_are_never_null() {
        let (mut found, columns) = sound();
        found[2].required = false;
        let refused = checked(&found, &columns).expect_err("it must be refused");
        assert!(
            refused.contains("ALTER COLUMN type SET NOT NULL"),
            "{refused}"
        );
    }
}

//! `[sources.NAME]`.

use std::path::PathBuf;
use std::time::Duration;

use super::percent::decoded;
use super::scalar::{
    DAY, HOUR, SECOND, choice, count, duration, identifier, name, optional_duration,
    postgres_identifier,
};
use super::tls;
use crate::config::availability;
use crate::config::finding::KeyPath;
use crate::config::report::Report;
use crate::config::typed::{self, ColumnName};
use crate::config::validated::{
    AfterDelivery, Columns, Mode, Postgres, Source, SourceKind, Sqlite, TableName,
};
use crate::config::{Contents, Secret};

const AFTER_DELIVERY: [(&str, AfterDelivery); 3] = [
    ("mark", AfterDelivery::Mark),
    ("delete", AfterDelivery::Delete),
    ("keep", AfterDelivery::Keep),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Poll,
    Notify,
}

const MODES: [(&str, Watch); 2] = [("poll", Watch::Poll), ("notify", Watch::Notify)];

/// The source; `None` if it has no usable type, which is reported.
pub(super) fn source(
    path: &KeyPath,
    key: &str,
    typed: &typed::Source,
    report: &mut Report,
) -> Option<Source> {
    name(report, path, key);
    let common = &typed.common;
    let after = choice(
        report,
        &path.key("after_delivery"),
        common.after_delivery.as_deref(),
        &AFTER_DELIVERY,
    );
    let after_delivery = after.unwrap_or(AfterDelivery::Mark);
    let retention_path = path.key("retention");
    let retention = optional_duration(
        report,
        &retention_path,
        common.retention.as_ref(),
        SECOND..=3_650 * DAY,
    );
    if retention.is_some() && after_delivery == AfterDelivery::Delete {
        report.warn(
            &retention_path,
            "does nothing: after_delivery = \"delete\" leaves no row to delete later",
        );
    }
    let settle_interval = duration(
        report,
        &path.key("settle_interval"),
        common.settle_interval.as_ref(),
        SECOND,
        Duration::from_millis(10)..=DAY,
    );
    let batch_size = count(
        report,
        &path.key("batch_size"),
        common.batch_size,
        500,
        1..=10_000,
    );
    let poll_interval = duration(
        report,
        &path.key("poll_interval"),
        common.poll_interval.as_ref(),
        5 * SECOND,
        Duration::from_millis(1)..=HOUR,
    );
    let (type_name, kind) = match typed.kind.as_ref()? {
        typed::SourceKind::Postgres(typed) => {
            let postgres = postgres(path, typed, after_delivery, report);
            ("postgres", SourceKind::Postgres(postgres))
        }
        typed::SourceKind::Sqlite(typed) => {
            ("sqlite", SourceKind::Sqlite(sqlite(path, typed, report)))
        }
    };
    if let Err(message) = availability::source_type(type_name) {
        report.error(&path.key("type"), message);
        return None;
    }
    Some(Source {
        name: key.to_owned(),
        batch_size,
        poll_interval,
        after_delivery,
        retention,
        settle_interval,
        kind,
    })
}

fn postgres(
    path: &KeyPath,
    typed: &typed::Postgres,
    after: AfterDelivery,
    report: &mut Report,
) -> Postgres {
    let columns_path = path.key("columns");
    let columns = columns(&columns_path, &typed.columns, report);
    if columns.sent_at.is_none() && after == AfterDelivery::Mark {
        report.error(
            &columns_path.key("sent_at"),
            "is needed by after_delivery = \"mark\": name the column, or set after_delivery to \"keep\" or \"delete\"",
        );
    }
    let url = url(&path.key("url"), typed.url.as_ref(), report);
    Postgres {
        url_files: url_files(url.expose()),
        url,
        mode: mode(path, typed, report),
        table: table(
            &path.key("table"),
            typed.table.as_deref().unwrap_or("outbox"),
            report,
        ),
        columns,
        wait_for_flush: typed.wait_for_flush.unwrap_or(false),
        tls: typed
            .tls
            .as_ref()
            .map(|typed| tls(&path.key("tls"), typed, report)),
    }
}

fn sqlite(path: &KeyPath, typed: &typed::Sqlite, report: &mut Report) -> Sqlite {
    const EXAMPLE: &str = "write the path of the database file, such as \"/var/lib/app/app.db\"";
    let key = path.key("path");
    let file = report.required(&key, typed.path.as_deref(), EXAMPLE);
    let file = file.unwrap_or_default();
    if typed.path.is_some() && file.is_empty() {
        report.error(&key, format!("is empty: {EXAMPLE}"));
    } else if file.starts_with(":memory:") || file.starts_with("file:") || file.contains('\0') {
        report.error(
            &key,
            format!("names no file that others can write to: {EXAMPLE}"),
        );
    }
    let table = typed.table.as_deref().unwrap_or("outbox");
    identifier(report, &path.key("table"), table);
    Sqlite {
        path: PathBuf::from(file),
        table: table.to_owned(),
    }
}

fn url(path: &KeyPath, given: Option<&Secret>, report: &mut Report) -> Secret {
    let example = "write \"postgres://user:password@host:5432/database\"";
    let url = report.required(path, given, &format!("{example}, or set DATABASE_URL"));
    let Some(url) = url else {
        return Secret::new("");
    };
    let text = url.expose();
    if text.is_empty() {
        report.error(path, format!("is empty: {example}"));
    } else if !["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        report.error(
            path,
            format!("must begin with postgres:// or postgresql://: {example}"),
        );
    } else if text.contains(char::is_whitespace) {
        report.error(
            path,
            "holds a space or a line break: in a URL they are written %20 and %0A",
        );
    }
    url.clone()
}

/// What the files hold that a URL names, by any of the names that the driver knows.
fn url_files(url: &str) -> Contents {
    const KEYS: [&str; 7] = [
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
    ];
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let files = query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        // Whoever connects says what is wrong with a value.
        KEYS.contains(&key)
            .then(|| decoded(&value.replace('+', " ")).ok())?
    });
    let files: Vec<PathBuf> = files.map(PathBuf::from).collect();
    Contents::of(files.iter().map(PathBuf::as_path))
}

fn mode(path: &KeyPath, typed: &typed::Postgres, report: &mut Report) -> Mode {
    let given = typed.mode.as_deref().unwrap_or(super::DEFAULT_MODE);
    let watch = choice(report, &path.key("mode"), Some(given), &MODES);
    let fallback_path = path.key("fallback_interval");
    let fallback = duration(
        report,
        &fallback_path,
        typed.fallback_interval.as_ref(),
        30 * SECOND,
        Duration::from_millis(1)..=HOUR,
    );
    if watch == Some(Watch::Notify) {
        return Mode::Notify { fallback };
    }
    if watch == Some(Watch::Poll) && typed.fallback_interval.is_some() {
        report.warn(
            &fallback_path,
            "does nothing with mode = \"poll\": poll_interval says how often the table is read",
        );
    }
    Mode::Poll
}

fn table(path: &KeyPath, text: &str, report: &mut Report) -> TableName {
    if text.contains('"') {
        report.error(
            path,
            "must be written without quotation marks around its parts: it is quoted as it is",
        );
    }
    let (schema, name) = match text.split_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, text),
    };
    if name.contains('.') {
        report.error(path, "has too many dots: write NAME or SCHEMA.NAME");
    } else if text.contains('.') && (name.is_empty() || schema == Some("")) {
        report.error(
            path,
            "lacks the name before or after its dot: write NAME or SCHEMA.NAME",
        );
    } else {
        schema
            .into_iter()
            .chain([name])
            .for_each(|part| postgres_identifier(report, path, part));
    }
    TableName {
        schema: schema.map(str::to_owned),
        name: name.to_owned(),
    }
}

fn columns(path: &KeyPath, typed: &typed::Columns, report: &mut Report) -> Columns {
    let mut check = |key: &str, name: &str| {
        postgres_identifier(report, &path.key(key), name);
        name.to_owned()
    };
    let mut required =
        |key: &str, given: &Option<String>| check(key, given.as_deref().unwrap_or(key));
    let seq = required("seq", &typed.seq);
    let id = required("id", &typed.id);
    let event_type = required("event_type", &typed.event_type);
    let payload = required("payload", &typed.payload);
    let created_at = required("created_at", &typed.created_at);
    let mut optional = |key: &str, given: &Option<ColumnName>| match given {
        None => Some(check(key, key)),
        Some(ColumnName::Named(name)) => Some(check(key, name)),
        Some(ColumnName::Absent) => None,
    };
    Columns {
        seq,
        id,
        event_type,
        aggregate_type: optional("aggregate_type", &typed.aggregate_type),
        aggregate_id: optional("aggregate_id", &typed.aggregate_id),
        payload,
        headers: optional("headers", &typed.headers),
        created_at,
        sent_at: optional("sent_at", &typed.sent_at),
    }
}

//! From merged values to the configuration as typed: which table is read as what.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::finding::KeyPath;
use super::nearest::did_you_mean;
use super::report::Report;
use super::schema::keys_of;
use super::table::{describe, table};
use super::typed::{Root, Route, Sink, SinkCommon, SinkKind, Source, SourceCommon, SourceKind};

/// Types of sources and of sinks, as `type` names them.
pub(super) const SOURCE_TYPES: [&str; 2] = ["postgres", "sqlite"];
pub(super) const SINK_TYPES: [&str; 6] =
    ["jetstream", "kafka", "mock", "nats", "rabbitmq", "stdout"];

/// Tables of the file that are read member by member.
pub(super) const MEMBER_TABLES: [&str; 3] = ["sources", "sinks", "routes"];

/// A whole configuration as typed.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    /// Every table but those below.
    pub(super) root: Root,
    /// `[sources]`
    pub(super) sources: BTreeMap<String, Source>,
    /// `[sinks]`
    pub(super) sinks: BTreeMap<String, Sink>,
    /// `[[routes]]`
    pub(super) routes: Vec<Route>,
}

/// Reads the merged values. What is wrong with names and kinds goes to `report`.
pub(super) fn read(mut values: Dict, report: &mut Report) -> Typed {
    let [sources, sinks, routes] = MEMBER_TABLES.map(|name| values.remove(name));
    let path = KeyPath::root();
    Typed {
        root: table(&path, values, &MEMBER_TABLES, report),
        sources: members(&path.key("sources"), sources, source, report),
        sinks: members(&path.key("sinks"), sinks, sink, report),
        routes: list(&path.key("routes"), routes, report),
    }
}

/// Reads each table in the table at `path`.
fn members<T>(
    path: &KeyPath,
    value: Option<Value>,
    read: fn(&KeyPath, Dict, &mut Report) -> T,
    report: &mut Report,
) -> BTreeMap<String, T> {
    let mut members = BTreeMap::new();
    let Some(value) = value else {
        return members;
    };
    let Some(dict) = expect_table(path, value, report) else {
        return members;
    };
    for (name, value) in dict {
        let path = path.key(&name);
        if let Some(dict) = expect_table(&path, value, report) {
            members.insert(name, read(&path, dict, report));
        }
    }
    members
}

fn expect_table(path: &KeyPath, value: Value, report: &mut Report) -> Option<Dict> {
    let kind = describe(&value.to_actual());
    let dict = value.into_dict();
    if dict.is_none() {
        report.error(path, format!("must be a table, not {kind}"));
        report.strike(path);
    }
    dict
}

fn list(path: &KeyPath, value: Option<Value>, report: &mut Report) -> Vec<Route> {
    let items = match value {
        None => return Vec::new(),
        Some(Value::Array(_, items)) => items,
        Some(other) => {
            let kind = describe(&other.to_actual());
            report.error(
                path,
                format!("must be a list of tables, each written as [[routes]], not {kind}"),
            );
            report.strike(path);
            return Vec::new();
        }
    };
    let mut routes = Vec::new();
    for (index, value) in items.into_iter().enumerate() {
        let path = path.index(index);
        // One that is no table still counts, so that the places of those behind it are right.
        let dict = expect_table(&path, value, report).unwrap_or_default();
        routes.push(table(&path, dict, &[], report));
    }
    routes
}

fn source(path: &KeyPath, dict: Dict, report: &mut Report) -> Source {
    let (name, common, own) = split::<SourceCommon>(path, dict, &SOURCE_TYPES, report);
    let also = common_keys::<SourceCommon>();
    let kind = match name {
        Some("postgres") => Some(SourceKind::Postgres(Box::new(own_table(
            path, own, &also, report,
        )))),
        Some("sqlite") => Some(SourceKind::Sqlite(own_table(path, own, &also, report))),
        _ => None,
    };
    Source { common, kind }
}

fn sink(path: &KeyPath, dict: Dict, report: &mut Report) -> Sink {
    let (name, common, own) = split::<SinkCommon>(path, dict, &SINK_TYPES, report);
    let also = common_keys::<SinkCommon>();
    let kind = match name {
        Some("jetstream") => Some(SinkKind::Jetstream(Box::new(own_table(
            path, own, &also, report,
        )))),
        Some("kafka") => Some(SinkKind::Kafka(Box::new(own_table(
            path, own, &also, report,
        )))),
        Some("mock") => Some(SinkKind::Mock(own_table(path, own, &also, report))),
        Some("nats") => Some(SinkKind::Nats(Box::new(own_table(
            path, own, &also, report,
        )))),
        Some("rabbitmq") => Some(SinkKind::Rabbitmq(Box::new(own_table(
            path, own, &also, report,
        )))),
        Some("stdout") => Some(SinkKind::Stdout(own_table(path, own, &also, report))),
        _ => None,
    };
    Sink { common, kind }
}

/// Takes `type` out of a member, reads the keys that all types share, and leaves those of its type.
fn split<T: DeserializeOwned + Default + JsonSchema>(
    path: &KeyPath,
    mut dict: Dict,
    types: &[&'static str],
    report: &mut Report,
) -> (Option<&'static str>, T, Dict) {
    let name = member_type(&path.key("type"), dict.remove("type"), types, report);
    let shared = keys_of::<T>();
    let (common, own): (Dict, Dict) = dict.into_iter().partition(|(key, _)| shared.contains(key));
    (name, table(path, common, &[], report), own)
}

fn member_type(
    path: &KeyPath,
    value: Option<Value>,
    types: &[&'static str],
    report: &mut Report,
) -> Option<&'static str> {
    let choices = types.join(", ");
    let value = report.required(path, value, &format!("write one of {choices}"))?;
    let Some(text) = value.as_str() else {
        let kind = describe(&value.to_actual());
        report.error(
            path,
            format!("must be a string, not {kind}: write one of {choices}"),
        );
        return None;
    };
    let known = types.iter().find(|name| **name == text).copied();
    if known.is_none() {
        let quoted = report.quote(path, text);
        let hint = did_you_mean(text, types.iter().copied());
        report.error(
            path,
            format!("{quoted} is no type{hint}: write one of {choices}"),
        );
    }
    known
}

fn common_keys<T: JsonSchema>() -> Vec<String> {
    let mut keys = keys_of::<T>();
    keys.push("type".to_owned());
    keys
}

fn own_table<T: DeserializeOwned + Default + JsonSchema>(
    path: &KeyPath,
    dict: Dict,
    also: &[String],
    report: &mut Report,
) -> T {
    let also: Vec<&str> = also.iter().map(String::as_str).collect();
    table(path, dict, &also, report)
}

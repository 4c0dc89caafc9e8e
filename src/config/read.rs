//! From merged values to the configuration as typed.
//!
//! serde stops at the first error of a table. To find them all, the key that is wrong is reported and struck out,
//! and the table is read again.

use std::collections::BTreeMap;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::finding::KeyPath;
use super::nearest::did_you_mean;
use super::report::Report;
use super::schema::keys_of;
use super::typed::{Root, Route, Sink, SinkCommon, SinkKind, Source, SourceCommon, SourceKind};

/// Errors reported per table at most; each costs another reading of it.
const MAX_ERRORS_PER_TABLE: usize = 50;

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

/// Reads one table; `also` are keys that it may have and that were read elsewhere.
fn table<T: DeserializeOwned + Default>(
    path: &KeyPath,
    mut dict: Dict,
    also: &[&str],
    report: &mut Report,
) -> T {
    for _ in 0..MAX_ERRORS_PER_TABLE {
        let error = match Figment::from(Table(&dict)).extract_lossy() {
            Ok(table) => return table,
            Err(error) => error,
        };
        let (at, names) = locate(path, &dict, &error);
        let message = explain(
            &at,
            &error.kind,
            also,
            at.parent().as_ref() == Some(path),
            report,
        );
        report.error(&at, message);
        report.strike(&KeyPath::of(names.iter().map(String::as_str)).below(path));
        if !remove(&mut dict, &names) {
            return T::default();
        }
    }
    report.error(path, "has more errors than are shown");
    T::default()
}

/// One table as a figment layer of its own: its errors have paths within it.
struct Table<'a>(&'a Dict);

impl Provider for Table<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::default()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}

/// The path of the value that `error` is about, and the keys that lead there: not into lists, for what a list
/// means without one of its elements is not what was written.
fn locate(path: &KeyPath, dict: &Dict, error: &figment::Error) -> (KeyPath, Vec<String>) {
    let mut at = path.clone();
    let mut names: Vec<String> = Vec::new();
    let mut table = Some(dict);
    let mut list: Option<&Value> = None;
    for step in &error.path {
        if let Some(Value::Array(..)) = list {
            if let Ok(index) = step.parse() {
                at = at.index(index);
            }
            break;
        }
        at = at.key(step);
        names.push(step.clone());
        let value = table.and_then(|table| table.get(step));
        table = value.and_then(Value::as_dict);
        list = value;
    }
    (at, names)
}

/// Takes out the value at `names`; false if there is none.
fn remove(dict: &mut Dict, names: &[String]) -> bool {
    match names {
        [] => false,
        [name] => dict.remove(name).is_some(),
        [name, rest @ ..] => match dict.get_mut(name) {
            Some(Value::Dict(_, inner)) => remove(inner, rest),
            _ => false,
        },
    }
}

/// What is wrong, in words; never the value, which may be a secret.
fn explain(at: &KeyPath, kind: &Kind, also: &[&str], is_own: bool, report: &Report) -> String {
    match kind {
        Kind::InvalidType(actual, expected) => {
            format!("must be {}, not {}", in_words(expected), describe(actual))
        }
        Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
            format!("must be {}", in_words(expected))
        }
        Kind::UnknownField(name, known) => {
            let also = if is_own { also } else { &[] };
            let candidates = known.iter().chain(also).copied();
            match did_you_mean(name, candidates.clone()) {
                hint if !hint.is_empty() => format!("is not a known key{hint}"),
                _ => format!("is not a known key: {}", may_have(candidates)),
            }
        }
        Kind::UnknownVariant(name, known) => {
            format!("{} is none of {}", report.quote(at, name), known.join(", "))
        }
        _ => "can't be read".to_owned(),
    }
}

fn may_have<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut keys: Vec<&str> = keys.collect();
    keys.sort_unstable();
    if keys.is_empty() {
        return "this table has none".to_owned();
    }
    format!("this table has {}", keys.join(", "))
}

/// serde's expectation, without names of Rust types.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more and not huge",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a map" => "a table",
        "a sequence" => "a list",
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    }
}

fn describe(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number with a fraction",
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "a string",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

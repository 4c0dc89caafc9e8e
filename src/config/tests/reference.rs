//! The files in `config/`: each loads, and the reference has every key and no other.

use std::collections::BTreeSet;

use serde_json::Value;

use super::load;
use crate::config::report::Report;
use crate::config::schema::keys_of;
use crate::config::typed::{SinkCommon, SourceCommon};
use crate::config::{Environment, document, layers, read, schema};

const REFERENCE: &str = include_str!("../../../config/outbox.toml");
const STDOUT: &str = include_str!("../../../config/stdout.toml");
#[cfg(feature = "nats")]
const JETSTREAM: &str = include_str!("../../../config/jetstream.toml");
#[cfg(feature = "nats")]
const NATS: &str = include_str!("../../../config/nats.toml");
#[cfg(feature = "rabbitmq")]
const RABBITMQ: &str = include_str!("../../../config/rabbitmq.toml");
#[cfg(feature = "kafka")]
const KAFKA: &str = include_str!("../../../config/kafka.toml");
#[cfg(all(feature = "kafka", feature = "nats", feature = "rabbitmq"))]
const FANOUT: &str = include_str!("../../../config/fanout.toml");

const SCHEMA: &str = include_str!("../../../config/outbox.schema.json");

/// The reference with every `#key = value` and `#[table]` uncommented; prose is `# text`, and `#:` is for editors.
pub(super) fn uncommented() -> String {
    let lines = REFERENCE.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', ':']) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
#[cfg(feature = "nats")]
fn the_reference_loads_as_it_stands() {
    let loaded = load(REFERENCE);
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.sources.keys().collect::<Vec<_>>(), ["draft"]);
    assert_eq!(loaded.config.sinks.keys().collect::<Vec<_>>(), ["picks"]);
    let loaded = crate::config::Config::from_toml(
        REFERENCE,
        &super::env(&[("DATABASE_URL", "postgres://other")]),
    )
    .expect("fine");
    let crate::config::SourceKind::Postgres(postgres) = &loaded.config.sources["draft"].kind else {
        panic!("it is a PostgreSQL source");
    };
    assert_eq!(postgres.url.expose(), "postgres://other");
}

#[test]
fn the_schema_that_is_kept_is_the_one_that_is_printed() {
    let kept: Value = serde_json::from_str(SCHEMA).expect("JSON");
    assert!(
        kept == schema().to_value(),
        "run `cargo run -- schema > schema.json && mv schema.json config/outbox.schema.json`"
    );
    assert!(REFERENCE.starts_with("#:schema outbox.schema.json\n"));
}

#[test]
fn the_small_files_load() {
    assert_eq!(load(STDOUT).warnings, []);
    #[cfg(feature = "nats")]
    assert_eq!(load(JETSTREAM).warnings, []);
    #[cfg(feature = "nats")]
    super::assert_findings(
        &load(NATS).warnings,
        &[("sinks.live.type", 13, "keeps nothing")],
        NATS,
    );
    #[cfg(feature = "rabbitmq")]
    assert_eq!(load(RABBITMQ).warnings, []);
    #[cfg(feature = "kafka")]
    assert_eq!(load(KAFKA).warnings, []);
    #[cfg(all(feature = "kafka", feature = "nats", feature = "rabbitmq"))]
    assert_eq!(load(FANOUT).warnings, []);
}

#[test]
fn every_key_of_the_reference_is_known() {
    let text = uncommented();
    let (env, mut report) = (Environment::default(), Report::default());
    let document = document::parse(&text, Some("config/outbox.toml"), &env, &mut report);
    let document = document.unwrap_or_else(|| panic!("{report:#?}\n{text}"));
    let merged = layers::merge(Some(&document), &env, &Default::default(), &mut report);
    read::read(merged, &mut report);
    let (errors, _) = report.into_findings();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

/// What is shown as a default is the default.
#[test]
#[cfg(feature = "nats")]
fn defaults_of_the_reference_are_the_defaults() {
    // Keys whose text says that what they show is an example, or that do nothing beside the others.
    let examples = [
        "token",
        "retention",
        "fallback_interval",
        "expected_stream",
        "start",
        "max_age",
        "max_bytes",
        "inputs",
        "aggregate_field",
        "user",
        "password",
        "nkey",
        "creds",
        "ca",
        "cert",
        "key",
    ];
    let mut other_type = false;
    let lines = REFERENCE.lines().map(|line| {
        let Some(rest) = line
            .strip_prefix('#')
            .filter(|rest| !rest.is_empty() && !rest.starts_with([' ', ':']))
        else {
            other_type = other_type && !line.starts_with('[');
            return line;
        };
        if rest.starts_with('[') {
            let empty = [
                "[sources.draft.columns]",
                "[sinks.picks.retry]",
                "[sinks.picks.envelope]",
            ];
            other_type = !empty.contains(&rest);
        }
        let name = rest.split(" =").next().unwrap_or_default();
        if other_type || examples.contains(&name) {
            line
        } else {
            rest
        }
    });
    let explicit = lines.collect::<Vec<_>>().join("\n");
    assert!(
        explicit.lines().any(|line| line == "max_parked = 10000"),
        "{explicit}"
    );
    assert!(
        explicit.lines().any(|line| line == "sent_at = \"sent_at\""),
        "{explicit}"
    );
    assert_eq!(load(&explicit).config, load(REFERENCE).config);
}

#[test]
fn the_reference_has_every_key() {
    let in_reference = keys_of_text(&uncommented());
    let schema = schema().to_value();
    let mut in_schema = BTreeSet::new();
    keys_of_schema(&schema, &schema, "", &mut in_schema);
    assert!(
        in_schema.contains("sinks.jetstream.stream.max_age"),
        "{in_schema:#?}"
    );
    assert!(
        in_schema.contains("sinks.*.retry.max_delay"),
        "{in_schema:#?}"
    );
    assert!(in_schema.len() > 90, "{in_schema:#?}");
    let missing: Vec<&String> = in_schema.difference(&in_reference).collect();
    assert!(missing.is_empty(), "config/outbox.toml lacks {missing:#?}");
}

#[test]
fn every_key_is_explained() {
    let schema = schema().to_value();
    let mut unexplained = Vec::new();
    unexplained_keys(&schema, "", &mut unexplained);
    assert!(unexplained.is_empty(), "{unexplained:#?}");
}

fn unexplained_keys(schema: &Value, path: &str, unexplained: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            for (name, inner) in object {
                let path = format!("{path}/{name}");
                let is_property = path.rsplit('/').nth(1) == Some("properties");
                if is_property && inner.get("description").is_none() && inner.get("const").is_none()
                {
                    unexplained.push(path.clone());
                }
                unexplained_keys(inner, &path, unexplained);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| unexplained_keys(item, path, unexplained)),
        _ => {}
    }
}

/// The key with the name of a member replaced by its type, or by `*` if all types share it.
fn key_of_member(table: &str, kind: &str, key: &str) -> String {
    let shared = match table {
        "sources" => keys_of::<SourceCommon>(),
        _ => keys_of::<SinkCommon>(),
    };
    let kind = if shared.iter().any(|name| name == key) {
        "*"
    } else {
        kind
    };
    format!("{table}.{kind}.{key}")
}

fn keys_of_text(text: &str) -> BTreeSet<String> {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut keys = BTreeSet::new();
    for (name, value) in &table {
        keys.insert(name.clone());
        let members = value
            .as_table()
            .filter(|_| name == "sources" || name == "sinks");
        let Some(members) = members else {
            keys_of_value(value, name, &mut keys);
            continue;
        };
        for member in members.values() {
            let kind = member["type"].as_str().expect("the type");
            for (key, value) in member.as_table().expect("a table") {
                let path = key_of_member(name, kind, key);
                keys_of_value(value, &path, &mut keys);
                keys.insert(path);
            }
        }
    }
    keys
}

fn keys_of_value(value: &toml::Value, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let path = format!("{path}.{name}");
                keys_of_value(value, &path, keys);
                keys.insert(path);
            }
        }
        toml::Value::Array(items) => items
            .iter()
            .for_each(|item| keys_of_value(item, path, keys)),
        _ => {}
    }
}

fn keys_of_schema(schema: &Value, root: &Value, path: &str, keys: &mut BTreeSet<String>) {
    let target = schema.get("$ref").and_then(Value::as_str);
    if let Some(target) = target.and_then(|target| root.pointer(target.trim_start_matches('#'))) {
        keys_of_schema(target, root, path, keys);
    }
    if let Some(items) = schema.get("items") {
        keys_of_schema(items, root, path, keys);
    }
    let variants = schema
        .pointer("/additionalProperties/oneOf")
        .and_then(Value::as_array);
    for variant in variants.into_iter().flatten() {
        let kind = variant["properties"]["type"]["const"]
            .as_str()
            .expect("the type");
        for (key, inner) in variant["properties"].as_object().expect("properties") {
            let path = key_of_member(path, kind, key);
            keys_of_schema(inner, root, &path, keys);
            keys.insert(path);
        }
    }
    for (key, inner) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        keys_of_schema(inner, root, &path, keys);
        keys.insert(path);
    }
}

//! The JSON Schema of the file, made of the structs that read it.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::typed::{
    Jetstream, Kafka, Mock, Nats, Postgres, Rabbitmq, Root, Route, SinkCommon, SourceCommon,
    Sqlite, Stdout,
};

/// What a string looks like that is filled in from elsewhere.
const REFERENCE: &str = r"\$\{.+\}";

/// The JSON Schema of the configuration file: every key with what it means and its default.
#[must_use]
pub fn schema() -> Schema {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = Root::json_schema(&mut generator);
    let sources = json!([
        member::<SourceCommon, Postgres>("postgres", &mut generator),
        member::<SourceCommon, Sqlite>("sqlite", &mut generator),
    ]);
    let sinks = json!([
        member::<SinkCommon, Jetstream>("jetstream", &mut generator),
        member::<SinkCommon, Kafka>("kafka", &mut generator),
        member::<SinkCommon, Mock>("mock", &mut generator),
        member::<SinkCommon, Nats>("nats", &mut generator),
        member::<SinkCommon, Rabbitmq>("rabbitmq", &mut generator),
        member::<SinkCommon, Stdout>("stdout", &mut generator),
    ]);
    let routes = generator.subschema_for::<Route>();
    let properties = properties_of(&mut schema);
    properties.insert(
        "sources".to_owned(),
        json!({
            "description": "Databases with an outbox table, by name.",
            "type": "object",
            "additionalProperties": { "oneOf": sources },
        }),
    );
    properties.insert(
        "sinks".to_owned(),
        json!({
            "description": "Connections to brokers, by name.",
            "type": "object",
            "additionalProperties": { "oneOf": sinks },
        }),
    );
    properties.insert(
        "routes".to_owned(),
        json!({
            "description": "Which events go where: the first route that matches wins. Without routes every event \
                            goes to every sink's default destination.",
            "type": "array",
            "items": routes,
        }),
    );
    schema.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".to_owned(), json!("outbox-relay configuration"));
    let description = "Where events come from, where they go, and how. Strings may hold ${VAR}, ${VAR:-default} and \
                       ${file:/path}; $$ is a dollar.";
    schema.insert("description".to_owned(), json!(description));
    schema.insert(
        "$defs".to_owned(),
        Value::from(generator.take_definitions(true)),
    );
    RecursiveTransform(as_written_in_toml).transform(&mut schema);
    schema
}

/// The keys that the table of this struct may have.
pub(super) fn keys_of<T: JsonSchema>() -> Vec<String> {
    let mut schema = T::json_schema(&mut SchemaGenerator::default());
    properties_of(&mut schema).keys().cloned().collect()
}

/// The schema of a source or sink of type `name`: its own keys and those of every type.
fn member<Common: JsonSchema, Own: JsonSchema>(
    name: &str,
    generator: &mut SchemaGenerator,
) -> Schema {
    let mut properties = Map::from_iter([("type".to_owned(), json!({ "const": name }))]);
    properties.append(properties_of(&mut Own::json_schema(generator)));
    properties.append(properties_of(&mut Common::json_schema(generator)));
    json_schema!({
        "title": name,
        "type": "object",
        "properties": properties,
        "required": ["type"],
        "additionalProperties": false,
    })
}

/// The properties of an object's schema, which has them from here on.
fn properties_of(schema: &mut Schema) -> &mut Map<String, Value> {
    let object = schema.ensure_object();
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    if !properties.is_object() {
        *properties = json!({});
    }
    match properties {
        Value::Object(properties) => properties,
        _ => unreachable!("it was just made an object"),
    }
}

/// TOML has no null, defaults are in the descriptions, and any number, boolean or word may be written as `"${VAR}"`.
fn as_written_in_toml(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    for key in ["default", "format", "minimum", "maximum"] {
        object.remove(key);
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
        if let [only] = choices.as_slice()
            && let Some(only) = only.as_object().cloned()
        {
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    // With a type: what is made of it below has none, and is visited next.
    if object.contains_key("type")
        && let Some(words) = object.remove("enum")
    {
        object.remove("type");
        let reference = json!({ "type": "string", "pattern": REFERENCE });
        object.insert("anyOf".to_owned(), json!([{ "enum": words }, reference]));
    }
    if let Some(name @ ("integer" | "number" | "boolean")) =
        object.get("type").and_then(Value::as_str)
    {
        let types = json!([name, "string"]);
        object.insert("type".to_owned(), types);
        object.insert("pattern".to_owned(), json!(REFERENCE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_may_be_references() {
        let schema = schema().to_value();
        let relay = &schema["$defs"]["Relay"]["properties"];
        assert_eq!(relay["name"]["type"], "string", "no null: {relay}");
        let retries = &schema["$defs"]["Retry"]["properties"]["max_retries"];
        assert_eq!(retries["type"], json!(["integer", "string"]));
        let format = &schema["$defs"]["Envelope"]["properties"]["format"]["anyOf"];
        assert_eq!(format[0]["enum"][0], "json");
        assert_eq!(format[1]["pattern"], REFERENCE);
    }
}

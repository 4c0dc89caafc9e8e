//! Values that are written in more than one way, or mean more than a string.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Implements `Deserialize` for a string that must have a form.
macro_rules! text {
    ($name:ident, $expecting:literal, $pattern:literal, $(#[$doc:meta])*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(in crate::config) struct $name(pub(in crate::config) String);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        Ok($name(text.to_owned()))
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

text!(
    DurationText,
    "a duration in quotes, such as \"5s\"",
    r"^([0-9]+(d|h|m|s|ms))+$|\$\{",
    /// A duration as it is written.
);

text!(
    SizeText,
    "a size in quotes, such as \"64MiB\"",
    r"^[0-9]+([KMGT]i?)?B$|\$\{",
    /// A size as it is written.
);

/// One string or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum List<T = String> {
    /// A string.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> List<T> {
    /// The strings as they are.
    pub(in crate::config) fn items(&self) -> &[T] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl<T: AsRef<str>> List<T> {
    /// The strings; a single one is split at its commas, which is how variables write lists.
    pub(in crate::config) fn split(&self) -> Vec<&str> {
        match self {
            Self::One(text) => text.as_ref().split(',').map(str::trim).collect(),
            Self::Many(texts) => texts.iter().map(AsRef::as_ref).collect(),
        }
    }
}

impl<'de, T: From<String>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings<T>(PhantomData<T>);
        impl<'de, T: From<String>> Visitor<'de> for Strings<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<List<T>, E> {
                Ok(List::One(T::from(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<List<T>, A::Error> {
                let texts: Vec<String> = Vec::deserialize(SeqAccessDeserializer::new(items))?;
                Ok(List::Many(texts.into_iter().map(T::from).collect()))
            }
        }
        deserializer.deserialize_any(Strings(PhantomData))
    }
}

impl<T> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "List".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
    }
}

/// The name of a column, or `false`: the table has no such column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum ColumnName {
    /// It is called so.
    Named(String),
    /// There is none.
    Absent,
}

impl<'de> Deserialize<'de> for ColumnName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Column;
        impl Visitor<'_> for Column {
            type Value = ColumnName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a column, or false if the table has none")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ColumnName, E> {
                // Variables and references can say "false" only; as a column's name SQL reserves it.
                Ok(match text {
                    "false" => ColumnName::Absent,
                    name => ColumnName::Named(name.to_owned()),
                })
            }

            fn visit_bool<E: Error>(self, there: bool) -> Result<ColumnName, E> {
                if there {
                    return Err(E::invalid_type(serde::de::Unexpected::Bool(true), &self));
                }
                Ok(ColumnName::Absent)
            }
        }
        deserializer.deserialize_any(Column)
    }
}

impl JsonSchema for ColumnName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ColumnName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "const": false }] })
    }
}

/// Where a route sends an event at one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum To {
    /// `true`: to the sink's default destination. `false` is refused later, with a better message.
    Default(bool),
    /// A topic or subject.
    Name(String),
    /// A table that says what kind of destination it is.
    Table(ToTable),
}

/// `{ queue = "…" }`, `{ exchange = "…", routing_key = "…" }`, `{ subject = "…" }` or `{ topic = "…" }`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ToTable {
    /// RabbitMQ: a queue, by way of the default exchange.
    pub(in crate::config) queue: Option<String>,
    /// RabbitMQ: an exchange.
    pub(in crate::config) exchange: Option<String>,
    /// RabbitMQ: the routing key.
    pub(in crate::config) routing_key: Option<String>,
    /// NATS and JetStream: a subject.
    pub(in crate::config) subject: Option<String>,
    /// Kafka: a topic.
    pub(in crate::config) topic: Option<String>,
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Destination;
        impl<'de> Visitor<'de> for Destination {
            type Value = To;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "true, a destination in quotes, or a table such as { queue = \"picks\" }",
                )
            }

            fn visit_bool<E: Error>(self, default: bool) -> Result<To, E> {
                Ok(To::Default(default))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<To, E> {
                Ok(To::Name(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<To, A::Error> {
                ToTable::deserialize(MapAccessDeserializer::new(map)).map(To::Table)
            }
        }
        deserializer.deserialize_any(Destination)
    }
}

impl JsonSchema for To {
    fn schema_name() -> Cow<'static, str> {
        "To".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<ToTable>();
        json_schema!({ "anyOf": [{ "const": true }, { "type": "string" }, table] })
    }
}

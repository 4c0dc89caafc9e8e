//! The text of a file as a tree of values, with the place of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use figment::value::{Dict, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::Environment;
use super::finding::{KeyPath, Place};
use super::interpolate::fill;
use super::report::Report;

/// Errors of syntax shown at most: one missing quote can make a hundred.
const MAX_SYNTAX_ERRORS: usize = 20;

/// A parsed and interpolated file.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Its values.
    pub(super) values: Dict,
    /// Where each stands.
    pub(super) places: BTreeMap<KeyPath, Place>,
}

/// Parses `text` and fills in the references of its strings. What is wrong goes to `report`, and values with
/// errors are left out; `None` if the text is not TOML at all.
pub(super) fn parse(
    text: &str,
    name: Option<&str>,
    env: &Environment,
    report: &mut Report,
) -> Option<Document> {
    let lines = Lines::of(text, name);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What a broken file would mean is a guess: nothing else is said about it.
        for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
            let place = lines.place(error.span().map_or(text.len(), |span| span.start));
            // Only the message: the error's own display shows the line, and that may hold a password.
            report.error_at(
                &KeyPath::root(),
                place,
                format!("is not TOML: {}", one_line(error.message())),
            );
        }
        return None;
    }
    let mut walk = Walk {
        lines,
        env,
        report,
        places: BTreeMap::new(),
    };
    let values = walk.table(&KeyPath::root(), table.get_ref());
    Some(Document {
        values,
        places: walk.places,
    })
}

/// The parser's message, which may span lines, on one.
fn one_line(message: &str) -> String {
    message
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Reads `text` as one TOML value without references, if it is an array or an inline table: what a variable or
/// flag must be to mean more than a string.
pub(super) fn parse_structure(text: &str) -> Option<Value> {
    let trimmed = text.trim();
    if !trimmed.starts_with(['[', '{']) {
        return None;
    }
    let value = DeValue::parse(trimmed).ok()?;
    plain(value.get_ref())
}

fn plain(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::Array(items) => {
            let items: Option<Vec<Value>> =
                items.iter().map(|item| plain(item.get_ref())).collect();
            Value::from(items?)
        }
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| {
                let value = plain(value.get_ref())?;
                Some((key.get_ref().to_string(), value))
            });
            Value::from(entries.collect::<Option<Dict>>()?)
        }
        DeValue::String(text) => Value::from(text.as_ref()),
        scalar => number_or_other(scalar).ok()?,
    })
}

/// A scalar that is not a string.
fn number_or_other(value: &DeValue<'_>) -> Result<Value, &'static str> {
    match value {
        DeValue::Integer(integer) => parse_integer(integer)
            .map(Value::from)
            .ok_or("is a number that does not fit into 64 bits"),
        DeValue::Float(float) => float
            .as_str()
            .replace('_', "")
            .parse::<f64>()
            .map(Value::from)
            .map_err(|_| "is not a number"),
        DeValue::Boolean(boolean) => Ok(Value::from(*boolean)),
        DeValue::Datetime(_) => {
            Err("is a date, which no key takes: write it in quotes if it is text")
        }
        DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => Err("is not a scalar"),
    }
}

fn parse_integer(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
}

/// Offsets to lines.
struct Lines {
    name: Option<Arc<str>>,
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str, name: Option<&str>) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            name: name.map(Arc::from),
            starts: newlines.map(|(offset, _)| offset + 1).collect(),
        }
    }

    fn place(&self, offset: usize) -> Place {
        Place::File {
            name: self.name.clone(),
            line: Some(1 + self.starts.partition_point(|start| *start <= offset)),
            from: Vec::new(),
        }
    }
}

/// One walk through a parsed file.
struct Walk<'a> {
    lines: Lines,
    env: &'a Environment,
    report: &'a mut Report,
    places: BTreeMap<KeyPath, Place>,
}

impl Walk<'_> {
    fn table(&mut self, path: &KeyPath, table: &DeTable<'_>) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table {
            let name = key.get_ref();
            let path = path.key(name);
            self.places
                .insert(path.clone(), self.lines.place(key.span().start));
            if let Some(value) = self.value(&path, value) {
                dict.insert(name.to_string(), value);
            }
        }
        dict
    }

    /// The value; `None` if it was reported and struck.
    fn value(&mut self, path: &KeyPath, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        match value.get_ref() {
            DeValue::String(text) => self.string(path, text),
            DeValue::Array(items) => {
                let mut values = Vec::new();
                for (position, item) in items.iter().enumerate() {
                    let path = path.index(position);
                    self.places
                        .insert(path.clone(), self.lines.place(item.span().start));
                    values.push(self.value(&path, item));
                }
                // A list that lost an element would be judged as something that nobody wrote.
                let values: Option<Vec<Value>> = values.into_iter().collect();
                if values.is_none() {
                    self.report.strike(path);
                }
                values.map(Value::from)
            }
            DeValue::Table(table) => Some(Value::from(self.table(path, table))),
            scalar => match number_or_other(scalar) {
                Ok(value) => Some(value),
                Err(message) => {
                    self.error(path, message);
                    None
                }
            },
        }
    }

    fn string(&mut self, path: &KeyPath, text: &str) -> Option<Value> {
        match fill(text, self.env) {
            Ok(filled) => {
                if let Some(Place::File { from, .. }) = self.places.get_mut(path) {
                    *from = filled.from;
                }
                Some(Value::from(filled.text))
            }
            Err(errors) => {
                for error in errors {
                    self.error(path, &error);
                }
                None
            }
        }
    }

    fn error(&mut self, path: &KeyPath, message: &str) {
        let place = self.places.get(path).cloned().unwrap_or_default();
        self.report.error_at(path, place, message);
        self.report.strike(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line() {
        let text =
            "a = 1\n[b]\nc = [\n  'x',\n  'y',\n]\nd.e = '${V}'\n[[f]]\ng = 1\n[[f]]\ng = 2\n";
        let mut report = Report::default();
        let env = [("V", "v")].into_iter().collect();
        let document = parse(text, None, &env, &mut report).expect("TOML");
        assert!(report.is_clean());
        let line = |path: &KeyPath| document.places[path].line();
        let b = KeyPath::of(["b"]);
        assert_eq!(line(&KeyPath::of(["a"])), Some(1));
        assert_eq!(line(&b), Some(2));
        assert_eq!(line(&b.key("c").index(1)), Some(5));
        assert_eq!(line(&b.key("d").key("e")), Some(7));
        assert_eq!(line(&KeyPath::of(["f"]).index(1).key("g")), Some(11));
        assert!(!document.places[&b.key("d").key("e")].is_literal());
        assert!(document.places[&KeyPath::of(["a"])].is_literal());
    }

    #[test]
    fn numbers_in_every_notation() {
        let text = "a = 0x_ff\n";
        let mut report = Report::default();
        assert!(parse(text, None, &Environment::default(), &mut report).is_none());
        assert!(
            !report.is_clean(),
            "an underscore after the prefix is not TOML"
        );
        let mut report = Report::default();
        let text = "a = 0xf_f\nb = 1_000\nc = 0o7\nd = 0b11\ne = 1_0.5e1\nf = +inf\n";
        let document = parse(text, None, &Environment::default(), &mut report).expect("TOML");
        assert!(report.is_clean());
        let numbers: Vec<String> = document
            .values
            .values()
            .map(|value| format!("{:?}", value.to_num_lossy().expect("a number")))
            .collect();
        assert_eq!(numbers.len(), 6, "{numbers:?}");
        assert!(
            numbers[0].contains("255") && numbers[4].contains("105"),
            "{numbers:?}"
        );
    }

    #[test]
    fn structures_from_variables() {
        assert!(parse_structure("['a', 'b']").is_some_and(|value| value.as_dict().is_none()));
        assert!(parse_structure("{ a = 1 }").is_some_and(|value| value.as_dict().is_some()));
        for text in ["a", "[a]", "{", "", "true", "[1979-05-27]"] {
            assert!(parse_structure(text).is_none(), "{text}");
        }
    }
}

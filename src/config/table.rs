//! One table of merged values as a struct, with everything that is wrong with it.
//!
//! serde stops at the first error. To find them all, the key that is wrong is reported and struck out, and the
//! table is read again.

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;

use super::finding::KeyPath;
use super::nearest::did_you_mean;
use super::report::Report;

/// Errors reported per table at most; each costs another reading of it.
const MAX_ERRORS_PER_TABLE: usize = 50;

/// Reads one table; `also` are keys that it may have and that were read elsewhere.
pub(super) fn table<T: DeserializeOwned + Default>(
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

/// What kind of value it is, in words.
pub(super) fn describe(actual: &Actual) -> &'static str {
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

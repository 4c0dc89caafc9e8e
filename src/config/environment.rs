//! Environment variables and flags, as what they assign to which key.

use std::collections::BTreeMap;
use std::fmt;

use figment::value::{Dict, Value};

use super::document::parse_structure;
use super::finding::{KeyPath, Place};
use super::layers::{Assignment, Origin};
use super::report::Report;

/// What variables that assign to a key begin with, and what stands between the names in them.
const PREFIX: &str = "OUTBOX__";
const SEPARATOR: &str = "__";
/// Names in a path at most: no key is deeper, and trees are walked by recursion.
const MAX_DEPTH: usize = 8;

/// The environment variables that a configuration is read with.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process. One that is not UTF-8 counts as not set.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The variable's value, which may be empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables.into_iter();
        Self(
            variables
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What the command line sets, above everything else.
#[derive(Clone, Default)]
pub struct Overrides(Vec<(String, Vec<String>, String)>);

impl Overrides {
    /// Nothing is set.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Sets the key at `path` (`["admin", "listen"]`) to what the flag `flag` says (`--listen`: for messages).
    #[must_use]
    pub fn with(mut self, flag: &str, path: &[&str], value: &str) -> Self {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        self.0.push((flag.to_owned(), path, value.to_owned()));
        self
    }

    /// What the flags assign.
    pub(super) fn assignments(&self) -> impl Iterator<Item = Assignment> {
        self.0.iter().map(|(flag, path, value)| {
            Assignment::new(path.clone(), value_of(value), Origin::Flag(flag.clone()))
        })
    }
}

/// Flags and keys only: values may be secrets.
impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(flag, path, _)| (flag, path)))
            .finish()
    }
}

/// What `OUTBOX__SINKS__PICKS__URL` and its like assign. `file` is what they may override: names there keep
/// their spelling.
pub(super) fn assignments(env: &Environment, file: &Dict, report: &mut Report) -> Vec<Assignment> {
    let mut assignments: Vec<Assignment> = Vec::new();
    for (variable, value) in &env.0 {
        let Some(names) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let names: Vec<&str> = names.split(SEPARATOR).collect();
        let complain = |report: &mut Report, message: String| {
            report.error_at(&KeyPath::root(), Place::Variable(variable.clone()), message);
        };
        if names.len() > MAX_DEPTH || names.iter().any(|name| name.is_empty()) {
            complain(
                report,
                "names no key: write it like OUTBOX__RELAY__NAME".to_owned(),
            );
            continue;
        }
        let path = spelled_as_in(file, &names);
        let value = value_of(value);
        if let Some(other) = assignments.iter().find(|other| other.is_replaced_by(&path)) {
            let other = other.origin_name();
            complain(
                report,
                format!("sets a key in what {other} sets to one value: unset one of them"),
            );
            continue;
        }
        assignments.push(Assignment::new(
            path,
            value,
            Origin::Variable(variable.clone()),
        ));
    }
    assignments
}

/// The value of a variable or flag: a TOML array or inline table if it is one, else the text as it is, which
/// becomes a number or boolean where the key wants one.
fn value_of(text: &str) -> Value {
    parse_structure(text).unwrap_or_else(|| Value::from(text))
}

/// Variables can't spell lower case, dashes and dots: each name becomes the one key of the file that it can mean,
/// or its lower case.
fn spelled_as_in(file: &Dict, names: &[&str]) -> Vec<String> {
    let mut table = Some(file);
    let mut path = Vec::new();
    for name in names {
        let lower = name.to_ascii_lowercase();
        let spelled = match table {
            Some(table) if !table.contains_key(&lower) => {
                let mut similar = table.keys().filter(|key| as_variable(key) == lower);
                match (similar.next(), similar.next()) {
                    (Some(only), None) => only.clone(),
                    _ => lower,
                }
            }
            _ => lower,
        };
        table = table
            .and_then(|table| table.get(&spelled))
            .and_then(Value::as_dict);
        path.push(spelled);
    }
    path
}

fn as_variable(key: &str) -> String {
    key.to_ascii_lowercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Dict {
        let mut report = Report::default();
        super::super::document::parse(
            "[sinks.My-Sink]\nx = 1\n[sinks.a-b]\n[sinks.'a.b']\n",
            None,
            &Environment::default(),
            &mut report,
        )
        .expect("TOML")
        .values
    }

    #[test]
    fn names_keep_the_spelling_of_the_file() {
        let cases = [
            (
                vec!["SINKS", "MY_SINK", "URL"],
                vec!["sinks", "My-Sink", "url"],
            ),
            (vec!["SINKS", "NEW", "URL"], vec!["sinks", "new", "url"]),
            (vec!["SINKS", "A_B", "URL"], vec!["sinks", "a_b", "url"]),
        ];
        for (names, path) in cases {
            assert_eq!(spelled_as_in(&file(), &names), path);
        }
    }

    #[test]
    fn two_variables_can_not_both_be_right() {
        let mut report = Report::default();
        let env: Environment = [
            ("OUTBOX__RELAY", "x"),
            ("OUTBOX__RELAY__NAME", "y"),
            ("OUTBOX__", "z"),
        ]
        .into_iter()
        .collect();
        assignments(&env, &Dict::new(), &mut report);
        let (errors, _) = report.into_findings();
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].contains("OUTBOX__: names no key"), "{texts:?}");
        assert!(texts[1].contains("what OUTBOX__RELAY sets"), "{texts:?}");
    }

    #[test]
    fn debug_shows_no_values() {
        let env: Environment = [("A", "hunter2")].into_iter().collect();
        let overrides = Overrides::none().with("--x", &["a"], "hunter2");
        assert_eq!(
            format!("{env:?} {overrides:?}"),
            r#"{"A"} [("--x", ["a"])]"#
        );
    }
}

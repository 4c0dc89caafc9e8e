//! Tests of the configuration as a whole; those of its parts stand beside them.

mod contents;
mod destinations;
mod environment;
mod findings;
mod hostile;
#[cfg(feature = "nats")]
mod jetstream;
#[cfg(feature = "kafka")]
mod kafka;
mod limits;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod reference;
mod values;
mod warnings;

use super::{Config, Environment, Finding, Loaded};

/// A source and a sink with which nothing is wrong: 5 lines.
const FINE: &str =
    "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h/d'\n[sinks.b]\ntype = 'stdout'\n";

/// An environment of these variables.
fn env(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

/// Loads `text` without any variable.
fn load(text: &str) -> Loaded {
    Config::from_toml(text, &Environment::default())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// Asserts that the findings are these, in this order: key path, line (0: none), and a part of the message.
fn assert_findings(findings: &[Finding], expected: &[(&str, usize, &str)], text: &str) {
    let shown = findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(findings.len(), expected.len(), "{text}\n{shown}");
    for (finding, (path, line, fragment)) in findings.iter().zip(expected) {
        assert_eq!(finding.path.to_string(), *path, "{text}\n{shown}");
        assert_eq!(finding.place.line().unwrap_or(0), *line, "{text}\n{shown}");
        assert!(
            finding.message.contains(fragment),
            "not {fragment:?}: {text}\n{shown}"
        );
    }
}

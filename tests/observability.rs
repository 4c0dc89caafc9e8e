//! What is watched from outside: alert rules, the dashboard and the documents name what a relay really shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::temporary::TemporaryFolder;

const SOON: Duration = Duration::from_secs(30);

/// Labels that Prometheus adds.
const ADDED: [&str; 2] = ["job", "instance"];

/// What histograms show: their samples end so.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// By name of a sample, the labels that it carries.
type Samples = BTreeMap<String, BTreeSet<String>>;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A relay that has published, and been refused.
async fn samples() -> Samples {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("sources.main.after_delivery", "mark")
        .set("sinks.lines.type", "stdout")
        .set("sinks.refusing.type", "mock")
        .set("sinks.refusing.reject", 1.0)
        .set("sinks.refusing.retry.max_retries", 0);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("Shown", Some("key"), 1).await;
    let text = eventually("every histogram has a sample", SOON, async || {
        let text = relay.get("/metrics").await?.body;
        let shown = [
            "outbox_delivery_latency_seconds_sum{",
            "outbox_flush_duration_seconds_sum{",
            "outbox_dead_letters{",
            "outbox_abandoned_ledgers{",
        ];
        shown.iter().all(|name| text.contains(name)).then_some(text)
    })
    .await;
    relay.stop().await;
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((metric, labels)) = selectors(line).into_iter().next() {
            samples.entry(metric).or_default().extend(labels);
        }
    }
    samples
}

/// The metrics of an expression, with the labels that are asked of each: in its braces, and in groupings.
fn selectors(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let grouped: BTreeSet<String> = ["by (", "on ("]
        .iter()
        .flat_map(|word| expression.split(*word).skip(1))
        .flat_map(|rest| words(rest.split(')').next().unwrap_or_default()))
        .collect();
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("outbox_") {
        rest = &rest[at..];
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let (metric, behind) = rest.split_at(end);
        let mut labels = grouped.clone();
        if let Some(braces) = behind.strip_prefix('{') {
            let matchers = braces.split('}').next().unwrap_or_default();
            for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
                labels.extend(words(matcher).into_iter().next());
            }
        }
        found.push((metric.to_owned(), labels));
        rest = behind;
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c| !is_word(c));
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What an expression asks for and a relay doesn't show.
fn missing(expression: &str, samples: &Samples) -> Vec<String> {
    let mut missing = Vec::new();
    for (metric, labels) in selectors(expression) {
        let Some(shown) = samples.get(&metric) else {
            missing.push(format!("{metric} of {expression}"));
            continue;
        };
        let lacks = |label: &&String| !shown.contains(*label) && !ADDED.contains(&label.as_str());
        for label in labels.iter().filter(lacks) {
            missing.push(format!("{metric}{{{label}}} of {expression}"));
        }
    }
    missing
}

/// Values of `key` in the file of alert rules, line by line.
fn values<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    rules
        .lines()
        .filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(key))
        .map(str::trim)
        .collect()
}

/// Strings of these keys, anywhere in a JSON document.
fn strings<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => strings(value, keys, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, keys, found)),
        _ => {}
    }
}

/// `outbox_x` for `outbox_x_bucket` and the like.
fn family(sample: &str) -> &str {
    let part = PARTS.iter().find_map(|part| sample.strip_suffix(part));
    part.unwrap_or(sample)
}

#[tokio::test]
async fn alerts_dashboard_and_documents_name_what_a_relay_shows() {
    let samples = samples().await;
    let known: BTreeSet<&str> = samples.values().flatten().map(String::as_str).collect();
    let rules = read("config/alerts.yml");
    let alerts = values(&rules, "expr:");
    assert_eq!(
        alerts.len(),
        values(&rules, "alert:").len(),
        "one line each"
    );
    let dashboard: Value = serde_json::from_str(&read("config/grafana.json")).expect("JSON");
    let mut panels = Vec::new();
    strings(&dashboard, &["expr", "definition", "query"], &mut panels);
    assert!(panels.len() > 20, "{panels:#?}");
    let uses = alerts.into_iter().chain(panels);
    let mut wrong: Vec<String> = uses
        .flat_map(|expression| missing(expression, &samples))
        .collect();

    // Texts name labels, too.
    let mut legends = Vec::new();
    strings(&dashboard, &["legendFormat"], &mut legends);
    let shown = rules.split("$labels.").skip(1);
    let shown = shown.chain(legends.iter().flat_map(|legend| legend.split("{{").skip(1)));
    for label in shown.filter_map(|text| words(text).into_iter().next()) {
        if !known.contains(label.as_str()) && !ADDED.contains(&label.as_str()) {
            wrong.push(format!("the label {label}"));
        }
    }

    let documented = read("docs/metrics.md");
    for (sample, labels) in &samples {
        let name = format!("| `{}`", family(sample));
        let Some(line) = documented.lines().find(|line| line.starts_with(&name)) else {
            wrong.push(format!("docs/metrics.md lacks {name}"));
            continue;
        };
        let unnamed = labels
            .iter()
            .filter(|label| *label != "le" && !line.contains(&format!("`{label}`")));
        wrong.extend(unnamed.map(|label| format!("docs/metrics.md lacks {label} of {name}")));
    }
    for (metric, _) in selectors(&documented) {
        if !samples.keys().any(|sample| family(sample) == metric) {
            wrong.push(format!("docs/metrics.md has {metric}"));
        }
    }
    assert!(wrong.is_empty(), "not shown by a relay: {wrong:#?}");
}

#[test]
fn every_alert_has_its_place_in_the_runbook() {
    let runbook = read("docs/runbook.md");
    let headings: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## Outbox"))
        .collect();
    let rules = read("config/alerts.yml");
    let alerts: BTreeSet<&str> = values(&rules, "alert: Outbox").into_iter().collect();
    assert_eq!(headings, alerts);
}

/// promtool, where `tests/run` could have it.
fn promtool() -> Option<PathBuf> {
    let program = std::env::var_os("OUTBOX_TEST_PROMTOOL").map(PathBuf::from);
    if program.is_none() {
        report!("skipped: promtool can't be had here, so nobody has parsed config/alerts.yml");
    }
    program
}

#[test]
fn promtool_accepts_the_alerts_and_they_ring_when_they_are_to() {
    let Some(promtool) = promtool() else { return };
    for arguments in [
        ["check", "rules", "config/alerts.yml"],
        ["test", "rules", "tests/alerts_test.yml"],
    ] {
        let mut command = Command::new(&promtool);
        command
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.output().expect("run promtool");
        assert!(output.status.success(), "{arguments:?}: {output:#?}");
    }
}

async fn await_abandoned(relay: &Relay, count: f64) {
    let is_count = |abandoned: f64| (abandoned - count).abs() < 0.5;
    let labels = ["source=\"main\""];
    relay
        .await_metric("outbox_abandoned_ledgers", &labels, SOON, is_count)
        .await;
}

/// A sink that is taken out leaves a ledger, which holds the table back: in any database, and at once in a reload.
async fn a_sink_that_is_gone_shows(settings: Settings) {
    let settings = settings.set("sources.main.after_delivery", "mark");
    migrate(&settings);
    let both = settings.clone().set("sinks.more.type", "stdout");
    let relay = Relay::ready(&both).await;
    await_abandoned(&relay, 0.0).await;
    let reload = relay.reload(&settings).await;
    assert_eq!(reload["successful"], true, "{reload:#}");
    await_abandoned(&relay, 1.0).await;
    relay.stop().await;
    let relay = Relay::ready(&settings.set("sources.main.after_delivery", "keep")).await;
    await_abandoned(&relay, 0.0).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_ledger_without_a_sink_shows_in_postgres() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.lines.type", "stdout");
    a_sink_that_is_gone_shows(settings).await;
}

#[tokio::test]
async fn a_ledger_without_a_sink_shows_in_sqlite() {
    let folder = TemporaryFolder::new("abandoned");
    let file = folder.path().join("outbox.db");
    a_sink_that_is_gone_shows(Settings::of_file(&file)).await;
}

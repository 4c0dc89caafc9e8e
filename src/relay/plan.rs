//! What a new configuration changes of what runs. Pure: decides, and does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::{self, Config};
use crate::route::Router;

/// What one pipeline uses of the configuration: while that is the same, the pipeline is left alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PipelineSettings {
    /// The sink, but for its other inputs.
    sink: config::Sink,
    /// The routes as this sink sees them: a rule about another sink is none of its business.
    router: Router,
}

/// The settings of every pipeline of a source, by sink.
pub(super) fn pipelines(config: &Config, source: &str) -> BTreeMap<String, PipelineSettings> {
    let settings = |sink: &config::Sink| PipelineSettings {
        router: Router::new(sink, config.routing.as_ref()),
        sink: config::Sink {
            inputs: Vec::new(),
            ..sink.clone()
        },
    };
    config
        .fed_by(source)
        .map(|sink| (sink.name.clone(), settings(sink)))
        .collect()
}

/// What becomes of what runs under names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Starts.
    pub added: BTreeSet<String>,
    /// Stops.
    pub removed: BTreeSet<String>,
    /// Stops, and starts with other settings.
    pub changed: BTreeSet<String>,
    /// Goes on and doesn't notice.
    pub kept: BTreeSet<String>,
}

impl Changes {
    fn between<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Self {
        let mut changes = Self::default();
        for (name, settings) in new {
            let set = match old.get(name) {
                None => &mut changes.added,
                Some(before) if before == settings => &mut changes.kept,
                Some(_) => &mut changes.changed,
            };
            set.insert(name.clone());
        }
        let gone = old.keys().filter(|name| !new.contains_key(*name));
        changes.removed = gone.cloned().collect();
        changes
    }

    /// Names with a sign for what becomes of them; those that are kept are left out.
    fn signed(&self, prefix: &str) -> Vec<String> {
        let sets = [
            ("+", &self.added),
            ("-", &self.removed),
            ("~", &self.changed),
        ];
        let signed = |(sign, names): (&str, &BTreeSet<String>)| {
            let names = names.iter();
            names
                .map(|name| format!("{sign}{prefix}{name}"))
                .collect::<Vec<_>>()
        };
        sets.into_iter().flat_map(signed).collect()
    }
}

/// What a new configuration changes of what runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Sources, with all of their pipelines: lease and connections are given up where one is changed.
    pub sources: Changes,
    /// By source that is kept: its pipelines, by sink.
    pub pipelines: BTreeMap<String, Changes>,
}

impl Plan {
    /// What `new` changes of what runs by `old`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let sources = Changes::between(&old.sources, &new.sources);
        let of = |name: &String| {
            let changes = Changes::between(&pipelines(old, name), &pipelines(new, name));
            (name.clone(), changes)
        };
        Self {
            pipelines: sources.kept.iter().map(of).collect(),
            sources,
        }
    }

    /// Pairs of source and sink that meet for the first time, as far as the configurations tell.
    pub(super) fn joining<'a>(&self, new: &'a Config) -> Vec<(&'a str, &'a config::Sink)> {
        let joins = |source: &str, sink: &config::Sink| match self.pipelines.get(source) {
            // One that changed may have said nothing of its start before.
            Some(kept) => kept.added.contains(&sink.name) || kept.changed.contains(&sink.name),
            None => true,
        };
        let sources = new.sources.keys();
        let pairs =
            sources.flat_map(|source| new.fed_by(source).map(move |sink| (source.as_str(), sink)));
        pairs.filter(|(source, sink)| joins(source, sink)).collect()
    }
}

/// `~orders, +orders/audit`: sources by their name, pipelines by source and sink.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.sources.signed("");
        for (source, changes) in &self.pipelines {
            all.extend(changes.signed(&format!("{source}/")));
        }
        if all.is_empty() {
            return f.write_str("nothing that runs");
        }
        f.write_str(&all.join(", "))
    }
}

/// What `new` asks for that only a restart can do, one line each.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let mut reasons = Vec::new();
    if old.relay.name != new.relay.name {
        reasons.push(format!(
            "relay.name: needs a restart: leases and ledgers are kept under {}, and a relay of another name has none",
            old.relay.name
        ));
    }
    let endpoints = |config: &Config| config.admin.clone();
    let (before, after) = (endpoints(old), endpoints(new));
    if before != after {
        let listen = |admin: &Option<config::Admin>| admin.as_ref().map(|admin| admin.listen);
        let key = if listen(&before) == listen(&after) {
            "admin"
        } else {
            "admin.listen"
        };
        reasons.push(format!(
            "{key}: needs a restart: the endpoints stay as they are while the relay runs"
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    /// Two sources, three sinks, routes that name two of them.
    const BEFORE: &str = r#"
        [relay]
        name = "r"
        [admin]
        listen = "127.0.0.1:1"
        [sources.a]
        type = "postgres"
        url = "postgres://h/a"
        [sources.b]
        type = "sqlite"
        path = "/b.db"
        [retry]
        max_retries = 3
        [sinks.x]
        type = "mock"
        inputs = "a"
        [sinks.y]
        type = "mock"
        [sinks.y.retry]
        max_retries = 1
        [sinks.z]
        type = "stdout"
        inputs = "b"
        [[routes]]
        event_type = "P*"
        to = { x = true, y = true }
        [[routes]]
        event_type = "*"
        to = { x = true, z = true }
    "#;

    fn config(text: &str) -> Config {
        let env = [("SECRET", "s"), ("OTHER", "s"), ("THIRD", "t")]
            .into_iter()
            .collect();
        let loaded = Config::from_toml(text, &env);
        loaded
            .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
            .config
    }

    #[test]
    fn only_what_uses_a_change_is_touched() {
        let cases: &[(&str, &str, &str, &str)] = &[
            (
                "a comment",
                "[relay]",
                "# new\n[relay]",
                "nothing that runs",
            ),
            (
                "the time of a stop",
                "name = \"r\"",
                "name = \"r\"\nshutdown_timeout = \"1s\"",
                "nothing that runs",
            ),
            (
                "a sink's own",
                "[sinks.y]",
                "[sinks.y]\ntimeout = \"1s\"",
                "~a/y, ~b/y",
            ),
            (
                "what a sink overrides",
                "max_retries = 3",
                "max_retries = 4",
                "~a/x, ~b/z",
            ),
            (
                "a default for all",
                "[retry]",
                "[envelope]\naggregate_field = \"k\"\n[retry]",
                "~a/x, ~a/y, ~b/y, ~b/z",
            ),
            (
                "an input less",
                "[sinks.y]",
                "[sinks.y]\ninputs = \"a\"",
                "-b/y",
            ),
            (
                "an input more",
                "inputs = \"b\"",
                "inputs = [\"b\", \"a\"]",
                "+a/z",
            ),
            (
                "a sink more",
                "[sinks.x]",
                "[sinks.w]\ntype = \"mock\"\n[sinks.x]",
                "+a/w, +b/w",
            ),
            (
                "another type",
                "type = \"stdout\"",
                "type = \"mock\"",
                "~b/z",
            ),
            (
                "a source's own",
                "path = \"/b.db\"",
                "path = \"/b.db\"\nbatch_size = 7",
                "~b",
            ),
            (
                "a source more",
                "[sources.b]",
                "[sources.c]\ntype = \"sqlite\"\npath = \"/c\"\n[sources.b]",
                "+c",
            ),
            (
                "a route of others",
                "to = { x = true, z = true }",
                "to = { x = true, z = true, y = true }",
                "~a/y, ~b/y",
            ),
            (
                "a route for all",
                "event_type = \"P*\"",
                "event_type = \"Q*\"",
                "~a/x, ~a/y, ~b/y, ~b/z",
            ),
            (
                "a spelling",
                "url = \"postgres://h/a\"",
                "url = \"postgres://h/${NONE:-a}\"",
                "nothing that runs",
            ),
        ];
        let before = config(BEFORE);
        for (case, find, replace, expected) in cases {
            assert!(BEFORE.contains(find), "{case}");
            let after = config(&BEFORE.replacen(find, replace, 1));
            assert_eq!(
                Plan::between(&before, &after).to_string(),
                *expected,
                "{case}"
            );
            assert!(needs_restart(&before, &after).is_empty(), "{case}");
        }
    }

    #[test]
    fn secrets_are_compared_by_value() {
        let with = |name: &str| {
            let url = format!("url = \"postgres://h/a?password=${{{name}}}\"");
            config(&BEFORE.replacen("url = \"postgres://h/a\"", &url, 1))
        };
        assert_eq!(with("SECRET"), with("OTHER"));
        let plan = Plan::between(&with("SECRET"), &with("THIRD"));
        assert_eq!(plan.to_string(), "~a");
        assert!(
            plan.pipelines.keys().eq(["b"]),
            "those of a changed source go with it"
        );
    }

    #[test]
    fn who_joins_is_who_may_lack_a_ledger() {
        let before = config(BEFORE);
        let after = BEFORE
            .replacen(
                "[sinks.x]",
                "[sinks.w]\ntype = \"mock\"\ninputs = \"a\"\n[sinks.x]",
                1,
            )
            .replacen("path = \"/b.db\"", "path = \"/b2.db\"", 1);
        let after = config(&after);
        let joining = Plan::between(&before, &after).joining(&after);
        let names: Vec<_> = joining
            .iter()
            .map(|(source, sink)| (*source, sink.name.as_str()))
            .collect();
        assert_eq!(names, [("a", "w"), ("b", "y"), ("b", "z")]);
    }

    #[test]
    fn name_and_endpoints_need_a_restart() {
        let before = config(BEFORE);
        for (find, replace, key) in [
            ("name = \"r\"", "name = \"s\"", "relay.name: "),
            ("127.0.0.1:1", "127.0.0.1:2", "admin.listen: "),
            ("[admin]", "[admin]\nmetrics = false", "admin: "),
            ("[admin]", "[admin]\ntoken = \"t\"", "admin: "),
        ] {
            let after = config(&BEFORE.replacen(find, replace, 1));
            let reasons = needs_restart(&before, &after);
            assert_eq!(reasons.len(), 1, "{replace}");
            assert!(
                reasons[0].starts_with(key) && reasons[0].contains("needs a restart"),
                "{reasons:?}"
            );
        }
        let without = Config::from_toml(
            &BEFORE.replacen("[admin]\n        listen = \"127.0.0.1:1\"", "", 1),
            &Environment::default(),
        );
        let reasons = needs_restart(&before, &without.expect("valid").config);
        assert_eq!(reasons.len(), 1, "{reasons:?}");
    }
}

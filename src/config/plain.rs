//! The plain variables: `DATABASE_URL`, `PUBLISHER_TYPE`, … They describe one source and one sink, and with a
//! file they fill what it leaves out. An empty one counts as not set.

use figment::value::{Dict, Value};

use super::environment::Environment;
use super::finding::{KeyPath, Place};
use super::layers::{Assignment, Origin};
use super::report::Report;

/// What the one source is called that only the environment describes.
const SOURCE: &str = "default";

/// The stream that the environment alone has created, so that events for its subject are kept: the name, and what it
/// captures. It gives way to any stream that captures them already.
const STREAM: (&str, &str) = ("OUTBOX", "outbox.>");

/// Sinks that the environment can describe: their variable, and what no variable says.
const PUBLISHERS: [Publisher; 5] = [
    Publisher {
        name: "jetstream",
        address: Some(("url", "NATS_URL", Some("nats://localhost:4222"))),
        destination: &[("subject", "outbox.{event_type}")],
    },
    Publisher {
        name: "nats",
        address: Some(("url", "NATS_URL", Some("nats://localhost:4222"))),
        destination: &[("subject", "outbox.{event_type}")],
    },
    Publisher {
        name: "kafka",
        address: Some(("brokers", "KAFKA_BROKERS", None)),
        destination: &[("topic", "outbox")],
    },
    Publisher {
        name: "rabbitmq",
        address: Some(("url", "RABBITMQ_URL", None)),
        destination: &[("exchange", "outbox"), ("routing_key", "{event_type}")],
    },
    Publisher {
        name: "mock",
        address: None,
        destination: &[],
    },
];

struct Publisher {
    /// What `PUBLISHER_TYPE` says; the sink's type and name.
    name: &'static str,
    /// The key that says where the broker is, its variable, and its value if that is not set.
    address: Option<(&'static str, &'static str, Option<&'static str>)>,
    /// Keys of the default destination.
    destination: &'static [(&'static str, &'static str)],
}

/// What the plain variables assign, given what the `file` says (`None`: there is none) and what everything but
/// them `said`.
pub(super) fn assignments(
    file: Option<&Dict>,
    said: &Dict,
    env: &Environment,
    report: &mut Report,
) -> Vec<Assignment> {
    let mut plain = Plain {
        env,
        report,
        assignments: Vec::new(),
    };
    let alone = file.is_none();
    let lacks = |table: &str| {
        let empty = file.is_none_or(|file| !file.contains_key(table));
        empty && !members(said, table).any(|(_, member)| member.contains_key("type"))
    };
    if lacks("sources") && plain.is_set("DATABASE_URL") {
        plain.default(&["sources", SOURCE, "type"], "postgres");
        // As the workers had it: real time with JetStream, polling with everything else.
        let realtime = !alone || plain.publisher_name() == Some("jetstream");
        let mode = if realtime {
            super::validate::DEFAULT_MODE
        } else {
            "poll"
        };
        if !plain.is_set("OUTBOX_MODE") {
            plain.default(&["sources", SOURCE, "mode"], mode);
        }
        plain.source(SOURCE, (!plain.is_set("OUTBOX_MODE")).then_some(mode));
    }
    if lacks("sinks") {
        plain.new_sink(alone);
        plain.new_stream(said);
    }
    for (name, source) in members(said, "sources") {
        if source.get("type").and_then(Value::as_str) == Some("postgres") {
            plain.source(name, source.get("mode").and_then(Value::as_str));
        }
    }
    for (name, sink) in members(said, "sinks") {
        let publisher = sink.get("type").and_then(Value::as_str).and_then(publisher);
        if let Some((key, variable, _)) = publisher.and_then(|publisher| publisher.address) {
            plain.variable(&["sinks", name, key], variable);
        }
    }
    if !said.contains_key("admin") {
        plain.admin();
    }
    if alone {
        plain.default(&["envelope", "aggregate_field"], "draftId");
    }
    plain.assignments
}

fn publisher(name: &str) -> Option<&'static Publisher> {
    PUBLISHERS.iter().find(|publisher| publisher.name == name)
}

/// The tables in the table `table`.
fn members<'a>(said: &'a Dict, table: &str) -> impl Iterator<Item = (&'a str, &'a Dict)> {
    let members = said
        .get(table)
        .and_then(Value::as_dict)
        .into_iter()
        .flatten();
    members.filter_map(|(name, member)| Some((name.as_str(), member.as_dict()?)))
}

struct Plain<'a> {
    env: &'a Environment,
    report: &'a mut Report,
    assignments: Vec<Assignment>,
}

impl Plain<'_> {
    fn get(&self, variable: &str) -> Option<&str> {
        self.env
            .get(variable)
            .map(str::trim)
            .filter(|value| !value.is_empty())
    }

    fn is_set(&self, variable: &str) -> bool {
        self.get(variable).is_some()
    }

    /// Assigns what the variable says, if it is set, to the key.
    fn variable(&mut self, path: &[&str], variable: &str) {
        if let Some(value) = self.get(variable).map(str::to_owned) {
            self.assign(
                path,
                Value::from(value),
                Origin::Variable(variable.to_owned()),
            );
        }
    }

    fn default(&mut self, path: &[&str], value: &str) {
        self.assign(path, Value::from(value), Origin::Default);
    }

    fn assign(&mut self, path: &[&str], value: Value, origin: Origin) {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        self.assignments.push(Assignment::new(path, value, origin));
    }

    /// Fills what the source leaves out. `mode` is what it says of its mode.
    fn source(&mut self, name: &str, mode: Option<&str>) {
        self.variable(&["sources", name, "url"], "DATABASE_URL");
        self.variable(&["sources", name, "mode"], "OUTBOX_MODE");
        self.variable(&["sources", name, "poll_interval"], "OUTBOX_POLL_INTERVAL");
        let mode = mode
            .or(self.get("OUTBOX_MODE"))
            .unwrap_or(super::validate::DEFAULT_MODE);
        if mode == "notify" {
            self.variable(&["sources", name, "fallback_interval"], "FALLBACK_INTERVAL");
        }
    }

    /// The publisher that the environment names, or gives away.
    fn publisher_name(&self) -> Option<&str> {
        self.get("PUBLISHER_TYPE")
            .or_else(|| self.is_set("NATS_URL").then_some("jetstream"))
    }

    /// The one sink that only the environment describes. `alone`: there is no file, so something must be chosen.
    fn new_sink(&mut self, alone: bool) {
        let origin = if self.is_set("PUBLISHER_TYPE") {
            Origin::Variable("PUBLISHER_TYPE".to_owned())
        } else {
            Origin::Default
        };
        let name = match self.publisher_name() {
            Some(name) => name.to_owned(),
            None if alone => "mock".to_owned(),
            None => return,
        };
        let Some(publisher) = publisher(&name) else {
            let place = Place::Variable("PUBLISHER_TYPE".to_owned());
            let names = PUBLISHERS.map(|publisher| publisher.name).join(", ");
            let path = KeyPath::root().key("sinks");
            self.report.error_at(
                &path,
                place,
                format!("is no publisher: write one of {names}"),
            );
            self.report.strike(&path);
            return;
        };
        let name = publisher.name;
        self.assign(&["sinks", name, "type"], Value::from(name), origin);
        if let Some((key, variable, otherwise)) = publisher.address {
            self.variable(&["sinks", name, key], variable);
            if let Some(otherwise) = otherwise {
                self.default(&["sinks", name, key], otherwise);
            }
        }
        for (key, value) in publisher.destination {
            self.default(&["sinks", name, key], value);
        }
    }

    /// The stream of the sink that only the environment describes, unless its subject is another.
    fn new_stream(&mut self, said: &Dict) {
        let name = "jetstream";
        if self.publisher_name() != Some(name) {
            return;
        }
        let other = ["subject", "expected_stream"];
        let mut sinks = members(said, "sinks").filter(|(sink, _)| *sink == name);
        if sinks.any(|(_, sink)| other.iter().any(|key| sink.contains_key(*key))) {
            return;
        }
        let (stream, subjects) = STREAM;
        self.default(&["sinks", name, "stream", "name"], stream);
        self.default(&["sinks", name, "stream", "subjects"], subjects);
    }

    /// `ENABLE_METRICS` and `ENABLE_HEALTH_CHECK` open the endpoints on every interface, as a container wants it.
    fn admin(&mut self) {
        let metrics = self.flag("ENABLE_METRICS");
        let health = self.flag("ENABLE_HEALTH_CHECK");
        if !metrics && !health {
            return;
        }
        self.assign(&["admin", "metrics"], Value::from(metrics), Origin::Default);
        self.assign(&["admin", "health"], Value::from(health), Origin::Default);
        let (port, origin) = match self.get("HEALTH_PORT") {
            Some(port) => (port, Origin::Variable("HEALTH_PORT".to_owned())),
            None => ("8080", Origin::Default),
        };
        let listen = Value::from(format!("0.0.0.0:{port}"));
        self.assign(&["admin", "listen"], listen, origin);
    }

    fn flag(&mut self, variable: &str) -> bool {
        match self.get(variable).map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "1" | "yes" | "on") => true,
            Some("false" | "0" | "no" | "off") | None => false,
            Some(_) => {
                let place = Place::Variable(variable.to_owned());
                let path = KeyPath::root().key("admin");
                self.report.error_at(&path, place, "must be true or false");
                false
            }
        }
    }
}

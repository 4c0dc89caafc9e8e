//! Doorbell and lease, step by step against PostgreSQL: what writers, relays and the clock do is drawn by a seed, one
//! small step after the other, and each step is compared with what must hold then.
//!
//! `OUTBOX_TEST_STEPS` says how many steps, `OUTBOX_TEST_SEED` draws the same ones again.

mod bell;
mod gate;
mod lease;

use outbox_relay::config::{self, Config, Environment, SourceKind};
use outbox_relay::source::SinkStart;
use outbox_relay::source::postgres::Postgres;

use crate::support::report::report;
use crate::support::settings::Settings;

/// The one sink.
const SINK: &str = "events";

/// Why a promise is broken, and at which step.
type Broken = String;

/// How many steps, and what they are drawn from.
fn drawn(what: &str, steps: u64) -> (u64, u64) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        )
    };
    let steps = number("OUTBOX_TEST_STEPS").unwrap_or(steps);
    let seed = number("OUTBOX_TEST_SEED").unwrap_or_else(rand::random);
    report!("{what}: OUTBOX_TEST_STEPS={steps} OUTBOX_TEST_SEED={seed}");
    (steps, seed)
}

/// A source that nothing has connected to yet.
fn source(settings: &Settings) -> Postgres {
    let toml = settings.clone().set("sinks.events.type", "mock").toml();
    let loaded = Config::from_toml(&toml, &Environment::default()).expect("a configuration");
    let config::Config { relay, sources, .. } = loaded.config;
    let source = sources.values().next().expect("a source");
    let SourceKind::Postgres(postgres) = &source.kind else {
        panic!("a PostgreSQL source");
    };
    Postgres::new(&relay, source, postgres).expect("a URL")
}

fn start() -> [SinkStart; 1] {
    [SinkStart {
        sink: SINK.to_owned(),
        start: None,
    }]
}

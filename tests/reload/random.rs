//! Fifty random reloads under load: nothing is lost, nothing out of order, and nothing comes twice, for all that
//! stops does so in order (I1, I3, I6).

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{assert_successful, stream};
use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::writers::{Load, Writers};

const RELOADS: usize = 50;

/// How long what piled up meanwhile may take: each start reads ahead anew, on a machine that has other things to do.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Sinks that come, go and change; `steady` beside them is never changed itself.
const RESTLESS: [&str; 3] = ["ash", "birch", "cedar"];

/// A configuration as it may be in between. Every sink that it has gets every event, sooner or later.
fn random(base: &Settings, streams: &[Stream], random: &mut StdRng) -> Settings {
    let mut settings = base.clone();
    let mut present = vec!["steady"];
    for (sink, stream) in RESTLESS.iter().zip(streams) {
        if random.random_ratio(1, 3) {
            continue;
        }
        present.push(sink);
        let key = |key: &str| format!("sinks.{sink}.{key}");
        settings = settings
            .publishing(sink, stream)
            .set(&key("start"), "earliest")
            .set(&key("max_in_flight"), random.random_range(1..200))
            .set(&key("retry.max_retries"), random.random_range(0..3));
        if random.random_ratio(1, 4) {
            settings = settings.set(&key("envelope.aggregate_field"), "key");
        }
    }
    if random.random_ratio(1, 3) {
        let mut to = toml::Table::new();
        for sink in &present {
            to.insert((*sink).to_owned(), true.into());
        }
        if let Some((stream, sink)) = streams
            .iter()
            .zip(RESTLESS)
            .find(|(_, sink)| present.contains(sink))
        {
            to.insert(
                sink.to_owned(),
                stream.subject("routed.{event_type}").into(),
            );
        }
        let mut route = toml::Table::new();
        route.insert("event_type".to_owned(), "*".into());
        route.insert("to".to_owned(), to.into());
        settings = settings.set("routes", vec![toml::Value::from(route)]);
    }
    if random.random_ratio(1, 4) {
        settings = settings.set("retry.initial_delay", "300ms");
    }
    if random.random_ratio(1, 8) {
        settings = settings.set("sources.main.batch_size", random.random_range(50..500));
    }
    settings
}

#[tokio::test]
async fn fifty_random_reloads_under_load_lose_and_repeat_nothing() {
    let database = Database::fresh().await;
    let steady = stream().await;
    let mut streams = Vec::new();
    for _ in RESTLESS {
        streams.push(stream().await);
    }
    let base = Settings::of(&database).publishing("steady", &steady);
    migrate(&base);
    let seed: u64 = rand::random();
    report!("reloads: seed {seed}");
    let mut choices = StdRng::seed_from_u64(seed);
    let relay = Relay::ready(&base).await;
    let load = Load {
        writers: 4,
        pause: Duration::from_millis(40),
        ..Load::default()
    };
    let writers = Writers::start(&database, load).await;
    for number in 1..=RELOADS {
        if choices.random_ratio(1, 10) {
            let bad = base.clone().set("sources.main.batch_size", 0);
            assert_eq!(
                relay.reload(&bad).await["successful"],
                false,
                "reload {number}"
            );
        } else {
            let settings = random(&base, &streams, &mut choices);
            assert_successful(&relay.reload(&settings).await);
        }
        // Some in the middle of a start, some when all of it runs.
        tokio::time::sleep(Duration::from_millis(choices.random_range(0..200))).await;
    }
    let all = RESTLESS
        .iter()
        .zip(&streams)
        .fold(base, |settings, (sink, stream)| {
            settings
                .publishing(sink, stream)
                .set(&format!("sinks.{sink}.start"), "earliest")
        });
    assert_successful(&relay.reload(&all).await);
    let record = writers.stop().await;
    steady.await_ids(&record.ids(), ARRIVAL).await;
    for stream in &streams {
        stream.await_ids(&record.ids(), ARRIVAL).await;
    }
    let log = relay.stderr();
    relay.stop().await;
    for bad in [
        "without their acknowledgements",
        "aborted",
        "read anew",
        "died",
    ] {
        assert!(!log.contains(bad), "{bad}:\n{log}");
    }
    let named = ["steady"].into_iter().chain(RESTLESS);
    for (name, stream) in named.zip(std::iter::once(&steady).chain(&streams)) {
        let figures = check(name, &record, &stream.deliveries().await);
        assert!(figures.committed > 500, "too little load to show anything");
        assert_eq!(
            figures.duplicates, 0,
            "{name}: whatever stopped did so in order (seed {seed})"
        );
    }
}

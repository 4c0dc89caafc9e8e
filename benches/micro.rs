//! What single steps of an event's way cost: `cargo bench --bench micro [-- FILTER]`.
//!
//! Each is for one event unless its name says otherwise. `benches/relay` says what the whole costs.

#![allow(missing_docs, reason = "criterion's macros write functions")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use outbox_relay::Config;
use outbox_relay::config::{Environment, Sink};
use outbox_relay::event::{Event, Payload};
use outbox_relay::ledger::{MAX_STORED_RANGES, RangeSet};
use outbox_relay::route::{Pattern, Router, Template};
use outbox_relay::source::postgres;
use outbox_relay::{envelope, pipeline};

/// Nine routes that name an event type, and one for all others, which each event of this benchmark takes.
fn config() -> Config {
    let mut toml = String::from(
        "[sources.bench]\ntype = \"postgres\"\nurl = \"postgres://localhost/bench\"\n\
         [sinks.events]\ntype = \"kafka\"\nbrokers = [\"localhost:9092\"]\ntopic = \"orders\"\n",
    );
    for number in 1..10 {
        toml.push_str(&format!(
            "[[routes]]\nevent_type = \"Other{number}*\"\nto = {{ events = \"other-{number}\" }}\n"
        ));
    }
    toml.push_str("[[routes]]\nevent_type = \"*\"\nto = { events = \"orders.{aggregate_id}\" }\n");
    Config::from_toml(&toml, &Environment::of_process())
        .expect("a valid configuration")
        .config
}

fn sink(config: &Config) -> &Sink {
    &config.sinks["events"]
}

/// An event with a payload of 1 KiB.
fn event(seq: i64) -> Event {
    let payload = format!(r#"{{"pad":"{}"}}"#, "x".repeat(1_024 - 10));
    Event {
        seq,
        id: uuid::Uuid::from_u128(seq.unsigned_abs().into()),
        event_type: "OrderPlaced".to_owned(),
        aggregate_type: Some("Order".to_owned()),
        aggregate_id: Some(format!("order-{}", seq % 1_000)),
        payload: Payload::Json(Bytes::from(payload)),
        headers: vec![("traceparent".to_owned(), "00-ab-cd-01".to_owned())],
        created_at: chrono::DateTime::UNIX_EPOCH,
        flaw: None,
    }
}

fn ledger(criterion: &mut Criterion) {
    criterion.bench_function("ledger: in order", |bencher| {
        let mut ledger = pipeline::bench::ledger();
        let mut seq = 0;
        bencher.iter(|| {
            seq += 1;
            ledger.delivered(seq);
        });
    });
    // Every other one first: 512 ranges, which the rest then joins.
    let scattered: Vec<i64> = (0..512)
        .map(|n| 2 * n)
        .chain((0..512).map(|n| 2 * n + 1))
        .collect();
    criterion.bench_function("ledger: 1,024 out of order", |bencher| {
        bencher.iter_batched(
            pipeline::bench::ledger,
            |mut ledger| scattered.iter().for_each(|seq| ledger.delivered(*seq)),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("ledger: a flush of one range", |bencher| {
        let mut ledger = pipeline::bench::ledger();
        (0..1_000).for_each(|seq| ledger.delivered(seq));
        bencher.iter(|| ledger.flush());
    });
    criterion.bench_function("ledger: a flush of 1,000 ranges", |bencher| {
        let mut ledger = pipeline::bench::ledger();
        (0..1_000).for_each(|seq| ledger.delivered(2 * seq));
        bencher.iter(|| ledger.flush());
    });
    criterion.bench_function("ledger: 1,000 of 20,000 ranges", |bencher| {
        let mut ranges = RangeSet::new();
        (0..20_000).for_each(|seq| ranges.insert(2 * seq));
        bencher.iter(|| black_box(&ranges).stored(MAX_STORED_RANGES));
    });
}

fn gate(criterion: &mut Criterion) {
    let events: Vec<Arc<Event>> = (0..1_000).map(|seq| Arc::new(event(seq))).collect();
    criterion.bench_function("gate: in and out, a key of its own", |bencher| {
        let mut gate = pipeline::bench::gate();
        let mut next = 0;
        bencher.iter(|| {
            gate.admit(&events[next]);
            gate.release(&events[next]);
            next = (next + 1) % events.len();
        });
    });
    criterion.bench_function("gate: in and out, behind 100 of its key", |bencher| {
        let mut gate = pipeline::bench::gate();
        (0..100).for_each(|_| gate.admit(&events[0]));
        bencher.iter(|| {
            gate.admit(&events[0]);
            gate.release(&events[0]);
        });
    });
}

fn holes(criterion: &mut Criterion) {
    const COUNT: i64 = 10_000;
    criterion.bench_function("holes: one of 10,000 shows, and opens", |bencher| {
        let mut holes = postgres::bench::holes(COUNT);
        let mut seqs = (0..COUNT).cycle().map(|number| 2 * number);
        bencher.iter(|| {
            let seq = seqs.next().unwrap_or_default();
            holes.shown(black_box(seq));
            holes.open(seq);
        });
    });
    criterion.bench_function("holes: what a read asks for, of 10,000", |bencher| {
        let holes = postgres::bench::holes(COUNT);
        bencher.iter(|| black_box(&holes).asked_for());
    });
}

fn route(criterion: &mut Criterion) {
    let event = event(1);
    let pattern = Pattern::parse("Order*Placed").expect("a pattern");
    criterion.bench_function("route: a pattern", |bencher| {
        bencher.iter(|| pattern.matches(black_box(&event.event_type)));
    });
    let template = Template::parse("orders.{aggregate_id}.{event_type|kebab}").expect("a template");
    criterion.bench_function("route: a template", |bencher| {
        bencher.iter(|| template.render(black_box(&event)));
    });
    let config = config();
    let router = Router::new(sink(&config), config.routing.as_ref());
    criterion.bench_function("route: the tenth rule, and its template", |bencher| {
        bencher.iter(|| router.resolve(black_box(&event)));
    });
}

fn envelopes(criterion: &mut Criterion) {
    let event = event(1);
    let config = config();
    for (name, format) in [
        ("json", outbox_relay::config::Format::Json),
        ("raw", outbox_relay::config::Format::Raw),
        ("cloudevents", outbox_relay::config::Format::CloudEvents),
    ] {
        let mut envelope = sink(&config).envelope.clone();
        envelope.format = format;
        criterion.bench_function(&format!("envelope: {name}, 1 KiB"), |bencher| {
            bencher.iter(|| envelope::fill(&envelope, black_box(&event)));
        });
    }
}

criterion_group!(benches, ledger, gate, holes, route, envelopes);
criterion_main!(benches);

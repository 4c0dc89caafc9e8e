//! How often the relay allocates for an event. A program of its own, for its allocator counts.

#[allow(dead_code, reason = "this program uses a part of what the tests share")]
#[path = "support/mod.rs"]
mod support;

use std::alloc::System;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use outbox_relay::config::Environment;
use outbox_relay::error::PublishError;
use outbox_relay::relay::CancellationToken;
use outbox_relay::sink::Message;
use outbox_relay::{Config, EventPublisher, Relay};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::mpsc;

use crate::support::database::Database;
use crate::support::relay::migrate;
use crate::support::report::report;
use crate::support::settings::Settings;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const EVENTS: u64 = 30_000;

/// By then all connections are made and all tables have grown.
const WARM: u64 = 10_000;

/// A tenth more than there are.
const MOST: f64 = 23.0;

/// Acknowledges at once, and tells what was allocated by the time that it had so many.
struct Counting {
    published: AtomicU64,
    told: mpsc::UnboundedSender<stats_alloc::Stats>,
}

#[async_trait]
impl EventPublisher for Counting {
    async fn publish(&self, _: &Message) -> Result<(), PublishError> {
        let published = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        if published == WARM || published == EVENTS {
            self.told.send(ALLOCATOR.stats()).ok();
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_takes_few_allocations() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let insert = format!(
        "INSERT INTO outbox (event_type, aggregate_id, payload) \
         SELECT 'Counted', 'key-' || n % 1000, format('{{\"n\":%s,\"pad\":\"%s\"}}', n, repeat('x', 1000))::json \
         FROM generate_series(1, {EVENTS}) n"
    );
    database.execute(&insert).await;

    let config = Config::from_toml(&settings.toml(), &Environment::of_process())
        .expect("a valid configuration")
        .config;
    let (told, mut counts) = mpsc::unbounded_channel();
    let counting = Counting {
        published: AtomicU64::new(0),
        told,
    };
    let stop = CancellationToken::new();
    let relay = Relay::builder(config).publisher("events", counting);
    let running = tokio::spawn(relay.run(stop.clone()));
    let mut next = async || {
        tokio::time::timeout(Duration::from_secs(60), counts.recv())
            .await
            .expect("it publishes")
            .expect("it runs")
    };
    let (warm, end) = (next().await, next().await);
    stop.cancel();
    running.await.expect("no panic").expect("an orderly stop");

    let per_event = |count: usize| count as f64 / (EVENTS - WARM) as f64;
    let allocations = per_event(end.allocations - warm.allocations);
    let bytes = per_event(end.bytes_allocated - warm.bytes_allocated);
    report!("allocations: {allocations:.1} per event of 1 KiB, {bytes:.0} bytes");
    assert!(
        allocations < MOST,
        "{allocations:.1} allocations per event: {MOST} were enough"
    );
}

//! Whether any of it would be noticed: relays that break one promise each, and a checker that must say so.
//!
//! Each scenario provokes what the broken promise protects from. All of them together leave a sound relay sound.

use std::time::Duration;

use tokio::time::sleep;

use crate::chronicle::Chronicle;
use crate::support::process::Signal;
use crate::support::proxy::Weather;
use crate::support::report::report;
use crate::torment::fail_over;
use crate::verdict::Verdict;
use crate::world::{Brokers, World};

/// Longer than a lease lasts.
const PAST_LEASE: Duration = Duration::from_secs(13);

/// How often a broken promise may go unnoticed.
const TRIES: usize = 3;

/// So short that there is always much in flight, and so long that holes are.
const HELD: Duration = Duration::from_secs(1);

/// A while under load.
const WHILE: Duration = Duration::from_secs(3);

const LOST: Weather = Weather {
    deaf: true,
    delay: Duration::ZERO,
    rate: 0,
    mute: false,
};

/// What is in flight never arrives, and the relay that sent it dies.
async fn lost_with_its_sender(world: &mut World) {
    world.nats.network.set(LOST);
    sleep(WHILE).await;
    for relay in std::mem::take(&mut world.relays.running) {
        relay.kill().await;
    }
    world.nats.network.cut();
    world.nats.network.set(Weather::default());
    world.relays.start();
    // The lease of the dead ends.
    sleep(PAST_LEASE).await;
}

/// Transactions are held open, as they are all the time.
async fn nothing_at_all(_: &mut World) {
    sleep(3 * WHILE).await;
}

/// Acknowledgements are lost, and what they were for is sent again.
async fn answers_lost(world: &mut World) {
    for _ in 0..3 {
        world.nats.network.set(Weather {
            mute: true,
            ..Weather::default()
        });
        sleep(Duration::from_millis(500)).await;
        world.nats.network.cut();
        world.nats.network.set(Weather::default());
        sleep(WHILE).await;
    }
}

/// What was sent to RabbitMQ never arrives.
async fn requests_lost(world: &mut World) {
    let network = &world.rabbitmq.as_ref().expect("RabbitMQ").network;
    network.set(LOST);
    sleep(Duration::from_secs(1)).await;
    network.cut();
    network.set(Weather::default());
    sleep(WHILE).await;
}

/// The relay that holds the lease is frozen until another one holds it, and goes on with what it had.
async fn frozen_past_its_lease(world: &mut World) {
    for _ in 0..2 {
        for number in 0..world.relays.running.len() {
            world.relays.running[number].signal(Signal::Stop);
            sleep(PAST_LEASE).await;
            world.relays.running[number].signal(Signal::Continue);
            sleep(WHILE).await;
        }
    }
}

/// A command takes what was delivered out of a ledger under a running relay.
async fn replayed(world: &mut World) {
    let oldest =
        "SELECT array_agg(id) FROM (SELECT id FROM outbox ORDER BY seq LIMIT 40) AS oldest";
    world.replayed = world.database.value(oldest).await;
    world
        .database
        .execute(
            // Without the trigger, which would count it.
            "SET session_replication_role = replica; \
             UPDATE outbox_ledger SET token = gen_random_uuid(), delivered = delivered - \
             (SELECT int8multirange(int8range(min(seq), max(seq), '[]')) FROM \
              (SELECT seq FROM outbox ORDER BY seq LIMIT 40) AS oldest) WHERE sink = 'jetstream'",
        )
        .await;
    sleep(WHILE).await;
}

/// The server fails over to a replica that is behind.
async fn failed_over(world: &mut World) {
    let behind = Duration::from_secs(2);
    fail_over(&mut world.postgres.server, behind, Duration::ZERO).await;
    sleep(WHILE).await;
}

/// The relay does what `sabotage` names, and the verdict must have this fault.
async fn noticed(
    sabotage: &'static str,
    brokers: Brokers,
    scenario: impl AsyncFn(&mut World),
    fault: &str,
) {
    // Chance must help some of them.
    for _ in 0..TRIES {
        let mut world = World::build(brokers, sabotage).await;
        world.patience = Duration::from_secs(10);
        let faults = faults(&mut world, &scenario).await;
        report!("{sabotage}: {}", faults.join("; "));
        if faults.iter().any(|found| found.contains(fault)) {
            return;
        }
    }
    panic!("{sabotage} goes unnoticed");
}

async fn faults(world: &mut World, scenario: impl AsyncFn(&mut World)) -> Vec<String> {
    let writers = world.write(rand::random(), HELD).await;
    sleep(WHILE).await;
    let chronicle = Chronicle::default();
    chronicle.note("all", "scenario", scenario(world)).await;
    let record = world.calm(writers).await;
    Verdict::of(world, &record, &chronicle).await.faults()
}

#[tokio::test]
async fn a_sound_relay_passes_all_of_them() {
    let mut world = World::build(Brokers::Rabbitmq, "").await;
    let all = async |world: &mut World| {
        requests_lost(world).await;
        answers_lost(world).await;
        frozen_past_its_lease(world).await;
        lost_with_its_sender(world).await;
        replayed(world).await;
        failed_over(world).await;
    };
    let faults = faults(&mut world, all).await;
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn a_ledger_before_the_acknowledgement() {
    noticed(
        "early-ledger",
        Brokers::None,
        lost_with_its_sender,
        "are missing",
    )
    .await;
}

#[tokio::test]
async fn reading_without_holes() {
    noticed("no-holes", Brokers::None, nothing_at_all, "are missing").await;
}

#[tokio::test]
async fn a_new_id_for_each_attempt() {
    noticed("fresh-ids", Brokers::None, answers_lost, "never committed").await;
}

#[tokio::test]
async fn publishing_without_confirms() {
    noticed(
        "no-confirms",
        Brokers::Rabbitmq,
        requests_lost,
        "are missing",
    )
    .await;
}

#[tokio::test]
async fn a_ledger_without_a_fence() {
    noticed("no-fence", Brokers::None, replayed, "not sent again").await;
}

#[tokio::test]
async fn holes_and_forward_rows_read_apart() {
    noticed("two-reads", Brokers::None, nothing_at_all, "order").await;
}

#[tokio::test]
async fn memory_that_outlives_its_server() {
    noticed("long-memory", Brokers::None, failed_over, "are missing").await;
}

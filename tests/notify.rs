//! The doorbell: no event waits for the fallback, whatever the moment at which it is committed (I1, I8).

use std::collections::HashSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::pgbouncer::PgBouncer;
use crate::support::process::Signal;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;

/// Longer than any of these tests: what is delivered was not found by the fallback.
const FALLBACK: &str = "10m";

/// How long anything may take that the relay was rung for.
const SOON: Duration = Duration::from_secs(20);

/// Sources side by side, each with a table of its own: gaps pass in parallel.
const SOURCES: usize = 6;

fn notified(database: &Database) -> Settings {
    Settings::of(database)
        .set("sources.main.mode", "notify")
        .set("sources.main.poll_interval", "10m")
        .set("sources.main.fallback_interval", FALLBACK)
}

/// Random pauses around the time after which the relay falls asleep, then transactions that are held over the
/// moments at which it does and wakes. `OUTBOX_TEST_GAPS` sets how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_waits_for_the_fallback() {
    let gaps: usize = std::env::var("OUTBOX_TEST_GAPS").map_or(900, |gaps| {
        gaps.parse().expect("OUTBOX_TEST_GAPS is a number")
    });
    let seed: u64 = rand::random();
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let mut settings = notified(&database).publishing_to(&stream);
    for source in 1..SOURCES {
        for (key, value) in [
            ("type", "postgres"),
            ("url", database.url.as_str()),
            ("table", &format!("outbox_{source}")),
            ("poll_interval", "10m"),
            ("fallback_interval", FALLBACK),
        ] {
            settings = settings.set(&format!("sources.s{source}.{key}"), value);
        }
    }
    migrate(&settings);
    let relay = Relay::ready(&settings).await;

    let mut writers = JoinSet::new();
    for source in 0..SOURCES {
        let table = if source == 0 {
            "outbox".to_owned()
        } else {
            format!("outbox_{source}")
        };
        let random = StdRng::seed_from_u64(seed.wrapping_add(source as u64));
        writers.spawn(write_around_gaps(
            database.url.clone(),
            table,
            gaps / SOURCES,
            random,
        ));
    }
    let mut committed = HashSet::new();
    while let Some(written) = writers.join_next().await {
        committed.extend(written.expect("no writer panics"));
    }
    stream.await_ids(&committed, SOON).await;

    let wakeups = async |cause: &str| {
        let cause = format!("cause=\"{cause}\"");
        relay
            .metric("outbox_wakeups_total", &[&cause])
            .await
            .unwrap_or_default()
    };
    let (rung, armed) = (wakeups("notify").await, wakeups("arming").await);
    report!(
        "doorbell: seed {seed}, {gaps} gaps, {} events committed, armed {armed} times, rung {rung} times, \
         fallback {} times",
        committed.len(),
        wakeups("fallback").await,
    );
    assert_eq!(wakeups("fallback").await, 0.0);
    let edges = gaps as f64 / 10.0;
    assert!(
        rung > edges && armed > edges,
        "too few edges to show anything: {rung}, {armed}"
    );
    relay.stop().await;
}

/// Lets a random pause pass, then commits or rolls back a few transactions side by side, some of them late.
async fn write_around_gaps(
    url: String,
    table: String,
    gaps: usize,
    mut random: StdRng,
) -> Vec<Uuid> {
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(
            crate::support::database::connect(&url)
                .await
                .expect("connect"),
        );
    }
    let mut committed = Vec::new();
    for _ in 0..gaps {
        tokio::time::sleep(Duration::from_micros(random.random_range(30_000..110_000))).await;
        let writers = random.random_range(1..=connections.len());
        let transactions = connections.iter_mut().take(writers).map(|connection| {
            let held = if random.random() {
                random.random_range(0..100)
            } else {
                0
            };
            let commit = random.random_ratio(9, 10);
            transaction(connection, &table, Duration::from_millis(held), commit)
        });
        let transactions: Vec<_> = transactions.collect();
        committed.extend(
            futures::future::join_all(transactions)
                .await
                .into_iter()
                .flatten(),
        );
    }
    committed
}

async fn transaction(
    connection: &mut PgConnection,
    table: &str,
    held: Duration,
    commit: bool,
) -> Option<Uuid> {
    let id = Uuid::new_v4();
    let insert = format!(
        "BEGIN; INSERT INTO {table} (id, event_type, payload) VALUES ('{id}', 'Gap', '{{}}')"
    );
    connection
        .execute(AssertSqlSafe(insert))
        .await
        .expect("insert");
    tokio::time::sleep(held).await;
    let end = if commit { "COMMIT" } else { "ROLLBACK" };
    connection.execute(end).await.expect("end");
    commit.then_some(id)
}

#[tokio::test]
async fn a_listener_that_is_cut_off_reads_at_once_when_it_is_back() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = notified(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    for round in 1..=5_u64 {
        await_armed(&database).await;
        // The lock goes with the session, so nobody is rung for what is written now.
        let ended: i64 = database
            .value(
                "WITH bell AS (SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name LIKE 'outbox-relay bell %') \
                 SELECT count(*) FROM bell",
            )
            .await;
        assert_eq!(ended, 1, "one session listens");
        database.insert("Missed", Some("key"), 1).await;
        stream.await_len(round, SOON).await;
    }
    assert_eq!(
        relay
            .metric("outbox_wakeups_total", &["cause=\"fallback\""])
            .await,
        Some(0.0)
    );
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_hangs_while_armed_is_evicted_by_its_successor() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = notified(&database).publishing_to(&stream);
    migrate(&settings);
    let hung = Relay::ready(&settings).await;
    let mut successor = Relay::start(&settings);
    successor.await_ready().await;
    await_armed(&database).await;
    let holder = armed_by(&database).await;
    hung.signal(Signal::Stop);
    successor
        .await_metric("outbox_lease_held", &[], Duration::from_secs(30), |held| {
            held == 1.0
        })
        .await;
    eventually("the successor is armed", SOON, async || {
        let now = armed_by(&database).await?;
        (Some(now) != holder).then_some(())
    })
    .await;
    database.insert("After", Some("key"), 1).await;
    stream.await_len(1, SOON).await;
    hung.signal(Signal::Continue);
    successor.stop().await;
    hung.kill().await;
}

#[tokio::test]
async fn a_successor_that_may_not_evict_says_what_to_grant_and_polls() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = notified(&database).publishing_to(&stream);
    migrate(&settings);
    let hung = Relay::ready(&settings).await;
    await_armed(&database).await;
    hung.signal(Signal::Stop);
    let other = settings.set("sources.main.url", database.url_for_role().await);
    let successor = Relay::start(&other);
    eventually(
        "it says what to grant",
        Duration::from_secs(60),
        async || {
            successor
                .stderr()
                .contains("GRANT its role, or pg_signal_backend, to role_")
                .then_some(())
        },
    )
    .await;
    assert!(successor.stderr().contains("of role postgres"));
    database.insert("After", Some("key"), 1).await;
    stream.await_len(1, SOON).await;
    successor.stop().await;
    hung.kill().await;
}

#[tokio::test]
async fn limits_on_idle_sessions_are_not_for_the_relay() {
    let database = Database::fresh().await;
    let settings = notified(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let name: String = database.value("SELECT current_database()::text").await;
    database
        .execute(&format!(
            "ALTER DATABASE {name} SET idle_session_timeout = '500ms'; \
             ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '500ms'"
        ))
        .await;
    let relay = Relay::ready(&settings).await;
    await_armed(&database).await;
    let session = armed_by(&database).await;
    let end = "SELECT expires_at::text FROM outbox_lease";
    for _ in 0..2 {
        let before: String = database.value(end).await;
        eventually("the lease is renewed", SOON, async || {
            (database.value::<String>(end).await != before).then_some(())
        })
        .await;
    }
    assert_eq!(armed_by(&database).await, session, "the same session");
    assert!(!relay.stderr().contains("WARN"), "{}", relay.stderr());
    relay.stop().await;
}

#[tokio::test]
async fn behind_a_pooler_in_transaction_mode_it_polls_and_says_so() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let direct = notified(&database).publishing_to(&stream);
    migrate(&direct);
    let pooler = PgBouncer::before(&database.url).await;
    let settings = direct.set("sources.main.url", database.url_through(pooler.port));
    let relay = Relay::ready(&settings).await;
    database.insert("Polled", Some("key"), 3).await;
    stream.await_len(3, SOON).await;
    eventually("the log names the remedy", SOON, async || {
        let log = relay.stderr();
        log.contains("pooler in transaction mode").then_some(())
    })
    .await;
    eventually("/status says so too", SOON, async || {
        let answer = relay.get("/status").await?;
        let says = answer.body.contains("pooler in transaction mode");
        (says && answer.body.contains("doorbell_error")).then_some(())
    })
    .await;
    relay.stop().await;
}

/// Until the relay sleeps.
/// Until the relay sleeps, and a writer has to ring.
pub(crate) async fn await_armed(database: &Database) {
    eventually("the doorbell is armed", SOON, async || {
        armed_by(database).await.map(drop)
    })
    .await;
}

/// The backend that holds the doorbell's lock alone.
async fn armed_by(database: &Database) -> Option<i32> {
    database
        .value(
            "SELECT max(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND objsubid = 2 \
             AND mode = 'ExclusiveLock' AND granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .await
}

/// A writer that shares the lock for long keeps the relay from its sleep. Nobody else's events wait for that.
#[tokio::test]
async fn a_writer_that_stays_in_flight_makes_no_other_wait() {
    const EVENTS: i64 = 60;
    /// Between two reads of a relay that has tried for long to fall asleep.
    const LEISURE: Duration = Duration::from_millis(250);
    let database = Database::fresh().await;
    let settings = notified(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let published = async |count: i64| {
        let name = "outbox_events_published_total";
        #[allow(clippy::cast_precision_loss)] // it is small
        let count = count as f64;
        relay.await_metric(name, &[], SOON, |n| n >= count).await;
    };
    // It gets the lock at the latest when the relay wakes up for the event.
    let mut writer = database.connect().await;
    let lock = "SELECT pg_advisory_lock_shared('outbox'::regclass::oid::int, 1)";
    let (locked, ()) = tokio::join!(
        writer.execute(lock),
        database.insert("Counted", Some("key"), 1)
    );
    locked.expect("the lock");
    published(1).await;
    // The relay tries to fall asleep, less and less often.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reads = async || {
        let name = "outbox_wakeups_total";
        let reads = relay.metric(name, &["cause=\"poll\""]).await;
        reads.expect("the metric")
    };
    let before = reads().await;
    // For a second at least: at leisure that is one read, or a few.
    let (mut events, began) = (0, std::time::Instant::now());
    while events < EVENTS || began.elapsed() < Duration::from_secs(1) {
        database.insert("Counted", Some("key"), 1).await;
        events += 1;
    }
    published(1 + events).await;
    let made = reads().await - before;
    let leisurely = began.elapsed().div_duration_f64(LEISURE);
    report!("{made} reads while {events} events were inserted, {leisurely:.1} at leisure");
    assert!(
        made > 2.0 * leisurely,
        "at leisure: {made} reads for {events} events"
    );
    relay.stop().await;
}

//! Of several relays with one configuration, one publishes; another takes over (DESIGN: owning).

use std::time::{Duration, Instant};

use sqlx::{Executor, PgConnection};

use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::eventually::{at_most, eventually, throughout};
use crate::support::nats;
use crate::support::process::Signal;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::writers::{Load, Writers};

/// What the lease lasts without renewal.
const TTL: Duration = Duration::from_secs(10);
/// What a busy machine may add to a time that is stated.
const SLACK: Duration = Duration::from_secs(20);

async fn holds_lease(relay: &Relay) -> bool {
    relay.metric("outbox_lease_held", &[]).await == Some(1.0)
}

async fn await_lease(relay: &Relay, within: Duration) {
    at_most("the relay holds the lease", within, async || {
        holds_lease(relay).await.then_some(())
    })
    .await;
}

/// An active relay and one that stands by.
async fn pair(settings: &Settings) -> (Relay, Relay) {
    let active = Relay::ready(settings).await;
    await_lease(&active, SLACK).await;
    let standby = Relay::ready(settings).await;
    (active, standby)
}

/// The database, its stream and a configuration for any number of relays.
async fn setting() -> (Database, Stream, Settings) {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    (database, stream, settings)
}

/// Events that the stored ledger lacks.
async fn unstored(database: &Database) -> i64 {
    database
        .value("SELECT count(*) FROM outbox, outbox_ledger WHERE NOT seq <@ delivered")
        .await
}

async fn await_stored(database: &Database) {
    eventually("the ledger has everything", SLACK, async || {
        (unstored(database).await == 0).then_some(())
    })
    .await;
}

/// Ends what [`holding`] begins.
const LET_GO: &str = "SELECT pg_advisory_unlock(1)";

/// A session that holds up whoever shares the advisory lock 1.
async fn holding(database: &Database) -> PgConnection {
    let mut holder = database.connect().await;
    let hold = "SELECT pg_advisory_lock(1)";
    holder.execute(hold).await.expect("nobody else holds it");
    holder
}

/// Until somebody waits for it.
async fn await_waiting(database: &Database) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("somebody is held up", SLACK, async || {
        (database.value::<i64>(waiting).await > 0).then_some(())
    })
    .await;
}

/// Has whoever stores a new ledger wait for the advisory lock.
const WAIT_BEFORE_LEDGER: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
    $$BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN new; END$$; \
    CREATE TRIGGER wait BEFORE INSERT ON outbox_ledger FOR EACH ROW EXECUTE FUNCTION wait()";

fn gentle() -> Load {
    Load {
        writers: 4,
        pause: Duration::from_millis(20),
        large_every: 100_000,
        ..Load::default()
    }
}

#[tokio::test]
async fn one_of_two_publishes_and_a_stop_hands_over_at_once() {
    let (database, stream, settings) = setting().await;
    let (active, standby) = pair(&settings).await;
    let writers = Writers::start(&database, gentle()).await;
    throughout("one holds the lease", Duration::from_secs(3), async || {
        holds_lease(&active).await && !holds_lease(&standby).await
    })
    .await;
    let stopped = Instant::now();
    active.stop().await;
    await_lease(&standby, TTL / 2).await;
    report!("handed over {:?} after SIGTERM", stopped.elapsed());
    let record = writers.stop().await;
    stream
        .await_ids(&record.ids(), Duration::from_secs(20))
        .await;
    standby.stop().await;
    let figures = check("handed over", &record, &stream.deliveries().await);
    assert_eq!(figures.duplicates, 0, "a hand-over repeats nothing");
}

#[tokio::test]
async fn a_killed_relay_is_followed_when_its_lease_has_ended() {
    let (database, stream, settings) = setting().await;
    let (active, standby) = pair(&settings).await;
    let writers = Writers::start(&database, gentle()).await;
    eventually("the first publishes", SLACK, async || {
        (stream.len().await > 100).then_some(())
    })
    .await;
    let killed = Instant::now();
    active.kill().await;
    await_lease(&standby, TTL + SLACK).await;
    let after = killed.elapsed();
    report!("taken over {after:?} after SIGKILL");
    assert!(
        after > TTL - Duration::from_secs(4),
        "it had renewed its lease at most 3 s before, so {after:?} is too early"
    );
    let record = writers.stop().await;
    stream
        .await_ids(&record.ids(), Duration::from_secs(20))
        .await;
    standby.stop().await;
    check("taken over", &record, &stream.deliveries().await);
}

#[tokio::test]
async fn a_relay_that_wakes_after_its_lease_writes_no_ledger() {
    let (database, stream, settings) = setting().await;
    let (paused, standby) = pair(&settings).await;
    database.insert("Before", Some("key"), 500).await;
    // In the middle of its work, with acknowledgements that no ledger has yet.
    eventually("the first publishes", SLACK, async || {
        (stream.len().await > 0).then_some(())
    })
    .await;
    paused.signal(Signal::Stop);
    await_lease(&standby, TTL + SLACK).await;
    stream.await_len(500, SLACK).await;
    database.insert("Between", Some("key"), 100).await;
    stream.await_len(600, SLACK).await;
    await_stored(&database).await;
    let token = "SELECT token::text FROM outbox_ledger";
    let owner: String = database.value(token).await;

    paused.signal(Signal::Continue);
    // A ledger of before would lack what the second has stored, which has no cause to store it again.
    throughout("the ledger stays", Duration::from_secs(4), async || {
        holds_lease(&standby).await
            && database.value::<String>(token).await == owner
            && unstored(&database).await == 0
    })
    .await;
    eventually("the first knows it has lost", SLACK, async || {
        (!holds_lease(&paused).await).then_some(())
    })
    .await;
    database.insert("After", Some("key"), 100).await;
    await_stored(&database).await;
    let deliveries = stream.deliveries().await;
    let after = deliveries
        .iter()
        .filter(|delivery| delivery.subject == stream.subject("After"));
    assert_eq!(after.count(), 100, "one of them publishes");
    paused.stop().await;
    standby.stop().await;
}

#[tokio::test]
async fn a_look_for_where_to_start_takes_as_long_as_it_takes_and_ends_with_a_stop() {
    let (database, stream, settings) = setting().await;
    database.insert("First", Some("key"), 10).await;
    let mut holder = database.connect().await;
    holder
        .execute("BEGIN; LOCK TABLE outbox")
        .await
        .expect("lock the table");
    let looks = async || {
        let relay = Relay::start(&settings);
        eventually("it looks for where to start", SLACK, async || {
            let said = relay.stderr().contains("where a new ledger starts");
            said.then_some(())
        })
        .await;
        relay
    };
    let stopped = looks().await;
    stopped.stop().await;
    let relay = looks().await;
    // Longer than any other statement may take.
    tokio::time::sleep(Duration::from_secs(32)).await;
    let log = relay.stderr();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    let leases: i64 = database.value("SELECT count(*) FROM outbox_lease").await;
    assert_eq!(leases, 0, "meanwhile another relay could take it");
    holder.execute("ROLLBACK").await.expect("still open");
    stream.await_len(10, SLACK).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_look_for_where_a_new_sink_starts_holds_up_nobody_else() {
    let (database, stream, settings) = setting().await;
    let relay = Relay::ready(&settings).await;
    database.insert("Before", Some("key"), 10).await;
    stream.await_len(10, SLACK).await;
    relay.stop().await;
    // What the look calls, and delivering doesn't, waits.
    let name: String = database.value("SELECT current_database()::text").await;
    database
        .execute(&format!(
            "CREATE FUNCTION public.int8range(first int8, past int8) RETURNS int8range LANGUAGE plpgsql AS \
             $$BEGIN IF current_query() LIKE '%island%' THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; \
             RETURN pg_catalog.int8range(first, past); END$$; \
             ALTER DATABASE {name} SET search_path = public, pg_catalog"
        ))
        .await;
    let mut holder = holding(&database).await;
    let late = Stream::create_forgetful(&nats::shared()).await;
    let settings = settings
        .publishing("late", &late)
        .set("sinks.late.start", "latest");
    let relay = Relay::start(&settings);
    await_waiting(&database).await;
    database.insert("Meanwhile", Some("key"), 10).await;
    stream.await_len(20, SLACK).await;
    holder.execute(LET_GO).await.expect("let it look");
    // Those that came after the look began.
    late.await_len(10, SLACK).await;
    relay.stop().await;
    assert_eq!(late.len().await, 10, "and none before");
}

#[tokio::test]
async fn a_relay_that_vanishes_within_a_transaction_leaves_no_lock_for_long() {
    let (database, stream, settings) = setting().await;
    database.execute(WAIT_BEFORE_LEDGER).await;
    let mut holder = holding(&database).await;
    let vanished = Relay::start(&settings);
    await_waiting(&database).await;
    vanished.signal(Signal::Stop);
    holder.execute(LET_GO).await.expect("let it go on");
    let successor = Relay::start(&settings);
    await_lease(&successor, Duration::from_secs(90)).await;
    database.insert("After", Some("key"), 10).await;
    stream.await_len(10, SLACK).await;
    successor.stop().await;
    vanished.kill().await;
}

#[tokio::test]
async fn a_ledger_that_is_locked_holds_up_its_own_sink_alone() {
    let (database, stream, settings) = setting().await;
    let second = Stream::create_forgetful(&nats::shared()).await;
    let settings = settings.publishing("second", &second);
    let relay = Relay::ready(&settings).await;
    database.insert("Before", Some("key"), 10).await;
    second.await_len(10, SLACK).await;
    await_stored(&database).await;
    let standing = "SELECT token::text FROM outbox_lease";
    let session: String = database.value(standing).await;

    let mut holder = database.connect().await;
    holder
        .execute("BEGIN; SELECT FROM outbox_ledger WHERE sink = 'second' FOR UPDATE")
        .await
        .expect("lock the ledger");
    // It reads its ledger anew.
    relay
        .reload(&settings.set("sinks.second.timeout", "4s"))
        .await;
    throughout(
        "the lease is renewed",
        Duration::from_secs(15),
        async || {
            let lasts = "SELECT expires_at > clock_timestamp() FROM outbox_lease";
            database.value::<bool>(lasts).await
        },
    )
    .await;
    eventually("it says so", SLACK, async || {
        let said = relay.stderr().contains("the ledger could not be read anew");
        said.then_some(())
    })
    .await;
    database.insert("Meanwhile", Some("key"), 10).await;
    stream.await_len(20, SLACK).await;
    assert_eq!(second.len().await, 10, "it waits");
    holder.execute("ROLLBACK").await.expect("still open");
    second.await_len(20, SLACK).await;
    let now: String = database.value(standing).await;
    assert_eq!(now, session, "the session goes on");
    relay.stop().await;
}

#[tokio::test]
async fn a_sink_that_joins_makes_way_for_whoever_has_the_lease_row() {
    let (database, _stream, settings) = setting().await;
    let relay = Relay::ready(&settings).await;
    await_lease(&relay, SLACK).await;
    database.execute(WAIT_BEFORE_LEDGER).await;
    let mut holder = holding(&database).await;
    let late = Stream::create_forgetful(&nats::shared()).await;
    let more = settings
        .publishing("late", &late)
        .set("sinks.late.start", "earliest");
    relay.reload(&more).await;
    await_waiting(&database).await;
    let mut taking_over = database.connect().await;
    taking_over
        .execute("BEGIN; SELECT FROM outbox_lease FOR UPDATE")
        .await
        .expect("lock the lease");
    holder.execute(LET_GO).await.expect("let it join");
    // An acquisition would wait for it next.
    let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'outbox_source'::regclass \
         AND mode = 'ShareRowExclusiveLock' AND granted";
    // Before the server ends its statement.
    at_most("it makes way", Duration::from_secs(15), async || {
        (database.value::<i64>(locked).await == 0).then_some(())
    })
    .await;
    taking_over.execute("ROLLBACK").await.expect("still open");
    database.insert("After", Some("key"), 10).await;
    late.await_len(10, SLACK).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_standby_is_ready_and_says_that_it_stands_by() {
    let (_database, _stream, settings) = setting().await;
    let (active, standby) = pair(&settings).await;
    throughout("both are ready", Duration::from_secs(2), async || {
        let status = async |relay: &Relay| relay.get("/readyz").await.map(|answer| answer.status);
        status(&active).await == Some(200) && status(&standby).await == Some(200)
    })
    .await;
    assert_eq!(standby.metric("outbox_lease_held", &[]).await, Some(0.0));
    standby.stop().await;
    active.stop().await;
}

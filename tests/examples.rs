//! The examples run as their headers say, and a program that embeds the relay ends cleanly.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats::PrivateNats;
use crate::support::process::{Process, Signal, User, command};
use crate::support::relay::migrate;
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::temporary::TemporaryFolder;

const SOON: Duration = Duration::from_secs(20);

/// Where cargo puts the examples that it builds for the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("target/PROFILE/deps");
    let example = folder.join("examples").join(name);
    assert!(
        example.exists(),
        "the examples are missing: cargo build --examples"
    );
    example
}

/// A database with the relay's tables and three picks in it.
async fn with_picks() -> Database {
    let database = Database::fresh().await;
    // With the doorbell, which `realtime` needs and the others don't mind.
    let settings = Settings::of(&database).set("sources.main.mode", "notify");
    migrate(&settings.set("sinks.out.type", "stdout"));
    let output = command(User::Same, example("dual_write"))
        .env("DATABASE_URL", &database.url)
        .output()
        .expect("run the example");
    assert!(output.status.success(), "{output:?}");
    let picks: i64 = database
        .value("SELECT count(*) FROM pick JOIN outbox ON aggregate_id = draft_id")
        .await;
    assert_eq!(picks, 9, "three business rows, three events, one draft");
    database
}

/// Runs an example until `done`, then interrupts it; returns what it has printed.
async fn run_until(
    name: &str,
    variables: &[(&str, &str)],
    done: impl AsyncFnMut() -> Option<()>,
) -> String {
    let folder = TemporaryFolder::new(name);
    let out = folder.path().join("stdout");
    let mut command = command(User::Same, example(name));
    command
        .envs(variables.iter().copied())
        .current_dir(folder.path());
    command.stdout(Stdio::from(std::fs::File::create(&out).expect("a file")));
    let mut process = Process::start(&mut command, folder.path().join("stderr"));
    eventually("the example has done its work", SOON, done).await;
    process.signal(Signal::Interrupt);
    let status = process.exit(SOON).await;
    assert!(status.success(), "{status}");
    std::fs::read_to_string(out).expect("what it printed")
}

/// Until the ledger of the only sink has everything in the table.
async fn delivered(database: &Database) -> Option<()> {
    let missing: i64 = database
        .value(
            "SELECT count(*) FROM outbox WHERE NOT EXISTS \
             (SELECT FROM outbox_ledger WHERE delivered @> seq)",
        )
        .await;
    (missing == 0).then_some(())
}

#[tokio::test]
async fn polling_prints_the_picks_in_their_order() {
    let database = with_picks().await;
    let variables = [("DATABASE_URL", database.url.as_str())];
    let printed = run_until("polling", &variables, async || delivered(&database).await).await;
    let players: Vec<String> = printed
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON on each line");
            assert_eq!(event["draftId"], "draft-1");
            event["payload"]["player"]
                .as_str()
                .expect("a player")
                .to_owned()
        })
        .collect();
    assert_eq!(players, ["J. Chase", "B. Robinson", "J. Allen"]);
}

#[tokio::test]
async fn realtime_publishes_to_a_stream_of_its_own() {
    let database = with_picks().await;
    // The example names its stream itself.
    let nats = PrivateNats::start("").await;
    let url = nats.url();
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("NATS_URL", url.as_str()),
    ];
    run_until("realtime", &variables, async || delivered(&database).await).await;
    let stream = Stream::existing(&url, "DRAFT");
    let subjects: Vec<String> = stream
        .deliveries()
        .await
        .into_iter()
        .map(|d| d.subject)
        .collect();
    assert_eq!(subjects, ["draft.PickMade"; 3]);
}

#[tokio::test]
async fn custom_sink_takes_what_it_can_and_refuses_the_rest() {
    let database = with_picks().await;
    database.insert("NoKey", None, 1).await;
    let folder = TemporaryFolder::new("audit");
    let log = folder.path().join("audit.jsonl");
    let log_name = log.to_str().expect("a path in UTF-8");
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("AUDIT_LOG", log_name),
    ];
    run_until("custom_sink", &variables, async || {
        delivered(&database).await
    })
    .await;
    let lines = std::fs::read_to_string(log).expect("the audit log");
    assert_eq!(lines.lines().count(), 3);
    let reason: String = database
        .value("SELECT reason FROM outbox_dead_letter")
        .await;
    assert_eq!(reason, "the audit log needs a key");
}

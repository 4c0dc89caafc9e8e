//! What is not guessed, and what is left alone.

use sqlx::Executor;

use super::{PLAIN, SOON, adopt, fill_backwards, plain, refused, with_mock};
use crate::support::database::Database;
use crate::support::nats;
use crate::support::relay::{Relay, run};
use crate::support::stream::Stream;
use crate::support::temporary::TemporaryFolder;

#[tokio::test]
async fn what_was_published_is_asked_where_the_table_does_not_say_it() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    database.execute(PLAIN).await;
    fill_backwards(&database, 30).await;
    let settings = plain(&database).publishing_to(&stream);
    let said = refused(&settings, &[]);
    assert!(said.contains("--published-before"), "{said}");
    assert!(said.contains("none has sent_at"), "{said}");
    let usage = run(
        &settings,
        &["migrate", "--adopt", "--published-before", "lately"],
    );
    assert_eq!(usage.code, Some(2), "{usage:#?}");
    adopt(&settings, &["--published-before", "all"]);
    let relay = Relay::ready(&settings).await;
    database
        .execute("INSERT INTO outbox (id, event_type, draft_id, payload) VALUES (gen_random_uuid(), 'New', gen_random_uuid(), '{}')")
        .await;
    let deliveries = stream.await_len(1, SOON).await;
    assert_eq!(deliveries[0].subject, stream.subject("New"));
    relay.stop().await;
    assert_eq!(stream.len().await, 1);
}

#[tokio::test]
async fn a_table_in_use_is_left_alone_and_its_user_named() {
    let database = Database::fresh().await;
    database.execute(PLAIN).await;
    let settings = with_mock(plain(&database));
    let mut holder = database.connect().await;
    holder
        .execute("BEGIN; SET LOCAL application_name = 'nightly-report'; SELECT FROM outbox")
        .await
        .expect("hold the table");
    let said = refused(&settings, &["--lock-wait", "1"]);
    assert!(said.contains("nightly-report"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    let left: i64 = database
        .value("SELECT count(*) FROM pg_class WHERE relname LIKE 'outbox_%' AND relkind = 'r'")
        .await;
    assert_eq!(left, 0, "nothing was changed");
    holder.execute("COMMIT").await.expect("let go");
    adopt(&settings, &[]);
}

#[tokio::test]
async fn a_table_that_is_not_adopted_gets_nothing_by_a_plain_migrate() {
    let database = Database::fresh().await;
    database.execute(PLAIN).await;
    let settings = with_mock(plain(&database)).set("sources.main.mode", "notify");
    let ended = run(&settings, &["migrate"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("migrate --adopt"), "{ended:#?}");
    let left: i64 = database
        .value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal")
        .await;
    assert_eq!(left, 0, "no trigger was installed");
}

#[tokio::test]
async fn columns_that_do_not_fit_are_named_with_what_would() {
    for (key, value, said) in [
        (
            "event_type",
            "kind",
            "columns.event_type: the table \"outbox\" has no column kind",
        ),
        (
            "event_type",
            "payload",
            "of type jsonb; it must be text or character varying or character (event_type)",
        ),
        (
            "aggregate_id",
            "created_at",
            "of type timestamp with time zone",
        ),
        ("headers", "headers", "set it to false"),
        ("created_at", "draft_id", "(created_at, sent_at)"),
        (
            "sent_at",
            "marked_at",
            "after_delivery to \"keep\" or \"delete\"",
        ),
    ] {
        let database = Database::fresh().await;
        database.execute(PLAIN).await;
        let settings = with_mock(plain(&database));
        let wrong = settings
            .clone()
            .set(&format!("sources.main.columns.{key}"), value);
        let before = refused(&wrong, &[]);
        assert!(before.contains(said), "{key} = {value}: {before}");
        adopt(&settings, &[]);
        let ended = run(&wrong, &["check", "--connect"]);
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        assert!(ended.stdout.contains(said), "{key} = {value}: {ended:#?}");
    }
}

#[tokio::test]
async fn only_one_postgresql_source_at_a_time() {
    let database = Database::fresh().await;
    database.execute(PLAIN).await;
    let folder = TemporaryFolder::new("adopt");
    let file = folder.path().join("app.db");
    let settings = with_mock(plain(&database))
        .set("sources.local.type", "sqlite")
        .set_file("sources.local.path", &file);
    assert!(refused(&settings, &[]).contains("--source"));
    let said = refused(&settings, &["--source", "local"]);
    assert!(said.contains("no PostgreSQL database"), "{said}");
    assert!(refused(&settings, &["--source", "none"]).contains("no source none"));
    adopt(&settings, &["--source", "main"]);
}

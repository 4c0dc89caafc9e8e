//! What becomes of the table: its rows, its SQL, its privileges.

use sqlx::{Connection, Executor};
use uuid::Uuid;

use super::{PLAIN, SOON, adopt, fill_backwards, plain, with_mock};
use crate::support::database::Database;
use crate::support::nats;
use crate::support::relay::Relay;
use crate::support::stream::Stream;

#[tokio::test]
async fn rows_keep_what_they_had_and_nobody_hears_of_it() {
    const ROWS: &str = "SELECT md5(string_agg(md5(row::text), '' ORDER BY id)) FROM \
                        (SELECT id, event_type, draft_id, payload, created_at, sent_at, touched FROM outbox) AS row";
    let database = Database::fresh().await;
    database.execute(PLAIN).await;
    database
        .execute(
            "ALTER TABLE outbox ADD touched int NOT NULL DEFAULT 0; \
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $$; \
             CREATE TRIGGER touch BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION touch(); \
             ALTER TABLE outbox ENABLE ALWAYS TRIGGER touch; \
             CREATE RULE quiet AS ON UPDATE TO outbox DO INSTEAD NOTHING; \
             CREATE VIEW unsent AS SELECT * FROM outbox WHERE sent_at IS NULL; \
             CREATE TABLE note (event uuid REFERENCES outbox (id)); \
             ALTER TABLE outbox ENABLE ROW LEVEL SECURITY; \
             CREATE PUBLICATION changes FOR TABLE outbox",
        )
        .await;
    fill_backwards(&database, 30_000).await;
    database
        .execute("INSERT INTO note SELECT id FROM outbox LIMIT 10")
        .await;
    let before: String = database.value(ROWS).await;
    let settings = with_mock(plain(&database));
    adopt(&settings, &["--published-before", "none"]);
    let after: String = database.value(ROWS).await;
    assert_eq!(before, after);
    let misplaced: i64 = database
        .value(
            "SELECT count(*) FROM (SELECT created_at < lag(created_at) OVER w OR created_at = lag(created_at) OVER w \
             AND payload ->> 'n' < lag(payload ->> 'n') OVER w AS misplaced FROM (SELECT seq, created_at, \
             jsonb_build_object('n', lpad(payload ->> 'n', 9, '0')) AS payload FROM outbox) AS outbox \
             WINDOW w AS (ORDER BY seq)) AS row WHERE misplaced",
        )
        .await;
    assert_eq!(misplaced, 0, "by the time, and among equals as they lay");
    let range: String = database
        .value("SELECT min(seq) || '-' || max(seq) || '-' || count(*) FROM outbox")
        .await;
    assert_eq!(range, "1-30000-30000");
    let dead: i64 = database
        .value("SELECT pg_relation_size('outbox') / (SELECT count(*) FROM outbox)")
        .await;
    assert!(dead < 200, "{dead} bytes per row: the table has not grown");

    let again = adopt(&settings, &[]);
    assert!(again.stdout.contains("already adopted"), "{again:#?}");
    assert_eq!(database.value::<String>(ROWS).await, before);
}

#[tokio::test]
async fn what_is_printed_is_what_is_done() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    database.execute(PLAIN).await;
    fill_backwards(&database, 30).await;
    let settings = plain(&database).publishing_to(&stream);
    let arguments = ["--print", "--published-before", "2025-12-31T23:55:00Z"];
    let printed = adopt(&settings, &arguments).stdout;
    let columns =
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'outbox'::regclass AND attname = 'seq'";
    assert_eq!(database.value::<i64>(columns).await, 0, "it is not done");
    // The roles of the privileges are examples.
    let (script, grants) = printed.split_once("-- Privileges").expect("privileges");
    assert!(grants.contains("GRANT INSERT (\"id\", \"event_type\", \"draft_id\", \"payload\", \"created_at\", \"sent_at\") ON \"outbox\""), "{grants}");
    let mut connection = database.connect().await;
    connection
        .execute(sqlx::AssertSqlSafe(script.to_owned()))
        .await
        .expect("the printed SQL");
    connection.close().await.expect("close");
    assert!(adopt(&settings, &[]).stdout.contains("already adopted"));
    let relay = Relay::ready(&settings).await;
    // Those of 23:55 to 00:00.
    let deliveries = stream.await_len(18, SOON).await;
    let order: Vec<i64> = deliveries.iter().map(|d| d.number("n")).collect();
    assert_eq!(
        order,
        [15, 16, 17, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2]
    );
    relay.stop().await;
    assert_eq!(stream.len().await, 18);
}

#[tokio::test]
async fn the_owner_needs_no_other_rights_and_an_application_only_its_columns() {
    let database = Database::fresh().await;
    let name = Uuid::new_v4().simple().to_string();
    let (owner, app) = (format!("owner_{name}"), format!("app_{name}"));
    database
        .execute(&format!(
            "CREATE ROLE {owner} LOGIN; CREATE ROLE {app} LOGIN; CREATE SCHEMA draft AUTHORIZATION {owner}; \
             GRANT USAGE ON SCHEMA draft TO {app}; SET ROLE {owner}; SET search_path = draft; {PLAIN}; \
             GRANT INSERT ON outbox TO {app}"
        ))
        .await;
    let url = |role: &str| database.url.replace("//postgres@", &format!("//{role}@"));
    let settings = with_mock(plain(&database))
        .set("sources.main.url", url(&owner))
        .set("sources.main.table", "draft.outbox")
        .set("sources.main.mode", "notify");
    let ended = adopt(&settings, &[]);
    assert!(
        ended
            .stdout
            .contains(&format!("warning: {app} may insert into every column")),
        "{ended:#?}"
    );
    let (_, grants) = ended
        .stdout
        .split_once("-- Applications")
        .expect("privileges");
    let (grants, _) = grants.split_once("-- The relay").expect("two parts");
    database.execute(&format!("--{grants}")).await;

    let mut connection = crate::support::database::connect(&url(&app))
        .await
        .expect("connect");
    let insert = |columns: &str, values: &str| {
        sqlx::AssertSqlSafe(format!(
            "INSERT INTO draft.outbox (id, event_type, draft_id, payload{columns}) {values}"
        ))
    };
    connection
        .execute(insert(
            "",
            "VALUES (gen_random_uuid(), 'New', gen_random_uuid(), '{}')",
        ))
        .await
        .expect("the old INSERT");
    let chosen = insert(
        ", seq",
        "OVERRIDING SYSTEM VALUE VALUES (gen_random_uuid(), 'New', gen_random_uuid(), '{}', 1)",
    );
    let refused = connection
        .execute(chosen)
        .await
        .expect_err("seq is not the application's");
    assert!(
        refused.to_string().contains("permission denied"),
        "{refused}"
    );
    connection.close().await.expect("close");
    let relay = Relay::ready(&settings).await;
    relay.stop().await;
}

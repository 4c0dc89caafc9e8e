//! What nobody may see, and what nobody needs: secrets, privileges, the admin address (DESIGN: safety). Encrypted
//! connections have tests of their own, `tls` and those of each broker.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use crate::support::database::{Database, connect};
use crate::support::eventually::eventually;
use crate::support::http::Request;
use crate::support::kafka::Listeners;
use crate::support::nats::{self, PrivateNats};
use crate::support::proxy::ELSEWHERE;
use crate::support::rabbitmq;
use crate::support::relay::{Relay, migrate, run, run_by_environment};
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::temporary::TemporaryFolder;

const SOON: Duration = Duration::from_secs(10);

/// A part of every secret here, and of nothing else.
const SECRET: &str = "hunter2";

/// Two roles, an application's and a relay's, with what `migrate --print` grants them and nothing else.
struct Roles {
    database: Database,
    app: String,
    relay: String,
}

impl Roles {
    async fn make(settings: impl Fn(&str) -> Settings) -> Self {
        let database = Database::fresh().await;
        let suffix = Uuid::new_v4().simple();
        let (app, relay) = (format!("app_{suffix}"), format!("relay_{suffix}"));
        let printed = run(&settings(&database.url), &["migrate", "--print"]);
        assert_eq!(printed.code, Some(0), "{printed:#?}");
        // "Put your own roles for app and relay."
        let script = printed.stdout.replace(" TO app;", &format!(" TO {app};"));
        let script = script.replace(" TO relay;", &format!(" TO {relay};"));
        let roles = format!("CREATE ROLE {app} LOGIN; CREATE ROLE {relay} LOGIN;");
        database.execute(&format!("{roles}\n{script}")).await;
        Self {
            database,
            app,
            relay,
        }
    }

    fn url(&self, role: &str) -> String {
        let url = &self.database.url;
        url.replace("//postgres@", &format!("//{role}@"))
    }

    async fn connect(&self, role: &str) -> PgConnection {
        connect(&self.url(role)).await.expect("the role may log in")
    }

    /// Neither may do the other's work, nor more than its own.
    async fn are_kept_apart(&self) {
        let mut app = self.connect(&self.app).await;
        for sql in [
            "SELECT FROM outbox",
            "UPDATE outbox SET payload = '{}'",
            "DELETE FROM outbox",
            "INSERT INTO outbox (seq, event_type, payload) OVERRIDING SYSTEM VALUE VALUES (7, 'a', '{}')",
            "SELECT nextval('outbox_seq_seq')",
            "SELECT FROM outbox_ledger",
            "UPDATE outbox_lease SET expires_at = now()",
        ] {
            is_denied(&mut app, sql).await;
        }
        let mut relay = self.connect(&self.relay).await;
        for sql in [
            "INSERT INTO outbox (event_type, payload) VALUES ('a', '{}')",
            "UPDATE outbox SET payload = '{}'",
            "SELECT setval('outbox_seq_seq', 1)",
            "TRUNCATE outbox",
            "DROP TABLE outbox_ledger",
        ] {
            is_denied(&mut relay, sql).await;
        }
    }
}

async fn insert(app: &mut PgConnection, event_type: &str, count: i64) {
    let insert = "INSERT INTO outbox (event_type, aggregate_id, payload) \
                  SELECT $1, n::text, '{}' FROM generate_series(1, $2) n";
    let insert = sqlx::query(insert).bind(event_type).bind(count);
    insert.execute(app).await.expect("what applications do");
}

async fn is_denied(connection: &mut PgConnection, sql: &str) {
    let denied = connection.execute(AssertSqlSafe(sql.to_owned())).await;
    let error = denied.expect_err(sql);
    let code = error.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
}

/// Everything that a relay and its commands do, as the role of `migrate --print`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_needs_no_more_than_is_granted() {
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let late = Stream::named(&nats::shared());
    let settings = |url: &str| {
        Settings::of_url(url)
            .set("sources.main.mode", "notify")
            .set("sources.main.after_delivery", "mark")
            .set("sources.main.retention", "7d")
            .publishing("events", &stream)
            .publishing("late", &late)
            .set("retry.max_retries", 0)
    };
    let roles = Roles::make(settings).await;
    let database = &roles.database;
    let own = settings(&roles.url(&roles.relay));
    let mut app = roles.connect(&roles.app).await;
    roles.are_kept_apart().await;

    let done = |arguments: &[&str]| {
        let ended = run(&own, arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:#?}");
        ended.stdout
    };
    done(&["check", "--connect"]);
    let active = Relay::ready(&own).await;
    let standby = Relay::ready(&own).await;
    insert(&mut app, "Granted", 20).await;
    stream.await_len(20, SOON).await;
    // Refused, listed, retried.
    let letters = "SELECT count(*) FROM outbox_dead_letter";
    eventually("20 dead letters", SOON, async || {
        (database.value::<i64>(letters).await == 20).then_some(())
    })
    .await;
    done(&["dead-letters", "list"]);
    late.make(|_| {}).await;
    done(&["dead-letters", "retry", "--all"]);
    late.await_len(20, SOON).await;
    // A hole, which somebody has open and rolls back.
    app.execute("BEGIN").await.expect("begin");
    insert(&mut app, "Undone", 1).await;
    let mut other = roles.connect(&roles.app).await;
    insert(&mut other, "Granted", 5).await;
    app.execute("ROLLBACK").await.expect("roll back");
    stream.await_len(25, SOON).await;
    let open = "SELECT count(*) FROM outbox_ledger WHERE NOT delivered @> int8range(1, 27)";
    eventually("the hole is closed", SOON, async || {
        (database.value::<i64>(open).await == 0).then_some(())
    })
    .await;
    let unmarked = "SELECT count(*) FROM outbox WHERE sent_at IS NULL";
    eventually("all are marked", SOON, async || {
        (database.value::<i64>(unmarked).await == 0).then_some(())
    })
    .await;
    done(&[
        "replay",
        "--sink",
        "events",
        "--from-seq",
        "20",
        "--to-seq",
        "20",
    ]);
    stream.await_len(26, SOON).await;
    done(&["status"]);
    done(&["ledger", "list"]);

    // Another takes over from one that is killed. As old as the retention, events go, which is looked at once a minute.
    let age = "UPDATE outbox SET created_at = now() - interval '8 days' WHERE seq <= 5";
    database.execute(age).await;
    active.kill().await;
    insert(&mut app, "Granted", 5).await;
    stream.await_len(31, 2 * SOON).await;
    let old = "SELECT count(*) FROM outbox WHERE seq <= 5";
    eventually("the old ones are deleted", SOON, async || {
        (database.value::<i64>(old).await == 0).then_some(())
    })
    .await;
    standby.stop().await;
    let log = done(&["ledger", "list"]);
    assert!(log.contains("late"), "{log}");
    let fewer = own.clone().without("sinks.late");
    let ended = run(&fewer, &["ledger", "drop", "--sink", "late"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let ended = run(&fewer, &["ledger", "reset", "--source", "main"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

/// Settings with a secret wherever there can be one, at servers that are there and take it or refuse it.
fn full_of_secrets(database: &Database, nats: &PrivateNats, file: &TemporaryFolder) -> Settings {
    let secret = |what: &str| format!("{SECRET}-{what}");
    let path = file.write("secret", secret("file"));
    let server = database
        .url
        .replace("postgres@", "postgres:hunter2-source@");
    let settings = Settings::of_url(&server)
        .set("admin.token", secret("admin"))
        .set("sinks.user.type", "jetstream")
        .set("sinks.user.url", nats.url())
        .set("sinks.user.subject", "secret.{event_type}")
        .set("sinks.user.stream.name", "SECRET")
        .set("sinks.user.stream.subjects", vec!["secret.>"])
        .set("sinks.user.auth.user", "relay")
        .set("sinks.user.auth.password", secret("user"))
        .set("sinks.wrong.type", "nats")
        .set("sinks.wrong.url", nats.url())
        .set("sinks.wrong.subject", "secret.{event_type}")
        .set(
            "sinks.wrong.auth.token",
            "${file:FILE}".replace("FILE", &path.display().to_string()),
        )
        .set("sinks.rabbit.type", "rabbitmq")
        .set(
            "sinks.rabbit.url",
            rabbitmq::shared().replace("//", "//guest:${RABBIT}@"),
        )
        .set("sinks.rabbit.queue", "secret");
    match Listeners::real() {
        Some(listeners) => settings
            .set("sinks.kafka.type", "kafka")
            .set("sinks.kafka.brokers", listeners.sasl)
            .set("sinks.kafka.topic", "secret")
            .set("sinks.kafka.auth.mechanism", "plain")
            .set("sinks.kafka.auth.user", "relay")
            .set("sinks.kafka.auth.password", secret("kafka")),
        None => settings,
    }
}

/// The same in base64, wherever in the text it stands, and as bytes are printed.
const DISGUISED: [&str; 4] = [
    "aHVudGVyM",
    "h1bnRlcj",
    "odW50ZXIy",
    "104, 117, 110, 116, 101, 114, 50",
];

/// Whatever is said, by whom and at whatever level: no secret is among it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_said() {
    let database = Database::fresh().await;
    let nats =
        PrivateNats::start("authorization { user: relay, password: \"hunter2-user\" }").await;
    let folder = TemporaryFolder::new("secrets");
    let settings = full_of_secrets(&database, &nats, &folder);
    let environment = [("RABBIT", "hunter2-rabbit"), ("RUST_LOG", "trace")];
    let file = folder.write("outbox.toml", settings.toml());
    let file = file.to_str().expect("a path");
    let mut said = Vec::new();
    for arguments in [
        &["migrate"][..],
        &["migrate", "--print"],
        &["check"],
        &["check", "--connect"],
        &["status"],
        &["status", "--json"],
        &["route", "Told"],
        &["ledger", "list"],
        &["dead-letters", "list"],
    ] {
        let arguments = [arguments, &["--config", file]].concat();
        let ended = run_by_environment(&environment, &arguments);
        said.push((arguments.join(" "), ended.stdout + &ended.stderr));
    }
    let relay = Relay::start_with(&settings, &environment);
    let delivered = ["sink=\"user\""];
    database.insert("Told", Some("key"), 3).await;
    relay
        .await_metric("outbox_events_published_total", &delivered, SOON, |n| {
            n == 3.0
        })
        .await;
    // Until each has tried, and been refused.
    eventually("all the others are in trouble", 2 * SOON, async || {
        let body = relay.get("/readyz").await?.body;
        ["wrong", "rabbit"]
            .iter()
            .all(|sink| body.contains(sink))
            .then_some(())
    })
    .await;
    for path in [
        "/",
        "/status",
        "/readyz",
        "/healthz",
        "/metrics",
        "/dead-letters/main",
    ] {
        if let Some(answer) = relay.get(path).await {
            said.push((path.to_owned(), answer.body));
        }
    }
    // What is wrong with a file, and what has changed in it.
    relay.rewrite(
        &settings
            .clone()
            .set("sinks.user.auth.password", "hunter2-wrong"),
    );
    relay.hang_up().await;
    relay.rewrite(
        &settings
            .clone()
            .set("sinks.user.auth.pasword", "hunter2-misspelt"),
    );
    relay.hang_up().await;
    said.push((
        "/status".to_owned(),
        relay.get("/status").await.expect("an answer").body,
    ));
    said.push(("the log".to_owned(), relay.stderr()));
    relay.stop().await;
    let lines: usize = said.iter().map(|(_, text)| text.lines().count()).sum();
    assert!(lines > 200, "too little was said to show anything: {lines}");
    for (who, text) in &said {
        for secret in [SECRET].into_iter().chain(DISGUISED) {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{who} says a secret: {line:?}");
        }
    }
}

#[tokio::test]
async fn the_admin_address_is_the_one_that_is_given() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("admin.token", "hunter2-admin")
        .set("sinks.events.type", "mock");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let other = tokio::net::TcpStream::connect((ELSEWHERE, relay.port())).await;
    assert!(other.is_err(), "it listens at 127.0.0.1 alone");
    for path in ["/healthz", "/readyz", "/status", "/metrics"] {
        assert_eq!(relay.get(path).await.expect("an answer").status, 200);
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let request = Request {
                method,
                ..Request::get(path)
            };
            assert_eq!(relay.ask(request).await.status, 405, "{request:?}");
        }
    }
    let change = Request {
        method: "POST",
        ..Request::get("/dead-letters/main/retry")
    };
    for (headers, refused) in [
        (None, true),
        (Some(("Authorization", "Bearer hunter2-admi")), true),
        (Some(("Authorization", "Bearer hunter2-admin2")), true),
        (Some(("Authorization", "Bearer ")), true),
        (Some(("Authorization", "hunter2-admin")), true),
        (Some(("Cookie", "token=hunter2-admin")), true),
        (Some(("Authorization", "Bearer hunter2-admin")), false),
    ] {
        let headers = headers.as_slice();
        let answer = relay.ask(Request { headers, ..change }).await;
        let is_refused = matches!(answer.status, 401 | 403);
        assert_eq!(is_refused, refused, "{headers:?}: {answer:?}");
        assert!(!answer.body.contains(SECRET), "{answer:?}");
    }
    let path = "/dead-letters/main/retry?token=hunter2-admin";
    let answer = relay.ask(Request { path, ..change }).await;
    assert!(matches!(answer.status, 401 | 403), "{answer:?}");
    relay.stop().await;
}

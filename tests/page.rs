//! The status page, as a person uses it in a browser, and what it asks of the relay.

mod sources;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use sqlx::Connection as _;
use sqlx::Executor as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use toml::Table;

use crate::support::browser::{Browser, ENTER, TAB};
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::http::Request;
use crate::support::nats;
use crate::support::rabbitmq::Broker;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(20);

const TOKEN: &str = "the-page-s-token";

/// How wide the widest of the page and its tables would be, if the window had room for it.
const WIDTH: &str = "return Math.max(document.documentElement.scrollWidth, ...[...document.querySelectorAll('.scroll')]\
                     .map((table) => innerWidth + table.scrollWidth - table.clientWidth))";

/// As many pages as the relay feeds at a time.
const MAX_WATCHERS: usize = 32;

/// JetStream has everything; RabbitMQ what is about money, of which it has a queue for what is paid only.
struct World {
    database: Database,
    broker: Broker,
    exchange: String,
    queue: String,
    settings: Settings,
}

impl World {
    async fn new() -> Self {
        let database = Database::fresh().await;
        let stream = Stream::create(&nats::shared()).await;
        let broker = Broker::shared().await;
        let (exchange, queue) = (broker.exchange().await, broker.queue("classic").await);
        broker.bind(&queue, &exchange, "OrderPaid").await;
        let routes = vec![
            route(&["OrderPaid", "Refund*"], &["services", "billing"]),
            route(&["*"], &["services"]),
        ];
        let settings = Settings::of(&database)
            .set("admin.token", TOKEN)
            .set("retry.max_retries", 0)
            .publishing("services", &stream)
            .set("sinks.billing.type", "rabbitmq")
            .set("sinks.billing.url", crate::support::rabbitmq::shared())
            .set("sinks.billing.exchange", exchange.as_str())
            .set("sinks.billing.routing_key", "{event_type}")
            .set("sinks.billing.flush_interval", "200ms")
            .set("routes", routes);
        migrate(&settings);
        Self {
            database,
            broker,
            exchange,
            queue,
            settings,
        }
    }

    async fn dead_letters(&self) -> i64 {
        let sql = "SELECT count(*) FROM outbox_dead_letter";
        self.database.value(sql).await
    }
}

fn route(event_types: &[&str], sinks: &[&str]) -> Table {
    let to: Table = sinks
        .iter()
        .map(|sink| ((*sink).to_owned(), true.into()))
        .collect();
    let mut route = Table::new();
    route.insert("event_type".to_owned(), event_types.to_vec().into());
    route.insert("to".to_owned(), to.into());
    route
}

/// A cell of a sink's row.
fn cell(sink: &str, field: &str) -> String {
    format!("[data-sink=\"{sink}\"] [data-field=\"{field}\"]")
}

async fn open(relay: &Relay) -> Browser {
    let browser = Browser::start().await;
    browser.resize(1_240, 900, false).await;
    browser
        .open(&format!("http://127.0.0.1:{}/", relay.port()))
        .await;
    browser.await_text("#live", |text| text == "live").await;
    browser
}

#[tokio::test]
async fn figures_are_live_and_dead_letters_are_retried_and_discarded() {
    let world = World::new().await;
    let relay = Relay::ready(&world.settings).await;
    let mut browser = open(&relay).await;
    assert_eq!(browser.text("#ready").await.as_deref(), Some("ready"));
    assert_eq!(browser.text("#relay").await.as_deref(), Some("test"));
    assert_eq!(
        browser.text(&cell("billing", "state")).await.as_deref(),
        Some("connected")
    );
    assert_eq!(
        browser.text(&cell("services", "latency")).await.as_deref(),
        Some("–")
    );

    world
        .database
        .insert("OrderPaid", Some("order-1"), 40)
        .await;
    world
        .database
        .insert("RefundAsked", Some("order-2"), 3)
        .await;
    let latency = browser
        .await_text(&cell("services", "latency"), |text| text != "–")
        .await;
    assert!(
        latency.contains(" ms") || latency.contains(" s"),
        "{latency}"
    );
    browser
        .await_text(&cell("billing", "dead"), |text| text == "3")
        .await;
    let curve = browser.script(
        "return document.querySelector('[data-sink=services] .rate .main').getAttribute('d')",
    );
    assert!(
        curve.await.as_str().is_some_and(|path| path.contains('L')),
        "a curve"
    );

    // What they are takes the token, and the wrong one is called so.
    assert_eq!(browser.text("#letters").await.as_deref(), Some(""));
    browser.press("#token", &format!("wrong{ENTER}")).await;
    browser
        .await_text("#letters-said", |text| {
            text.contains("is not the one of [admin] token")
        })
        .await;
    browser.press("#token", TOKEN).await;
    browser.click("#token-form [type=submit]").await;
    let letters = browser
        .await_text("#letters", |text| text.contains("order-2"))
        .await;
    assert!(
        letters.contains("RefundAsked") && letters.contains("NO_ROUTE"),
        "{letters}"
    );

    // By keyboard: what has the focus shows it.
    let (queue, exchange) = (&world.queue, &world.exchange);
    world.broker.bind(queue, exchange, "RefundAsked").await;
    browser.press("#letters li button", TAB).await;
    let outline = "return document.activeElement.tagName + getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.script(outline).await, "BUTTONsolid");
    browser.press("#letters li button", ENTER).await;
    let said = "1 dead letter to be delivered again to billing.";
    browser
        .await_text("#letters-said", |text| text == said)
        .await;
    eventually("the letter is delivered", SOON, async || {
        (world.broker.len(queue).await == 41).then_some(())
    })
    .await;

    // Discarding asks once more.
    browser
        .await_text("#letters-count", |text| text == "2")
        .await;
    let discard = "#letters li:first-child button + button";
    browser.click(discard).await;
    assert_eq!(browser.text(discard).await.as_deref(), Some("For good?"));
    assert_eq!(world.dead_letters().await, 2);
    browser.click(discard).await;
    browser
        .await_text("#letters-said", |text| text == "1 dead letter discarded.")
        .await;
    assert_eq!(world.dead_letters().await, 1);
    let recent = browser
        .await_text("#recent", |text| text.contains("discarded by hand"))
        .await;
    assert!(
        recent.contains("sink billing") && recent.contains("retried by hand"),
        "{recent}"
    );

    // The browser reports the answer to the wrong token by itself, and there is nothing else.
    let console = browser.console().await;
    assert!(
        console.iter().all(|line| line.contains("401")) && console.len() == 1,
        "{console:#?}"
    );
    // The page is open, and that keeps nobody.
    relay.stop().await;
    browser
        .await_text("#live", |text| text.starts_with("no answer for"))
        .await;
}

#[tokio::test]
async fn a_reload_an_outage_and_a_hole_are_shown_with_what_is_behind_them() {
    let world = World::new().await;
    let relay = Relay::ready(&world.settings).await;
    let mut browser = open(&relay).await;
    let routes = browser
        .await_text("#routes svg", |text| {
            text.contains("RabbitMQ") || text.contains("rabbitmq")
        })
        .await;
    assert!(routes.contains("OrderPaid, Refund*"), "{routes}");

    let with_lines = world
        .settings
        .clone()
        .set("sinks.lines.type", "stdout")
        .set("sinks.lines.start", "latest")
        .set("routes", vec![route(&["*"], &["services", "lines"])]);
    relay.reload(&with_lines).await;
    browser
        .await_text("#recent", |text| {
            text.contains("reloaded: +main/lines") || text.contains("reloaded: ")
        })
        .await;
    browser
        .await_text("#routes svg", |text| text.contains("lines"))
        .await;
    browser
        .await_text(&cell("lines", "state"), |text| text == "connected")
        .await;
    relay.rewrite_as("[relay]\nnaem = 'x'\n");
    relay.hang_up().await;
    let recent = browser
        .await_text("#recent", |text| text.contains("not reloaded"))
        .await;
    assert!(recent.contains("naem"), "{recent}");

    // An open transaction has drawn a seq, and a later one was committed.
    let mut open = world.database.connect().await;
    open.execute("BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Held', '{}')")
        .await
        .expect("insert");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut open)
        .await
        .expect("a pid");
    world.database.insert("OrderShipped", None, 1).await;
    let holder = format!("1 hole: may be held by backend {pid} (test, user postgres) for ");
    browser
        .await_text("p[data-field=holes]", |text| text.starts_with(&holder))
        .await;
    open.execute("COMMIT").await.expect("commit");
    open.close().await.expect("close");
    eventually("the hole is no longer shown", SOON, async || {
        let text = browser.text("p[data-field=holes]").await?;
        text.is_empty().then_some(())
    })
    .await;

    // No width is too small, down to 320 pixels.
    for width in [320, 375, 700, 900, 1_100, 1_240] {
        browser.resize(width, 800, width < 600).await;
        let wide = browser.script(WIDTH).await;
        assert!(
            wide.as_u64().is_some_and(|wide| wide <= u64::from(width)),
            "{wide} of {width}"
        );
    }
    let console = browser.console().await;
    assert!(console.is_empty(), "{console:#?}");
    relay.stop().await;
}

async fn post(relay: &Relay, path: &str, authorization: Option<&str>, body: &str) -> (u16, Value) {
    let headers: Vec<_> = authorization
        .map(|value| ("Authorization", value))
        .into_iter()
        .collect();
    let request = Request {
        method: "POST",
        headers: &headers,
        body,
        within: SOON,
        ..Request::get(path)
    };
    let answer = relay.ask(request).await;
    (
        answer.status,
        serde_json::from_str(&answer.body).expect("JSON"),
    )
}

/// A sink that refuses everything, and one dead letter.
async fn one_dead(token: Option<&str>) -> (Database, Relay) {
    let database = Database::fresh().await;
    let mut settings = Settings::of(&database)
        .set("sinks.refusing.type", "mock")
        .set("sinks.refusing.reject", 1.0)
        .set("sinks.refusing.retry.max_retries", 0);
    if let Some(token) = token {
        settings = settings.set("admin.token", token);
    }
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("First", Some("customer-7"), 1).await;
    eventually("one dead letter", SOON, async || {
        let count: i64 = database
            .value("SELECT count(*) FROM outbox_dead_letter")
            .await;
        (count == 1).then_some(())
    })
    .await;
    (database, relay)
}

#[tokio::test]
async fn nothing_is_changed_without_the_token_and_nothing_secret_is_told() {
    let (database, relay) = one_dead(Some(TOKEN)).await;
    let (list, retry) = ("/dead-letters/main", "/dead-letters/main/retry");
    let body = r#"{"sink": "refusing", "ids": [1]}"#;
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(relay.ask(Request::get(list)).await.status, 401);
    for (authorization, status) in [(None, 401), (Some("Bearer x"), 401), (Some(TOKEN), 401)] {
        for action in [retry, "/dead-letters/main/discard"] {
            let answer = post(&relay, action, authorization, body).await;
            assert_eq!(answer.0, status, "{authorization:?}: {}", answer.1);
        }
    }
    let count: i64 = database
        .value("SELECT count(*) FROM outbox_dead_letter")
        .await;
    assert_eq!(count, 1);
    for (path, body, status, word) in [
        ("/dead-letters/other/retry", body, 404, "no source other"),
        (
            retry,
            r#"{"sink": "other", "ids": [1]}"#,
            409,
            "feeds no sink other",
        ),
        (retry, r#"{"sink": "refusing", "ids": []}"#, 400, "ids"),
        (retry, r#"{"sink": "refusing"}"#, 400, "missing field `ids`"),
        (retry, "", 400, "the body must be"),
    ] {
        let (found, answer) = post(&relay, path, Some(&bearer), body).await;
        assert_eq!(found, status, "{path} {body}: {answer}");
        assert!(
            answer["error"]
                .as_str()
                .is_some_and(|error| error.contains(word)),
            "{answer}"
        );
    }
    let (status, answer) = post(&relay, "/dead-letters/main/discard", Some(&bearer), body).await;
    assert_eq!(
        (status, &answer["done"]),
        (200, &Value::from(1)),
        "{answer}"
    );
    let events = first_events(relay.port()).await;
    assert!(events.contains("event: snapshot"), "{events}");
    for secret in [TOKEN, &database.url, "customer-7", "://"] {
        assert!(!events.contains(secret), "{secret} is in {events}");
    }
    relay.stop().await;
}

#[tokio::test]
async fn without_a_token_the_page_says_how_to_get_one_and_only_this_machine_reads() {
    let (_database, relay) = one_dead(None).await;
    let mut browser = open(&relay).await;
    let how = browser
        .await_text("#letters-access", |text| !text.is_empty())
        .await;
    assert!(how.contains("set [admin] token"), "{how}");
    browser
        .await_text("#letters", |text| text.contains("customer-7"))
        .await;
    assert_eq!(
        browser
            .script("return document.querySelectorAll('#letters li button').length")
            .await,
        0
    );
    assert!(browser.console().await.is_empty());
    let (status, answer) = post(&relay, "/dead-letters/main/retry", Some("Bearer x"), "{}").await;
    assert_eq!(status, 403, "{answer}");
    // A site whose name resolves to this machine is not this machine.
    for (host, status) in [("evil.example", 421), ("localhost", 200)] {
        for path in ["/", "/events", "/dead-letters/main"] {
            let request = Request {
                headers: &[("Host", host)],
                ..Request::get(path)
            };
            if (path, status) == ("/events", 200) {
                continue; // it has no end
            }
            assert_eq!(relay.ask(request).await.status, status, "{path} of {host}");
        }
    }
    let page = relay.ask(Request::get("/")).await;
    assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    relay.stop().await;
}

/// Everything that a page is told at once.
async fn first_events(port: u16) -> String {
    let mut watcher = watch(port).await;
    let mut text = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !String::from_utf8_lossy(&text).contains("event: snapshot") {
        let count = watcher.read(&mut buffer).await.expect("read");
        assert_ne!(count, 0, "it ended: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).expect("UTF-8")
}

async fn watch(port: u16) -> TcpStream {
    let mut connection = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("connect");
    let request = format!("GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    connection
        .write_all(request.as_bytes())
        .await
        .expect("write");
    connection
}

async fn status_of(watcher: &mut TcpStream) -> String {
    let mut head = [0; 12];
    watcher.read_exact(&mut head).await.expect("an answer");
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[tokio::test]
async fn so_many_watch_at_a_time_and_none_holds_up_a_stop() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.lines.type", "stdout");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let mut watchers = Vec::new();
    for _ in 0..MAX_WATCHERS {
        let mut watcher = watch(relay.port()).await;
        assert_eq!(status_of(&mut watcher).await, "200");
        watchers.push(watcher);
    }
    assert_eq!(status_of(&mut watch(relay.port()).await).await, "503");
    // Who goes makes room.
    watchers.pop();
    eventually("there is room", SOON, async || {
        let mut watcher = watch(relay.port()).await;
        (status_of(&mut watcher).await == "200").then_some(())
    })
    .await;
    // They don't read what comes.
    relay.stop().await;
}

/// The pictures in `docs/`: `OUTBOX_TEST_SCREENSHOTS=docs tests/run -- page::pictures`. Otherwise nothing is done.
#[tokio::test]
async fn pictures_for_the_documentation() {
    let Some(folder) = std::env::var_os("OUTBOX_TEST_SCREENSHOTS").map(PathBuf::from) else {
        return;
    };
    let world = World::new().await;
    let settings = world.settings.clone().set("relay.name", "orders");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let browser = open(&relay).await;
    browser.press("#token", &format!("{TOKEN}{ENTER}")).await;
    // As long as the curves are.
    for second in 0..120 {
        let count = 40 + 25 * (second / 7 % 3) + second % 5;
        world
            .database
            .insert("OrderShipped", Some("order-1"), count)
            .await;
        world
            .database
            .insert("OrderPaid", Some("order-2"), count / 4)
            .await;
        if second == 60 {
            world
                .database
                .insert("RefundAsked", Some("order-3"), 2)
                .await;
            relay
                .reload(&settings.clone().set("sinks.services.timeout", "7s"))
                .await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (name, scheme, (width, height)) in [
        ("light", "light", (1_120, 900)),
        ("dark", "dark", (1_120, 900)),
        ("phone", "light", (390, 844)),
    ] {
        browser.prefer(scheme).await;
        browser.resize(width, height, width < 600).await;
        let picture = browser.picture().await;
        assert!(picture.len() < 200_000, "{name}: {} bytes", picture.len());
        let file = folder.join(format!("status-page-{name}.png"));
        std::fs::write(&file, picture)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    relay.stop().await;
}

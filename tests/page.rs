//! The status page, as a person uses it in a browser, and what it asks of the relay.

mod access;
mod sources;

use std::path::PathBuf;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::Executor as _;
use toml::Table;

use crate::support::browser::{Browser, ENTER, TAB};
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats::{self, PrivateNats};
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::rabbitmq::Broker;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(20);

const TOKEN: &str = "the-page-s-token";

/// How wide the widest of the page and its tables would be, if the window had room for it.
const WIDTH: &str = "return Math.max(document.documentElement.scrollWidth, ...[...document.querySelectorAll('.scroll')]\
                     .map((table) => innerWidth + table.scrollWidth - table.clientWidth))";

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
        .await_text("#letters-trouble", |text| {
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

/// The pictures in `docs/`: `OUTBOX_TEST_SCREENSHOTS=docs tests/run -- page::pictures`, which takes as long as the curves
/// are, two minutes. Otherwise nothing is done.
#[tokio::test]
async fn pictures_for_the_documentation() {
    let Some(folder) = std::env::var_os("OUTBOX_TEST_SCREENSHOTS").map(PathBuf::from) else {
        return;
    };
    // Servers of its own, for names of its own: those of the README.
    let (nats, rabbitmq) = (
        PrivateNats::start("").await,
        PrivateRabbitmq::start("").await,
    );
    let database = Database::fresh().await;
    let settings = Settings::of_url(&database.url)
        .without("sources")
        .reading("orders", &database.url)
        .set("relay.name", "orders")
        .set("admin.token", TOKEN)
        .set("retry.max_retries", 0)
        .set("sinks.services.type", "jetstream")
        .set("sinks.services.url", nats.url())
        .set("sinks.services.subject", "orders.{event_type}")
        .set("sinks.services.stream.name", "ORDERS")
        .set("sinks.services.stream.subjects", vec!["orders.>"])
        .set("sinks.billing.type", "rabbitmq")
        .set("sinks.billing.url", rabbitmq.url())
        .set("sinks.billing.exchange", "orders")
        .set("sinks.billing.routing_key", "{event_type}")
        .set("sinks.billing.declare.exchange_type", "topic")
        .set("sinks.billing.declare.queues", vec!["billing"])
        .set("sinks.billing.declare.bind", vec!["OrderPaid"])
        .set(
            "routes",
            vec![
                route(&["OrderPaid", "Refund*"], &["services", "billing"]),
                route(&["*"], &["services"]),
            ],
        );
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let browser = open(&relay).await;
    browser.press("#token", &format!("{TOKEN}{ENTER}")).await;
    for second in 0..120 {
        let count = 40 + 25 * (second / 7 % 3) + second % 5;
        database
            .insert("OrderShipped", Some("order-1"), count)
            .await;
        database
            .insert("OrderPaid", Some("order-2"), count / 4)
            .await;
        if second == 60 {
            database.insert("RefundAsked", Some("order-3"), 2).await;
            relay
                .reload(&settings.clone().set("sinks.services.timeout", "7s"))
                .await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (name, scheme, width) in [
        ("light", "light", 1_120),
        ("dark", "dark", 1_120),
        ("phone", "light", 390),
    ] {
        database.insert("OrderPaid", Some("order-2"), 40).await;
        for sink in ["billing", "services"] {
            browser
                .await_text(&cell(sink, "rate"), |text| text != "0")
                .await;
        }
        let picture = whole(&browser, scheme, width).await;
        assert!(picture.len() < 200_000, "{name}: {} bytes", picture.len());
        let file = folder.join(format!("status-page-{name}.png"));
        std::fs::write(&file, picture)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    relay.stop().await;
}

/// The page from its top to its end, as PNG.
async fn whole(browser: &Browser, scheme: &str, width: u32) -> Vec<u8> {
    let is_phone = width < 600;
    browser.prefer(scheme).await;
    browser.resize(width, 600, is_phone).await;
    // Without a scroll bar lines have more room: once more.
    for _ in 0..2 {
        let height = browser
            .script("return Math.ceil(document.documentElement.getBoundingClientRect().height)")
            .await;
        let height = height
            .as_u64()
            .and_then(|height| u32::try_from(height).ok());
        browser
            .resize(width, height.expect("a height"), is_phone)
            .await;
    }
    browser.picture().await
}

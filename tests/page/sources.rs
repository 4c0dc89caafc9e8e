//! Pages of relays that stand by, and of relays with several sources.

use serde_json::Value;

use super::{SOON, WIDTH, cell, open};
use crate::support::browser::Browser;
use crate::support::database::Database;
use crate::support::nats;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::temporary::TemporaryFolder;

/// Something of a source's section.
fn of_source(source: &str, field: &str) -> String {
    format!("[aria-labelledby=\"source-{source}\"] [data-field=\"{field}\"]")
}

/// The sign of a box in the picture of the routes.
async fn sign(browser: &Browser, place: &str) -> Option<String> {
    browser.text(&format!("#routes {place} .sign")).await
}

/// No width is too small, down to 320 pixels.
async fn assert_fits(browser: &Browser) {
    for width in [320, 390, 900, 1_240] {
        browser.resize(width, 800, width < 600).await;
        let wide = browser.script(WIDTH).await;
        let fits = wide.as_u64().is_some_and(|wide| wide <= u64::from(width));
        assert!(fits, "{wide} of {width}");
    }
}

#[tokio::test]
async fn a_standby_says_so_and_has_the_figures_once_it_has_the_lease() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database)
        .publishing("services", &stream)
        .set("sinks.refusing.type", "mock")
        .set("sinks.refusing.reject", 1.0)
        .set("sinks.refusing.retry.max_retries", 0);
    migrate(&settings);
    let active = Relay::ready(&settings).await;
    let standby = Relay::ready(&settings).await;
    let mut browser = open(&standby).await;
    browser
        .await_text(&of_source("main", "state"), |text| text == "standby")
        .await;
    // It is ready, for it does what it is there for.
    assert_eq!(browser.text("#ready").await.as_deref(), Some("ready"));
    browser
        .await_text(&of_source("main", "lease"), |text| {
            text.starts_with("lease: held by ") && text.contains("another relay delivers")
        })
        .await;
    assert_eq!(browser.text("table.sinks").await.as_deref(), Some(""));
    for place in ["[data-source=main]", "[data-sink=services]"] {
        assert_eq!(sign(&browser, place).await.as_deref(), Some("○"), "{place}");
    }
    assert_fits(&browser).await;

    // What the other relay makes a dead letter is shown here, too, though nobody tells this one of it.
    database.insert("OrderPaid", Some("order-1"), 1).await;
    browser
        .await_text("#letters", |text| text.contains("order-1"))
        .await;

    active.stop().await;
    browser
        .await_text(&of_source("main", "state"), |text| text == "active")
        .await;
    database.insert("OrderPaid", Some("order-1"), 40).await;
    browser
        .await_text(&cell("services", "latency"), |text| text != "–")
        .await;
    browser
        .await_text(&of_source("main", "lease"), |text| {
            text.ends_with(", this process")
        })
        .await;
    browser
        .await_text("#routes [data-sink=services] .sign", |text| text == "●")
        .await;
    assert!(browser.console().await.is_empty());
    standby.stop().await;
}

#[tokio::test]
async fn of_several_sources_one_that_halts_is_named_and_the_other_goes_on() {
    let orders = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let folder = TemporaryFolder::new("page");
    let file = folder.path().join("shop.db");
    let settings = Settings::of(&orders)
        .set("sources.shop.type", "sqlite")
        .set_file("sources.shop.path", &file)
        .set("sources.shop.poll_interval", "50ms")
        .publishing("services", &stream)
        .set("sinks.lines.type", "stdout")
        .set("sinks.lines.inputs", "shop");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let mut browser = open(&relay).await;
    for source in ["main", "shop"] {
        browser
            .await_text(&of_source(source, "state"), |text| text == "active")
            .await;
        browser
            .await_text(&of_source(source, "lease"), |text| {
                text.ends_with(", this process")
            })
            .await;
    }

    orders
        .execute("ALTER TABLE outbox RENAME TO elsewhere")
        .await;
    browser
        .await_text(&of_source("main", "state"), |text| text == "halted")
        .await;
    let reason = browser
        .await_text(&of_source("main", "reason"), |text| !text.is_empty())
        .await;
    assert!(reason.contains("migrate"), "{reason}");
    let obstacles = browser
        .await_text("#obstacles", |text| text.contains("source main"))
        .await;
    assert!(!obstacles.contains("source shop"), "{obstacles}");
    assert_eq!(browser.text("#ready").await.as_deref(), Some("not ready"));

    // What the other source has goes out, and is shown.
    let emit = ["emit", "OrderPaid", "--source", "shop", "--count", "20"];
    let ended = run(&settings, &emit);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    stream.await_len(20, SOON).await;
    let latency = |sink: &str| {
        format!(
            "[aria-labelledby=\"source-shop\"] {}",
            cell(sink, "latency")
        )
    };
    for sink in ["services", "lines"] {
        browser.await_text(&latency(sink), |text| text != "–").await;
    }
    let sinks = browser
        .script("return [...document.querySelectorAll('[aria-labelledby=source-shop] tbody')].map((body) => body.dataset.sink)")
        .await;
    assert_eq!(sinks, Value::from(vec!["lines", "services"]));
    for (place, expected) in [
        ("[data-source=main]", "✖"),
        ("[data-source=shop]", "●"),
        ("[data-sink=services]", "●"),
    ] {
        let sign = sign(&browser, place).await;
        assert_eq!(sign.as_deref(), Some(expected), "{place}");
    }
    // Which of them feeds which sink.
    let routes = browser.text("#routes svg").await.unwrap_or_default();
    assert!(
        routes.contains("all of main, shop") && routes.contains("all of shop"),
        "{routes}"
    );
    assert_fits(&browser).await;

    orders
        .execute("ALTER TABLE elsewhere RENAME TO outbox")
        .await;
    browser
        .await_text(&of_source("main", "state"), |text| text == "active")
        .await;
    browser.await_text("#ready", |text| text == "ready").await;
    assert!(browser.console().await.is_empty());
    relay.stop().await;
}

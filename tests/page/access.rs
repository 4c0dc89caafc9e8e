//! What the page's addresses tell and do, to whom, and to how many at a time.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{SOON, TOKEN, open};
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::http::Request;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;

/// As many pages as the relay feeds at a time.
const MAX_WATCHERS: usize = 32;

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

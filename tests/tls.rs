//! Encrypted connections with a private authority: the right one is accepted, a wrong one is not (DESIGN: safety).

use std::fs;
use std::time::Duration;

use crate::support::certs::Authority;
use crate::support::database::Database;
use crate::support::eventually::{eventually, throughout};
use crate::support::nats::{self, PrivateNats};
use crate::support::postgres::PrivatePostgres;
use crate::support::proxy::{ELSEWHERE, Proxy};
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

/// A server that takes its user `relay` with TLS only, and the test itself in any way.
pub(crate) async fn encrypted_postgres(authority: &Authority, clients: &str) -> PrivatePostgres {
    let certificate = authority.issue("server");
    let mut server = PrivatePostgres::prepare(&[
        "ssl=on",
        "ssl_cert_file=server.pem",
        "ssl_key_file=server.key",
        "ssl_ca_file=ca.pem",
    ]);
    server.write(
        "server.pem",
        fs::read(certificate.cert).expect("a certificate"),
    );
    server.write("server.key", fs::read(certificate.key).expect("a key"));
    server.write("ca.pem", fs::read(authority.ca()).expect("a certificate"));
    server.write(
        "pg_hba.conf",
        format!(
            "host all postgres 127.0.0.1/32 trust\n\
             hostssl all relay 127.0.0.1/32 {clients}\n"
        ),
    );
    server.start_again().await;
    crate::support::database::execute(&server.url(), "CREATE ROLE relay SUPERUSER LOGIN").await;
    server
}

/// The URL of a database for that user, with these parameters.
pub(crate) fn as_relay(database: &Database, parameters: &str) -> String {
    let url = database.url.replace(
        "postgres://postgres@127.0.0.1",
        "postgres://relay@localhost",
    );
    format!("{url}?{parameters}")
}

#[tokio::test]
async fn postgres_with_a_private_authority() {
    let authority = Authority::new();
    let server = encrypted_postgres(&authority, "trust").await;
    let database = Database::fresh_on(&server.url()).await;
    let settings = Settings::of_url(&as_relay(&database, "sslmode=verify-full"))
        .set_file("sources.main.tls.ca", &authority.ca())
        .set("sinks.events.type", "mock");
    migrate(&settings);
    database.insert("Counted", Some("key"), 10).await;
    let relay = Relay::ready(&settings).await;
    relay
        .await_metric(
            "outbox_events_published_total",
            &[],
            Duration::from_secs(10),
            |n| n == 10.0,
        )
        .await;
    let plain: i64 = database
        .value(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
             WHERE usename = 'relay' AND NOT ssl",
        )
        .await;
    assert_eq!(plain, 0, "every connection is encrypted");
    relay.stop().await;

    // Where a private authority is given, it must be checked, whatever the URL leaves out.
    for parameters in ["sslmode=verify-full", ""] {
        let wrong = Authority::new();
        let refused = Settings::of_url(&as_relay(&database, parameters))
            .set_file("sources.main.tls.ca", &wrong.ca())
            .set("sinks.events.type", "mock");
        refuses(&refused).await;
    }
}

#[tokio::test]
async fn postgres_with_a_client_certificate() {
    let authority = Authority::new();
    let server = encrypted_postgres(&authority, "cert clientname=CN").await;
    let database = Database::fresh_on(&server.url()).await;
    let certificate = authority.issue("relay");
    let without = Settings::of_url(&as_relay(&database, "sslmode=verify-full"))
        .set_file("sources.main.tls.ca", &authority.ca())
        .set("sinks.events.type", "mock");
    let with = without
        .clone()
        .set_file("sources.main.tls.cert", &certificate.cert)
        .set_file("sources.main.tls.key", &certificate.key);
    migrate(&with);
    let relay = Relay::ready(&with).await;
    relay.stop().await;
    refuses(&without).await;
}

#[tokio::test]
async fn nats_with_a_private_authority_and_a_client_certificate() {
    let authority = Authority::new();
    let own = authority.issue("server");
    let client = authority.issue("relay");
    let server = PrivateNats::start(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        own.cert,
        own.key,
        authority.ca()
    ))
    .await;
    let database = Database::fresh().await;
    let name = Stream::named("").name;
    let settings = |authority: &Authority| {
        Settings::of(&database)
            .set("sinks.events.type", "jetstream")
            .set(
                "sinks.events.url",
                format!("tls://localhost:{}", server.port),
            )
            .set("sinks.events.subject", format!("{name}.{{event_type}}"))
            .set("sinks.events.stream.name", name.as_str())
            .set("sinks.events.stream.subjects", vec![format!("{name}.>")])
            .set_file("sinks.events.tls.ca", &authority.ca())
    };
    let with = |settings: Settings| {
        settings
            .set_file("sinks.events.tls.cert", &client.cert)
            .set_file("sinks.events.tls.key", &client.key)
    };
    migrate(&settings(&authority));
    database.insert("Counted", Some("key"), 10).await;
    refuses(&with(settings(&Authority::new()))).await;
    refuses(&settings(&authority)).await;

    let relay = Relay::ready(&with(settings(&authority))).await;
    relay
        .await_metric(
            "outbox_events_published_total",
            &[],
            Duration::from_secs(10),
            |n| n == 10.0,
        )
        .await;
    relay.stop().await;
}

/// The right authority, and another server than the one that was asked for: 127.0.0.1 is in its certificate,
/// 127.0.0.2 is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_name() {
    let authority = Authority::new();
    let own = authority.issue("server");
    let postgres = encrypted_postgres(&authority, "trust").await;
    let database = Database::fresh_on(&postgres.url()).await;
    let nats = PrivateNats::start(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}",
        own.cert, own.key
    ))
    .await;
    let settings = |postgres: &str, nats: &str| {
        let url = as_relay(&database, "sslmode=verify-full");
        let (_, name) = url.rsplit_once('/').expect("a database");
        Settings::of_url(&format!("postgres://relay@{postgres}/{name}"))
            .set_file("sources.main.tls.ca", &authority.ca())
            .set("sinks.events.type", "nats")
            .set("sinks.events.url", format!("tls://{nats}"))
            .set("sinks.events.subject", "a.{event_type}")
            .set_file("sinks.events.tls.ca", &authority.ca())
    };
    let (to_postgres, to_nats) = (
        format!("127.0.0.1:{}", postgres.port),
        format!("127.0.0.1:{}", nats.port),
    );
    let fine = settings(&to_postgres, &to_nats);
    migrate(&fine);
    let check = run(&fine, &["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:#?}");

    let proxy = Proxy::elsewhere(&to_postgres).await;
    let other_postgres = format!("{ELSEWHERE}:{}", proxy.port);
    let second = Proxy::elsewhere(&to_nats).await;
    let other_nats = format!("{ELSEWHERE}:{}", second.port);
    for other in [
        settings(&other_postgres, &to_nats),
        settings(&to_postgres, &other_nats),
    ] {
        let check = run(&other, &["check", "--connect"]);
        assert_eq!(check.code, Some(1), "{check:#?}");
        let said = check.stdout + &check.stderr;
        assert!(said.contains("certificate"), "{said}");
    }
}

#[tokio::test]
async fn nats_with_a_user_and_a_password() {
    let server =
        PrivateNats::start("authorization { user: relay, password: \"s3cr3t-word\" }").await;
    let database = Database::fresh().await;
    let with_credentials = format!("nats://relay:s3cr3t-word@127.0.0.1:{}", server.port);
    let stream = Stream::create(&with_credentials).await;
    let settings = |password: &str| {
        Settings::of(&database)
            .publishing_to(&stream)
            .set("sinks.events.url", server.url())
            .set("sinks.events.auth.user", "relay")
            .set("sinks.events.auth.password", password)
    };
    migrate(&settings("s3cr3t-word"));
    database.insert("Counted", Some("key"), 10).await;
    refuses(&settings("another-word")).await;
    let relay = Relay::ready(&settings("s3cr3t-word")).await;
    stream.await_len(10, Duration::from_secs(10)).await;
    // Credentials in the URL are as good.
    relay.stop().await;
    let in_url = Settings::of(&database).publishing_to(&stream);
    let relay = Relay::ready(&in_url).await;
    database.insert("Counted", Some("key"), 10).await;
    stream.await_len(20, Duration::from_secs(10)).await;
    let log = relay.stderr();
    assert!(
        !log.contains("s3cr3t-word"),
        "a password in the log:\n{log}"
    );
    relay.stop().await;
}

/// `check --connect` fails, and a relay says on `/readyz` that it isn't, goes on trying, and publishes nothing.
async fn refuses(settings: &Settings) {
    let check = run(settings, &["check", "--connect"]);
    assert!(
        check.code.is_some_and(|code| code != 0),
        "check --connect must fail: {check:#?}"
    );
    let mut relay = Relay::start(settings);
    eventually("/readyz says 503", Duration::from_secs(10), async || {
        (relay.get("/readyz").await?.status == 503).then_some(())
    })
    .await;
    throughout("it goes on trying", Duration::from_secs(1), async || {
        let answer = relay.get("/readyz").await;
        relay.exited().is_none() && answer.is_some_and(|answer| answer.status == 503)
    })
    .await;
    let published = relay.metric("outbox_events_published_total", &[]).await;
    assert_eq!(published.unwrap_or(0.0), 0.0);
    relay.stop().await;
}

#[tokio::test]
async fn the_shared_server_needs_no_tls() {
    // The negative control of `refuses`: the same steps against a server that can be reached.
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let check = run(&settings, &["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:#?}");
    Relay::ready(&settings).await.stop().await;
}

//! Files that the configuration names: what they hold is part of it.

use std::path::Path;

use super::{SOON, assert_successful, named, stream};
use crate::support::certs::Authority;
use crate::support::database::Database;
use crate::support::kafka::Broker;
use crate::support::nats::{PrivateNats, connections};
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::temporary::TemporaryFolder;
use crate::tls::{as_relay, encrypted_postgres};

#[tokio::test]
async fn a_secret_that_was_renewed_is_a_change_of_its_sink_alone() {
    let database = Database::fresh().await;
    let (stream, other) = (stream().await, stream().await);
    let folder = TemporaryFolder::new("secret");
    let secret = folder.write("field", "before\n");
    let (settings, name) = named(Settings::of(&database).publishing_to(&stream));
    let settings = settings.publishing("other", &other).set(
        "sinks.events.envelope.aggregate_field",
        format!("${{file:{}}}", secret.display()),
    );
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let client = |sink: &str| format!("outbox-relay {name} {sink}");
    let untouched = connections(&client("other")).await;
    database.insert("Counted", Some("key"), 1).await;
    stream.await_len(1, SOON).await;
    folder.write("field", "after\n");
    assert_successful(&relay.hang_up().await);
    database.insert("Counted", Some("key"), 1).await;
    let deliveries = stream.await_len(2, SOON).await;
    assert_eq!(deliveries[0].envelope()["before"], "key");
    assert_eq!(deliveries[1].envelope()["after"], "key");
    assert_eq!(connections(&client("other")).await, untouched);
    relay.stop().await;
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_a_change() {
    let authority = Authority::new();
    let (own, client) = (authority.issue("server"), authority.issue("relay"));
    let server = PrivateNats::start(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        own.cert,
        own.key,
        authority.ca()
    ))
    .await;
    let database = Database::fresh().await;
    let name = Stream::named("").name;
    let settings = Settings::of(&database)
        .set("sinks.events.type", "jetstream")
        .set(
            "sinks.events.url",
            format!("tls://localhost:{}", server.port),
        )
        .set("sinks.events.subject", format!("{name}.{{event_type}}"))
        .set("sinks.events.stream.name", name.as_str())
        .set("sinks.events.stream.subjects", vec![format!("{name}.>")])
        .set_file("sinks.events.tls.ca", &authority.ca())
        .set_file("sinks.events.tls.cert", &client.cert)
        .set_file("sinks.events.tls.key", &client.key);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    assert_successful(&relay.hang_up().await);
    assert!(
        !relay.stderr().contains("~main/events"),
        "nothing has changed yet"
    );
    let renewed = authority.issue("relay");
    assert_eq!(renewed.cert, client.cert, "under the same name");
    assert_successful(&relay.hang_up().await);
    assert!(
        relay.stderr().contains("~main/events"),
        "it is shown to the broker from now on"
    );
    relay
        .await_metric("outbox_sink_available", &[], SOON, |available| {
            available == 1.0
        })
        .await;
    relay.stop().await;
}

/// Whether the log says that this was changed by a reload.
fn changed(relay: &Relay, what: &str) -> bool {
    relay.stderr().contains(&format!("~{what}"))
}

#[tokio::test]
async fn what_a_source_url_names_is_a_change_of_the_source() {
    let authority = Authority::new();
    let server = encrypted_postgres(&authority, "cert clientname=CN").await;
    let database = Database::fresh_on(&server.url()).await;
    let folder = TemporaryFolder::new("url files");
    let client = authority.issue("relay");
    let copy = |from: &Path, name: &str| {
        folder.write(name, std::fs::read(from).expect("a PEM file"));
        format!("{}/{name}", folder.path().display()).replace(' ', "%20")
    };
    let parameters = format!(
        "sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
        copy(&authority.ca(), "ca.pem"),
        copy(&client.cert, "client.pem"),
        copy(&client.key, "client.key"),
    );
    let settings =
        Settings::of_url(&as_relay(&database, &parameters)).set("sinks.events.type", "mock");
    migrate(&settings);
    let mut relay = Relay::ready(&settings).await;
    let backends = async || -> Vec<i32> {
        database
            .value(
                "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity \
                 WHERE usename = 'relay'",
            )
            .await
    };
    assert_successful(&relay.hang_up().await);
    assert!(!changed(&relay, "main"), "nothing has changed yet");
    let before = backends().await;
    let renewed = authority.issue("relay");
    copy(&renewed.cert, "client.pem");
    copy(&renewed.key, "client.key");
    assert_successful(&relay.hang_up().await);
    assert!(
        changed(&relay, "main"),
        "it is shown to the server from now on"
    );
    relay.await_ready().await;
    let after = backends().await;
    assert!(
        before.iter().all(|pid| !after.contains(pid)),
        "{before:?}, {after:?}"
    );
    relay.stop().await;
}

#[tokio::test]
async fn what_an_option_of_kafka_names_is_a_change_of_its_sink() {
    let database = Database::fresh().await;
    let broker = Broker::any();
    let topic = broker.topic(1, &[]).await;
    let folder = TemporaryFolder::new("options");
    let keys = folder.write("keys.p12", "before");
    let options = [
        ("ssl.keystore.location", keys.to_str().expect("UTF-8")),
        ("ssl.keystore.password", "unused"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value.into()));
    let options = toml::Table::from_iter(options);
    let settings = topic
        .sink(Settings::of(&database))
        .set("sinks.events.options", options);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    assert_successful(&relay.hang_up().await);
    assert!(!changed(&relay, "main/events"), "nothing has changed yet");
    folder.write("keys.p12", "after");
    assert_successful(&relay.hang_up().await);
    assert!(changed(&relay, "main/events"));
    relay.stop().await;
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing_and_is_said() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    relay.take_away();
    let reload = relay.hang_up().await;
    assert_eq!(reload["successful"], false);
    let said = reload["errors"][0].as_str().expect("text");
    assert!(said.contains("can't read the file"), "{said}");
    let log = relay.stderr();
    assert!(
        log.contains(said) && log.contains("everything goes on as before"),
        "{log}"
    );
    let gauge = relay.metric("outbox_config_last_reload_successful", &[]);
    assert_eq!(gauge.await, Some(0.0));
    assert_successful(&relay.reload(&settings).await);
    relay.stop().await;
}

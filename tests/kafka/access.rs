//! Whom a broker lets in, by certificate and by password.

use super::ARRIVAL;
use crate::support::certs::Authority;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::kafka::{Broker, Listeners};
use crate::support::proxy::{ELSEWHERE, Proxy};
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_in_and_who_is_told_why_not() {
    let Some(listeners) = Listeners::real() else {
        return;
    };
    let database = Database::fresh().await;
    let broker = Broker::any();
    let topic = broker.topic(2, &[]).await;
    let own = listeners.folder.join("ca.pem");
    let base = topic.sink(Settings::of(&database));
    migrate(&base);
    let encrypted = |at: &str| {
        let settings = base.clone().set("sinks.events.brokers", at);
        settings.set_file("sinks.events.tls.ca", &own)
    };
    let user = |settings: Settings, mechanism: &str, password: &str| {
        settings
            .set("sinks.events.auth.mechanism", mechanism)
            .set("sinks.events.auth.user", "relay")
            .set("sinks.events.auth.password", password)
    };
    let plaintext = base
        .clone()
        .set("sinks.events.brokers", listeners.sasl.as_str());
    let with_certificate = encrypted(&listeners.ssl)
        .set_file(
            "sinks.events.tls.cert",
            &listeners.folder.join("client.pem"),
        )
        .set_file("sinks.events.tls.key", &listeners.folder.join("client.key"));
    let welcome = [
        encrypted(&listeners.ssl),
        with_certificate,
        user(plaintext.clone(), "scram-sha-256", "relay-secret"),
        user(plaintext, "plain", "relay-secret"),
        user(
            encrypted(&listeners.sasl_ssl),
            "scram-sha-512",
            "relay-secret",
        ),
        user(encrypted(&listeners.sasl_ssl), "plain", "relay-secret"),
    ];
    for (count, settings) in (1..).zip(welcome) {
        database.insert("Seen", Some("a"), 1).await;
        let relay = Relay::ready(&settings).await;
        eventually("the event is there", ARRIVAL, async || {
            (topic.len().await == count).then_some(())
        })
        .await;
        relay.stop().await;
    }

    let stranger = Authority::new();
    let proxy = Proxy::elsewhere(&listeners.ssl).await;
    let refused = [
        (
            encrypted(&listeners.ssl).set_file("sinks.events.tls.ca", &stranger.ca()),
            "certificate verify failed",
        ),
        (
            // A broker of another name.
            encrypted(&format!("{ELSEWHERE}:{}", proxy.port)),
            "certificate verify failed",
        ),
        (
            encrypted(&listeners.ssl).set("sinks.events.tls.ca", "/nowhere/ca.pem"),
            "tls.ca",
        ),
        (
            user(
                encrypted(&listeners.sasl_ssl),
                "scram-sha-512",
                "wr0ng-secret",
            ),
            "auth: ",
        ),
    ];
    for (settings, words) in refused {
        let ended = run(&settings, &["check", "--connect"]);
        assert_ne!(ended.code, Some(0), "{ended:#?}");
        let output = format!("{}{}", ended.stdout, ended.stderr);
        assert!(output.contains(words), "not {words:?} in {output}");
        assert!(!output.contains("wr0ng-secret"), "{output}");
    }
}

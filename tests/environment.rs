//! Without a file, variables describe one source and one sink, and that is enough to run (DESIGN: TOML).

use std::time::Duration;

use crate::nats::subscriber::Subscriber;
use crate::support::database::Database;
use crate::support::nats::PrivateNats;
use crate::support::relay::{Relay, run_by_environment};
use crate::support::stream::Stream;

const ARRIVAL: Duration = Duration::from_secs(20);

fn migrate(environment: &[(&str, &str)]) {
    let ended = run_by_environment(environment, &["migrate"]);
    assert_eq!(ended.code, Some(0), "migrate: {ended:#?}");
}

#[tokio::test]
async fn jetstream_has_a_stream_for_what_is_published() {
    let database = Database::fresh().await;
    let server = PrivateNats::start("").await;
    let url = server.url();
    let environment = [("DATABASE_URL", &*database.url), ("NATS_URL", &*url)];
    migrate(&environment);
    let checked = run_by_environment(&environment, &["check", "--connect"]);
    assert!(
        checked
            .stdout
            .contains("stream OUTBOX is not there: it will be created"),
        "{checked:#?}"
    );
    database.insert("PickMade", Some("draft-1"), 3).await;
    let relay = Relay::alone(&environment);
    let stream = Stream::existing(&url, "OUTBOX");
    let deliveries = stream.await_len(3, ARRIVAL).await;
    relay.stop().await;
    assert_eq!(deliveries[0].subject, "outbox.PickMade");
    assert_eq!(deliveries[0].envelope()["draftId"], "draft-1");
    let dead: i64 = database
        .value("SELECT count(*) FROM outbox_dead_letter")
        .await;
    assert_eq!(dead, 0);
}

#[tokio::test]
async fn core_nats_reaches_a_subscriber() {
    let database = Database::fresh().await;
    let server = PrivateNats::start("").await;
    let url = server.url();
    let environment = [
        ("DATABASE_URL", &*database.url),
        ("NATS_URL", &*url),
        ("PUBLISHER_TYPE", "nats"),
        ("OUTBOX_POLL_INTERVAL", "50ms"),
    ];
    migrate(&environment);
    let subscriber = Subscriber::start(&url, "outbox.>").await;
    let relay = Relay::alone(&environment);
    database.insert("PickMade", Some("draft-1"), 1).await;
    let id = database.value("SELECT id FROM outbox").await;
    subscriber.await_ids(&[id].into(), ARRIVAL).await;
    relay.stop().await;
    assert_eq!(subscriber.heard()[0].subject, "outbox.PickMade");
}

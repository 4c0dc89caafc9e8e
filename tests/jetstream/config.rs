//! Configurations of a sink, and a look at what the server has.

use std::time::Duration;

use async_nats::jetstream::stream;
use outbox_relay::config::{Jetstream, JetstreamStream, NatsAuth, Secret};

use crate::support::nats::PrivateNats;

/// A sink's configuration for this server: no authentication, no stream.
pub(crate) fn config(server: &PrivateNats) -> Jetstream {
    of_url(server.url())
}

/// … for the server of this URL.
pub(crate) fn of_url(url: impl Into<String>) -> Jetstream {
    Jetstream {
        servers: vec![Secret::new(url)],
        auth: NatsAuth::None,
        tls: None,
        expected_stream: None,
        stream: None,
    }
}

/// … with a stream to create: in files, one replica, the usual window.
pub(crate) fn with_stream(server: &PrivateNats, name: &str, subject: &str) -> Jetstream {
    Jetstream {
        stream: Some(JetstreamStream {
            name: name.into(),
            subjects: vec![subject.into()],
            replicas: 1,
            file_storage: true,
            duplicate_window: Duration::from_secs(120),
            max_age: None,
            max_bytes: None,
        }),
        ..config(server)
    }
}

/// A context of the test's own.
pub(crate) async fn context(server: &PrivateNats) -> async_nats::jetstream::Context {
    let client = async_nats::connect(server.url())
        .await
        .expect("connect to nats-server");
    async_nats::jetstream::new(client)
}

/// A stream that somebody else has created.
pub(crate) async fn create(server: &PrivateNats, config: stream::Config) -> stream::Stream {
    let created = context(server).await.create_stream(config).await;
    created.expect("a stream")
}

//! NATS servers with JetStream.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use super::eventually::eventually;
use super::http;
use super::port;
use super::private_server::PrivateServer;
use super::process::{Process, Signal, User, command};
use super::temporary::TemporaryFolder;

/// The URL of the server that `tests/run` started.
pub(crate) fn shared() -> String {
    std::env::var("OUTBOX_TEST_NATS").expect(
        "NATS for the tests is missing: run tests/run, or set OUTBOX_TEST_NATS to the URL of a server with JetStream",
    )
}

/// The connections of a client to the server that `tests/run` started: their ids, which are never used twice.
pub(crate) async fn connections(client: &str) -> Vec<u64> {
    let monitor = std::env::var("OUTBOX_TEST_NATS_MONITOR").expect("the monitor's URL");
    let port = monitor
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let answer = http::get(port.expect("a port"), "/connz?limit=4096").await;
    let answer: serde_json::Value =
        serde_json::from_str(&answer.expect("an answer").body).expect("JSON");
    let all = answer["connections"].as_array().expect("connections");
    let own = all.iter().filter(|connection| connection["name"] == client);
    own.map(|connection| connection["cid"].as_u64().expect("an id"))
        .collect()
}

/// A server with its own port and store: to be killed, frozen and restarted.
#[derive(Debug)]
pub(crate) struct PrivateNats {
    process: Option<Process>,
    pub(crate) port: u16,
    monitor: u16,
    settings: String,
    folder: TemporaryFolder,
}

impl PrivateNats {
    /// A running server with JetStream; `extra` goes into its configuration file.
    pub(crate) async fn start(extra: &str) -> Self {
        let folder = TemporaryFolder::new("nats");
        let store = folder.path().join("store");
        let settings = format!("jetstream {{ store_dir: {store:?} }}\n{extra}");
        Self::launch(folder, settings).await
    }

    /// Has the running server put `extra` in the place of what it was given.
    #[allow(dead_code, reason = "for the torture test")]
    pub(crate) fn reload(&mut self, extra: &str) {
        let store = self.folder.path().join("store");
        self.settings = format!("jetstream {{ store_dir: {store:?} }}\n{extra}");
        self.configure();
        self.running().signal(Signal::HangUp);
    }

    /// Writes its configuration file.
    fn configure(&self) -> PathBuf {
        let (port, monitor, settings) = (self.port, self.monitor, &self.settings);
        let configuration =
            format!("listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\n{settings}\n");
        self.folder.write("nats.conf", configuration)
    }

    /// One without JetStream.
    pub(crate) async fn without_jetstream() -> Self {
        Self::launch(TemporaryFolder::new("nats"), String::new()).await
    }

    async fn launch(folder: TemporaryFolder, settings: String) -> Self {
        let mut server = Self {
            process: None,
            port: port::free(),
            monitor: port::free(),
            settings,
            folder,
        };
        server.start_again().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

#[async_trait(?Send)]
impl PrivateServer for PrivateNats {
    fn process(&mut self) -> &mut Option<Process> {
        &mut self.process
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running server")
    }

    async fn start_again(&mut self) {
        let file = self.configure();
        let monitor = self.monitor;
        let mut process = Process::start(
            command(User::Same, "nats-server").arg("-c").arg(file),
            self.folder.path().join("log"),
        );
        eventually("NATS starts", Duration::from_secs(10), async || {
            process.assert_running();
            let answer = http::get(monitor, "/healthz").await?;
            (answer.status == 200).then_some(())
        })
        .await;
        self.process = Some(process);
    }
}

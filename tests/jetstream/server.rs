//! A nats-server of the test's own: private port, private folder, stopped and removed with the value.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outbox_relay::config::{Jetstream, JetstreamStream, NatsAuth, Secret};
use uuid::Uuid;

/// How long a server may take to start: it takes 0.03 s on an idle machine.
const START: Duration = Duration::from_secs(60);

pub(crate) struct NatsServer {
    child: Child,
    folder: PathBuf,
    settings: String,
    port: u16,
}

impl NatsServer {
    /// Starts a server with JetStream and nothing else.
    pub(crate) fn start() -> Self {
        Self::with_settings("")
    }

    /// Starts a server with JetStream and `settings`, in nats-server's own format. `{folder}` is its folder.
    pub(crate) fn with_settings(settings: &str) -> Self {
        Self::in_folder(
            &folder(),
            &format!("jetstream {{ store_dir: \"{{folder}}/store\" }}\n{settings}"),
        )
    }

    /// Starts a server with `settings` only: without JetStream unless they say so.
    pub(crate) fn in_folder(folder: &Path, settings: &str) -> Self {
        let settings = settings.replace("{folder}", &folder.display().to_string());
        let (child, port) = launch(folder, &settings, None);
        let folder = folder.to_owned();
        Self {
            child,
            folder,
            settings,
            port,
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill nats-server");
        self.child.wait().expect("reap nats-server");
    }

    /// Starts it again with the same port and data.
    pub(crate) fn restart(&mut self) {
        (self.child, self.port) = launch(&self.folder, &self.settings, Some(self.port));
    }

    /// Stops it from doing anything, without closing a connection.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Ends [`NatsServer::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A sink's configuration for this server: no authentication, no stream.
    pub(crate) fn config(&self) -> Jetstream {
        Jetstream {
            servers: vec![Secret::new(self.url())],
            auth: NatsAuth::None,
            tls: None,
            expected_stream: None,
            stream: None,
        }
    }

    /// … with a stream to create.
    pub(crate) fn config_with_stream(&self, name: &str, subject: &str) -> Jetstream {
        Jetstream {
            stream: Some(stream(name, subject)),
            ..self.config()
        }
    }

    /// A context of the test's own, to look at what the server has.
    pub(crate) async fn context(&self) -> async_nats::jetstream::Context {
        let client = async_nats::connect(self.url())
            .await
            .expect("connect to nats-server");
        async_nats::jetstream::new(client)
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([signal, &pid])
            .status()
            .expect("run kill");
        assert!(status.success(), "kill {signal} {pid}");
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// A stream in files, one replica, with the usual window.
pub(crate) fn stream(name: &str, subject: &str) -> JetstreamStream {
    JetstreamStream {
        name: name.into(),
        subjects: vec![subject.into()],
        replicas: 1,
        file_storage: true,
        duplicate_window: Duration::from_secs(120),
        max_age: None,
        max_bytes: None,
    }
}

/// A fresh folder, whose owner removes it.
pub(crate) fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("outbox-relay-{}", Uuid::new_v4()));
    fs::create_dir_all(&folder).expect("make a folder");
    folder
}

/// Has the server choose its port and tell it through its ports file, so that no two tests can collide.
fn launch(folder: &Path, settings: &str, port: Option<u16>) -> (Child, u16) {
    let listen = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let file = folder.join("nats.conf");
    let text = format!(
        "listen: \"127.0.0.1:{listen}\"\nports_file_dir: \"{}\"\nlog_file: \"{}\"\n{settings}\n",
        folder.display(),
        folder.join("nats.log").display(),
    );
    fs::write(&file, text).expect("write nats.conf");
    let program = ["/usr/sbin/nats-server", "/usr/local/bin/nats-server"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nats-server");
    let mut child = Command::new(program)
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("these tests need nats-server (Debian: apt-get install nats-server): {error}")
        });
    let ports = folder.join(format!("nats-server_{}.ports", child.id()));
    let begun = Instant::now();
    loop {
        if let Some(port) = fs::read_to_string(&ports).ok().as_deref().and_then(port_in) {
            return (child, port);
        }
        let log = || fs::read_to_string(folder.join("nats.log")).unwrap_or_default();
        if let Some(status) = child.try_wait().expect("look at nats-server") {
            panic!("nats-server ended with {status}: {}", log());
        }
        assert!(
            begun.elapsed() < START,
            "nats-server is not ready: {}",
            log()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The port in `{"nats":["nats://127.0.0.1:40123"]}`.
fn port_in(text: &str) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_str(text).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

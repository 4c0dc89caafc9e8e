//! A RabbitMQ of a test's own: to be killed, frozen, alarmed and restarted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;

use super::eventually::eventually;
use super::port;
use super::private_server::PrivateServer;
use super::process::{Process, User, command, complete};
use super::temporary::TemporaryFolder;

/// Debian keeps the programs themselves here; those in the PATH become another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// A broker takes seconds to start, more on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A broker with its own ports, node name and folder, and the `epmd` that it needs.
#[derive(Debug)]
pub(crate) struct PrivateRabbitmq {
    // In the order in which they must go.
    process: Option<Process>,
    _epmd: Process,
    pub(crate) port: u16,
    environment: Vec<(&'static str, String)>,
    pub(crate) folder: TemporaryFolder,
}

impl PrivateRabbitmq {
    /// A running broker. `extra` makes lines for its configuration file from its folder, which its user can read.
    pub(crate) async fn start(extra: &str) -> Self {
        let folder = TemporaryFolder::new("rabbitmq");
        let everyone = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), everyone).expect("open the folder");
        let (port, epmd_port, dist_port) = (port::free(), port::free(), port::free());
        let configuration = format!("listeners.tcp.1 = 127.0.0.1:{port}\n{extra}\n");
        let configuration = folder.write("rabbitmq.conf", configuration);
        let plugins = folder.write("plugins", "");
        let home = |name: &str| folder.path().join(name).display().to_string();
        let environment = vec![
            ("HOME", folder.path().display().to_string()),
            ("ERL_EPMD_PORT", epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", format!("outbox-test-{port}@localhost")),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", dist_port.to_string()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
            ),
            ("RABBITMQ_MNESIA_BASE", home("mnesia")),
            ("RABBITMQ_LOG_BASE", home("logs")),
            ("RABBITMQ_PID_FILE", home("pid")),
            (
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                plugins.display().to_string(),
            ),
            ("RABBITMQ_CONFIG_FILE", configuration.display().to_string()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            // The script then becomes the server, instead of waiting for it.
            ("RABBITMQ_ALLOW_INPUT", "1".to_owned()),
        ];
        let mut epmd = command(User::Broker, "epmd");
        epmd.stdout(Stdio::null());
        epmd.args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()]);
        let mut broker = Self {
            process: None,
            _epmd: Process::start(&mut epmd, folder.path().join("epmd.log")),
            port,
            environment,
            folder,
        };
        broker.start_again().await;
        broker
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// `rabbitmqctl ARGUMENTS`.
    pub(crate) fn control(&self, arguments: &[&str]) {
        complete(self.program("rabbitmqctl").args(arguments));
    }

    /// The same while the test's own thread goes on: it takes seconds.
    #[allow(dead_code, reason = "for the torture test")]
    pub(crate) async fn control_aside(&self, arguments: &[&str]) {
        let mut command = self.program("rabbitmqctl");
        command.args(arguments);
        tokio::task::spawn_blocking(move || complete(&mut command))
            .await
            .expect("rabbitmqctl does it");
    }

    fn program(&self, name: &str) -> Command {
        let mut command = command(User::Broker, format!("{PROGRAMS}/{name}"));
        command.stdout(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

#[async_trait(?Send)]
impl PrivateServer for PrivateRabbitmq {
    fn process(&mut self) -> &mut Option<Process> {
        &mut self.process
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running server")
    }

    async fn start_again(&mut self) {
        let mut command = self.program("rabbitmq-server");
        let log = self.folder.path().join("log");
        let mut process = Process::start(command.arg("-noinput"), log);
        let port = self.port;
        eventually("RabbitMQ starts", START, async || {
            process.assert_running();
            greets(port).then_some(())
        })
        .await;
        self.process = Some(process);
    }
}

/// Whether an AMQP broker answers there: with a method on channel 0.
fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut first = [0];
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .and_then(|()| stream.write_all(b"AMQP\0\0\x09\x01"))
        .and_then(|()| stream.read_exact(&mut first))
        .is_ok_and(|()| first == [1])
}

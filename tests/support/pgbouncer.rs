//! PgBouncer in transaction mode, as many teams have it in front of their database.

use std::net::TcpStream;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;

use super::eventually::eventually;
use super::port;
use super::private_server::PrivateServer;
use super::process::{Process, User, command};
use super::temporary::TemporaryFolder;

/// Its configuration.
const FILE: &str = "pgbouncer.ini";

/// A pooler in front of one server: to be killed, frozen and restarted. Settings that break clients in the field
/// (`ignore_startup_parameters`) are left as PgBouncer has them.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    pub(crate) port: u16,
    // In the order in which they must go.
    process: Option<Process>,
    folder: TemporaryFolder,
}

impl PgBouncer {
    /// A running pooler for all databases of the server of this URL.
    pub(crate) async fn before(server: &str) -> Self {
        Self::configured(server, "").await
    }

    /// One that takes a client's settings and forgets them, instead of refusing the client.
    pub(crate) async fn swallowing(server: &str) -> Self {
        Self::configured(server, "ignore_startup_parameters = options\n").await
    }

    async fn configured(server: &str, more: &str) -> Self {
        let server: PgConnectOptions = server.parse().expect("a PostgreSQL URL");
        let folder = TemporaryFolder::new("pgbouncer");
        let port = port::free();
        let configuration = format!(
            "[databases]\n\
             * = host={} port={} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = 20\n\
             {more}",
            server.get_host(),
            server.get_port()
        );
        folder.write(FILE, configuration);
        let mut pooler = Self {
            port,
            process: None,
            folder,
        };
        pooler.start_again().await;
        pooler
    }
}

#[async_trait(?Send)]
impl PrivateServer for PgBouncer {
    fn process(&mut self) -> &mut Option<Process> {
        &mut self.process
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running pooler")
    }

    async fn start_again(&mut self) {
        let mut process = Process::start(
            command(User::Server, "pgbouncer").arg(self.folder.path().join(FILE)),
            self.folder.path().join("log"),
        );
        let port = self.port;
        eventually("PgBouncer listens", Duration::from_secs(10), async || {
            process.assert_running();
            TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        self.process = Some(process);
    }
}

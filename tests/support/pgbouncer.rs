//! PgBouncer in transaction mode, as many teams have it in front of their database.

use std::net::TcpStream;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::eventually::eventually;
use super::port;
use super::process::{Process, User, command};
use super::temporary::TemporaryFolder;

/// A pooler in front of one server. Settings that break clients in the field (`ignore_startup_parameters`) are
/// left as PgBouncer has them.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    pub(crate) port: u16,
    // In the order in which they must go.
    _process: Process,
    _folder: TemporaryFolder,
}

impl PgBouncer {
    /// A running pooler for all databases of the server of this URL.
    pub(crate) async fn before(server: &str) -> Self {
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
             default_pool_size = 20\n",
            server.get_host(),
            server.get_port()
        );
        let file = folder.write("pgbouncer.ini", configuration);
        let mut process = Process::start(
            command(User::Server, "pgbouncer").arg(file),
            folder.path().join("log"),
        );
        eventually("PgBouncer listens", Duration::from_secs(10), async || {
            process.assert_running();
            TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        Self {
            port,
            _process: process,
            _folder: folder,
        }
    }
}

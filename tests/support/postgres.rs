//! PostgreSQL servers of a test's own: to be killed, restarted, copied and promoted.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::Connection;

use super::database::{connect, execute};
use super::eventually::eventually;
use super::port;
use super::process::{Process, Signal, User, command, complete, signal};
use super::temporary::TemporaryFolder;

/// How a server goes down.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    /// In order: everything is written, open transactions are rolled back.
    Fast,
    /// As in a crash, but the server's processes end by themselves.
    Immediate,
    /// `kill -9` of every process.
    Kill,
}

/// A server with its own data, port and settings, and no other client than its test.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    folder: TemporaryFolder,
    pub(crate) port: u16,
    settings: Vec<String>,
    process: Option<Process>,
}

impl PrivatePostgres {
    /// A running server. `settings` are lines such as `max_prepared_transactions=5`.
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let mut server = Self::prepare(settings);
        server.start_again().await;
        server
    }

    /// One that is still down: for files that must be there before it starts.
    pub(crate) fn prepare(settings: &[&str]) -> Self {
        let folder = TemporaryFolder::new("postgres");
        let data = folder.path().join("data");
        complete(Command::new("cp").arg("-a").arg(template()).arg(&data));
        Self {
            folder,
            port: port::free(),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            process: None,
        }
    }

    /// A running replica of this server by streaming.
    pub(crate) async fn replica(&self) -> Self {
        let folder = TemporaryFolder::new("replica");
        give_to_server(folder.path());
        let data = folder.path().join("data");
        let port = self.port.to_string();
        complete(
            command(User::Server, programs().join("pg_basebackup"))
                .args([
                    "-R",
                    "-c",
                    "fast",
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "postgres",
                    "-p",
                ])
                .arg(port)
                .arg("-D")
                .arg(data),
        );
        let mut replica = Self {
            folder,
            port: port::free(),
            settings: self.settings.clone(),
            process: None,
        };
        replica.start_again().await;
        replica
    }

    /// Writes a file into the data folder, readable for the server alone.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.data().join(name);
        std::fs::write(&path, content).expect("write into the data folder");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
        let owner = std::fs::metadata(self.data()).expect("the data folder");
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).expect("chown");
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Everything that the server has logged.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Stops it and returns when all its processes are gone.
    pub(crate) async fn stop(&mut self, how: Stop) {
        let mut process = self.process.take().expect("a running server");
        match how {
            Stop::Fast => process.signal(Signal::Interrupt),
            Stop::Immediate => process.signal(Signal::Quit),
            Stop::Kill => {
                let children = process.children();
                process.signal(Signal::Kill);
                signal(&children, Signal::Kill);
            }
        }
        process.exit(Duration::from_secs(10)).await;
    }

    /// Starts it on its port with its data, and returns when it takes connections.
    pub(crate) async fn start_again(&mut self) {
        let mut postgres = command(User::Server, programs().join("postgres"));
        postgres
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()]);
        let defaults = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=32MB",
            "max_connections=100",
            // Tests kill processes and not machines: the kernel keeps what they wrote.
            "fsync=off",
        ];
        for setting in defaults
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
        {
            postgres.args(["-c", setting]);
        }
        let log = self.folder.path().join("log");
        let mut process = Process::start(&mut postgres, log);
        let url = self.url();
        eventually("PostgreSQL starts", Duration::from_secs(20), async || {
            process.assert_running();
            let connection = connect(&url).await.ok()?;
            connection.close().await.ok()
        })
        .await;
        self.process = Some(process);
    }

    /// Lets the server come back elsewhere, where its clients look for another one.
    pub(crate) fn move_to(&mut self, port: u16) {
        assert!(self.process.is_none(), "a running server can't move");
        self.port = port;
    }

    /// Ends recovery: a replica becomes a primary of a new timeline.
    pub(crate) async fn promote(&self) {
        execute(&self.url(), "SELECT pg_promote(true, 20)").await;
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // Not the postmaster alone, or its processes outlive the folder for a moment.
            signal(&process.children(), Signal::Kill);
        }
    }
}

/// The folder of PostgreSQL's programs: Debian keeps it out of the PATH.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter();
        let mut folders: Vec<PathBuf> = debian
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .collect();
        folders.sort();
        folders.reverse();
        let path = std::env::var_os("PATH").unwrap_or_default();
        folders.extend(std::env::split_paths(&path));
        folders
            .into_iter()
            .find(|folder| folder.join("initdb").exists())
            .expect("PostgreSQL's server programs are missing: run tests/run, which installs them")
    })
}

/// Data of a new server, made once per build folder: copying takes a tenth of `initdb`.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let version = Command::new(programs().join("postgres"))
            .arg("--version")
            .output()
            .expect("run postgres --version");
        let version = String::from_utf8_lossy(&version.stdout).replace([' ', '\n', '/'], "-");
        let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("initdb-{version}"));
        if !template.exists() {
            // Made elsewhere, for the server's user may not get at the build folder.
            let folder = TemporaryFolder::new("initdb");
            give_to_server(folder.path());
            let data = folder.path().join("data");
            complete(
                command(User::Server, programs().join("initdb"))
                    .arg("-D")
                    .arg(&data)
                    .args(["-U", "postgres", "-A", "trust", "-E", "UTF8"])
                    .args(["--no-locale", "--no-sync"]),
            );
            let draft = template.with_extension(std::process::id().to_string());
            complete(Command::new("cp").arg("-a").arg(&data).arg(&draft));
            // Another process may have been faster; both are the same.
            if std::fs::rename(&draft, &template).is_err() {
                drop(std::fs::remove_dir_all(&draft));
            }
        }
        template
    })
}

/// Makes the server's user the owner of a folder.
fn give_to_server(folder: &Path) {
    if super::process::is_root() {
        complete(Command::new("chown").arg("postgres:").arg(folder));
    }
}

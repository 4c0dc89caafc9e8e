//! A process under measurement.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::Result;
use crate::task::Task;

/// How long a process may take for its next line.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a process may take to end.
const ENDING: Duration = Duration::from_secs(40);

/// The program, or this program as a process of its own. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) pid: u32,
}

/// The built program.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_outbox-relay"))
}

impl Process {
    /// The program as a relay.
    pub(crate) fn relay(config: &Path) -> Result<Self> {
        let mut command = Command::new(program());
        command.arg("--config").arg(config).env("RUST_LOG", "warn");
        Self::spawn(command)
    }

    pub(crate) fn task(task: &Task) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--task").arg(serde_json::to_string(task)?);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        Ok(Self {
            pid: child.id().ok_or("it has ended")?,
            input: child.stdin.take(),
            lines: BufReader::new(output).lines(),
            child,
        })
    }

    async fn line(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.map_err(|_| format!("no line for {PATIENCE:?}"))??;
        Ok(line.ok_or("the process has ended")?)
    }

    /// Waits until a task says so, and returns when that was. Of several ceilings each says when it began.
    pub(crate) async fn await_line(&mut self, awaited: &str) -> Result<SystemTime> {
        loop {
            let line = self.line().await?;
            match line.split_once(' ') {
                Some((what, micros)) if what == awaited => {
                    return Ok(UNIX_EPOCH + Duration::from_micros(micros.parse()?));
                }
                Some(("first", _)) => {}
                _ => return Err(format!("{line}, in place of {awaited}").into()),
            }
        }
    }

    /// How many events a task has published.
    pub(crate) async fn count(&mut self) -> Result<u64> {
        let input = self.input.as_mut().ok_or("its input was closed")?;
        input.write_all(b"count\n").await?;
        loop {
            if let Some(count) = self.line().await?.strip_prefix("count ") {
                return Ok(count.parse()?);
            }
        }
    }

    /// Ends a task, and returns how often it has delivered an event again. Its verdict is an error.
    pub(crate) async fn verdict(mut self) -> Result<u64> {
        drop(self.input.take());
        let duplicates = loop {
            let line = self.line().await?;
            if let Some(why) = line.strip_prefix("wrong ") {
                return Err(why.to_owned().into());
            }
            if let Some(duplicates) = line.strip_prefix("checked ") {
                break duplicates.parse()?;
            }
        };
        timeout(ENDING, self.child.wait()).await??;
        Ok(duplicates)
    }

    /// Ends the program as an operator would.
    pub(crate) async fn terminate(mut self) -> Result {
        let sent = Command::new("kill")
            .arg(self.pid.to_string())
            .status()
            .await?;
        if !sent.success() {
            return Err("the relay has ended".into());
        }
        let status = timeout(ENDING, self.child.wait()).await??;
        if !status.success() {
            return Err(format!("the relay ended with {status}").into());
        }
        Ok(())
    }
}

/// Makes the tables of a database.
pub(crate) async fn migrate(config: &Path) -> Result {
    let output = Command::new(program())
        .arg("--config")
        .arg(config)
        .arg("migrate")
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

/// A folder for configurations, thrown away at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("outbox-relay-bench.{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

//! The program under test, as a process.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::eventually::eventually;
use super::http;
use super::port;
use super::process::{Process, Signal, User, command};
use super::settings::Settings;
use super::temporary::TemporaryFolder;

/// The built binary.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_outbox-relay");

/// The relay's configuration file.
const FILE: &str = "outbox.toml";

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, with a configuration file.
pub(crate) fn run(settings: &Settings, arguments: &[&str]) -> Ended {
    let folder = TemporaryFolder::new("command");
    let file = folder.write("outbox.toml", settings.toml());
    let mut command = program();
    ended(command.args(arguments).arg("--config").arg(file))
}

/// Runs a command to its end in an empty folder, without a configuration file.
pub(crate) fn run_alone(arguments: &[&str]) -> Ended {
    run_by_environment(&[], arguments)
}

/// The same with these variables.
pub(crate) fn run_by_environment(environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let folder = TemporaryFolder::new("command");
    let mut command = program();
    command.envs(environment.iter().copied());
    ended(command.args(arguments).current_dir(folder.path()))
}

fn ended(command: &mut Command) -> Ended {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("run the relay's binary");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Creates the tables.
pub(crate) fn migrate(settings: &Settings) {
    let ended = run(settings, &["migrate"]);
    assert_eq!(ended.code, Some(0), "migrate: {ended:#?}");
}

/// The binary without what the machine's environment would add to its configuration.
fn program() -> Command {
    let mut command = command(User::Same, PROGRAM);
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// A running relay. Killed on drop; what it logged is printed if the test fails.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Process,
    admin: u16,
    stdout: Arc<Mutex<Vec<String>>>,
    collector: Option<std::thread::JoinHandle<()>>,
    folder: TemporaryFolder,
}

impl Relay {
    /// Starts it with an admin port of its own.
    pub(crate) fn start(settings: &Settings) -> Self {
        Self::start_with(settings, &[])
    }

    /// The same with these variables.
    pub(crate) fn start_with(settings: &Settings, environment: &[(&str, &str)]) -> Self {
        let folder = TemporaryFolder::new("relay");
        let admin = port::free();
        let file = folder.write(FILE, with_admin(settings, admin));
        let mut command = program();
        command.envs(environment.iter().copied());
        command.arg("--config").arg(file);
        Self::launch(command, admin, folder)
    }

    /// Starts it without a file: these variables are its configuration.
    pub(crate) fn alone(environment: &[(&str, &str)]) -> Self {
        let folder = TemporaryFolder::new("relay");
        let admin = port::free();
        let mut command = program();
        command.current_dir(folder.path());
        command.envs(environment.iter().copied());
        command.env("OUTBOX__ADMIN__LISTEN", format!("127.0.0.1:{admin}"));
        Self::launch(command, admin, folder)
    }

    fn launch(mut command: Command, admin: u16, folder: TemporaryFolder) -> Self {
        command.stdout(Stdio::piped());
        // Colours would stand between a test and the words it looks for.
        command.env("NO_COLOR", "1");
        let mut process = Process::start(&mut command, folder.path().join("stderr"));
        let stdout = Arc::default();
        let pipe = process.take_stdout().expect("a pipe");
        let lines = Arc::clone(&stdout);
        let collector = std::thread::spawn(move || collect(pipe, &lines));
        Self {
            process,
            admin,
            stdout,
            collector: Some(collector),
            folder,
        }
    }

    /// Starts it and waits until `/readyz` says so.
    pub(crate) async fn ready(settings: &Settings) -> Self {
        let mut relay = Self::start(settings);
        relay.await_ready().await;
        relay
    }

    pub(crate) async fn await_ready(&mut self) {
        eventually("the relay is ready", Duration::from_secs(20), async || {
            self.process.assert_running();
            (self.get("/readyz").await?.status == 200).then_some(())
        })
        .await;
    }

    /// Puts another configuration in the place of its own, at once and whole, as a deploy does. It keeps its endpoints.
    pub(crate) fn rewrite(&self, settings: &Settings) {
        self.rewrite_as(&with_admin(settings, self.admin));
    }

    /// The same with the text of the file.
    pub(crate) fn rewrite_as(&self, toml: &str) {
        let new = self.folder.write("new.toml", toml);
        std::fs::rename(new, self.folder.path().join(FILE)).expect("replace the configuration");
    }

    /// Removes its configuration.
    pub(crate) fn take_away(&self) {
        std::fs::remove_file(self.folder.path().join(FILE)).expect("remove the configuration");
    }

    /// The text of its configuration.
    pub(crate) fn toml(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(FILE)).expect("its configuration")
    }

    /// Rewrites the configuration, sends `SIGHUP`, and returns what `/status` says of the reload once it is over.
    pub(crate) async fn reload(&self, settings: &Settings) -> Value {
        self.rewrite(settings);
        self.hang_up().await
    }

    /// Sends `SIGHUP`, and returns what `/status` says of the reload once it is over.
    pub(crate) async fn hang_up(&self) -> Value {
        let before = self.last_reload().await.expect("the endpoint answers");
        self.signal(Signal::HangUp);
        eventually("a reload is over", Duration::from_secs(30), async || {
            let now = self.last_reload().await?;
            (now["at"] != before["at"]).then_some(now)
        })
        .await
    }

    /// What `/status` says of the last reload.
    pub(crate) async fn last_reload(&self) -> Option<Value> {
        Some(self.report().await?["reload"].take())
    }

    /// What `/status` says.
    pub(crate) async fn report(&self) -> Option<Value> {
        let answer = self.get("/status").await?;
        Some(serde_json::from_str(&answer.body).expect("JSON"))
    }

    /// Where its endpoints listen, on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.admin
    }

    /// The answer of an endpoint, if there is one.
    pub(crate) async fn get(&self, path: &str) -> Option<http::Answer> {
        http::get(self.admin, path).await
    }

    /// The answer to any request, which there must be.
    pub(crate) async fn ask(&self, request: http::Request<'_>) -> http::Answer {
        request.send(self.admin).await.expect("an answer")
    }

    /// The sum of a metric's samples that carry all of these `label="value"` pairs; `None` if there is none.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let answer = self.get("/metrics").await?;
        sum(&answer.body, name, labels)
    }

    /// Waits for a metric to satisfy a condition.
    pub(crate) async fn await_metric(
        &self,
        name: &str,
        labels: &[&str],
        within: Duration,
        condition: impl Fn(f64) -> bool,
    ) {
        let what = format!("{name} {labels:?} is as expected");
        eventually(&what, within, async || {
            condition(self.metric(name, labels).await?).then_some(())
        })
        .await;
    }

    /// Lines of standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lock().expect("the reader lives").clone()
    }

    /// Standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.process.log()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) async fn exit(&mut self, within: Duration) -> ExitStatus {
        self.process.exit(within).await
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// Sends a signal, waits for the end, and returns every line of standard output up to there.
    pub(crate) async fn output_after(mut self, signal: Signal) -> Vec<String> {
        self.signal(signal);
        self.exit(Duration::from_secs(15)).await;
        let collector = self.collector.take().expect("taken once");
        tokio::task::spawn_blocking(|| collector.join())
            .await
            .expect("joined")
            .expect("the collector lives");
        self.stdout()
    }

    /// The most that it ever had in memory, in MiB, if it still runs.
    #[allow(dead_code, reason = "for the torture test")]
    pub(crate) fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()));
        let status = status.ok()?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = peak.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes / 1_024)
    }

    /// `SIGTERM`, and a clean exit.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::Terminate);
        let status = self.exit(Duration::from_secs(15)).await;
        assert_eq!(status.code(), Some(0), "a stop is a clean exit");
    }

    /// `SIGKILL`.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::Kill);
        self.exit(Duration::from_secs(5)).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.stderr();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(60);
            eprintln!("--- the relay's log:\n{}\n---", lines[tail..].join("\n"));
        }
    }
}

fn with_admin(settings: &Settings, port: u16) -> String {
    let listen = format!("127.0.0.1:{port}");
    settings.clone().set("admin.listen", listen).toml()
}

fn collect(pipe: std::process::ChildStdout, lines: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        lines.lock().expect("nobody panics with it").push(line);
    }
}

fn sum(exposition: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let samples: Vec<f64> = exposition
        .lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, given) = series.split_once('{').unwrap_or((series, ""));
            let wanted = metric == name && labels.iter().all(|label| given.contains(label));
            wanted.then(|| value.parse().ok())?
        })
        .collect();
    (!samples.is_empty()).then(|| samples.iter().sum())
}

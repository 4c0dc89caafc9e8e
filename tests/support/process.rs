//! Processes that a test starts, signals, and never leaves behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::eventually::eventually;

/// Signals by the names that `kill` takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Terminate,
    Interrupt,
    HangUp,
    Quit,
    Kill,
    Stop,
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::HangUp => "HUP",
            Self::Quit => "QUIT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// Sends a signal to processes that may be gone already.
pub(crate) fn signal(pids: &[u32], signal: Signal) {
    if pids.is_empty() {
        return;
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    // The shell's own `kill`: not every machine has the program.
    let script = format!("kill -s {} {} 2>/dev/null", signal.name(), pids.join(" "));
    Command::new("sh")
        .args(["-c", &script])
        .status()
        .expect("run sh");
}

/// Who a process runs as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum User {
    /// The one that the tests run as.
    Same,
    /// `postgres` if the tests run as root, for PostgreSQL and PgBouncer refuse root.
    Server,
    /// `rabbitmq` if the tests run as root, for RabbitMQ leaves files behind that are its own.
    Broker,
}

/// A command whose process the kernel kills when the *thread* that starts it ends: start it on the test's own
/// thread, and not on one of a pool.
pub(crate) fn command(user: User, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    let other = match user {
        User::Same => None,
        User::Server => Some("postgres"),
        User::Broker => Some("rabbitmq"),
    };
    if let Some(name) = other.filter(|_| is_root()) {
        command.args([&format!("--reuid={name}"), &format!("--regid={name}")]);
        command.arg("--clear-groups");
    }
    command.args(["--pdeathsig", "KILL"]).arg(program.as_ref());
    command
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = std::fs::metadata("/proc/self").expect("/proc: the tests need Linux");
    own.uid() == 0
}

/// Runs a command to its end and panics, with its output, if it fails.
pub(crate) fn complete(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run tests/run, which installs it"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A running process. Killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with standard error, and standard output unless the command says otherwise, in `log`.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("open the log");
        let child = command
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pipe of standard output, once, if the command has one.
    pub(crate) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(&[self.pid()], which);
    }

    /// The processes that it started, whichever of its threads did.
    pub(crate) fn children(&self) -> Vec<u32> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let threads = threads.into_iter().flatten().flatten();
        let children = threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        children
            .flat_map(|pids| {
                let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
                pids.collect::<Vec<_>>()
            })
            .collect()
    }

    /// Stops it from doing anything, without closing a connection, and returns when it has stopped: a signal may
    /// take a while to reach a thread that runs.
    pub(crate) async fn freeze(&self) {
        self.signal(Signal::Stop);
        let what = format!("process {} is frozen", self.pid());
        eventually(&what, Duration::from_secs(10), async || {
            self.is_stopped().then_some(())
        })
        .await;
    }

    /// Ends [`Process::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::Continue);
    }

    /// Whether each of its threads has obeyed `Stop`.
    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state is the first word behind the name, which stands in brackets.
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        })
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask for the exit status")
    }

    /// Waits for its end.
    pub(crate) async fn exit(&mut self, within: Duration) -> ExitStatus {
        let what = format!("end of process {}", self.pid());
        eventually(&what, within, async || self.exited()).await
    }

    /// All that it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Panics with the log if it has ended.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.exited() {
            panic!("the process ended with {status}:\n{}", self.log());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            // A stopped process obeys KILL too.
            self.signal(Signal::Kill);
            drop(self.child.wait());
        }
    }
}

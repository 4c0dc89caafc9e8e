//! The servers of a benchmark: `benches/relay/servers` starts them and stops them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::Result;
use crate::sink::Sink;

/// A server that runs.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) pid: u32,
    pub(crate) url: String,
    pub(crate) version: String,
}

/// PostgreSQL, and the brokers that the chosen cases need. They stop when this is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) postgres: Server,
    brokers: Vec<(Sink, Server)>,
    child: Child,
    input: Option<ChildStdin>,
}

impl Servers {
    pub(crate) fn start(sinks: &[Sink]) -> Result<Self> {
        let mut child = Command::new("benches/relay/servers")
            .args(sinks.iter().filter_map(|sink| sink.server()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| {
                format!("benches/relay/servers: {error}; cargo bench runs in the checkout's folder")
            })?;
        let input = child.stdin.take();
        let lines = child.stdout.take().ok_or("the script has no output")?;
        let mut postgres = None;
        let mut brokers = Vec::new();
        let mut is_ready = false;
        for line in BufReader::new(lines).lines() {
            let line = line?;
            if line == "ready" {
                is_ready = true;
                break;
            }
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, pid, url, version] = fields[..] else {
                continue;
            };
            let server = Server {
                pid: pid.parse()?,
                url: url.to_owned(),
                version: version.to_owned(),
            };
            match Sink::ALL
                .into_iter()
                .find(|sink| sink.server() == Some(name))
            {
                Some(sink) => brokers.push((sink, server)),
                None => postgres = Some(server),
            }
        }
        if !is_ready {
            return Err("benches/relay/servers did not come up: what it said is above".into());
        }
        Ok(Self {
            postgres: postgres.ok_or("there is no PostgreSQL")?,
            brokers,
            child,
            input,
        })
    }

    /// The server of a sink that has one.
    pub(crate) fn broker(&self, sink: Sink) -> Result<&Server> {
        let found = self.brokers.iter().find(|(of, _)| *of == sink);
        Ok(&found.ok_or_else(|| format!("{sink} was not started"))?.1)
    }

    /// The versions of all.
    pub(crate) fn versions(&self) -> Vec<String> {
        let brokers = self.brokers.iter().map(|(_, server)| server);
        std::iter::once(&self.postgres)
            .chain(brokers)
            .map(|server| server.version.clone())
            .collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().ok();
    }
}

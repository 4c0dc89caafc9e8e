//! What a test does to a broker of its own.

use std::time::Duration;

use async_trait::async_trait;

use super::process::{Process, Signal};

/// A broker with its own ports and data, whose process a test ends, stops and starts again.
#[async_trait(?Send)]
pub(crate) trait PrivateServer {
    /// Its process; `None` while it is down.
    fn process(&mut self) -> &mut Option<Process>;

    /// The same, of one that runs.
    fn running(&self) -> &Process;

    /// Starts it on its ports with its data, and returns when it answers.
    async fn start_again(&mut self);

    /// `kill -9`.
    async fn kill(&mut self) {
        let mut process = self.process().take().expect("a running server");
        process.signal(Signal::Kill);
        process.exit(Duration::from_secs(5)).await;
    }

    /// Stops it from doing anything, without closing a connection.
    async fn freeze(&self) {
        self.running().freeze().await;
    }

    /// Ends `freeze`.
    fn thaw(&self) {
        self.running().thaw();
    }
}

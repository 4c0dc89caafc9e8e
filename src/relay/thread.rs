//! A thread of its own for each pipeline.
//!
//! A pipeline is several tasks that hand every event on to each other: the pump, the client's connection, who takes in
//! the broker's answers. On one thread each of them finds in a crowd what the others have left; on several, almost every
//! event would wake a thread, which costs more than to publish it. And a pipeline that is busy holds up neither the
//! others nor the renewal of the lease.
//!
//! What is connected there ends with the pipeline. A program's own publishers don't run there: their clients may be
//! anybody's.

use std::panic::catch_unwind;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// How long the clients of a pipeline that has ended may take to say good-bye to their brokers.
const FAREWELL: Duration = Duration::from_secs(1);

/// A runtime with one thread. Dropped, it ends what still runs there, and waits for nothing: after a lost lease, nothing
/// that a client still holds is to go out.
#[derive(Debug)]
pub(super) struct OwnThread {
    handle: Handle,
    /// Taken out by the drop alone.
    runtime: Option<Runtime>,
}

impl OwnThread {
    /// One that a debugger or `top -H` shows by this name; `None` where the system has no more.
    pub(super) fn named(name: &str) -> Option<Self> {
        let build = || {
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(name)
                .enable_all()
                .build()
        };
        // Without a descriptor it fails, and without a thread it panics.
        if let Ok(Ok(runtime)) = catch_unwind(build) {
            return Some(Self {
                handle: runtime.handle().clone(),
                runtime: Some(runtime),
            });
        }
        tracing::warn!(
            sink = name,
            "no more threads or files can be had, the pipeline shares the threads of all"
        );
        None
    }

    /// Where to spawn.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends it, a little later.
    pub(super) async fn leave(self) {
        tokio::time::sleep(FAREWELL).await;
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_there_ends_with_it() {
        let thread = OwnThread::named("orders").expect("a thread");
        let named = async { std::thread::current().name().map(str::to_owned) };
        let name = thread.handle().spawn(named).await.expect("its name");
        assert_eq!(name.as_deref(), Some("orders"));
        let endless = thread.handle().spawn(std::future::pending::<()>());
        // By a task, where waiting for it would panic.
        drop(thread);
        assert!(endless.await.expect_err("it is over").is_cancelled());
    }
}

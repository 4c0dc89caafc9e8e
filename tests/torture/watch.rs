//! Whether writers wait for a relay: they never may (I8).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::PgConnection;
use tokio_util::task::AbortOnDropHandle;

use crate::support::database::{Database, connect};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Writers that wait for a lock which a relay holds. What the tormentors themselves lock is none of theirs.
const BLOCKED: &str = "SELECT writer.query || ' waits for ' || relay.application_name || ': ' || relay.query \
    FROM pg_stat_activity AS writer \
    CROSS JOIN LATERAL unnest(pg_blocking_pids(writer.pid)) AS holder (pid) \
    JOIN pg_stat_activity AS relay ON relay.pid = holder.pid \
    WHERE writer.datname = current_database() AND writer.application_name = 'test' \
    AND writer.wait_event_type = 'Lock' AND writer.query ~ '^(INSERT|UPDATE|SELECT counter|COMMIT)' \
    AND relay.application_name LIKE 'outbox-relay%'";

/// Looks every now and then while it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    _task: AbortOnDropHandle<()>,
}

/// What was seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) looks: u64,
    /// Who waited for whom.
    pub(crate) blocked: Vec<String>,
}

impl Watch {
    pub(crate) fn start(database: &Database) -> Self {
        let seen = Arc::default();
        let task = tokio::spawn(watch(database.url.clone(), Arc::clone(&seen)));
        Self {
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().expect("nobody panics with it").clone()
    }
}

async fn watch(url: String, seen: Arc<Mutex<Seen>>) {
    loop {
        // The server is away at times.
        if let Ok(connection) = connect(&url).await {
            drop(look(connection, &seen).await);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(mut connection: PgConnection, seen: &Mutex<Seen>) -> sqlx::Result<()> {
    loop {
        let blocked: Vec<String> = sqlx::query_scalar(BLOCKED)
            .fetch_all(&mut connection)
            .await?;
        {
            let mut seen = seen.lock().expect("nobody panics with it");
            seen.looks += 1;
            seen.blocked.extend(blocked);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

//! A pooler in transaction mode: it takes LISTEN, and nobody hears it.

use sqlx::Row as _;
use sqlx::postgres::PgConnectOptions;

use super::{Lost, PROBE};
use crate::source::SourceError;
use crate::source::postgres::link::Link;

/// Finds out whether a pooler hands out one server connection to several clients: LISTEN and the lock would then
/// stay behind with somebody else's session. Two clients of a pooler meet on one backend, or one client is moved
/// to another while the first is busy; without a pooler neither can happen.
pub(super) async fn refuse_pooler(options: &PgConnectOptions) -> Result<(), Lost> {
    let (mut first, mut second) = (Link::new(options.clone()), Link::new(options.clone()));
    let before = backend(&mut first, "").await?;
    let other = backend(&mut second, "BEGIN; ").await?;
    let after = backend(&mut first, "").await?;
    second.query(PROBE, "ROLLBACK".into(), |_| Ok(())).await?;
    first.close().await;
    second.close().await;
    if before == other || before != after {
        return Err(Lost::Pooler);
    }
    Ok(())
}

/// The backend that executes a statement.
async fn backend(link: &mut Link, prelude: &str) -> Result<i32, SourceError> {
    let mut pid = 0;
    link.query(
        PROBE,
        format!("{prelude}SELECT pg_backend_pid() AS pid"),
        |row| {
            pid = row.try_get("pid")?;
            Ok(())
        },
    )
    .await?;
    Ok(pid)
}

//! What a command does in one transaction, on the source's own connection.

use sqlx::Executor as _;
use sqlx::sqlite::SqliteConnection;

use super::Sqlite;
use super::link::limited;
use crate::source::SourceError;

impl Sqlite {
    /// Does `work` with the writers' lock, so that neither a flush nor a step of settling comes in between, and keeps what
    /// it wrote if `is_to_stay` says so of what came of it.
    pub(super) async fn in_transaction<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
        is_to_stay: impl FnOnce(&T) -> bool,
    ) -> Result<T, SourceError> {
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(action).await?;
        let connection = &mut connected.connection;
        let outcome = limited(action, async {
            connection.execute("BEGIN IMMEDIATE").await?;
            let outcome = work(connection).await?;
            let end = if is_to_stay(&outcome) {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            connection.execute(end).await?;
            Ok(outcome)
        })
        .await?;
        link.give_back(connected);
        Ok(outcome)
    }
}

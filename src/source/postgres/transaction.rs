//! What is done in one transaction, and kept if it came out as it should.

use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use super::Postgres;
use super::link::{BEGIN, Link, limited};
use crate::source::SourceError;

impl Postgres {
    /// [`Link::in_transaction`] on the source's own connection, which nobody else has meanwhile.
    pub(super) async fn in_transaction<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
        is_to_stay: impl FnOnce(&T) -> bool,
    ) -> Result<T, SourceError> {
        let mut link = self.link.lock().await;
        link.in_transaction(action, work, is_to_stay).await
    }
}

impl Link {
    /// Does `work`, and keeps what it wrote if `is_to_stay` says so of what came of it.
    pub(super) async fn in_transaction<T>(
        &mut self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
        is_to_stay: impl FnOnce(&T) -> bool,
    ) -> Result<T, SourceError> {
        let mut connection = self.checkout(action).await?;
        let outcome = limited(action, async {
            connection.execute(BEGIN).await?;
            let outcome = work(&mut connection).await?;
            let end = if is_to_stay(&outcome) {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            connection.execute(end).await?;
            Ok(outcome)
        })
        .await?;
        self.give_back(connection);
        Ok(outcome)
    }
}

//! What the tables say of a source, on a connection that is made for it.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::Sqlite;
use super::link::{Link, limited};
use crate::source::SourceError;

const COUNT: &str = "cannot count the dead letters";

impl Sqlite {
    pub(super) async fn count_dead_letters(&self) -> Result<BTreeMap<String, u64>, SourceError> {
        // By the index of the unique key, whose first columns are these.
        let sql = "SELECT sink, count(*) AS letters FROM outbox_dead_letter \
                   WHERE relay = ? AND source = ? GROUP BY sink";
        let mut link = Link::new(&self.path);
        let mut connected = link.checkout(COUNT).await?;
        let query = sqlx::query(sql).bind(&self.relay).bind(&self.name);
        let rows = limited(COUNT, query.fetch_all(&mut connected.connection)).await?;
        link.give_back(connected);
        link.close().await;
        let mut counts = BTreeMap::new();
        for row in rows {
            let sink = row.try_get("sink").map_err(unreadable)?;
            let letters: i64 = row.try_get("letters").map_err(unreadable)?;
            counts.insert(sink, letters.unsigned_abs());
        }
        Ok(counts)
    }
}

fn unreadable(error: sqlx::Error) -> SourceError {
    SourceError::Database {
        action: COUNT,
        source: error.into(),
    }
}

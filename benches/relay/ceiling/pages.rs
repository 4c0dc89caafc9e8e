//! Keyset pages, read ahead on a task of their own.

use bytes::Bytes;
use futures::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use tokio::sync::mpsc;

use super::{Pages, Row};
use crate::Result;

/// Rows per page, and pages that wait: enough that publishing never waits for reading.
const PAGE: i64 = 1_000;
const AHEAD: usize = 4;

const SQL: &str = "SELECT seq, id, event_type, aggregate_id, payload FROM outbox \
     WHERE seq > $1 ORDER BY seq LIMIT $2";

/// Begins to read, and ends with the table.
pub(super) async fn read(database: &str) -> Result<Pages> {
    let mut connection = PgConnection::connect(database).await?;
    let (sender, pages) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut cursor = 0;
        loop {
            match page(&mut connection, &mut cursor).await {
                Ok(page) if page.is_empty() => return,
                Ok(page) => {
                    if sender.send(page).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    eprintln!("the ceiling's reader: {error}");
                    return;
                }
            }
        }
    });
    Ok(pages)
}

async fn page(connection: &mut PgConnection, cursor: &mut i64) -> Result<Vec<Row>> {
    let mut page = Vec::with_capacity(PAGE.unsigned_abs().try_into()?);
    let mut rows = sqlx::query(SQL).bind(*cursor).bind(PAGE).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        *cursor = row.try_get(0)?;
        page.push(decoded(&row)?);
    }
    Ok(page)
}

fn decoded(row: &PgRow) -> Result<Row> {
    Ok(Row {
        id: row.try_get(1)?,
        event_type: row.try_get(2)?,
        key: row.try_get(3)?,
        payload: Bytes::copy_from_slice(row.try_get_raw(4)?.as_bytes()?),
    })
}

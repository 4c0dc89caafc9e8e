//! Who may own a hole: the transactions that hold `RowExclusiveLock` on the outbox table.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::holes::Holder;
use super::sql::{Names, micros};
use crate::source::overview::MAX_OPEN;

/// Who holds `RowExclusiveLock` on the table, by its name as it resolves now, with the oldest transaction id of
/// each: that of the top-level transaction. One row at least, with the facts: an empty listing of the wrong server
/// would prove every hole dead.
pub(super) fn holders_sql(names: &Names, facts: &str) -> String {
    format!(
        "WITH lock AS MATERIALIZED (SELECT * FROM pg_locks) \
         SELECT fact.unchanged, holder.virtualtransaction, holder.pid, \
         pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS next_xid, \
         (SELECT own.transactionid::text::int8 FROM lock AS own WHERE own.locktype = 'transactionid' \
         AND own.granted AND own.mode = 'ExclusiveLock' \
         AND own.virtualtransaction = holder.virtualtransaction \
         ORDER BY age(own.transactionid) DESC LIMIT 1) AS xid \
         FROM ({facts}) AS fact LEFT JOIN lock AS holder ON holder.locktype = 'relation' AND holder.granted \
         AND holder.mode = 'RowExclusiveLock' AND holder.relation = to_regclass({table}) \
         AND holder.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        table = names.table_literal(),
    )
}

/// The holder in a row of [`holders_sql`]; `None` in the row that only has the facts.
pub(super) fn holder(row: &PgRow) -> Result<Option<Holder>, sqlx::Error> {
    let Some(virtual_xid) = row.try_get("virtualtransaction")? else {
        return Ok(None);
    };
    let next: i64 = row.try_get("next_xid")?;
    let xid: Option<i64> = row.try_get("xid")?;
    Ok(Some(Holder {
        virtual_xid,
        pid: row.try_get("pid")?,
        xid: xid.map(|xid| with_epoch(xid, next)),
    }))
}

/// The same transactions for people, oldest first: who runs them and since when. A user without `pg_read_all_stats` is
/// not told when the transactions of others began.
pub(super) fn open_sql(names: &Names) -> String {
    format!(
        "WITH lock AS MATERIALIZED (SELECT * FROM pg_locks) \
         SELECT holder.pid, prepared.gid, coalesce(activity.usename, prepared.owner)::text AS user_name, \
         activity.application_name AS application, {began_at} AS began_at \
         FROM lock AS holder LEFT JOIN pg_stat_activity AS activity ON activity.pid = holder.pid \
         LEFT JOIN (SELECT own.virtualtransaction, prepared.* FROM pg_prepared_xacts AS prepared \
         JOIN lock AS own ON own.locktype = 'transactionid' AND own.granted AND own.pid IS NULL \
         AND own.transactionid = prepared.transaction) AS prepared \
         ON holder.pid IS NULL AND prepared.virtualtransaction = holder.virtualtransaction \
         WHERE holder.locktype = 'relation' AND holder.granted AND holder.mode = 'RowExclusiveLock' \
         AND holder.relation = to_regclass({table}) \
         AND holder.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         ORDER BY coalesce(activity.xact_start, prepared.prepared) NULLS LAST, holder.pid LIMIT {MAX_OPEN}",
        began_at = micros("coalesce(activity.xact_start, prepared.prepared)"),
        table = names.table_literal(),
    )
}

/// Whether one of `xids` has ended by the statement's own snapshot.
pub(super) fn ended_sql(xids: &[i64]) -> String {
    let xids: Vec<String> = xids.iter().map(ToString::to_string).collect();
    format!(
        "(SELECT coalesce(bool_or(pg_visible_in_snapshot(xid::xid8, pg_current_snapshot())), false) \
         FROM unnest('{{{}}}'::text[]) AS holder (xid))",
        xids.join(",")
    )
}

/// The full transaction id of a 32-bit one that is less than half the circle away from `next`.
fn with_epoch(xid: i64, next: i64) -> i64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // the low 32 bits are what is meant
    let distance = (xid as u32).wrapping_sub(next as u32).cast_signed();
    next + i64::from(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_get_their_epoch() {
        const EPOCH: i64 = 1 << 32;
        assert_eq!(with_epoch(100, 3 * EPOCH + 120), 3 * EPOCH + 100);
        assert_eq!(with_epoch(130, 3 * EPOCH + 120), 3 * EPOCH + 130);
        assert_eq!(with_epoch(EPOCH - 5, 3 * EPOCH + 3), 3 * EPOCH - 5);
        assert_eq!(with_epoch(2, 3 * EPOCH - 5), 3 * EPOCH + 2);
    }
}

//! The doorbell's trigger, as a table has it.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// What rings when rows are inserted into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// Nothing.
    Missing,
    /// One of a former version: it rings as well and costs writers more, for it has a condition.
    Former(Firing),
    /// One as it is installed now.
    Current(Firing),
}

/// For whose rows a trigger is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Firing {
    /// Nobody's, or replicas' only.
    Disabled,
    /// Those of writers that are no replicas.
    Enabled,
    /// Everybody's.
    Always,
}

/// Two columns about the trigger `t`, of which there is none or the one by [`JOIN`]: `ringing`, whether it is one as
/// it is installed now; and `firing`. `ringing` is null if it doesn't ring for its table: a tool that copies tables
/// with their triggers leaves the lock of the original in the condition. Without a condition it always is the right
/// lock. Of other triggers nothing is asked: an expression with both OLD and NEW can't be shown.
pub(super) const COLUMNS: &str = "CASE WHEN t.tgqual IS NULL THEN true \
     WHEN position(quote_literal(t.tgrelid::regclass::text) || '::regclass' IN pg_get_expr(t.tgqual, t.tgrelid)) > 0 \
     THEN false END AS ringing, t.tgenabled::text AS firing";

/// The trigger `t` of the table `c`, if it has one that calls the doorbell's function.
pub(super) const JOIN: &str = "LEFT JOIN (pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
     AND p.proname = 'outbox_relay_ring') ON t.tgrelid = c.oid AND t.tgname = 'outbox_relay_ring'";

impl Trigger {
    pub(super) fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let is_current: Option<bool> = row.try_get("ringing")?;
        let firing: Option<String> = row.try_get("firing")?;
        let Some(firing) = firing else {
            return Ok(Self::Missing);
        };
        let firing = match firing.as_str() {
            "O" => Firing::Enabled,
            "A" => Firing::Always,
            _ => Firing::Disabled,
        };
        Ok(match is_current {
            Some(true) => Self::Current(firing),
            Some(false) => Self::Former(firing),
            None => Self::Missing,
        })
    }
}

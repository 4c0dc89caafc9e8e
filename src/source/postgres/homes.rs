//! Homes: the rows of `outbox_source`, each of which says what the ledgers of one relay's source speak of.
//!
//! A home names its table twice, by OID and by name, and belongs to a table if either does: the OID stays with a table
//! that is renamed, the name with one that is restored or made anew. In doubt a ledger holds one table too many back.
//!
//! The file of the sequence tells whether `seq` still counts what the ledgers speak of. [`VOID`] stands there once it is
//! known that it doesn't: for good, or the sequence would only have to come as far as the ledgers reach.

use super::sql::{Names, last_value};
use crate::ledger::MAX_STORED_RANGES;

/// What `sequence_filenode` says of ledgers that speak of numbers which were drawn, or will be, a second time. No
/// relation has it.
pub(super) const VOID: i64 = 0;

/// Every ledger of the table with its home.
pub(super) fn ledgers_sql(names: &Names) -> String {
    format!(
        "{schema}outbox_source AS home JOIN {schema}outbox_ledger AS ledger USING (relay, source) \
         WHERE {same_table}",
        schema = names.schema,
        same_table = same_table_sql(names),
    )
}

/// Whether `home` is one of the table's.
pub(super) fn same_table_sql(names: &Names) -> String {
    let table = names.table_literal();
    format!(
        "(home.table_oid = to_regclass({table})::oid OR to_regclass(home.table_name) = to_regclass({table}))"
    )
}

/// Whether `home` speaks of the sequence as it is now.
pub(super) fn same_sequence_sql(names: &Names) -> String {
    format!(
        "home.sequence_filenode = pg_relation_filenode({})",
        names.sequence()
    )
}

/// Whether `ledger` speaks of another sequence than `home`'s table has now, or of numbers that it has yet to draw.
pub(super) fn stale_sql(names: &Names) -> String {
    format!(
        "(coalesce(home.sequence_filenode <> pg_relation_filenode({}), true) \
         OR coalesce(upper(ledger.delivered) - 1 > {}, false))",
        names.sequence(),
        last_value_sql(names),
    )
}

/// How far the sequence has come. In one statement with ledgers it is read after they are.
pub(super) fn last_value_sql(names: &Names) -> String {
    format!("(SELECT {})", last_value(&names.sequence()))
}

/// The highest `seq` that a ledger of the table and of the sequence as it is now has; NULL if there is none.
pub(super) fn highest_sql(names: &Names) -> String {
    format!(
        "(SELECT max(upper(ledger.delivered)) - 1 FROM {} AND {})",
        ledgers_sql(names),
        same_sequence_sql(names)
    )
}

/// Makes every ledger of the table void, whatever relay keeps it, if the sequence has been set back below `highest`,
/// an expression: numbers that any of them has may have been drawn again already.
pub(super) fn void_sql(names: &Names, highest: &str) -> String {
    format!(
        "UPDATE {schema}outbox_source AS home SET sequence_filenode = {VOID} WHERE {same_table} AND {same_sequence} \
         AND {last_value} < {highest}",
        schema = names.schema,
        same_table = same_table_sql(names),
        same_sequence = same_sequence_sql(names),
        last_value = last_value_sql(names),
    )
}

/// Everything that whoever settles the table has recorded in `column`, for this sequence.
pub(super) fn recorded_sql(names: &Names, sequence_filenode: i64, column: &str) -> String {
    format!(
        "SELECT coalesce(range_agg(span), '{{}}') FROM {schema}outbox_source AS home, \
         unnest(home.{column}) AS span WHERE {same_table} \
         AND home.sequence_filenode::int8 = {sequence_filenode}",
        schema = names.schema,
        same_table = same_table_sql(names),
    )
}

/// An `int8multirange` expression cut down to its widest ranges, as many as a ledger stores.
pub(super) fn folded_sql(ranges: &str) -> String {
    format!(
        "(SELECT coalesce(range_agg(span), '{{}}') FROM (SELECT span FROM unnest({ranges}) AS span \
         ORDER BY upper(span) - lower(span) DESC LIMIT {MAX_STORED_RANGES}) AS widest)"
    )
}

/// Locks out whoever may store a ledger that is not there yet: an acquisition inserts into `outbox_source` first.
pub(super) fn lock_acquisitions_sql(names: &Names) -> String {
    format!(
        "LOCK TABLE {}outbox_source IN SHARE ROW EXCLUSIVE MODE",
        names.schema
    )
}

/// Locks every ledger of the table against changes; yields no row.
pub(super) fn lock_ledgers_sql(names: &Names) -> String {
    format!(
        "SELECT FROM (SELECT FROM {} FOR SHARE OF ledger) AS locked HAVING count(*) < 0",
        ledgers_sql(names)
    )
}

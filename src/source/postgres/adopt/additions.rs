//! The columns that an adoption adds: `seq`, and an identity or a time where the table has none.

use super::super::columns::{self, Column};
use super::super::sql::Names;
use crate::config;
use crate::source::SourceError;

/// The columns that the table lacks and that can be added to it.
///
/// # Errors
/// [`SourceError::Refused`] if it has columns that may be meant instead.
pub(super) fn added(
    found: &[Column],
    names: &Names,
    columns: &config::Columns,
) -> Result<Vec<Column>, SourceError> {
    let there = |name: &str| found.iter().any(|column| column.name == name);
    let refuse = |reason: String| {
        Err(SourceError::Refused(format!(
            "the table {} {reason}",
            names.table
        )))
    };
    let new = |name: &str, kind: &str| Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        required: true,
        generated: false,
    };
    if there(&columns.seq) {
        return refuse(format!(
            "has a column {seq} that is no bigint GENERATED ALWAYS AS IDENTITY: applications draw such numbers \
             ahead, or set them, and the relay would miss the events; name a new column by columns.seq",
            seq = columns.seq
        ));
    }
    let mut added = vec![new(&columns.seq, "bigint")];
    if !there(&columns.id) {
        let uuids: Vec<&str> = columns::of_kinds(found, columns::ID)
            .filter(|name| columns.aggregate_id.as_deref() != Some(*name))
            .collect();
        // Nobody types the standard name to ask for a new column.
        if !uuids.is_empty() && columns.id == "id" {
            return refuse(format!(
                "has no column id: if one of {} is the event's identity, name it by columns.id; else name a new \
                 column there",
                uuids.join(", ")
            ));
        }
        added.push(new(&columns.id, "uuid"));
    }
    if !there(&columns.created_at) {
        let times: Vec<&str> = columns::of_kinds(found, columns::TIME)
            .filter(|name| columns.sent_at.as_deref() != Some(*name))
            .collect();
        if !times.is_empty() {
            return refuse(format!(
                "has no column {}: name the one that says when an event happened ({}) by columns.created_at",
                columns.created_at,
                times.join(", ")
            ));
        }
        added.push(new(&columns.created_at, "timestamp with time zone"));
    }
    Ok(added)
}

//! What a reader asks. Each question is one statement and so one snapshot, with the facts about the server before the
//! rows.

use super::super::holders::ended_sql;
use super::super::holes::{MAX_HOLES, Question};
use super::super::link::Prepared;
use super::super::rows::{CREATED_AT, NO_EVENT, NO_FACTS};
use super::super::sql;
use super::PostgresReader;
use crate::ledger::RangeSet;
use crate::sabotage::{self, Sabotage};

/// What differs between two reads: literals, or the parameters of a prepared statement.
struct Place {
    cursor: String,
    /// Where the holes looked into begin, and where they end: two `int8[]`. `None` if there are none.
    holes: Option<(String, String)>,
}

impl PostgresReader {
    /// One statement, one snapshot: the facts about the server, and the rows if they are to be believed.
    pub(super) fn read_sql(&self, question: &Question, limit: usize) -> String {
        let (young_only, ended) = match question {
            Question::All => (false, "false".to_owned()),
            Question::YoungUnlessEnded(xids) => (true, ended_sql(xids)),
        };
        self.read_at_sql(&self.place(young_only), limit, &ended)
    }

    /// The read of all once more, as a statement that is planned once for each connection, and its arguments.
    pub(super) fn prepared_read(&self, limit: usize) -> (Prepared, String) {
        let Place { cursor, holes } = self.place(false);
        let (shape, types, arguments, holes) = match holes {
            None => ("new", "int8", cursor, None),
            Some((firsts, ends)) => (
                "holes",
                "int8, int8[], int8[]",
                format!("{cursor}, {firsts}, {ends}"),
                Some(("$2".to_owned(), "$3".to_owned())),
            ),
        };
        let parameters = Place {
            cursor: "$1".to_owned(),
            holes,
        };
        let name = format!("outbox_{}_{shape}_{limit}", self.lease.token.simple());
        let is_new = !self.link.has_prepared(&name);
        let sql = is_new.then(|| self.read_at_sql(&parameters, limit, "false"));
        (Prepared { name, types, sql }, arguments)
    }

    fn place(&self, young_only: bool) -> Place {
        let holes: Vec<(i64, i64)> = self.holes.ranges(young_only).collect();
        Place {
            cursor: self.cursor.to_string(),
            holes: (!holes.is_empty()).then(|| {
                let firsts = sql::int8_array(holes.iter().map(|(first, _)| *first));
                (firsts, sql::int8_array(holes.iter().map(|(_, end)| *end)))
            }),
        }
    }

    fn read_at_sql(&self, place: &Place, limit: usize, ended: &str) -> String {
        let names = &self.names;
        let (table, seq, event) = (&names.table, &names.columns.seq, &names.columns.event);
        let mut parts = Vec::new();
        // By the name that the rows have here: the column's own may be that of another one here, `id` for one.
        if let Some((firsts, ends)) = &place.holes {
            // Each range is an index scan of its own on the primary key.
            parts.push(format!(
                "(SELECT hole.* FROM unnest({firsts}, {ends}) AS range (first, past) CROSS JOIN LATERAL \
                 (SELECT {event} FROM {table} WHERE {seq} >= range.first AND {seq} < range.past \
                 ORDER BY seq LIMIT {limit}) AS hole ORDER BY seq LIMIT {limit})"
            ));
        }
        if self.is_full() {
            // Reading forward stops.
            parts.push(format!("(SELECT {event} FROM {table} WHERE false)"));
        } else {
            parts.push(format!(
                "(SELECT {event} FROM {table} WHERE {seq} > {cursor} ORDER BY seq LIMIT {limit})",
                cursor = place.cursor,
            ));
        }
        #[cfg(feature = "sabotage")]
        sabotage::read_apart(&mut parts);
        let merged = parts.join(" UNION ALL ");

        let rows = format!("SELECT * FROM ({merged}) AS merged ORDER BY seq LIMIT {limit}");
        self.framed(&rows, ended, &place.cursor)
    }

    /// The facts about the server, then `rows`, in their own order, and only if the facts are to be believed. The facts are
    /// a row of their own, whose event columns are NULL: a join would repeat them in every row and sort all of them anew.
    pub(super) fn framed(&self, rows: &str, ended: &str, cursor: &str) -> String {
        format!(
            "{encoding}WITH fact AS MATERIALIZED ({facts}) SELECT unchanged, ended, last_value, {NO_EVENT} FROM fact \
             UNION ALL SELECT {NO_FACTS}, seq, id, event_type, aggregate_type, aggregate_id, payload, headers, {CREATED_AT} \
             FROM ({rows}) AS event WHERE (SELECT unchanged AND NOT ended FROM fact)",
            encoding = self.facts.encoding_sql(),
            facts = self.facts_at_sql(ended, cursor),
        )
    }

    /// Whether server, table and sequence are still those of the lease, and how far the sequence has come. A
    /// sequence behind the cursor has been set back: what it draws next would never be read. A table that hides rows
    /// is another, too: they would count as holes, or as deleted.
    pub(super) fn facts_sql(&self) -> String {
        self.facts_at_sql("false", &self.cursor.to_string())
    }

    fn facts_at_sql(&self, ended: &str, cursor: &str) -> String {
        format!(
            "SELECT {unchanged} AND pg_relation_filenode(own.sequence)::int8 = {filenode} \
             AND {not_behind} AND {all_visible} AS unchanged, {ended} AS ended, own.last_value \
             FROM (SELECT sequence, {last_value} AS last_value \
             FROM (SELECT {sequence} AS sequence OFFSET 0) AS named OFFSET 0) AS own",
            unchanged = self.names.unchanged(&self.lease),
            filenode = self.lease.sequence_filenode,
            last_value = sql::last_value("sequence"),
            not_behind = if sabotage::is_on(Sabotage::LongMemory) {
                "true".to_owned()
            } else {
                format!("own.last_value >= {cursor}")
            },
            all_visible = self.names.all_visible(),
            sequence = self.names.sequence(),
        )
    }

    /// The rows of ranges of `seq`, each an index scan of its own on the primary key.
    pub(super) fn look_again_sql(&self, closed: &RangeSet) -> String {
        let (table, seq) = (&self.names.table, &self.names.columns.seq);
        format!(
            "SELECT fact.unchanged, late.seq FROM (SELECT {unchanged} AS unchanged) AS fact LEFT JOIN \
             (SELECT event.seq FROM unnest({firsts}, {ends}) AS range (first, past) CROSS JOIN LATERAL \
             (SELECT {seq} AS seq FROM {table} WHERE {seq} >= range.first AND {seq} < range.past \
             ORDER BY {seq} LIMIT {MAX_HOLES}) AS event) AS late ON fact.unchanged",
            unchanged = self.names.unchanged_with_sequence(&self.lease),
            firsts = sql::int8_array(closed.iter().map(|(first, _)| first)),
            ends = sql::int8_array(closed.iter().map(|(_, end)| end)),
        )
    }
}

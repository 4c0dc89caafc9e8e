//! What must be true of the tables before anything can be promised.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::columns::{check_columns, columns_of};
use super::link::Link;
use super::migrate::VERSION;
use super::rows::PayloadType;
use super::sql::{self, Names};
use super::trigger::{self, Firing, Trigger};
use crate::config::{Columns, Mode};
use crate::source::SourceError;

const INSPECT: &str = "cannot inspect the outbox table";

/// The first release in which a prepared transaction keeps its virtual transaction id, which the evidence about
/// holes rests on.
const OLDEST_SERVER: i32 = 140_001;

/// What an inspection found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) payload: PayloadType,
    /// The database takes any bytes as text.
    pub(super) any_bytes: bool,
}

impl Facts {
    /// What stands before a statement that reads rows: else the server refuses a whole answer for what is no UTF-8 in
    /// it.
    pub(super) fn encoding_sql(&self) -> &'static str {
        if self.any_bytes {
            "SET LOCAL client_encoding = 'SQL_ASCII'; "
        } else {
            ""
        }
    }
}

/// Inspects the tables.
pub(super) async fn inspect(
    link: &mut Link,
    names: &Names,
    columns: &Columns,
    mode: Mode,
) -> Result<Facts, SourceError> {
    let Some(table) = table(link, names, columns).await? else {
        return Err(no_table(&names.table));
    };
    table.check(names, columns)?;
    check_version(link, names).await?;
    if mode != Mode::Poll {
        check_doorbell(table.trigger, &names.table)?;
    }
    let found = columns_of(link, names).await?;
    check_columns(&found, names, columns).map(|payload| Facts {
        payload,
        any_bytes: table.any_bytes,
    })
}

/// The table as it is; `None` if there is none.
pub(super) async fn table(
    link: &mut Link,
    names: &Names,
    columns: &Columns,
) -> Result<Option<Table>, SourceError> {
    let mut table = None;
    link.query(INSPECT, table_sql(names, columns), |row| {
        table = Some(Table::from_row(&row)?);
        Ok(())
    })
    .await?;
    if table.as_ref().is_some_and(|table| table.in_recovery) {
        return Err(SourceError::Database {
            action: INSPECT,
            source: "the server is a standby in recovery".into(),
        });
    }
    Ok(table)
}

/// Facts about the table as a whole.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    ledgers_elsewhere: bool,
    server_version: i32,
    in_recovery: bool,
    any_bytes: bool,
    kind: String,
    persistence: String,
    in_a_tree: bool,
    row_security: bool,
    subscribed: bool,
    pub(super) trigger: Trigger,
    identity: Option<String>,
    sequence: Option<String>,
    sequence_is_plain: Option<bool>,
    /// The role, as SQL has it, if it may not read the sequence.
    sequence_unread_by: Option<String>,
    seq_is_indexed: bool,
}

fn table_sql(names: &Names, columns: &Columns) -> String {
    format!(
        "SELECT current_setting('server_version_num')::int4 AS server_version, \
         format('%I.%I', n.nspname, c.relname) AS name, \
         coalesce((SELECT l.relnamespace <> c.relnamespace FROM pg_class l \
         WHERE l.oid = to_regclass({ledger})), false) AS ledgers_elsewhere, pg_is_in_recovery() AS in_recovery, \
         getdatabaseencoding() = 'SQL_ASCII' AS any_bytes, c.relkind::text AS kind, c.relpersistence::text AS persistence, \
         c.relispartition OR EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)) \
         AS in_a_tree, row_security_active(c.oid) AS row_security, \
         EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srrelid = c.oid) AS subscribed, \
         {trigger}, a.attidentity::text AS identity, (SELECT format('%I.%I', o.nspname, q.relname) FROM pg_class q \
         JOIN pg_namespace o ON o.oid = q.relnamespace WHERE q.oid = s.seqrelid) AS sequence, \
         CASE WHEN NOT has_sequence_privilege(s.seqrelid, 'SELECT') THEN quote_ident(current_user) END \
         AS sequence_unread_by, \
         s.seqcache = 1 AND s.seqincrement = 1 AND NOT s.seqcycle AND s.seqmin >= 1 AS sequence_is_plain, \
         EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid \
         AND x.indpred IS NULL AND x.indnkeyatts = 1 AND x.indkey[0] = a.attnum) AS seq_is_indexed \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = {seq} \
         AND NOT a.attisdropped \
         LEFT JOIN pg_depend d ON d.refobjid = c.oid AND d.refobjsubid = a.attnum AND d.deptype = 'i' \
         AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
         LEFT JOIN pg_sequence s ON s.seqrelid = d.objid {trigger_join} WHERE c.oid = to_regclass({table})",
        trigger = trigger::COLUMNS,
        trigger_join = trigger::JOIN,
        seq = sql::literal(&columns.seq),
        ledger = sql::literal(&format!("{}outbox_ledger", names.schema)),
        table = names.table_literal(),
    )
}

impl Table {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            ledgers_elsewhere: row.try_get("ledgers_elsewhere")?,
            server_version: row.try_get("server_version")?,
            in_recovery: row.try_get("in_recovery")?,
            any_bytes: row.try_get("any_bytes")?,
            kind: row.try_get("kind")?,
            persistence: row.try_get("persistence")?,
            in_a_tree: row.try_get("in_a_tree")?,
            row_security: row.try_get("row_security")?,
            subscribed: row.try_get("subscribed")?,
            trigger: Trigger::from_row(row)?,
            identity: row.try_get("identity")?,
            sequence: row.try_get("sequence")?,
            sequence_is_plain: row.try_get("sequence_is_plain")?,
            sequence_unread_by: row.try_get("sequence_unread_by")?,
            seq_is_indexed: row.try_get("seq_is_indexed")?,
        })
    }

    /// Whether `seq` is drawn by the database, whatever else is to be said of it.
    pub(super) fn is_numbered(&self) -> bool {
        self.identity.as_deref() == Some("a")
    }

    /// Whether the relay can keep its promises on the table.
    pub(super) fn check(&self, names: &Names, columns: &Columns) -> Result<(), SourceError> {
        self.check_kind(names)?;
        self.check_seq(names, columns)
    }

    /// Refuses what no column could mend.
    pub(super) fn check_kind(&self, names: &Names) -> Result<(), SourceError> {
        let refusals = [
            (
                self.server_version < OLDEST_SERVER,
                "needs PostgreSQL 14.1 or newer: older servers change the identity of a transaction at \
                 PREPARE, and its events could be taken for rolled back"
                    .to_owned(),
            ),
            (
                self.kind != "r" || self.in_a_tree,
                "is partitioned, inherited or no plain table: locks and order would have to be followed \
                 through its whole tree; use a plain table"
                    .to_owned(),
            ),
            (
                self.persistence != "p",
                "is unlogged or temporary: a crash empties it; use ALTER TABLE … SET LOGGED".to_owned(),
            ),
            (
                self.ledgers_elsewhere,
                format!(
                    "is {}, but the relay's tables that search_path finds are in another schema: other relays \
                     would not see its ledgers and settle its events; name the table with its schema",
                    self.name
                ),
            ),
            (
                self.row_security,
                "has row security that hides rows from the relay's role: hidden events would be lost; use a \
                 role with BYPASSRLS"
                    .to_owned(),
            ),
            (
                self.subscribed,
                "is filled by a logical subscription, which writes seq as it was elsewhere; relay from the \
                 publisher"
                    .to_owned(),
            ),
        ];
        refused(names, refusals)
    }

    fn check_seq(&self, names: &Names, columns: &Columns) -> Result<(), SourceError> {
        let seq = &columns.seq;
        let refusals = [
            (
                !self.is_numbered() || self.sequence.is_none(),
                format!(
                    "has no column {seq} GENERATED ALWAYS AS IDENTITY: the relay's order must be drawn by \
                     the INSERT itself; `outbox-relay migrate --adopt` adds it"
                ),
            ),
            (
                self.sequence_is_plain == Some(false),
                format!(
                    "draws {seq} from a sequence that is not CACHE 1, INCREMENT 1, NO CYCLE, \
                     MINVALUE 1 or more"
                ),
            ),
            (
                self.sequence_unread_by.is_some(),
                format!(
                    "draws {seq} from a sequence that the relay's role may not read, and a sequence that was set back \
                     would go unnoticed: GRANT SELECT ON SEQUENCE {} TO {}",
                    self.sequence.as_deref().unwrap_or_default(),
                    self.sequence_unread_by.as_deref().unwrap_or_default(),
                ),
            ),
            (
                !self.seq_is_indexed,
                format!(
                    "has no unique index on {seq}: every read would go through the whole table"
                ),
            ),
        ];
        refused(names, refusals)
    }
}

pub(super) fn no_table(table: &str) -> SourceError {
    SourceError::Migrate(format!(
        "there is no table {table}: run `outbox-relay migrate` (or `run --migrate`)"
    ))
}

fn check_doorbell(trigger: Trigger, table: &str) -> Result<(), SourceError> {
    match trigger {
        Trigger::Missing => Err(SourceError::Migrate(format!(
            "the table {table} has no doorbell, which mode = \"notify\" needs: run `outbox-relay migrate`"
        ))),
        Trigger::Former(Firing::Disabled) | Trigger::Current(Firing::Disabled) => {
            Err(SourceError::Migrate(format!(
                "the doorbell of {table}, which mode = \"notify\" needs, is disabled: \
                 ALTER TABLE {table} ENABLE TRIGGER outbox_relay_ring"
            )))
        }
        Trigger::Former(_) | Trigger::Current(_) => Ok(()),
    }
}

fn refused<const N: usize>(
    names: &Names,
    refusals: [(bool, String); N],
) -> Result<(), SourceError> {
    match refusals.into_iter().find(|(refused, _)| *refused) {
        Some((_, reason)) => Err(SourceError::Refused(format!(
            "the table {} {reason}",
            names.table
        ))),
        None => Ok(()),
    }
}

/// Refuses tables of a version that this relay doesn't know.
async fn check_version(link: &mut Link, names: &Names) -> Result<(), SourceError> {
    let found = super::migrate::installed_version(link, names).await?;
    match found {
        Some(VERSION) => Ok(()),
        Some(version) if version > VERSION => Err(SourceError::Migrate(format!(
            "the relay's tables are of version {version}, newer than the {VERSION} that this relay knows: \
             run a newer outbox-relay"
        ))),
        Some(version) => Err(SourceError::Migrate(format!(
            "the relay's tables are of version {version} and this relay needs {VERSION}: \
             run `outbox-relay migrate` (or `run --migrate`)"
        ))),
        None => Err(SourceError::Migrate(format!(
            "the relay's tables are missing beside {}: run `outbox-relay migrate` (or `run --migrate`)",
            names.table
        ))),
    }
}

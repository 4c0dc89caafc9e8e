//! What an adoption finds: how much there is, what is published, and what stands in the way of a relay.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::super::columns::Column;
use super::super::link::{Link, failed};
use super::super::sql::{self, Names};
use super::{ADOPT, execute};
use crate::config::Columns;
use crate::source::SourceError;

/// Facts about a table that is to be adopted.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) rows: i64,
    /// Rows with `sent_at`; `None`: there is no such column.
    pub(super) sent: Option<i64>,
    /// When the oldest row without `sent_at` was created.
    pub(super) oldest_unsent: Option<String>,
    /// With its indexes.
    pub(super) bytes: i64,
    /// Rows inserted and deleted as long as statistics reach back.
    pub(super) inserted: i64,
    pub(super) deleted: i64,
    pub(super) owner: String,
    /// Roles that may insert into every column, but for the owner.
    pub(super) inserters: Vec<String>,
    /// Indexes that an UPDATE of `sent_at` has to change.
    pub(super) marked_indexes: Vec<String>,
    /// Triggers whose function mentions NOTIFY.
    pub(super) notifiers: Vec<String>,
}

impl Survey {
    pub(super) async fn take(
        link: &mut Link,
        names: &Names,
        columns: &Columns,
        added: &[Column],
    ) -> Result<Self, SourceError> {
        let mut survey = None;
        link.query(ADOPT, catalog_sql(names, columns), |row| {
            survey = Some(Self::from_row(&row)?);
            Ok(())
        })
        .await?;
        let mut survey = survey.ok_or_else(|| SourceError::Refused("the table is gone".into()))?;
        // Counting reads the whole table, for as long as it takes.
        let mut connection = link.checkout(ADOPT).await?;
        let counted = async {
            execute(&mut connection, "BEGIN; SET LOCAL statement_timeout = 0").await?;
            let query = sqlx::AssertSqlSafe(count_sql(names, columns, added));
            let row = sqlx::raw_sql(query).fetch_one(&mut connection).await?;
            execute(&mut connection, "COMMIT").await?;
            survey.rows = row.try_get("total")?;
            let sent: i64 = row.try_get("sent")?;
            survey.sent = names.columns.sent_at.is_some().then_some(sent);
            survey.oldest_unsent = row.try_get("oldest_unsent")?;
            Ok(())
        };
        counted.await.map_err(|error| failed(ADOPT, error))?;
        link.give_back(connection);
        Ok(survey)
    }

    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            rows: 0,
            sent: None,
            oldest_unsent: None,
            bytes: row.try_get("bytes")?,
            inserted: row.try_get("inserted")?,
            deleted: row.try_get("deleted")?,
            owner: row.try_get("owner")?,
            inserters: row.try_get("inserters")?,
            marked_indexes: row.try_get("marked_indexes")?,
            notifiers: row.try_get("notifiers")?,
        })
    }

    /// Whether rows went as fast as they came: nothing shows whether in their own transaction or after delivery.
    pub(super) fn is_swept(&self) -> bool {
        self.rows == 0 && self.inserted > 0 && self.deleted >= self.inserted
    }
}

/// Facts of the catalog, of the table and what hangs on it.
fn catalog_sql(names: &Names, columns: &Columns) -> String {
    format!(
        "SELECT pg_total_relation_size(c.oid) AS bytes, coalesce(s.n_tup_ins, 0) AS inserted, \
         coalesce(s.n_tup_del, 0) AS deleted, quote_ident(pg_get_userbyid(c.relowner)) AS owner, \
         ARRAY(SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END \
         FROM aclexplode(c.relacl) AS a WHERE a.privilege_type = 'INSERT' AND a.grantee <> c.relowner \
         ORDER BY 1) AS inserters, \
         ARRAY(SELECT DISTINCT x.indexrelid::regclass::text FROM pg_index x JOIN pg_attribute m \
         ON m.attrelid = c.oid AND m.attname = {sent_at} JOIN pg_depend d ON d.classid = 'pg_class'::regclass \
         AND d.objid = x.indexrelid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid \
         AND d.refobjsubid = m.attnum WHERE x.indrelid = c.oid ORDER BY 1) AS marked_indexes, \
         ARRAY(SELECT quote_ident(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND p.prosrc ILIKE '%notify%' \
         AND t.tgname <> 'outbox_relay_ring' ORDER BY 1) AS notifiers \
         FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.oid = to_regclass({table})",
        sent_at = sql::literal(columns.sent_at.as_deref().unwrap_or_default()),
        table = names.table_literal(),
    )
}

fn count_sql(names: &Names, columns: &Columns, added: &[Column]) -> String {
    let sent = match &names.columns.sent_at {
        Some(sent_at) => format!("{sent_at} IS NOT NULL"),
        None => "false".to_owned(),
    };
    let new = added.iter().any(|column| column.name == columns.created_at);
    let created_at = if new {
        "NULL"
    } else {
        &names.columns.created_at
    };
    format!(
        "SELECT count(*) AS total, count(*) FILTER (WHERE {sent}) AS sent, \
         (min({created_at}) FILTER (WHERE NOT ({sent})))::text AS oldest_unsent FROM {table}",
        table = names.table,
    )
}

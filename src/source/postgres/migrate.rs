//! The tables: made by `outbox-relay migrate`, printed by `migrate --print`.
//!
//! Bookkeeping has a table of its own name, for the application may use sqlx's migrations too.

use sqlx::Row as _;

use super::inspect;
use super::link::{Link, refusal};
use super::sql::{self, Names};
use crate::config::{self, Mode};
use crate::error::chain;
use crate::source::SourceError;

const MIGRATE: &str = "cannot migrate the tables";

/// Keeps migrations of one database apart until the transaction's end.
pub(super) const LOCK: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('outbox-relay migrate', 0))";

/// The relay's own tables, oldest migration first. A migration that was released never changes.
const MIGRATIONS: &[(&str, &str)] = &[(
    "relay",
    include_str!("../../../migrations/postgres/0001_relay.sql"),
)];

/// The doorbell among a table's triggers.
const TRIGGER: &str = "tgname = 'outbox_relay_ring'";

/// That a trigger's lock is that of the table it is on: a tool that copies tables with their triggers leaves that of the
/// original in the condition, which then never rings. Without the condition it always is.
/// Of other triggers nothing is asked: an expression with both OLD and NEW can't be shown.
pub(super) const RINGS: &str = "CASE WHEN tgname <> 'outbox_relay_ring' THEN false WHEN tgqual IS NULL THEN true \
     ELSE position(quote_literal(tgrelid::regclass::text) || '::regclass' IN pg_get_expr(tgqual, tgrelid)) > 0 END";

const OUTBOX: &str = include_str!("../../../migrations/postgres/outbox.sql");
const DOORBELL: &str = include_str!("../../../migrations/postgres/doorbell.sql");
const GRANTS: &str = include_str!("../../../migrations/postgres/grants.sql");

/// The version of the relay's tables that this relay works with.
#[allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation)] // a handful of migrations
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// Makes whatever is missing, in one transaction, and says in words what was done.
///
/// # Errors
/// If the database can't be reached, refuses, or has an outbox table that the relay can't work with.
pub async fn migrate(config: &config::Postgres) -> Result<Vec<String>, SourceError> {
    let names = Names::new(&config.table, &config.columns);
    let mut link = Link::new(super::connect_options(config, "migrate")?);
    let installed = known_version(&mut link, &names).await?;
    let mut done = Vec::new();
    // Two replicas that start with `run --migrate` must not meet: the lock ends with the transaction.
    let mut script = format!("{LOCK}; ");
    if let Some(table) = inspect::table(&mut link, &names, &config.columns).await? {
        // Before anything is installed on a table that no relay could work with.
        table.check(&names, &config.columns)?;
        done.push(format!("{} is there already", names.table));
    } else {
        script.push_str(&filled(OUTBOX, &names));
        done.push(format!("{} created", names.table));
    }
    script.push_str(&relay_tables(&names, installed, &mut done));
    // Writers that use two-phase commit can't PREPARE after a NOTIFY: they get no trigger.
    let rings = config.mode == Mode::Poll || holds(&mut link, &has_doorbell_sql(&names)).await?;
    let is_old = !rings && holds(&mut link, &rings_sql(&names)).await?;
    if !rings && !is_old {
        script.push_str(&doorbell(&names));
        done.push(format!("the doorbell of {} installed", names.table));
    }
    link.query(MIGRATE, script, |_| Ok(())).await?;
    if is_old {
        done.push(renew(&mut link, &names).await?);
    }
    inspect::inspect(&mut link, &names, &config.columns, config.mode).await?;
    link.close().await;
    Ok(done)
}

/// Renews a doorbell of a former version, which rings as well and only costs more: so this neither waits for long, for
/// new writers wait behind it, nor fails a relay that is about to start.
async fn renew(link: &mut Link, names: &Names) -> Result<String, SourceError> {
    let mut script = format!("{LOCK}; SET LOCAL lock_timeout = '1s'; {}", doorbell(names));
    // To be renewed it is replaced, which forgets that it rings for writers that are replicas, too.
    let always = format!("{} AND tgenabled = 'A')", trigger_sql(names));
    if holds(link, &always).await? {
        script.push_str(&format!(
            "ALTER TABLE {} ENABLE ALWAYS TRIGGER outbox_relay_ring;",
            names.table
        ));
    }
    let table = &names.table;
    match link.query(MIGRATE, script, |_| Ok(())).await {
        Ok(()) => Ok(format!("the doorbell of {table} renewed")),
        // The lock was not to be had, or the role may not.
        Err(error) if refusal(&error).is_some() => Ok(format!(
            "the doorbell of {table} is of a former version and stays ({}): it works, and costs writers more; run \
             migrate as the table's owner while no long transaction is open",
            chain(&error)
        )),
        Err(error) => Err(error),
    }
}

/// The version of the relay's tables, 0 if there are none.
///
/// # Errors
/// If they are newer than this relay.
pub(super) async fn known_version(link: &mut Link, names: &Names) -> Result<i32, SourceError> {
    let installed = installed_version(link, names).await?.unwrap_or(0);
    if installed > VERSION {
        return Err(SourceError::Refused(format!(
            "the relay's tables are of version {installed}, newer than the {VERSION} that this relay knows"
        )));
    }
    Ok(installed)
}

/// The relay's own tables as far as they are missing; `done` says it in words.
pub(super) fn relay_tables(names: &Names, installed: i32, done: &mut Vec<String>) -> String {
    let mut script = bookkeeping_sql(names);
    for (version, (name, migration)) in (1..).zip(MIGRATIONS) {
        if version > installed {
            script.push_str(&filled(migration, names));
            script.push_str(&record_sql(names, version, name));
            done.push(format!("migration {version} ({name}) applied"));
        }
    }
    if installed == VERSION {
        done.push(format!(
            "the relay's tables are of version {VERSION} already"
        ));
    }
    script
}

/// The trigger of the outbox table, with its function.
pub(super) fn doorbell(names: &Names) -> String {
    filled(DOORBELL, names)
}

/// The whole SQL of a new installation, with the privileges that each role needs.
#[must_use]
pub fn printed(config: &config::Postgres) -> String {
    let names = Names::new(&config.table, &config.columns);
    let mut script = format!("BEGIN;\n\n{}\n", filled(OUTBOX, &names));
    script.push_str(&bookkeeping_sql(&names));
    script.push_str("\n\n");
    for (version, (name, migration)) in (1..).zip(MIGRATIONS) {
        script.push_str(&filled(migration, &names));
        script.push('\n');
        script.push_str(&record_sql(&names, version, name));
        script.push('\n');
    }
    if config.mode != Mode::Poll {
        script.push('\n');
        script.push_str(&doorbell(&names));
    }
    script.push_str("\nCOMMIT;\n\n");
    script.push_str(&filled(GRANTS, &names));
    script
}

/// The version of the relay's tables; `None` if there are none.
pub(super) async fn installed_version(
    link: &mut Link,
    names: &Names,
) -> Result<Option<i32>, SourceError> {
    let bookkeeping = format!("{}_outbox_relay_migrations", names.schema);
    if !holds(link, &exists_sql(&sql::literal(&bookkeeping))).await? {
        return Ok(None);
    }
    let mut version = None;
    let sql = format!("SELECT max(version) AS version FROM {bookkeeping}");
    link.query(MIGRATE, sql, |row| {
        version = row.try_get("version")?;
        Ok(())
    })
    .await?;
    Ok(version)
}

/// Whether a condition is true in the database.
async fn holds(link: &mut Link, condition: &str) -> Result<bool, SourceError> {
    let mut holds = false;
    link.query(MIGRATE, format!("SELECT {condition} AS holds"), |row| {
        holds = row.try_get("holds")?;
        Ok(())
    })
    .await?;
    Ok(holds)
}

fn exists_sql(table_literal: &str) -> String {
    format!("to_regclass({table_literal}) IS NOT NULL")
}

/// Whether there is a doorbell of any version.
fn rings_sql(names: &Names) -> String {
    format!("{} AND {RINGS})", trigger_sql(names))
}

/// Whether there is a doorbell as it is installed now. The one of before tries the lock in its function alone.
fn has_doorbell_sql(names: &Names) -> String {
    format!("{} AND tgqual IS NOT NULL AND {RINGS})", trigger_sql(names))
}

/// That there is our trigger; to be closed by a bracket.
fn trigger_sql(names: &Names) -> String {
    format!(
        "EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass({}) AND {TRIGGER}",
        names.table_literal()
    )
}

fn bookkeeping_sql(names: &Names) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {}_outbox_relay_migrations (\n    version integer PRIMARY KEY,\n    \
         name text NOT NULL,\n    applied_at timestamptz NOT NULL DEFAULT now()\n);\n",
        names.schema
    )
}

fn record_sql(names: &Names, version: i32, name: &str) -> String {
    // Two replicas may have waited for one lock: the second must fail rather than apply it again.
    format!(
        "INSERT INTO {}_outbox_relay_migrations (version, name) VALUES ({version}, '{name}');\n",
        names.schema
    )
}

fn filled(template: &str, names: &Names) -> String {
    template
        .replace("{table}", &names.table)
        .replace("{table_literal}", &names.table_literal())
        .replace("{sequence}", &sequence_name(names))
        .replace("{schema}", &names.schema)
}

/// What the sequence of `seq` is called when the table gets it: by PostgreSQL for a column of that name, and so by
/// us for any other.
pub(super) fn sequence_name(names: &Names) -> String {
    let bare = names.table.trim_end_matches('"');
    format!("{bare}_seq_seq\"")
}

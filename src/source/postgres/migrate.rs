//! The tables: made by `outbox-relay migrate`, printed by `migrate --print`.
//!
//! Bookkeeping has a table of its own name, for the application may use sqlx's migrations too.

use sqlx::Row as _;

use super::inspect;
use super::link::{Link, refusal};
use super::sql::{self, Names};
use super::trigger::{Firing, Trigger};
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
    let mut trigger = Trigger::Missing;
    if let Some(table) = inspect::table(&mut link, &names, &config.columns).await? {
        // Before anything is installed on a table that no relay could work with.
        table.check(&names, &config.columns)?;
        trigger = table.trigger;
        done.push(format!("{} is there already", names.table));
    } else {
        script.push_str(&filled(OUTBOX, &names));
        done.push(format!("{} created", names.table));
    }
    script.push_str(&relay_tables(&names, installed, &mut done));
    // Writers that use two-phase commit can't PREPARE after a NOTIFY: they get no trigger.
    let wants_doorbell = config.mode != Mode::Poll;
    if wants_doorbell && trigger == Trigger::Missing {
        script.push_str(&doorbell(&names));
        done.push(format!("the doorbell of {} installed", names.table));
    }
    link.query(MIGRATE, script, |_| Ok(())).await?;
    // Whoever disabled it must know why; to be renewed would enable it.
    if let Trigger::Former(firing @ (Firing::Enabled | Firing::Always)) = trigger
        && wants_doorbell
    {
        done.push(renew(&mut link, &names, firing).await?);
    }
    inspect::inspect(&mut link, &names, &config.columns, config.mode).await?;
    link.close().await;
    Ok(done)
}

/// Renews a doorbell of a former version, which rings as well and only costs more: so this neither waits for long, for
/// new writers wait behind it, nor fails a relay that is about to start.
async fn renew(link: &mut Link, names: &Names, firing: Firing) -> Result<String, SourceError> {
    let mut script = format!("{LOCK}; SET LOCAL lock_timeout = '1s'; {}", doorbell(names));
    // To be renewed it is replaced, which forgets that it rings for writers that are replicas, too.
    if firing == Firing::Always {
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
    if !exists(link, &bookkeeping).await? {
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

async fn exists(link: &mut Link, table: &str) -> Result<bool, SourceError> {
    let mut exists = false;
    let sql = format!(
        "SELECT to_regclass({}) IS NOT NULL AS is_there",
        sql::literal(table)
    );
    link.query(MIGRATE, sql, |row| {
        exists = row.try_get("is_there")?;
        Ok(())
    })
    .await?;
    Ok(exists)
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
        .replace("{sequence}", &sequence_name(names))
        .replace("{schema}", &names.schema)
}

/// What the sequence of `seq` is called when the table gets it: by PostgreSQL for a column of that name, and so by
/// us for any other.
pub(super) fn sequence_name(names: &Names) -> String {
    let bare = names.table.trim_end_matches('"');
    format!("{bare}_seq_seq\"")
}

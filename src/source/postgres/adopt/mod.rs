//! Adopting an outbox table that is there already: `outbox-relay migrate --adopt`.
//!
//! One transaction under one lock gives the table its `seq`, its doorbell, and ledgers that begin where the worker
//! before has stopped. Writers wait for it and go on as before; their INSERTs need not change.

mod additions;
mod advice;
mod published;
mod script;
mod survey;

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use self::script::Plan;
use self::survey::Survey;
use super::columns::{self, Column};
use super::link::{Link, failed};
use super::sql::Names;
use super::{inspect, migrate};
use crate::config::{self, Config, Mode};
use crate::source::SourceError;

pub use self::published::{InvalidPublished, Published};

const ADOPT: &str = "cannot adopt the outbox table";
const ESTIMATE: &str = "cannot try the adoption on a copy of some rows";

/// Rows that the time is estimated by: enough to be measured, few enough to be copied in a second.
const SAMPLE_ROWS: i64 = 20_000;

/// The estimated time is multiplied by this: a large table is sorted and read less well than a small one.
const CAUTION: f64 = 1.5;

/// How often the lock is tried: a table in steady use has its moments.
const LOCK_ATTEMPTS: u32 = 10;

/// The pause in which those that had to wait go on.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// What the operator decides.
#[derive(Debug, Clone, Copy)]
pub struct Choices {
    /// What was published before; `None`: the table says it by `sent_at`.
    pub published: Option<Published>,
    /// How long the table's lock is waited for at once, for writers queue up behind. Should be longer than
    /// `deadlock_timeout` (1 s), after which PostgreSQL sends an autovacuum out of the way.
    pub lock_wait: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    rows: i64,
    /// Rows that count as delivered.
    published: i64,
    /// How long writers could not use the table.
    locked: Duration,
}

/// A table that can be adopted, and how.
#[derive(Debug)]
pub struct Adoption {
    link: Link,
    mode: Mode,
    columns: config::Columns,
    plan: Plan,
    survey: Survey,
    /// What the relay's own tables lack, in words.
    done: Vec<String>,
}

impl Adoption {
    /// Looks at the table and decides what is to be done; changes nothing. `None`: it is adopted already.
    ///
    /// # Errors
    /// If the database can't be reached, the table can't be adopted, or what was published is needed and not given; in
    /// words for an operator.
    pub async fn plan(
        config: &Config,
        source: &config::Source,
        postgres: &config::Postgres,
        choices: Choices,
    ) -> Result<Option<Self>, SourceError> {
        let names = Names::new(&postgres.table, &postgres.columns);
        let mut link = Link::new(super::connect_options(postgres, "migrate")?);
        let table = inspect::table(&mut link, &names, &postgres.columns).await?;
        let Some(table) = table else {
            return Err(SourceError::Refused(format!(
                "there is no table {} to adopt: `outbox-relay migrate` creates one",
                names.table
            )));
        };
        if table.is_numbered() {
            link.close().await;
            return Ok(None);
        }
        table.check_kind(&names)?;
        let installed = migrate::known_version(&mut link, &names).await?;
        let found = columns::columns_of(&mut link, &names).await?;
        let added = additions::added(&found, &names, &postgres.columns)?;
        let all: Vec<Column> = found.iter().chain(&added).cloned().collect();
        columns::check_columns(&all, &names, &postgres.columns)?;
        let survey = Survey::take(&mut link, &names, &postgres.columns, &added).await?;
        let mut done = Vec::new();
        let relay_tables = migrate::relay_tables(&names, installed, &mut done);
        let plan = Plan {
            relay: config.relay.name.clone(),
            source: source.name.clone(),
            sinks: sinks(config, &source.name),
            relay_tables,
            doorbell: postgres.mode != Mode::Poll,
            marks: source.after_delivery == config::AfterDelivery::Mark,
            deletes: source.after_delivery == config::AfterDelivery::Delete,
            retention: source.retention.is_some(),
            published: choices.published,
            lock_wait: choices.lock_wait,
            columns: all,
            added: added.into_iter().map(|column| column.name).collect(),
            created_at: postgres.columns.created_at.clone(),
            id: postgres.columns.id.clone(),
            names,
        };
        plan.check_published(&survey)?;
        refuse_ledgers(&mut link, &plan, installed).await?;
        Ok(Some(Self {
            link,
            mode: postgres.mode,
            columns: postgres.columns.clone(),
            plan,
            survey,
            done,
        }))
    }

    /// What is about to happen, a line each.
    #[must_use]
    pub fn announcement(&self) -> Vec<String> {
        advice::announcement(&self.plan, &self.survey)
    }

    /// What the operator has to do besides, a line each.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        advice::advice(&self.plan, &self.survey)
    }

    /// The privileges that applications and the relay need, as SQL.
    #[must_use]
    pub fn grants(&self) -> String {
        advice::grants(&self.plan, &self.survey)
    }

    /// The exact SQL of [`Adoption::run`].
    #[must_use]
    pub fn script(&self) -> String {
        let mut script = String::new();
        let statements = self.plan.statements();
        for statement in statements.into_iter().chain([self.plan.analyze()]) {
            script.push_str(statement.trim_end().trim_end_matches(';'));
            script.push_str(";\n");
        }
        script
    }

    /// How long writers will wait, in words: tried on a copy of some rows, in a transaction that is rolled back.
    ///
    /// # Errors
    /// If the copy can't be made.
    pub async fn estimate(&mut self) -> Result<String, SourceError> {
        let sample = self.plan.sample(SAMPLE_ROWS);
        let mut connection = self.link.checkout(ESTIMATE).await?;
        let execution = |error| failed(ESTIMATE, error);
        for statement in &sample.prepare {
            execute(&mut connection, statement)
                .await
                .map_err(execution)?;
        }
        let since = Instant::now();
        for statement in &sample.number {
            execute(&mut connection, statement)
                .await
                .map_err(execution)?;
        }
        let measured = since.elapsed();
        execute(&mut connection, "ROLLBACK")
            .await
            .map_err(execution)?;
        self.link.give_back(connection);
        Ok(advice::estimate(&self.survey, measured))
    }

    /// Does it; returns what was done, a line each.
    ///
    /// # Errors
    /// If the table is in use again and again for longer than writers may be kept waiting, or the database refuses:
    /// nothing was changed then.
    pub async fn run(&mut self) -> Result<Vec<String>, SourceError> {
        let mut attempts = 0;
        let outcome = loop {
            attempts += 1;
            match self.attempt().await? {
                Some(outcome) => break outcome,
                None if attempts < LOCK_ATTEMPTS => tokio::time::sleep(LOCK_PAUSE).await,
                None => return Err(self.in_use().await?),
            }
        };
        inspect::inspect(&mut self.link, &self.plan.names, &self.columns, self.mode).await?;
        self.link.close().await;
        let mut done = advice::done(&self.plan, &outcome);
        done.append(&mut self.done);
        Ok(done)
    }

    /// The transaction; `None` if the lock could not be had, and everything is as before.
    async fn attempt(&mut self) -> Result<Option<Outcome>, SourceError> {
        let mut connection = self.link.checkout(ADOPT).await?;
        match self.transact(&mut connection).await {
            Ok(outcome) => {
                if let Err(error) = execute(&mut connection, &self.plan.analyze()).await {
                    tracing::warn!(error = %error, "not analyzed: autovacuum will do it");
                } else {
                    self.link.give_back(connection);
                }
                Ok(Some(outcome))
            }
            Err(error) if is_lock_timeout(&error) => {
                let undone = execute(&mut connection, "ROLLBACK").await;
                undone.map_err(|error| failed(ADOPT, error))?;
                self.link.give_back(connection);
                Ok(None)
            }
            Err(error) => Err(failed(ADOPT, error)),
        }
    }

    async fn transact(&self, connection: &mut PgConnection) -> Result<Outcome, sqlx::Error> {
        let mut outcome = Outcome::default();
        let mut locked_at = Instant::now();
        for statement in self.plan.statements() {
            if let Some((rows, published)) = execute(connection, &statement).await? {
                outcome.rows = rows;
                outcome.published = published;
            }
            if statement.contains(script::LOCK_TABLE) {
                locked_at = Instant::now();
            }
        }
        outcome.locked = locked_at.elapsed();
        Ok(outcome)
    }

    /// Who keeps the table from being locked.
    async fn in_use(&mut self) -> Result<SourceError, SourceError> {
        let mut users = Vec::new();
        let sql = self.plan.users_sql();
        self.link
            .query(ADOPT, sql, |row| {
                users.push(row.try_get::<String, _>("holder")?);
                Ok(())
            })
            .await?;
        Ok(SourceError::Refused(advice::in_use(&self.plan, &users)))
    }
}

/// Sinks whose ledgers are stored by the adoption: those that don't say themselves where they start.
fn sinks(config: &Config, source: &str) -> Vec<String> {
    let silent = config.fed_by(source).filter(|sink| sink.start.is_none());
    silent.map(|sink| sink.name.clone()).collect()
}

/// Ledgers under the source's name would speak of another table's rows.
async fn refuse_ledgers(link: &mut Link, plan: &Plan, installed: i32) -> Result<(), SourceError> {
    if installed == 0 {
        return Ok(());
    }
    let mut ledgers = 0_i64;
    link.query(ADOPT, plan.count_ledgers_sql(), |row| {
        ledgers = row.try_get("ledgers")?;
        Ok(())
    })
    .await?;
    if ledgers == 0 {
        return Ok(());
    }
    Err(SourceError::Refused(format!(
        "the relay {} has {ledgers} ledgers of a source {} already, which speak of other numbers: give the source \
         another name, or, if they are of no use any more: {}",
        plan.relay,
        plan.source,
        plan.drop_ledgers_sql()
    )))
}

/// Runs one statement for as long as it takes; a row is (rows, published ones).
async fn execute(
    connection: &mut PgConnection,
    statement: &str,
) -> Result<Option<(i64, i64)>, sqlx::Error> {
    if statement.contains(script::COUNTED) {
        let row = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .fetch_one(connection)
            .await?;
        return Ok(Some((row.try_get("rows")?, row.try_get("published")?)));
    }
    connection
        .execute(AssertSqlSafe(statement.to_owned()))
        .await
        .map(|_| None)
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "55P03")
}

//! Statements that are asked again and again: planned once for each connection, which is half of what a small read costs.
//!
//! They are prepared and executed by statements of the simple protocol, so that rows come as they do otherwise, and under
//! names of our own. Only where the connection leads to the server itself: behind a pooler, which hands its connections
//! around, each message is planned by itself.

use sqlx::Row as _;
use sqlx::postgres::{PgConnectOptions, PgRow};

use super::{Link, refusal};
use crate::source::SourceError;

/// How a plan is made that stays good whatever becomes of the table: by the primary key, without a look at how many rows
/// there are now.
const PLANNING: [(&str, &str); 3] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
];

/// The server doesn't have a statement of this name, or has one already: a connection is not ours alone after all.
const NOT_OURS: [&str; 2] = ["26000", "42P05"];

/// A statement with parameters.
pub(in super::super) struct Prepared {
    /// Unlike any other's in the world, for a pooler could bring us upon it.
    pub(in super::super) name: String,
    /// The types of its parameters.
    pub(in super::super) types: &'static str,
    /// What to prepare; `None` if the connection has it.
    pub(in super::super) sql: Option<String>,
}

/// What a link knows of plans.
#[derive(Debug, Default)]
pub(super) struct Plans {
    /// What follows holds of this connection.
    generation: Option<u64>,
    /// Whether its session plans as it was asked to.
    are_kept: bool,
    /// The names of the statements that it has.
    prepared: Vec<String>,
    /// A statement was not there when it should have been.
    are_lost: bool,
}

impl Link {
    /// A link whose statements may be prepared.
    pub(in super::super) fn planning_once(options: PgConnectOptions) -> Self {
        Self {
            planning: &PLANNING,
            ..Self::new(options)
        }
    }

    /// Whether statements may be prepared on the connection, which is made if need be.
    pub(in super::super) async fn plans_once(
        &mut self,
        action: &'static str,
    ) -> Result<bool, SourceError> {
        if self.pooled || self.plans.are_lost {
            return Ok(false);
        }
        if self.plans.generation.is_none() || self.plans.generation != self.generation() {
            // A pooler may swallow settings, and say nothing.
            let kept = PLANNING
                .map(|(name, value)| format!("current_setting('{name}') = '{value}'"))
                .join(" AND ");
            let mut are_kept = false;
            self.query(action, format!("SELECT {kept} AS kept"), |row| {
                are_kept = row.try_get("kept")?;
                Ok(())
            })
            .await?;
            self.plans = Plans {
                generation: self.generation(),
                are_kept: are_kept && !self.pooled,
                ..Plans::default()
            };
        }
        Ok(self.plans.are_kept)
    }

    /// Whether the connection has a statement of this name.
    pub(in super::super) fn has_prepared(&self, name: &str) -> bool {
        self.plans.prepared.iter().any(|known| known == name)
    }

    /// Executes a statement, having prepared it if need be, and hands each row to `take` as it arrives.
    pub(in super::super) async fn execute(
        &mut self,
        action: &'static str,
        statement: Prepared,
        arguments: &str,
        take: impl FnMut(PgRow) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), SourceError> {
        let Prepared { name, types, sql } = statement;
        let mut message = format!("EXECUTE {name} ({arguments})");
        if let Some(sql) = &sql {
            message.insert_str(0, &format!("PREPARE {name} ({types}) AS {sql}; "));
        }
        let result = self.query(action, message, take).await;
        match &result {
            Ok(()) if sql.is_some() => self.plans.prepared.push(name),
            Ok(()) => {}
            Err(error) => {
                self.plans.are_lost = refusal(error).is_some_and(|code| NOT_OURS.contains(&&*code));
            }
        }
        result
    }
}

//! What an adoption says to the operator.

use std::time::Duration;

use super::super::migrate::sequence_name;
use super::super::sql::quoted;
use super::published::Published;
use super::script::Plan;
use super::survey::Survey;
use super::{CAUTION, LOCK_ATTEMPTS, Outcome, SAMPLE_ROWS};
use crate::source::SourceError;

impl Plan {
    /// Refuses to guess what was published.
    pub(super) fn check_published(&self, survey: &Survey) -> Result<(), SourceError> {
        let known = survey.rows == 0 || survey.sent.is_some_and(|sent| sent > 0);
        if matches!(self.published, Some(Published::Before(_))) && !self.by_time() {
            return Err(SourceError::Refused(format!(
                "--published-before: {} has no column that says when a row was created; say none or all",
                self.names.table
            )));
        }
        if known || self.published.is_some() || self.sinks.is_empty() {
            return Ok(());
        }
        let why = match survey.sent {
            None => "it has no column sent_at",
            Some(_) => "none has sent_at",
        };
        Err(SourceError::Refused(format!(
            "{} has {} rows, and nothing says which of them were published: {why}. Say it by --published-before: \
             none (all rows are to be published); a time such as 2026-01-31T12:00:00Z (what was created before \
             counts as published: take one a little too early, for then some are published twice and none is lost); \
             all (every row counts as published: only if no writer runs)",
            self.names.table, survey.rows
        )))
    }
}

pub(super) fn announcement(plan: &Plan, survey: &Survey) -> Vec<String> {
    let table = &plan.names.table;
    let mut lines = vec![format!(
        "{table} has {} rows, {} with its indexes",
        survey.rows,
        size(survey.bytes)
    )];
    let seq = &plan.names.columns.seq;
    if plan.by_time() {
        lines.push(format!(
            "its rows get {seq}, numbered by {}, those of the same time as they lie in the table; no column that \
             they have is changed. The table is rewritten three times, which needs up to {} of free disk until it \
             is done",
            plan.names.columns.created_at,
            size(survey.bytes * 3)
        ));
    } else {
        lines.push(format!(
            "its rows get {seq}, numbered as they lie in the table, for it has no time to number them by: that is only \
             roughly the order in which they came. No column that they have is changed. The table is rewritten, which needs up to {} of free disk until it is done",
            size(survey.bytes)
        ));
        lines.push(format!(
            "it also gets {}, filled by now(): rows that are there say the time of the adoption",
            plan.names.columns.created_at
        ));
    }
    if plan.adds(&plan.id) {
        lines.push(format!(
            "it also gets {}, filled by gen_random_uuid(): consumers know an event by it",
            quoted(&plan.id)
        ));
    }
    lines.extend(delivered(plan, survey));
    if survey.is_swept() {
        lines.push(swept(plan, survey));
    }
    lines.push(
        "stop whatever has published the events until now before a relay starts: both would publish them".into(),
    );
    lines
}

/// What the first ledgers hold, and what follows from it.
fn delivered(plan: &Plan, survey: &Survey) -> Vec<String> {
    if plan.sinks.is_empty() {
        return vec!["no ledger is stored: every sink says by its start where it begins".into()];
    }
    let sent = match survey.sent {
        Some(sent) => format!("{sent} rows have sent_at and count as delivered"),
        None => "no row says that it was published".to_owned(),
    };
    let rest = match (plan.published, &survey.oldest_unsent) {
        (Some(Published::Everything), _) => "all others count as delivered, too".to_owned(),
        (Some(Published::Before(time)), _) => {
            format!("what was created before {time} counts as delivered")
        }
        (_, Some(oldest)) => format!(
            "{} are to be delivered, the oldest of {oldest}",
            survey.rows - survey.sent.unwrap_or(0)
        ),
        (_, None) => format!(
            "{} are to be delivered",
            survey.rows - survey.sent.unwrap_or(0)
        ),
    };
    let mut lines = vec![format!("{sent}; {rest} (sinks: {})", plan.sinks.join(", "))];
    if plan.deletes {
        lines.push(
            "after_delivery = \"delete\": the relay will delete what counts as delivered".into(),
        );
    } else if plan.retention {
        lines.push(
            "retention is set: the relay will delete what counts as delivered and is older".into(),
        );
    }
    lines
}

/// Rows that are inserted and deleted by one transaction are never visible to anybody.
fn swept(plan: &Plan, survey: &Survey) -> String {
    format!(
        "warning: {table} is empty, though {} rows were inserted and {} deleted since its statistics began. If the \
         application deletes each row in the transaction that inserts it (as Debezium's outbox extensions do, for \
         only the WAL is read), no relay that reads the table will ever see an event: switch that off (Quarkus: \
         quarkus.debezium-outbox.remove-after-insert=false) and have the relay delete them by after_delivery = \
         \"delete\". If a worker deletes what it has published, stop it",
        survey.inserted,
        survey.deleted,
        table = plan.names.table,
    )
}

pub(super) fn estimate(survey: &Survey, measured: Duration) -> String {
    let sampled = survey.rows.min(SAMPLE_ROWS);
    if sampled == 0 {
        return "writers will wait for a moment: there are no rows".into();
    }
    #[allow(clippy::cast_precision_loss)] // an estimate
    let times = survey.rows as f64 / sampled as f64;
    let caution = if survey.rows > sampled { CAUTION } else { 1.0 };
    format!(
        "writers will wait for about {:.1} s (a copy of {sampled} rows took {:.2} s and was rolled back); for longer \
         if the table doesn't fit into memory",
        measured.as_secs_f64() * times * caution,
        measured.as_secs_f64()
    )
}

pub(super) fn done(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let Outcome {
        rows,
        published,
        locked,
    } = outcome;
    let mut lines = vec![format!(
        "{} adopted: {rows} rows numbered; it was locked for {:.1} s",
        plan.names.table,
        locked.as_secs_f64()
    )];
    if !plan.sinks.is_empty() {
        lines.push(format!(
            "{published} rows count as delivered, {} are to be delivered",
            rows - published
        ));
    }
    if plan.doorbell {
        lines.push(format!("the doorbell of {} installed", plan.names.table));
    }
    lines
}

pub(super) fn in_use(plan: &Plan, users: &[String]) -> String {
    let users = match users {
        [] => "somebody who is gone by now".to_owned(),
        users => users.join(", "),
    };
    format!(
        "the table {} could not be locked in {LOCK_ATTEMPTS} attempts of {} s, and nothing was changed; writers \
         queue up behind each. It was in use by {users}: end that transaction, or, where all are so long, give \
         --lock-wait more seconds",
        plan.names.table,
        plan.lock_wait.as_secs()
    )
}

/// What stands in the way of a relay, or costs it.
pub(super) fn advice(plan: &Plan, survey: &Survey) -> Vec<String> {
    let table = &plan.names.table;
    let mut lines = Vec::new();
    if plan.marks {
        lines.extend(survey.marked_indexes.iter().map(|index| {
            format!(
                "warning: every mark of sent_at has to change the index {index}, and so costs several times as much. \
                 The relay doesn't need it: once the old worker is gone, DROP INDEX CONCURRENTLY {index}, and \
                 ALTER TABLE {table} SET (fillfactor = 50)"
            )
        }));
    }
    for trigger in &survey.notifiers {
        lines.push(format!(
            "warning: the trigger {trigger} seems to NOTIFY, which makes committing writers queue up. Once nobody \
             listens any more: DROP TRIGGER {trigger} ON {table}"
        ));
    }
    let seq = &plan.names.columns.seq;
    for role in &survey.inserters {
        lines.push(format!(
            "warning: {role} may insert into every column, {seq} too: REVOKE INSERT ON {table} FROM {role}, and \
             GRANT INSERT on the columns as `migrate --adopt --print` has it, or below"
        ));
    }
    lines.push(format!(
        "the owner {} may set {seq} in any case: let applications use another role",
        survey.owner
    ));
    lines
}

/// The privileges, as SQL.
pub(super) fn grants(plan: &Plan, survey: &Survey) -> String {
    let table = &plan.names.table;
    let columns: Vec<String> = plan
        .columns
        .iter()
        .map(|column| (quoted(&column.name), column))
        .filter(|(name, column)| *name != plan.names.columns.seq && !column.generated)
        .map(|(name, _)| name)
        .collect();
    let app = match &survey.inserters[..] {
        [] => "app".to_owned(),
        roles => roles.join(", "),
    };
    let mark = match &plan.names.columns.sent_at {
        Some(sent_at) => format!(" UPDATE ({sent_at}),"),
        None => String::new(),
    };
    let schema = &plan.names.schema;
    format!(
        "-- Privileges. Put your own roles for app and relay.\n\n\
         -- Applications write every column except {seq}, so that no COPY and no OVERRIDING can choose it.\n\
         REVOKE INSERT ON {table} FROM {app};\n\
         GRANT INSERT ({columns}) ON {table} TO {app};\n\n\
         -- The relay reads and settles events, and keeps its own tables.\n\
         GRANT SELECT,{mark} DELETE ON {table} TO relay;\n\
         GRANT SELECT ON SEQUENCE {sequence} TO relay;\n\
         GRANT SELECT ON {schema}_outbox_relay_migrations TO relay;\n\
         GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}outbox_lease, {schema}outbox_incarnation,\n    \
         {schema}outbox_ledger, {schema}outbox_source, {schema}outbox_dead_letter TO relay;\n",
        seq = plan.names.columns.seq,
        columns = columns.join(", "),
        sequence = sequence_name(&plan.names),
    )
}

/// Bytes for people.
fn size(bytes: i64) -> String {
    #[allow(clippy::cast_precision_loss)] // for people
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 {
        format!("{:.1} GiB", mib / 1024.0)
    } else {
        format!("{mib:.1} MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(8192 * 64), "0.5 MiB");
        assert_eq!(size(3 << 30), "3.0 GiB");
    }
}

//! The demo's application: fantasy-football drafts. Each pick is a business row and its event, in one transaction.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;
use serde::Serialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::tally::Tally;

/// Drafts that go on at the same time: the ordering keys.
pub(super) const DRAFTS: [&str; 3] = ["sunday-league", "office-cup", "dynasty-12"];

/// One transaction of so many is rolled back, after it has written both rows.
const ROLLED_BACK_ONE_IN: u64 = 9;

const TEAMS: [&str; 10] = [
    "End Zone Owls",
    "Fourth and Long",
    "Hail Marys",
    "Blitz Kids",
    "Gridiron Geese",
    "Monday Quarterbacks",
    "Pigskin Pirates",
    "The Audibles",
    "Turf Burners",
    "Victory Formation",
];

const POSITIONS: [&str; 8] = ["RB", "WR", "QB", "WR", "RB", "TE", "WR", "K"];

#[rustfmt::skip]
const FIRST_NAMES: [&str; 16] = [
    "Ace", "Bo", "Cash", "Dex", "Eli", "Finn", "Gus", "Hank", "Ike", "Jett", "Knox", "Leo", "Mack", "Nate", "Otis",
    "Rex",
];

#[rustfmt::skip]
const LAST_NAMES: [&str; 16] = [
    "Abernathy", "Barlow", "Castellan", "Dupree", "Eastmoor", "Fontaine", "Granger", "Holloway", "Ironside", "Jessup",
    "Kingsley", "Lockhart", "Maddox", "Nightingale", "Overstreet", "Pemberton",
];

/// The payload of the event `PickMade`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PickMade {
    draft_id: &'static str,
    pick: u64,
    round: u64,
    team: &'static str,
    player: String,
    position: &'static str,
}

/// Writes picks, one transaction each.
#[derive(Debug)]
pub(super) struct Drafts {
    connection: SqliteConnection,
    tally: Arc<Tally>,
    /// Picks made in each draft, and players called, who are not all picked.
    picks: [u64; DRAFTS.len()],
    players: [u64; DRAFTS.len()],
    transactions: u64,
}

impl Drafts {
    /// Opens the application's own connection and makes its table.
    pub(super) async fn open(file: &Path, tally: Arc<Tally>) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new().filename(file);
        let mut connection = options.disable_statement_logging().connect().await?;
        let table = "CREATE TABLE pick (draft_id TEXT, number INTEGER, team TEXT NOT NULL, player TEXT NOT NULL, \
                     PRIMARY KEY (draft_id, number), UNIQUE (draft_id, player))";
        connection.execute(table).await?;
        Ok(Self {
            connection,
            tally,
            picks: [0; DRAFTS.len()],
            players: [0; DRAFTS.len()],
            transactions: 0,
        })
    }

    /// Makes picks, `rate` per second, until `events` of them are committed, or `enough`.
    pub(super) async fn run(
        mut self,
        events: u64,
        rate: u32,
        enough: &CancellationToken,
    ) -> Result<(), sqlx::Error> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        while self.picks.iter().sum::<u64>() < events {
            if enough.run_until_cancelled(ticks.tick()).await.is_none() {
                break;
            }
            let draft = rand::rng().random_range(0..DRAFTS.len());
            self.pick(draft).await?;
        }
        self.connection.close().await
    }

    /// One pick of a draft: committed, or rolled back as if its clock had run out.
    async fn pick(&mut self, draft: usize) -> Result<(), sqlx::Error> {
        let pick = pick_made(draft, self.picks[draft] + 1, self.players[draft]);
        self.players[draft] += 1;
        self.transactions += 1;
        let id = Uuid::now_v7();
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("INSERT INTO pick (draft_id, number, team, player) VALUES (?, ?, ?, ?)")
            .bind(pick.draft_id)
            .bind(pick.pick.cast_signed())
            .bind(pick.team)
            .bind(&pick.player)
            .execute(&mut *transaction)
            .await?;
        let payload =
            serde_json::to_string(&pick).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query(
            "INSERT INTO outbox (id, event_type, aggregate_type, aggregate_id, payload) \
             VALUES (?, 'PickMade', 'Draft', ?, ?)",
        )
        .bind(id.to_string())
        .bind(pick.draft_id)
        .bind(payload)
        .execute(&mut *transaction)
        .await?;
        if self.transactions.is_multiple_of(ROLLED_BACK_ONE_IN) {
            transaction.rollback().await?;
            self.tally.rolled_back(id);
            return Ok(());
        }
        let committing = Instant::now();
        transaction.commit().await?;
        self.picks[draft] += 1;
        self.tally.committed(id, pick.draft_id, committing);
        Ok(())
    }
}

/// Pick `pick` of a draft, in which `called` players were called before.
fn pick_made(draft: usize, pick: u64, called: u64) -> PickMade {
    let teams = TEAMS.len() as u64;
    let round = (pick - 1) / teams + 1;
    let turn = (pick - 1) % teams;
    // A snake draft: every other round goes backwards.
    let seat = if round % 2 == 1 {
        turn
    } else {
        teams - 1 - turn
    };
    // An odd stride meets every combination of names once before any comes again.
    let name = called * 37 + draft as u64 * 101;
    let generation = called / 256;
    let suffix = match generation {
        0 => String::new(),
        1 => " Jr.".to_owned(),
        more => format!(" {}.", more + 1),
    };
    let first = at(&FIRST_NAMES, name);
    let last = at(&LAST_NAMES, name / 16);
    PickMade {
        draft_id: DRAFTS[draft],
        pick,
        round,
        team: at(&TEAMS, seat),
        player: format!("{first} {last}{suffix}"),
        position: at(&POSITIONS, called),
    }
}

/// The item at `index`, counted around.
fn at(items: &[&'static str], index: u64) -> &'static str {
    let index = index % items.len() as u64;
    items[usize::try_from(index).unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_is_called_twice_and_the_snake_turns() {
        let players: BTreeSet<String> = (0..1_000).map(|n| pick_made(0, 1, n).player).collect();
        assert_eq!(players.len(), 1_000);
        let teams: Vec<&str> = (9..=12).map(|pick| pick_made(1, pick, 0).team).collect();
        assert_eq!(
            teams,
            [
                "Turf Burners",
                "Victory Formation",
                "Victory Formation",
                "Turf Burners"
            ]
        );
        assert_eq!(pick_made(1, 11, 0).round, 2);
    }
}

//! A draft pick: the business row and its event in one transaction, so that both are there or neither.
//!
//!     DATABASE_URL=postgres://localhost/draft cargo run --example dual_write
//!
//! The tables of the relay must be there (`outbox-relay migrate`).

#![allow(clippy::print_stdout)]

use std::error::Error;

use outbox_relay::{NewEvent, enqueue};
use serde::Serialize;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

#[derive(Serialize)]
struct PickMade {
    team: &'static str,
    player: &'static str,
    position: &'static str,
    round: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("DATABASE_URL")?;
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect(&url)
        .await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS draft (id text PRIMARY KEY, picks bigint NOT NULL DEFAULT 0); \
         CREATE TABLE IF NOT EXISTS pick (draft_id text, number bigint, player text, PRIMARY KEY (draft_id, number)); \
         INSERT INTO draft (id) VALUES ('draft-1') ON CONFLICT DO NOTHING",
    )
    .execute(&pool)
    .await?;
    for (team, player, position) in [
        ("Otters", "J. Chase", "WR"),
        ("Herons", "B. Robinson", "RB"),
        ("Badgers", "J. Allen", "QB"),
    ] {
        let id = make_pick(&pool, team, player, position).await?;
        println!("{id} {team} picks {player}");
    }
    Ok(())
}

async fn make_pick(
    pool: &PgPool,
    team: &'static str,
    player: &'static str,
    position: &'static str,
) -> Result<Uuid, Box<dyn Error>> {
    let mut tx = pool.begin().await?;
    // The lock on the aggregate comes first: whoever holds it inserts and commits before the next, and so the
    // events of one draft are published in the order of its picks.
    let row =
        sqlx::query("UPDATE draft SET picks = picks + 1 WHERE id = 'draft-1' RETURNING picks")
            .fetch_one(&mut *tx)
            .await?;
    let number: i64 = row.try_get("picks")?;
    sqlx::query("INSERT INTO pick (draft_id, number, player) VALUES ('draft-1', $1, $2)")
        .bind(number)
        .bind(player)
        .execute(&mut *tx)
        .await?;
    let payload = PickMade {
        team,
        player,
        position,
        round: (number + 11) / 12,
    };
    let event = NewEvent::new("PickMade", &payload)?
        .aggregate_type("draft")
        .key("draft-1");
    let id = enqueue(&mut tx, &event).await?;
    tx.commit().await?;
    Ok(id)
}

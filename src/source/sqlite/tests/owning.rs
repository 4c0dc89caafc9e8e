//! Who holds the lease, and who may write a ledger.

use super::*;

#[tokio::test]
async fn one_relay_has_the_lease_until_it_is_released_or_runs_out() {
    let outbox = Outbox::new().await;
    let (active, standby) = (outbox.source(), outbox.source());
    let first = acquired(&active).await;
    assert!(
        standby
            .acquire(&sinks(&["out"]))
            .await
            .expect("no error")
            .is_none()
    );
    assert!(active.renew(&first.lease).await.expect("no error"));
    // By the database's clock, and not by ours.
    outbox
        .execute("UPDATE outbox_lease SET expires_at = (unixepoch('subsec') - 1) * 1000")
        .await;
    let second = acquired(&standby).await;
    assert!(!active.renew(&first.lease).await.expect("no error"));
    assert!(
        active
            .acquire(&sinks(&["out"]))
            .await
            .expect("no error")
            .is_none()
    );
    active.release(&first.lease).await.expect("no error");
    assert!(
        active
            .acquire(&sinks(&["out"]))
            .await
            .expect("no error")
            .is_none()
    );
    standby.release(&second.lease).await.expect("no error");
    let third = acquired(&active).await;
    // A session that was lost is followed by the next at once.
    let fourth = acquired(&active).await;
    assert_ne!(third.lease.token, fourth.lease.token);
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing() {
    let outbox = Outbox::new().await;
    outbox.write(3).await;
    let (old, new) = (outbox.source(), outbox.source());
    let before = acquired(&old).await;
    let mut store = old.ledger_store(&before.lease, "out");
    store.flush(&flush("{[1,2)}")).await.expect("stored");
    outbox
        .execute("UPDATE outbox_lease SET expires_at = 0")
        .await;
    let after = acquired(&new).await;
    assert_eq!(after.ledgers[0].delivered, ranges("{[1,2)}"));
    let mut late = flush("{[1,4)}");
    late.dead_letters.push(DeadLetter {
        event: crate::fixture::numbered(3),
        reason: "no".into(),
        attempts: 1,
    });
    let fenced = store.flush(&late).await;
    assert!(matches!(fenced, Err(SourceError::Fenced)), "{fenced:?}");
    assert!(
        old.try_reclaim(&before.lease, "out")
            .await
            .expect("no error")
            .is_none()
    );
    let reclaimed = new
        .try_reclaim(&after.lease, "out")
        .await
        .expect("no error");
    assert_eq!(reclaimed.expect("ours").delivered, ranges("{[1,2)}"));
    let letters = "SELECT count(*) FROM outbox_dead_letter";
    let letters: i64 = sqlx::query_scalar(letters)
        .fetch_one(&mut outbox.app().await)
        .await
        .expect("counted");
    assert_eq!(letters, 0);
}

#[tokio::test]
async fn a_command_that_changes_the_ledger_fences_its_relay_which_reads_it_anew() {
    let outbox = Outbox::new().await;
    outbox.write(3).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut store = source.ledger_store(&grant.lease, "out");
    outbox
        .execute("UPDATE outbox_ledger SET delivered = '{[2,3)}', token = 'a command'")
        .await;
    assert!(matches!(
        store.flush(&flush("{[1,4)}")).await,
        Err(SourceError::Fenced)
    ));
    let ledger = source
        .try_reclaim(&grant.lease, "out")
        .await
        .expect("no error")
        .expect("ours");
    assert_eq!(ledger.delivered, ranges("{[2,3)}"));
    store.flush(&flush("{[1,4)}")).await.expect("stored");
}

#[tokio::test]
async fn dead_letters_are_stored_with_the_ledger() {
    let outbox = Outbox::new().await;
    outbox.write(1).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut store = source.ledger_store(&grant.lease, "out");
    for attempts in [1, 4] {
        let mut with_letter = flush("{[1,2)}");
        with_letter.dead_letters.push(DeadLetter {
            event: crate::fixture::numbered(1),
            reason: format!("refused {attempts}"),
            attempts,
        });
        store.flush(&with_letter).await.expect("stored");
    }
    let sql = "SELECT event_id, payload, payload_type, headers, created_at, reason, attempts FROM outbox_dead_letter";
    type Row = (String, Vec<u8>, String, String, String, String, i64);
    let rows: Vec<Row> = sqlx::query_as(sql)
        .fetch_all(&mut outbox.app().await)
        .await
        .expect("read");
    let expected = (
        "00000000-0000-0000-0000-000000000001".to_owned(),
        br#"{"pick":1}"#.to_vec(),
        "json".to_owned(),
        r#"{"traceparent":"00-ab-cd-01"}"#.to_owned(),
        "2024-01-01T00:00:00Z".to_owned(),
        "refused 4".to_owned(),
        4,
    );
    assert_eq!(rows, [expected]);
}

#[tokio::test]
async fn marked_rows_are_gone_through_without_the_writers_lock_and_only_once() {
    let outbox = Outbox::new().await;
    outbox.write(4).await;
    outbox
        .execute("UPDATE outbox SET sent_at = created_at WHERE seq < 3")
        .await;
    let source = outbox.source();
    source.inspect().await.expect("fit");
    let mut writer = outbox.app().await;
    writer.execute("BEGIN IMMEDIATE").await.expect("the lock");
    let prepared = source.prepare(&sinks(&["out"])).await;
    prepared.expect("nobody is waited for");
    // What is marked meanwhile counts. A mark that is taken off shows that its row is not looked at again.
    let meanwhile = "UPDATE outbox SET sent_at = NULL WHERE seq = 1; \
                     UPDATE outbox SET sent_at = created_at WHERE seq = 3; COMMIT";
    writer.execute(meanwhile).await.expect("committed");
    let grant = source.acquire(&sinks(&["out"])).await.expect("no error");
    let grant = grant.expect("free");
    assert_eq!(grant.ledgers[0].delivered, ranges("{[1,4)}"));

    // One that joins goes through the table beside the lease.
    let joins = SinkStart {
        sink: "joins".into(),
        start: Some(config::Start::Unsettled),
    };
    outbox
        .execute("UPDATE outbox SET sent_at = created_at WHERE seq = 1")
        .await;
    let both = [sinks(&["out"]), vec![joins.clone()]].concat();
    source.prepare(&both).await.expect("prepared");
    let grant = source.acquire(&both).await.expect("no error");
    let grant = grant.expect("its own");
    assert_eq!(grant.ledgers.len(), 1, "it joins by itself");
    let joined = source.join(&grant.lease, &joins).await.expect("no error");
    assert_eq!(joined.expect("ours").delivered, ranges("{[1,4)}"));
}

#[tokio::test]
async fn what_was_looked_up_of_another_table_is_forgotten() {
    let outbox = Outbox::new().await;
    outbox.write(4).await;
    outbox
        .execute("UPDATE outbox SET sent_at = created_at")
        .await;
    let source = outbox.source();
    source.inspect().await.expect("fit");
    source.prepare(&sinks(&["out"])).await.expect("prepared");
    outbox
        .execute("DELETE FROM outbox; DELETE FROM sqlite_sequence WHERE name = 'outbox'")
        .await;
    outbox.write(2).await;
    let grant = source.acquire(&sinks(&["out"])).await.expect("no error");
    let grant = grant.expect("free");
    assert_eq!(grant.ledgers[0].delivered, ranges("{}"));
}

#[tokio::test]
async fn ledgers_start_where_they_are_told() {
    let outbox = Outbox::new().await;
    outbox.write(4).await;
    outbox
        .execute("UPDATE outbox SET sent_at = created_at WHERE seq < 3")
        .await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    assert_eq!(grant.ledgers[0].delivered, ranges("{[1,3)}"), "unsettled");
    source.release(&grant.lease).await.expect("released");
    let grant = source.acquire(&sinks(&["out", "joins"])).await;
    let grant = grant.expect("no error").expect("free");
    assert_eq!(grant.ledgers.len(), 1, "a sink that doesn't say has none");
    let joins = source.join(&grant.lease, &sinks(&["joins"])[0]).await;
    let Err(SourceError::Refused(reason)) = joins else {
        panic!("not refused: {joins:?}");
    };
    assert!(reason.contains("sinks.joins.start"), "{reason}");
    let start = |sink: &str, start| SinkStart {
        sink: sink.into(),
        start: Some(start),
    };
    let wanted = [
        start("early", config::Start::Earliest),
        start("late", config::Start::Latest),
    ];
    let grant = source
        .acquire(&wanted)
        .await
        .expect("no error")
        .expect("free");
    let started: Vec<_> = grant
        .ledgers
        .iter()
        .map(|l| (l.sink.as_str(), l.delivered.clone()))
        .collect();
    assert_eq!(
        started,
        [("early", ranges("{}")), ("late", ranges("{[1,5)}"))]
    );
    assert_eq!(grant.strangers, ["out"]);
}

#[tokio::test]
async fn a_sink_joins_under_the_lease_that_is_held_and_under_no_other() {
    let outbox = Outbox::new().await;
    outbox.write(4).await;
    let (active, next) = (outbox.source(), outbox.source());
    let grant = acquired(&active).await;
    let joining = |start| SinkStart {
        sink: "joins".into(),
        start,
    };
    let refused = active.join(&grant.lease, &joining(None)).await;
    assert!(
        matches!(refused, Err(SourceError::Refused(_))),
        "{refused:?}"
    );
    let latest = joining(Some(config::Start::Latest));
    let joined = active.join(&grant.lease, &latest).await.expect("no error");
    assert_eq!(joined.expect("ours").delivered, ranges("{[1,5)}"));
    outbox.write(1).await;
    let mut store = active.ledger_store(&grant.lease, "joins");
    store.flush(&flush("{[1,6)}")).await.expect("our token");
    // It joins again with other settings, and goes on where it was.
    let again = active.join(&grant.lease, &joining(None)).await;
    assert_eq!(
        again.expect("no error").expect("ours").delivered,
        ranges("{[1,6)}")
    );
    outbox
        .execute("UPDATE outbox_lease SET expires_at = 0")
        .await;
    acquired(&next).await;
    let late = SinkStart {
        sink: "late".into(),
        start: Some(config::Start::Earliest),
    };
    let late = active.join(&grant.lease, &late).await.expect("no error");
    assert!(late.is_none(), "the lease is another's");
    let ledgers: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox_ledger")
        .fetch_one(&mut outbox.app().await)
        .await
        .expect("counted");
    assert_eq!(ledgers, 2, "nothing was stored");
}

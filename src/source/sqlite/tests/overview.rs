//! What the tables say of a source.

use super::*;

#[tokio::test]
async fn dead_letters_are_counted_by_sink_and_only_the_source_s_own() {
    let outbox = Outbox::new().await;
    let source = outbox.source();
    assert_eq!(source.dead_letters().await.expect("none"), Some([].into()));
    let own = (source.relay.as_str(), source.name.as_str());
    for ((relay, name), sink, seq) in [
        (own, "a", 1),
        (own, "a", 2),
        (own, "b", 1),
        (("other", "app"), "a", 3),
    ] {
        let sql = format!(
            "INSERT INTO outbox_dead_letter (relay, source, sink, seq, event_id, event_type, payload, payload_type, \
             created_at, reason, attempts) VALUES ('{relay}', '{name}', '{sink}', {seq}, 'id', 'T', '', 'json', '', '', 1)"
        );
        outbox.execute(&sql).await;
    }
    let counts = source.dead_letters().await.expect("counted");
    let expected = [("a".to_owned(), 2), ("b".to_owned(), 1)];
    assert_eq!(counts, Some(expected.into()));
}

#[tokio::test]
async fn an_overview_counts_what_each_ledger_lacks() {
    let outbox = Outbox::new().await;
    let source = outbox.source();
    let overview = async || {
        let overview = source.overview().await.expect("looked");
        overview.expect("it can tell")
    };
    let before = overview().await;
    assert_eq!((before.last_value, before.lease), (0, None));
    assert!(before.ledgers.is_empty() && !before.sequence_changed);

    outbox.write(10).await;
    source.inspect().await.expect("fit");
    let grant = source.acquire(&sinks(&["left", "right"])).await;
    let grant = grant.expect("no error").expect("free");
    let mut store = source.ledger_store(&grant.lease, "left");
    store.flush(&flush("{[1,3),[5,9)}")).await.expect("stored");
    outbox.execute("DELETE FROM outbox WHERE seq = 3").await;
    let now = overview().await;
    assert_eq!(now.last_value, 10);
    assert!(
        now.lease
            .as_ref()
            .is_some_and(|lease| lease.holds_at(now.at))
    );
    let pending: Vec<_> = now
        .ledgers
        .iter()
        .map(|ledger| (ledger.sink.as_str(), ledger.pending, ledger.uncounted))
        .collect();
    assert_eq!(pending, [("left", 3, false), ("right", 9, false)]);
    let oldest = now.ledgers[0].oldest.as_ref().expect("one");
    assert_eq!(oldest.seq, 4, "3 has no row");
    assert!(oldest.created_at.is_some_and(|at| at <= now.at));

    source.release(&grant.lease).await.expect("released");
    let given_up = overview().await.lease.expect("the last one");
    assert_eq!(given_up.expires_at, None);
    // The table counts anew: what the ledger has was not drawn from it.
    outbox
        .execute("DELETE FROM outbox; UPDATE sqlite_sequence SET seq = 2 WHERE name = 'outbox'")
        .await;
    assert!(overview().await.sequence_changed);
}

#[tokio::test]
async fn no_more_are_counted_than_anybody_wants_to_know() {
    let outbox = Outbox::new().await;
    let source = outbox.source();
    acquired(&source).await;
    outbox
        .execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 100001) \
             INSERT INTO outbox (event_type, payload) SELECT 'T', '{}' FROM n",
        )
        .await;
    let overview = source.overview().await.expect("looked").expect("it can");
    let ledger = &overview.ledgers[0];
    assert_eq!((ledger.pending, ledger.uncounted), (100_000, true));
}

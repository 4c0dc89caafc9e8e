//! What is read, and in which order.

use super::*;

#[tokio::test]
async fn what_the_ledger_lacks_is_read_once_and_in_order() {
    let outbox = Outbox::new().await;
    outbox.write(9).await;
    outbox
        .execute("DELETE FROM outbox WHERE seq IN (3, 7)")
        .await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let delivered = ranges("{[1,2),[4,5)}");
    let mut reader = source
        .reader(&grant.lease, &delivered)
        .await
        .expect("a reader");
    let first = reader.read(2, usize::MAX).await.expect("read");
    assert_eq!((seqs(&first.events), first.more), (vec![2, 5], true));
    assert_eq!(first.closed, ranges("{[3,4)}"));
    outbox.execute("DELETE FROM outbox WHERE seq = 9").await;
    let rest = reader.read(ALL.0, ALL.1).await.expect("read");
    assert_eq!((seqs(&rest.events), rest.more), (vec![6, 8], false));
    // The last one will not come back either: its number was drawn.
    assert_eq!((rest.closed, rest.unread), (ranges("{[7,8),[9,10)}"), 0));
    outbox.write(1).await;
    let next = reader.read(ALL.0, ALL.1).await.expect("read");
    assert_eq!(
        (seqs(&next.events), next.closed.is_empty()),
        (vec![10], true)
    );
}

#[tokio::test]
async fn a_read_is_cut_off_by_bytes_but_never_empty() {
    let outbox = Outbox::new().await;
    outbox.write(200).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    let one = reader.read(1_000, 1).await.expect("read");
    assert_eq!(
        (seqs(&one.events), one.more, one.unread),
        (vec![1], true, 199)
    );
    let weight = one.events[0].weight();
    let three = reader.read(1_000, weight * 3 + 10).await.expect("read");
    assert_eq!((seqs(&three.events), three.more), (vec![2, 3, 4], true));
    let again = reader
        .fetch(&[1, 3, 4, 999], weight * 2 + 10)
        .await
        .expect("read");
    assert_eq!((seqs(&again.events), again.gone.len()), (vec![1, 3], 0));
    let again = reader.fetch(&[4, 999], usize::MAX).await.expect("read");
    assert_eq!((seqs(&again.events), again.gone), (vec![4], vec![999]));
}

#[tokio::test]
async fn numbers_of_a_rolled_back_transaction_are_drawn_again() {
    let outbox = Outbox::new().await;
    let insert = "INSERT INTO outbox (event_type, payload) VALUES ('Happened', '1')";
    outbox
        .execute(&format!("BEGIN; {insert}; {insert}; ROLLBACK"))
        .await;
    outbox
        .execute(&format!(
            "BEGIN; {insert}; SAVEPOINT s; {insert}; ROLLBACK TO s; {insert}; COMMIT"
        ))
        .await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let batch = reader_of(&source, &grant)
        .await
        .read(ALL.0, ALL.1)
        .await
        .expect("read");
    assert_eq!(
        (seqs(&batch.events), batch.closed.is_empty()),
        (vec![1, 2], true)
    );
}

#[tokio::test]
async fn rows_become_events_byte_for_byte() {
    let outbox = Outbox::new().await;
    outbox
        .execute(
            "INSERT INTO outbox (id, event_type, aggregate_type, aggregate_id, payload, headers, created_at) VALUES \
             ('01905A6E-0000-7000-8000-000000000001', 'A', 'Draft', 'd-1', '{\"b\":1, \"a\":1e999}', '{\"h\":\"x\"}', \
              '2024-01-01T01:00:00.123456+01:00'), \
             (x'01905A6E000070008000000000000002', 'B', NULL, NULL, x'00ff', NULL, '2024-01-01 00:00:00')",
        )
        .await;
    outbox
        .execute("INSERT INTO outbox (event_type, payload) VALUES ('C', 'text')")
        .await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let batch = reader_of(&source, &grant)
        .await
        .read(ALL.0, ALL.1)
        .await
        .expect("read");
    let [a, b, c] = &batch.events[..] else {
        panic!("three events: {batch:?}");
    };
    let expected = Event {
        seq: 1,
        id: Uuid::from_u128(0x0190_5a6e_0000_7000_8000_0000_0000_0001),
        event_type: "A".into(),
        aggregate_type: Some("Draft".into()),
        aggregate_id: Some("d-1".into()),
        payload: Payload::Text(r#"{"b":1, "a":1e999}"#.into()),
        headers: vec![("h".into(), "x".into())],
        created_at: chrono::DateTime::from_timestamp_micros(1_704_067_200_123_456).expect("a time"),
        flaw: None,
    };
    assert_eq!(**a, expected);
    assert_eq!(
        b.id,
        Uuid::from_u128(0x0190_5a6e_0000_7000_8000_0000_0000_0002)
    );
    assert_eq!(b.payload, Payload::Binary(vec![0, 255].into()));
    assert_eq!(
        (&b.aggregate_id, b.created_at.timestamp()),
        (&None, 1_704_067_200)
    );
    assert_eq!(c.id.get_version_num(), 4);
    assert!(
        (chrono::Utc::now() - c.created_at).num_seconds().abs() < 60,
        "{}",
        c.created_at
    );
}

#[tokio::test]
async fn what_could_not_be_published_is_refused_at_the_insert() {
    let outbox = Outbox::new().await;
    outbox.write(2).await;
    outbox.execute("DELETE FROM outbox WHERE seq = 2").await;
    let mut app = outbox.app().await;
    for (columns, values) in [
        ("seq", "2"),
        ("seq", "1"),
        ("seq", "-5"),
        ("id", "'not a UUID'"),
        ("id", "x'00'"),
        ("created_at", "'soon'"),
        ("event_type", "x'00'"),
        ("aggregate_id", "x'00'"),
        ("payload", "1.5"),
    ] {
        let mut row = vec![("event_type", "'A'"), ("payload", "'1'")];
        row.retain(|(name, _)| *name != columns);
        row.push((columns, values));
        let (names, given): (Vec<_>, Vec<_>) = row.into_iter().unzip();
        let sql = format!(
            "INSERT OR REPLACE INTO outbox ({}) VALUES ({})",
            names.join(", "),
            given.join(", ")
        );
        let result = app.execute(AssertSqlSafe(sql.clone())).await;
        assert!(result.is_err(), "{sql}");
    }
    let moved = app.execute("UPDATE outbox SET seq = 9").await;
    assert!(moved.is_err());
    // What writers do is not: several rows at once, from a trigger, and a number above.
    app.execute("CREATE TABLE pick (n); CREATE TRIGGER pick_made AFTER INSERT ON pick BEGIN \
        INSERT INTO outbox (event_type, payload) VALUES ('A', NEW.n || ''), ('B', NEW.n || ''); END; \
        INSERT INTO pick VALUES (1), (2); INSERT INTO outbox (seq, event_type, payload) VALUES (20, 'C', '3')")
        .await
        .expect("written");
    let source = outbox.source();
    let grant = acquired(&source).await;
    let batch = reader_of(&source, &grant)
        .await
        .read(ALL.0, ALL.1)
        .await
        .expect("read");
    assert_eq!(seqs(&batch.events), [1, 3, 4, 5, 6, 20]);
    assert_eq!(batch.closed, ranges("{[2,3),[7,20)}"));
}

#[tokio::test]
async fn a_writer_that_takes_its_time_does_not_hold_up_reading() {
    let outbox = Outbox::new().await;
    outbox.write(1).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    let mut app = outbox.app().await;
    app.execute("BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Held', '1')")
        .await
        .expect("written");
    let read = tokio::time::timeout(Duration::from_secs(3), reader.read(ALL.0, ALL.1));
    let batch = read.await.expect("at once").expect("read");
    assert_eq!(
        (seqs(&batch.events), batch.closed.is_empty()),
        (vec![1], true)
    );
    app.execute("COMMIT").await.expect("committed");
    assert_eq!(
        seqs(&reader.read(ALL.0, ALL.1).await.expect("read").events),
        [2]
    );
}

#[tokio::test]
async fn emitted_events_are_read() {
    let outbox = Outbox::new().await;
    let event = NewEvent {
        event_type: "PickMade".into(),
        aggregate_type: Some("Draft".into()),
        aggregate_id: Some("d-1".into()),
        payload: r#"{"n":1}"#.into(),
        headers: vec![("b".into(), "2".into()), ("a".into(), "1".into())],
    };
    let id = Writer::new(&outbox.config)
        .write(&event)
        .await
        .expect("written");
    let source = outbox.source();
    let grant = acquired(&source).await;
    let batch = reader_of(&source, &grant)
        .await
        .read(ALL.0, ALL.1)
        .await
        .expect("read");
    let read = &batch.events[0];
    assert_eq!((read.id, read.event_type.as_str()), (id, "PickMade"));
    assert_eq!(
        read.headers,
        [("a".into(), "1".into()), ("b".into(), "2".into())]
    );
}

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

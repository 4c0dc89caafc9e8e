-- The outbox: the application inserts, the relay reads, marks and deletes.
-- seq is the relay's order and only the database draws it. AUTOINCREMENT never gives a number out twice, even if
-- its row was deleted; a rolled-back transaction gives its numbers back, so that there are no holes.
-- payload is text (JSON, as a rule) or a blob, kept byte for byte. id is a UUID, as text or as 16 bytes.
-- There is no second index: every writer would pay for it.
CREATE TABLE {table} (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT NOT NULL DEFAULT (lower(
                       hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
                       || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-'
                       || hex(randomblob(6)))),
    event_type     TEXT NOT NULL,
    aggregate_type TEXT,
    aggregate_id   TEXT,
    payload        BLOB NOT NULL,
    headers        TEXT,
    created_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    sent_at        TEXT,
    CHECK (CASE typeof(id)
        WHEN 'blob' THEN length(id) = 16
        ELSE id LIKE '________-____-____-____-____________'
            AND length(replace(id, '-', '')) = 32 AND replace(id, '-', '') NOT GLOB '*[^0-9a-fA-F]*' END),
    CHECK (typeof(event_type) = 'text'),
    CHECK (typeof(aggregate_type) IN ('text', 'null')),
    CHECK (typeof(aggregate_id) IN ('text', 'null')),
    CHECK (typeof(payload) IN ('text', 'blob')),
    CHECK (typeof(headers) IN ('text', 'null')),
    CHECK (julianday(created_at) IS NOT NULL)
);

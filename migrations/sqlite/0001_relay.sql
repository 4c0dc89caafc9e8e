-- What the relay remembers, in the file of the outbox table. Times of the lease are milliseconds of Unix time by
-- the clock of the machine that the file is on; sets of seq are written as PostgreSQL writes an int8multirange.

-- Who is the active relay for a source.
CREATE TABLE outbox_lease (
    relay       TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    token       TEXT    NOT NULL,
    expires_at  INTEGER NOT NULL,
    incarnation TEXT    NOT NULL,
    PRIMARY KEY (relay, source)
) WITHOUT ROWID;

-- Per sink, the seq that need nothing more. One row per pipeline, updated at every flush.
CREATE TABLE outbox_ledger (
    relay      TEXT NOT NULL,
    source     TEXT NOT NULL,
    sink       TEXT NOT NULL,
    token      TEXT NOT NULL,
    delivered  TEXT NOT NULL,
    closed     TEXT NOT NULL DEFAULT '{}',
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (relay, source, sink)
);

-- Which outbox table this file has, told apart from any other, in another file too, by a random name.
CREATE TABLE outbox_incarnation (
    table_name  TEXT NOT NULL PRIMARY KEY COLLATE NOCASE,
    incarnation TEXT NOT NULL
);

-- Which table a source is, and which incarnation of it its ledgers speak of.
CREATE TABLE outbox_source (
    relay       TEXT NOT NULL,
    source      TEXT NOT NULL,
    table_name  TEXT NOT NULL COLLATE NOCASE,
    incarnation TEXT NOT NULL,
    deleted     TEXT NOT NULL DEFAULT '{}',
    marked      TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (relay, source)
);

-- Events that a sink's broker refused, whole: somebody else may have deleted the outbox row when someone looks. The
-- relay itself keeps the row for as long as a letter of it stands.
CREATE TABLE outbox_dead_letter (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    relay          TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    sink           TEXT    NOT NULL,
    seq            INTEGER NOT NULL,
    event_id       TEXT    NOT NULL,
    event_type     TEXT    NOT NULL,
    aggregate_type TEXT,
    aggregate_id   TEXT,
    payload        BLOB    NOT NULL,
    payload_type   TEXT    NOT NULL,
    headers        TEXT    NOT NULL DEFAULT '{}',
    created_at     TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    attempts       INTEGER NOT NULL,
    dead_at        TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- With the event's id, for seq may start anew.
    UNIQUE (relay, source, sink, seq, event_id)
);

-- For the rows that are kept.
CREATE INDEX outbox_dead_letter_seq ON outbox_dead_letter (seq);

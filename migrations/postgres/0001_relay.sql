-- What the relay remembers. These tables live in the schema of the outbox table.

-- Who is the active relay for a source. A row and not a session lock, so that it works through a pooler.
CREATE TABLE {schema}outbox_lease (
    relay       text        NOT NULL,
    source      text        NOT NULL,
    owner       text        NOT NULL,
    token       uuid        NOT NULL,
    expires_at  timestamptz NOT NULL,
    incarnation text        NOT NULL,
    PRIMARY KEY (relay, source)
) WITH (fillfactor = 50);

-- The token of the lease once more, in a table that a crash empties: what a relay remembers of the server doesn't
-- outlive the server's own memory.
CREATE UNLOGGED TABLE {schema}outbox_incarnation (
    relay  text NOT NULL,
    source text NOT NULL,
    token  uuid NOT NULL,
    PRIMARY KEY (relay, source)
) WITH (fillfactor = 50);

-- Per sink, the seq that need nothing more. One row per pipeline, updated at every flush.
CREATE TABLE {schema}outbox_ledger (
    relay      text           NOT NULL,
    source     text           NOT NULL,
    sink       text           NOT NULL,
    token      uuid           NOT NULL,
    delivered  int8multirange NOT NULL,
    closed     int8multirange NOT NULL DEFAULT '{}',
    updated_at timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (relay, source, sink)
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Which table a source is, by its OID, which a renamed table keeps, and by its name, which a restored one keeps; and the
-- file of its sequence: a new file means that seq starts anew, and 0 that it was set back. What settling has done with
-- the table's rows: marked is not looked at again, deleted is no hole.
CREATE TABLE {schema}outbox_source (
    relay             text           NOT NULL,
    source            text           NOT NULL,
    table_name        text           NOT NULL,
    table_oid         oid            NOT NULL,
    sequence_filenode oid            NOT NULL,
    deleted           int8multirange NOT NULL DEFAULT '{}',
    marked            int8multirange NOT NULL DEFAULT '{}',
    PRIMARY KEY (relay, source)
);

-- Events that a sink's broker refused, whole: somebody else may have deleted the outbox row when someone looks. The
-- relay itself keeps the row for as long as a letter of it stands.
CREATE TABLE {schema}outbox_dead_letter (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relay          text        NOT NULL,
    source         text        NOT NULL,
    sink           text        NOT NULL,
    seq            bigint      NOT NULL,
    event_id       uuid        NOT NULL,
    event_type     text        NOT NULL,
    aggregate_type text,
    aggregate_id   text,
    payload        bytea       NOT NULL,
    payload_type   text        NOT NULL,
    headers        jsonb       NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL,
    reason         text        NOT NULL,
    attempts       integer     NOT NULL,
    dead_at        timestamptz NOT NULL DEFAULT now(),
    -- With the event's id, for seq may start anew.
    UNIQUE (relay, source, sink, seq, event_id)
);

-- For the rows that are kept.
CREATE INDEX outbox_dead_letter_seq ON {schema}outbox_dead_letter (seq);

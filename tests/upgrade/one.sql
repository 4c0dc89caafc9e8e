-- What `migrate --print` said at first, before the doorbell of two.sql. It stays as it is.

BEGIN;

-- The outbox: the application inserts, the relay reads, marks and deletes.
-- seq is the relay's order and only the database may draw it. payload is json and not jsonb, for json keeps the
-- writer's bytes. There is no second index: every writer would pay for it. fillfactor 50 lets sent_at be set
-- without a new index entry.
CREATE TABLE "outbox" (
    seq            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id             uuid        NOT NULL DEFAULT gen_random_uuid(),
    event_type     text        NOT NULL,
    aggregate_type text,
    aggregate_id   text,
    payload        json        NOT NULL,
    headers        jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    sent_at        timestamptz
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

CREATE TABLE IF NOT EXISTS _outbox_relay_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);


-- What the relay remembers. These tables live in the schema of the outbox table.

-- Who is the active relay for a source. A row and not a session lock, so that it works through a pooler.
CREATE TABLE outbox_lease (
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
CREATE UNLOGGED TABLE outbox_incarnation (
    relay  text NOT NULL,
    source text NOT NULL,
    token  uuid NOT NULL,
    PRIMARY KEY (relay, source)
) WITH (fillfactor = 50);

-- Per sink, the seq that need nothing more. One row per pipeline, updated at every flush.
CREATE TABLE outbox_ledger (
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
CREATE TABLE outbox_source (
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
CREATE TABLE outbox_dead_letter (
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
CREATE INDEX outbox_dead_letter_seq ON outbox_dead_letter (seq);

INSERT INTO _outbox_relay_migrations (version, name) VALUES (1, 'relay');


-- The doorbell: a writer rings only while the relay sleeps, which it does holding this lock alone. Otherwise the
-- writer shares the lock until it has committed, in silence. The payload stays empty: one of 8,000 bytes would
-- abort the writer's transaction.
CREATE OR REPLACE FUNCTION outbox_relay_ring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(TG_RELID::pg_catalog.int4, 1) THEN
        PERFORM pg_catalog.pg_notify('outbox_relay_' || TG_RELID, '');
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER outbox_relay_ring AFTER INSERT ON "outbox"
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_relay_ring();

COMMIT;

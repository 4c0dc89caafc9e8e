-- The outbox: the application inserts, the relay reads, marks and deletes.
-- seq is the relay's order and only the database may draw it. payload is json and not jsonb, for json keeps the
-- writer's bytes. There is no second index: every writer would pay for it. fillfactor 50 lets sent_at be set
-- without a new index entry.
CREATE TABLE {table} (
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

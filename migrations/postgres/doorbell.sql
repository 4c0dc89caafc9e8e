-- The doorbell: a writer rings only while the relay sleeps, which it does holding this lock alone. Otherwise the
-- writer shares the lock until it has committed, in silence. The lock is tried in the trigger's condition, so that a
-- silent writer calls no function of ours and queues nothing: a constant of type regclass is the table itself, whatever
-- it is renamed to, and is dumped by name. The payload stays empty: one of 8,000 bytes would abort the writer's
-- transaction. The function tries once more, for the sake of a trigger without the condition, as it was once.
CREATE OR REPLACE FUNCTION {schema}outbox_relay_ring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(TG_RELID::pg_catalog.int4, 1) THEN
        PERFORM pg_catalog.pg_notify('outbox_relay_' || TG_RELID, '');
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER outbox_relay_ring AFTER INSERT ON {table} FOR EACH STATEMENT
    WHEN (NOT pg_catalog.pg_try_advisory_xact_lock_shared(
        {table_literal}::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int4, 1))
    EXECUTE FUNCTION {schema}outbox_relay_ring();

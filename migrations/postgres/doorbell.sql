-- The doorbell: a writer rings only while the relay sleeps, which it does holding this lock alone. Otherwise the
-- writer shares the lock until it has committed, in silence. The payload stays empty: one of 8,000 bytes would abort
-- the writer's transaction. All of it is there to cost a writer little: a condition of the trigger would be read anew for
-- each statement, a trigger after it is queued first, and a function that is not STABLE takes a snapshot of its own.
CREATE OR REPLACE FUNCTION {schema}outbox_relay_ring() RETURNS trigger LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(TG_RELID::pg_catalog.int4, 1) THEN
        PERFORM pg_catalog.pg_notify('outbox_relay_' || TG_RELID, '');
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER outbox_relay_ring BEFORE INSERT ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}outbox_relay_ring();

-- The doorbell: a writer rings only while the relay sleeps, which it does holding this lock alone. Otherwise the
-- writer shares the lock until it has committed, in silence. The payload stays empty: one of 8,000 bytes would abort
-- the writer's transaction. The trigger has no condition: the server would read that anew for each statement, which
-- costs a writer more than the call.
CREATE OR REPLACE FUNCTION {schema}outbox_relay_ring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(TG_RELID::pg_catalog.int4, 1) THEN
        PERFORM pg_catalog.pg_notify('outbox_relay_' || TG_RELID, '');
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER outbox_relay_ring AFTER INSERT ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}outbox_relay_ring();

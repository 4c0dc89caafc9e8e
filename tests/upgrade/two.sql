-- The doorbell's trigger as `migrate --print` had it when it tried the lock in its condition. It stays as it is.
CREATE OR REPLACE TRIGGER outbox_relay_ring AFTER INSERT ON "outbox" FOR EACH STATEMENT
    WHEN (NOT pg_catalog.pg_try_advisory_xact_lock_shared(
        'outbox'::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int4, 1))
    EXECUTE FUNCTION outbox_relay_ring();

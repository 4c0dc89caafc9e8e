-- Privileges. Put your own roles for app and relay.

-- Applications write every column except seq, so that no COPY and no OVERRIDING can choose it.
GRANT INSERT (id, event_type, aggregate_type, aggregate_id, payload, headers, created_at) ON {table} TO app;

-- The relay reads and settles events, and keeps its own tables.
GRANT SELECT, UPDATE (sent_at), DELETE ON {table} TO relay;
GRANT SELECT ON SEQUENCE {sequence} TO relay;
GRANT SELECT ON {schema}_outbox_relay_migrations TO relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}outbox_lease, {schema}outbox_incarnation,
    {schema}outbox_ledger, {schema}outbox_source, {schema}outbox_dead_letter TO relay;

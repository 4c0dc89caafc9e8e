-- What tells that the file was set back in place (a backup restored into it, sqlite_sequence emptied) from under a
-- relay that remembers more: it raises `changes` at each renewal and each flush, and keeps the newest event it has read.
ALTER TABLE outbox_lease ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox_lease ADD COLUMN newest_seq INTEGER;
ALTER TABLE outbox_lease ADD COLUMN newest_id TEXT;

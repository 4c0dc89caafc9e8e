-- SQLite has no privileges that could keep a writer from choosing seq. A number at or below the last one drawn
-- would stand behind the relay's cursor and never be published: refused. (sqlite_sequence is written at the end of
-- a statement, so in here it holds what was drawn before. Where somebody has emptied it, the rows still tell.)
CREATE TRIGGER IF NOT EXISTS {drawn} AFTER INSERT ON {table}
WHEN NEW.seq <= coalesce((SELECT seq FROM sqlite_sequence WHERE name = {name} COLLATE NOCASE), 0)
    OR NEW.seq < (SELECT max(seq) FROM {table})
BEGIN
    SELECT RAISE(ABORT, 'outbox: seq is drawn by the database, leave it out of the INSERT');
END;
CREATE TRIGGER IF NOT EXISTS {kept} BEFORE UPDATE OF seq ON {table}
BEGIN
    SELECT RAISE(ABORT, 'outbox: seq never changes');
END;

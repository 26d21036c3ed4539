-- What somebody outside an engine asks of it, until it is carried out; `signal` is JSON.
CREATE TABLE signal (
    no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, signal TEXT NOT NULL
) STRICT;

-- Which run this one reruns, and from which steps: JSON; null if it is no rerun.
ALTER TABLE run ADD COLUMN rerun TEXT;

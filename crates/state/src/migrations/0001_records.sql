-- Ids are the 16 bytes of a UUIDv7; instants are microseconds since 1970; an item of -1 is the step
-- itself. `record` is the whole row as JSON; the other columns are what is searched by.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE pipeline_version (
    digest BLOB PRIMARY KEY, name TEXT NOT NULL, created_at INTEGER NOT NULL, spec TEXT NOT NULL
) STRICT;

CREATE TABLE run (
    id BLOB PRIMARY KEY, run_key TEXT NOT NULL UNIQUE, pipeline TEXT NOT NULL, environment TEXT NOT NULL,
    finished INTEGER NOT NULL, record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX run_unfinished ON run (id) WHERE finished = 0;
CREATE INDEX run_by_pipeline ON run (pipeline, id);

CREATE TABLE step (
    run BLOB NOT NULL, step INTEGER NOT NULL, item INTEGER NOT NULL, state INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (run, step, item)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempt (
    run BLOB NOT NULL, step INTEGER NOT NULL, item INTEGER NOT NULL, attempt INTEGER NOT NULL, ended INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, step, item, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    run BLOB NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    id TEXT PRIMARY KEY, state INTEGER NOT NULL, at INTEGER NOT NULL, next_at INTEGER NOT NULL, record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_open ON outbox (state, next_at) WHERE state <> 1;

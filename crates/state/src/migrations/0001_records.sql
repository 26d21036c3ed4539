-- The records of runs. Instants are microseconds since 1970-01-01 UTC, ids the 16 bytes of a
-- UUIDv7, digests 32 bytes. A `run` column elsewhere is `run.no`: small, and in the order of creation,
-- so rows of one run lie together. An item of -1 is the step itself. Writers look the run up before
-- they write for it, so REFERENCES is proven by `check`, not enforced for each row.

CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;

-- `spec` is canonical JSON: text, or a blob of the same bytes where it is large.
CREATE TABLE pipeline_version (
    digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL, created_at INTEGER NOT NULL, spec ANY NOT NULL
) STRICT;

-- What a run was asked to do: written once. `params` is JSON.
CREATE TABLE run (
    no INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    run_key TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    environment TEXT NOT NULL,
    version BLOB NOT NULL,
    date TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    parent BLOB, parent_step INTEGER, parent_item INTEGER,
    pipeline_commit TEXT, code_commit TEXT,
    params TEXT
) STRICT;
CREATE INDEX run_by_pipeline ON run (pipeline, id);

-- How far it is: written with each transition, so it is small and apart.
-- state: 0 queued, 1 running, 2 paused, 3 succeeded, 4 failed, 5 cancelled.
CREATE TABLE run_state (
    run INTEGER PRIMARY KEY REFERENCES run (no),
    state INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    started_at INTEGER, ended_at INTEGER,
    next_token INTEGER NOT NULL, next_seq INTEGER NOT NULL,
    reason TEXT
) STRICT;
CREATE INDEX run_unfinished ON run_state (run) WHERE state < 3;

-- state: 0 pending, 1 ready, 2 waiting, 3 running, 4 retrying, 5 unknown, 6 succeeded, 7 cached,
-- 8 failed, 9 skipped, 10 cancelled. `failure`, `skip`, `items`, `value` and `artifacts` are JSON;
-- `value` and `artifacts` are its output, and without one `artifacts` is null.
CREATE TABLE step (
    run INTEGER NOT NULL REFERENCES run (no), step INTEGER NOT NULL, item INTEGER NOT NULL,
    state INTEGER NOT NULL, attempt INTEGER NOT NULL,
    burned INTEGER NOT NULL, lost INTEGER NOT NULL, out_of_memory INTEGER NOT NULL,
    ready_at INTEGER, wake_at INTEGER, ended_at INTEGER,
    failure TEXT, skip TEXT, items TEXT, value TEXT, artifacts TEXT,
    PRIMARY KEY (run, step, item)
) STRICT, WITHOUT ROWID;

-- `ending`, `handle`, `resources`, `usage` and `degraded` are JSON.
CREATE TABLE attempt (
    run INTEGER NOT NULL REFERENCES run (no), step INTEGER NOT NULL, item INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    token INTEGER NOT NULL, host TEXT NOT NULL, target TEXT, pool TEXT,
    launched_at INTEGER NOT NULL, started_at INTEGER, ended_at INTEGER,
    ending TEXT, handle TEXT, resources TEXT, usage TEXT, logs TEXT, degraded TEXT,
    PRIMARY KEY (run, step, item, attempt)
) STRICT, WITHOUT ROWID;

-- One row for the events that one transition appends to a run: `last` is the number of the last
-- of them, `body` a JSON array of [instant, event]. `event_list` shows one a row.
CREATE TABLE event (
    run INTEGER NOT NULL REFERENCES run (no), last INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (run, last)
) STRICT, WITHOUT ROWID;
CREATE VIEW event_list AS
SELECT hex(run.id) AS run, event.last - json_array_length(event.body) + 1 + one.key AS seq,
    one.value ->> 0 AS at, one.value -> 1 AS event
FROM event JOIN run ON run.no = event.run, json_each(event.body) AS one;

-- state: 0 pending, 1 delivered, 2 dead. `notification` is JSON, `at` its instant.
CREATE TABLE outbox (
    id TEXT NOT NULL UNIQUE,
    notifier TEXT NOT NULL,
    state INTEGER NOT NULL, tries INTEGER NOT NULL, at INTEGER NOT NULL, next_at INTEGER NOT NULL,
    last_error TEXT, external_id TEXT, notification TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_pending ON outbox (next_at, id) WHERE state = 0;
CREATE INDEX outbox_dead ON outbox (at, id) WHERE state = 2;

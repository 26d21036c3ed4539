-- A step and its latest attempt are one row, in the order in which steps start: a commit of a crowd of runs writes
-- few pages that way. What is known of the attempt of the number `launched` stands in the columns behind that; a row
-- of `attempt` with the same number is older and does not count. `attempt_list` has every attempt once.
ALTER TABLE step RENAME TO step_by_run;
CREATE TABLE step (
    run INTEGER NOT NULL REFERENCES run (no), step INTEGER NOT NULL, item INTEGER NOT NULL,
    state INTEGER NOT NULL, attempt INTEGER NOT NULL,
    burned INTEGER NOT NULL, lost INTEGER NOT NULL, out_of_memory INTEGER NOT NULL,
    ready_at INTEGER, wake_at INTEGER, ended_at INTEGER,
    failure TEXT, skip TEXT, items TEXT, value TEXT, artifacts TEXT, cache TEXT,
    launched INTEGER, token INTEGER, host TEXT, launched_at INTEGER, target TEXT, pool TEXT, resources TEXT,
    started_at INTEGER, stopped_at INTEGER, ending TEXT, handle TEXT, usage TEXT, logs TEXT, degraded TEXT,
    UNIQUE (run, step, item)
) STRICT;
INSERT INTO step (run, step, item, state, attempt, burned, lost, out_of_memory, ready_at, wake_at, ended_at,
    failure, skip, items, value, artifacts, cache)
SELECT run, step, item, state, attempt, burned, lost, out_of_memory, ready_at, wake_at, ended_at,
    failure, skip, items, value, artifacts, cache
FROM step_by_run ORDER BY run, step, item;
DROP TABLE step_by_run;
CREATE VIEW attempt_list AS
SELECT run, step, item, attempt, token, host, target, pool, launched_at, started_at, ended_at,
    ending, handle, resources, usage, logs, degraded
FROM attempt AS a
WHERE NOT EXISTS (SELECT 1 FROM step AS s
    WHERE s.run = a.run AND s.step = a.step AND s.item = a.item AND s.launched = a.attempt)
UNION ALL
SELECT run, step, item, launched, token, host, target, pool, launched_at, started_at, stopped_at,
    ending, handle, resources, usage, logs, degraded
FROM step WHERE launched IS NOT NULL;

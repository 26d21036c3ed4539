-- Results that are kept, by the digest of what they depend on. `line` says which of them follow each other;
-- `run` and the place say who computed it; `parts`, `value` and `artifacts` are JSON.
CREATE TABLE cache (
    key BLOB NOT NULL UNIQUE, line TEXT NOT NULL,
    run BLOB NOT NULL, step INTEGER NOT NULL, item INTEGER NOT NULL,
    created_at INTEGER NOT NULL, used_at INTEGER NOT NULL,
    parts TEXT NOT NULL, value TEXT, artifacts TEXT NOT NULL
) STRICT;
CREATE INDEX cache_by_line ON cache (line, created_at, key);

-- What a kept result of the step was looked for by, and what was found: JSON.
ALTER TABLE step ADD COLUMN cache TEXT;
-- 1 if nothing is served to the run from the cache.
ALTER TABLE run ADD COLUMN fresh INTEGER NOT NULL DEFAULT 0;

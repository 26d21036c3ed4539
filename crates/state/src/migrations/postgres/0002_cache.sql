-- Results that are kept, by the digest of what they depend on. `line` says which of them follow each other;
-- `run` and the place say who computed it; `parts`, `value` and `artifacts` are JSON.
CREATE TABLE cache (
    key bytea PRIMARY KEY, line text COLLATE "C" NOT NULL,
    run uuid NOT NULL, step bigint NOT NULL, item bigint NOT NULL,
    created_at bigint NOT NULL, used_at bigint NOT NULL,
    parts text NOT NULL, value text, artifacts text NOT NULL
);
CREATE INDEX cache_by_line ON cache (line, created_at, key);

-- What a kept result of the step was looked for by, and what was found: JSON.
ALTER TABLE step ADD COLUMN cache text;
-- Whether nothing is served to the run from the cache.
ALTER TABLE run ADD COLUMN fresh boolean NOT NULL DEFAULT false;

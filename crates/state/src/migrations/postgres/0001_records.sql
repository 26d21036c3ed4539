-- The records of runs. Instants are microseconds since 1970-01-01 UTC, run ids UUIDv7, digests 32 bytes.
-- An item of -1 is the step itself. Counters of 64 bits lie in a bigint bit by bit. Text that anybody
-- may have written (`reason`, `last_error`, `external_id`) is a JSON string: a text of this server can't
-- hold the character 0.

CREATE TABLE meta (key text PRIMARY KEY, value text NOT NULL);

-- `spec` is canonical JSON.
CREATE TABLE pipeline_version (
    digest bytea PRIMARY KEY, name text NOT NULL, created_at bigint NOT NULL, spec text NOT NULL
);

-- What a run was asked to do: written once. `params` and `rerun` are JSON.
CREATE TABLE run (
    id uuid PRIMARY KEY,
    run_key text COLLATE "C" NOT NULL UNIQUE,
    pipeline text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    version bytea NOT NULL,
    date text NOT NULL,
    created_at bigint NOT NULL,
    parent uuid, parent_step bigint, parent_item bigint,
    pipeline_commit text, code_commit text,
    params text, rerun text
);
CREATE INDEX run_by_pipeline ON run (pipeline, id);

-- How far it is: written with each transition, so it is small and apart, with room for its next versions.
-- state: 0 queued, 1 running, 2 paused, 3 succeeded, 4 failed, 5 cancelled.
CREATE TABLE run_state (
    run uuid PRIMARY KEY,
    state smallint NOT NULL,
    cancels smallint NOT NULL,
    started_at bigint, ended_at bigint,
    next_token bigint NOT NULL, next_seq bigint NOT NULL,
    reason text
) WITH (fillfactor = 50);
CREATE INDEX run_unfinished ON run_state (run) WHERE state < 3;

-- state: 0 pending, 1 ready, 2 waiting, 3 running, 4 retrying, 5 unknown, 6 succeeded, 7 cached,
-- 8 failed, 9 skipped, 10 cancelled. `failure`, `skip`, `items`, `value` and `artifacts` are JSON;
-- `value` and `artifacts` are its output, and without one `artifacts` is null.
CREATE TABLE step (
    run uuid NOT NULL, step bigint NOT NULL, item bigint NOT NULL,
    state smallint NOT NULL, attempt bigint NOT NULL,
    burned bigint NOT NULL, lost bigint NOT NULL, out_of_memory bigint NOT NULL,
    ready_at bigint, wake_at bigint, ended_at bigint,
    failure text, skip text, items text, value text, artifacts text,
    PRIMARY KEY (run, step, item)
) WITH (fillfactor = 70);

-- `ending`, `handle`, `resources`, `usage`, `logs` and `degraded` are JSON.
CREATE TABLE attempt (
    run uuid NOT NULL, step bigint NOT NULL, item bigint NOT NULL, attempt bigint NOT NULL,
    token bigint NOT NULL, host text NOT NULL, target text, pool text,
    launched_at bigint NOT NULL, started_at bigint, ended_at bigint,
    ending text, handle text, resources text, usage text, logs text, degraded text,
    PRIMARY KEY (run, step, item, attempt)
) WITH (fillfactor = 70);

-- One row for the events of a run that were committed together: `last` is the number of the last
-- of them, `body` a JSON array of [instant, event]. `event_list` shows one a row.
CREATE TABLE event (
    run uuid NOT NULL, last bigint NOT NULL, body text NOT NULL,
    PRIMARY KEY (run, last)
);
CREATE VIEW event_list AS
SELECT event.run, event.last - json_array_length(event.body::json) + one.place AS seq,
    (one.value ->> 0)::bigint AS at, one.value -> 1 AS event
FROM event, json_array_elements(event.body::json) WITH ORDINALITY AS one (value, place);

-- state: 0 pending, 1 delivered, 2 dead. `notification` is JSON, `at` its instant; `shard` follows from
-- the id.
CREATE TABLE outbox (
    id text COLLATE "C" PRIMARY KEY,
    shard smallint NOT NULL,
    notifier text NOT NULL,
    state smallint NOT NULL, tries bigint NOT NULL, at bigint NOT NULL, next_at bigint NOT NULL,
    last_error text, external_id text, notification text NOT NULL
);
CREATE INDEX outbox_pending ON outbox (next_at, id) WHERE state = 0;
CREATE INDEX outbox_dead ON outbox (at, id) WHERE state = 2;
CREATE INDEX outbox_told ON outbox (at, id);

-- What somebody outside an engine asks of it, until it is carried out; `signal` is JSON.
CREATE TABLE signal (
    no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE, at bigint NOT NULL, signal text NOT NULL
);

-- Hosts by their boot id. A host lives until `expires_at`, by the clock of this server; one that never
-- asked for a lease never did.
CREATE TABLE host (
    id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    seen_at bigint NOT NULL, expires_at bigint NOT NULL,
    draining boolean NOT NULL
);

-- Who has which shard. A row changes when the shard changes hands, never when a host says that it lives.
CREATE TABLE lease (shard smallint PRIMARY KEY, holder text COLLATE "C", epoch bigint NOT NULL);
INSERT INTO lease (shard, holder, epoch) SELECT n, NULL, 0 FROM generate_series(0, 63) AS n;

-- One row a host, locked by each of its commits (FOR SHARE) and by whoever takes something from it (FOR
-- UPDATE): so a commit is before or after a change of hands, never beside it. `session` grows when the
-- host connects anew; what an earlier connection still sends is refused by it.
CREATE TABLE writer (host text COLLATE "C" PRIMARY KEY, session bigint NOT NULL);

CREATE FUNCTION now_micros() RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

CREATE FUNCTION wake(payload text) RETURNS void LANGUAGE sql VOLATILE AS
$$ SELECT pg_notify('windlass:' || current_schema(), payload) $$;

-- Fails unless this is the host's connection and it holds these shards; the last statement of a commit.
-- WL001: a shard is another's by now. WL002: the host has another connection by now.
CREATE FUNCTION fence(me text, mine bigint, shards smallint[], epochs bigint[])
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM writer WHERE writer.host = me AND writer.session = mine FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the host has another connection by now' USING ERRCODE = 'WL002';
    END IF;
    -- Its own statement, so that it sees what whoever held the row before has committed.
    IF EXISTS (
        SELECT FROM unnest(shards, epochs) AS asserted (shard, epoch)
        WHERE NOT EXISTS (
            SELECT FROM lease
            WHERE lease.shard = asserted.shard AND lease.holder = me AND lease.epoch = asserted.epoch
        )
    ) THEN
        RAISE EXCEPTION 'a shard is held by another host by now' USING ERRCODE = 'WL001';
    END IF;
END $$;

-- One host after the other says that it lives, and takes or gives; short, so none waits for long.
CREATE FUNCTION one_at_a_time() RETURNS void LANGUAGE sql VOLATILE AS
$$ SELECT pg_advisory_xact_lock(hashtext('windlass lease'), hashtext(current_schema())) $$;

CREATE FUNCTION renew(
    me text, my_name text, ttl_micros bigint, give smallint[],
    OUT shards smallint[], OUT epochs bigint[], OUT surplus bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    instant bigint;
    away boolean;
    mine bigint;
    fair bigint;
    settled text[];
BEGIN
    PERFORM one_at_a_time();
    instant := now_micros();
    INSERT INTO host (id, name, seen_at, expires_at, draining)
    VALUES (me, my_name, instant, instant + ttl_micros, false)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, seen_at = excluded.seen_at, expires_at = excluded.expires_at
    RETURNING draining INTO away;
    IF cardinality(give) > 0 THEN
        PERFORM FROM writer WHERE host = me FOR UPDATE;
        UPDATE lease SET holder = NULL WHERE holder = me AND shard = ANY (give);
        PERFORM wake(me);
    END IF;
    SELECT ceil(64.0 / greatest(count(*), 1)) INTO fair FROM host WHERE expires_at > instant AND NOT draining;
    SELECT count(*) INTO mine FROM lease WHERE holder = me;
    IF NOT away AND mine < fair THEN
        -- A commit of a host that is gone may still be under way. Whether it is in is known once its
        -- row is free; a host that stands still in the middle of one loses its connection soon.
        BEGIN
            PERFORM set_config('lock_timeout', greatest(ttl_micros / 10000, 10)::text, true);
            PERFORM FROM writer JOIN host ON host.id = writer.host
                WHERE expires_at <= instant AND EXISTS (SELECT FROM lease WHERE holder = host.id)
                ORDER BY host.id FOR UPDATE OF writer;
            settled := ARRAY(SELECT id FROM host WHERE expires_at <= instant);
        EXCEPTION WHEN lock_not_available THEN
            settled := '{}';
        END;
        UPDATE lease SET holder = me, epoch = epoch + 1 WHERE shard IN (
            SELECT shard FROM lease
            WHERE (holder IS NULL OR holder = ANY (settled)) AND NOT shard = ANY (give)
            ORDER BY holder IS NULL DESC, shard LIMIT fair - mine
        );
    END IF;
    -- Who is gone for a day comes back as somebody new.
    DELETE FROM host WHERE expires_at < instant - 86400000000
        AND NOT EXISTS (SELECT FROM lease WHERE holder = host.id);
    DELETE FROM writer WHERE NOT EXISTS (SELECT FROM host WHERE id = writer.host);
    SELECT array_agg(shard ORDER BY shard), array_agg(epoch ORDER BY shard), greatest(count(*) - fair, 0)
    INTO shards, epochs, surplus FROM lease WHERE holder = me;
END $$;

CREATE FUNCTION hand_over(me text, my_name text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM one_at_a_time();
    INSERT INTO host (id, name, seen_at, expires_at, draining)
    VALUES (me, my_name, now_micros(), now_micros(), true) ON CONFLICT (id) DO UPDATE SET draining = true;
    PERFORM FROM writer WHERE host = me FOR UPDATE;
    UPDATE lease SET holder = NULL WHERE holder = me;
    PERFORM wake(me);
END $$;

-- A transition that moves nothing of a run but the numbers of its next event and its next token leaves
-- `run_state` as it is: its events say both. `next_token` is null where `run_state` was written, too.
ALTER TABLE event ADD COLUMN next_token INTEGER;
CREATE VIEW run_progress AS
SELECT run_state.run,
    max(next_token, coalesce((SELECT event.next_token FROM event
        WHERE event.run = run_state.run ORDER BY last DESC LIMIT 1), next_token)) AS next_token,
    max(next_seq, coalesce((SELECT iif(event.next_token IS NULL, NULL, last + 1) FROM event
        WHERE event.run = run_state.run ORDER BY last DESC LIMIT 1), next_seq)) AS next_seq
FROM run_state;

-- Runs of a sync: asked for, leased by one worker at a time, ended once.

-- name: lock_requests
-- Requests for one connection are answered one after the other, so that a second one finds the first.
SELECT pg_advisory_xact_lock(hashtextextended('eventsync:runs:' || $1::uuid::text, 0));

-- name: find_standing
-- What already answers such a request: a run that has not ended yet, or the one that answered the schedule's same time.
-- A patient is read once, whoever of those that follow them asked first. Few runs of a connection are unfinished: they
-- are looked through as they come, since the runs of one type are ever more.
SELECT * FROM (
    SELECT * FROM sync_logs WHERE connection_id = $1 AND sync_type = $2 AND due_at = $5
    UNION ALL
    SELECT u.*
    FROM (SELECT * FROM sync_logs WHERE connection_id = $1 AND status IN ('starting', 'running') OFFSET 0) u
    WHERE u.sync_type = $2 AND u.patient_id IS NOT DISTINCT FROM $4
      AND (u.patient_id IS NOT NULL OR u.organization_id IS NOT DISTINCT FROM $3)
) s
ORDER BY due_at = $5 DESC NULLS LAST, created_at DESC LIMIT 1;

-- name: answer_schedule
UPDATE sync_logs SET due_at = $2 WHERE id = $1 AND due_at IS NULL;

-- name: insert
INSERT INTO sync_logs (sync_type, connection_id, organization_id, patient_id, triggered_by, due_at, options,
                       started_at, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $8, $8)
RETURNING *;

-- name: lock_claims
SELECT pg_advisory_xact_lock(hashtextextended('eventsync:runs:claim', 0));

-- name: next_claim
-- A person's wish goes before the schedule's. Of one lane and connection one run goes on at a time.
-- Looked for before it is taken: an UPDATE that finds nothing would wake everyone who waits for news of runs.
SELECT w.id FROM sync_logs w JOIN connections c ON c.id = w.connection_id
WHERE w.status = 'starting' AND w.cancel_requested_at IS NULL AND c.disabled_at IS NULL
  AND ($1::uuid IS NULL OR w.id = $1)
  AND (w.lane = 'patient' OR NOT EXISTS (
        SELECT FROM sync_logs r WHERE r.connection_id = w.connection_id AND r.lane = w.lane AND r.status = 'running'))
ORDER BY w.lane = 'patient' DESC, w.sync_type LIKE 'manual%' DESC, w.created_at, w.id LIMIT 1;

-- name: claim
UPDATE sync_logs
SET status = 'running', worker_id = $2, leased_until = $4, attempts = attempts + 1, updated_at = $3,
    -- A run that was given back has begun already.
    started_at = CASE WHEN attempts = 0 AND started_at = created_at THEN $3 ELSE started_at END
WHERE id = $1 AND status = 'starting'
RETURNING *;

-- name: heartbeat
UPDATE sync_logs SET leased_until = $4, updated_at = $3
WHERE id = $1 AND worker_id = $2 AND status = 'running'
RETURNING cancel_requested_at;

-- name: hold
-- The fence and the counts, in the transaction that wrote what they count: whoever was replaced writes nothing more.
UPDATE sync_logs
SET patients_processed = $4, patients_failed = $5, appointments_new = $6, appointments_updated = $7,
    appointments_unchanged = $8, appointments_errors = $9, progress = $10::jsonb, updated_at = $3
WHERE id = $1 AND worker_id = $2 AND status = 'running'
RETURNING id;

-- name: reads_beside
-- Whether another run may have read records before this moment and write them yet; and single reads on their way.
SELECT EXISTS (
    SELECT FROM sync_logs WHERE connection_id = $1 AND status = 'running' AND id <> $2 AND started_at <= $3
) OR EXISTS (
    SELECT FROM record_reads r WHERE r.connection_id = $1 AND r.kind = ANY($4::text[])
       AND r.external_id = ANY($5::text[]) AND r.leased_until > '-infinity'
);

-- name: end
UPDATE sync_logs
SET status = $4, completed_at = $3, duration_ms = greatest(0, round(extract(epoch FROM $3 - started_at) * 1000)),
    patients_processed = $5, patients_failed = $6, appointments_new = $7, appointments_updated = $8,
    appointments_unchanged = $9, appointments_errors = $10, error_message = $11, metadata = $12::jsonb,
    worker_id = NULL, leased_until = NULL, updated_at = $3
WHERE id = $1 AND worker_id = $2 AND status = 'running'
RETURNING *;

-- name: give_back
UPDATE sync_logs
SET status = 'starting', worker_id = NULL, leased_until = NULL, attempts = attempts - 1, updated_at = $3
WHERE id = $1 AND worker_id = $2 AND status = 'running'
RETURNING id;

-- name: find_lost
-- Runs whose worker died, and those that wait for a connection that was disabled. A lease that ends much later than one
-- taken now was taken by a clock that was ahead. A run whose row is locked is being written: its worker lives.
SELECT s.id FROM sync_logs s JOIN connections c ON c.id = s.connection_id
WHERE (s.status = 'running' AND (s.leased_until < $1 OR s.leased_until > $2))
   OR (s.status = 'starting' AND (c.disabled_at IS NOT NULL OR s.cancel_requested_at IS NOT NULL))
FOR UPDATE OF s SKIP LOCKED;

-- name: rescue
WITH judged AS (
    SELECT l.id, c.disabled_at IS NOT NULL AS is_disabled,
           CASE WHEN l.cancel_requested_at IS NOT NULL THEN 'cancelled'
                WHEN l.attempts >= $3 OR c.disabled_at IS NOT NULL THEN 'failed' ELSE 'starting' END AS status
    FROM sync_logs l JOIN connections c ON c.id = l.connection_id WHERE l.id = ANY($1::uuid[])
)
UPDATE sync_logs s
SET status = j.status,
    completed_at = CASE WHEN j.status <> 'starting' THEN $2::timestamptz END,
    duration_ms = CASE WHEN j.status <> 'starting'
                       THEN greatest(0, round(extract(epoch FROM $2 - s.started_at) * 1000)) END,
    error_message = CASE WHEN j.status <> 'failed' THEN NULL
                         WHEN j.is_disabled THEN 'The connection was disabled before the run ended.'
                         ELSE 'Its worker died each time: see the log of the worker.' END,
    worker_id = NULL, leased_until = NULL, updated_at = $2
FROM judged j WHERE j.id = s.id
RETURNING s.*;

-- name: cancel
-- A run that waits ends here; one that runs is told at its next heartbeat.
UPDATE sync_logs
SET cancel_requested_at = coalesce(cancel_requested_at, $2), updated_at = $2,
    status = CASE WHEN status = 'starting' THEN 'cancelled' ELSE status END,
    completed_at = CASE WHEN status = 'starting' THEN $2 END,
    duration_ms = CASE WHEN status = 'starting' THEN 0 END
WHERE id = $1 AND status IN ('starting', 'running')
RETURNING id;

-- name: find
SELECT * FROM sync_logs WHERE id = $1;

-- name: list_recent
SELECT * FROM sync_logs
WHERE ($1::uuid IS NULL OR connection_id = $1) AND ($2::uuid IS NULL OR organization_id = $2)
  AND ($3::text IS NULL OR sync_type = $3)
ORDER BY started_at DESC, id LIMIT $4;

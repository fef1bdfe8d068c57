-- The outbound queue's items: claimed one at a time, in the order of each organization, and ended once.

-- name: lock_claims
-- Claims are taken one after the other: who looks for an organization's first item must see what others have taken.
SELECT pg_advisory_xact_lock(hashtextextended('eventsync:outbound:claim', 0));

-- name: find_pause
SELECT p.paused_at, p.reason, p.probe_at, c.updated_at > p.refused_at AS is_mended
FROM outbound_pauses p JOIN connections c ON c.id = p.connection_id WHERE p.connection_id = $1;

-- name: begin_probe
UPDATE outbound_pauses SET probe_at = $2 WHERE connection_id = $1;

-- name: next_head
-- The item that has been due longest, of those that no earlier item of their organization holds up. What was put in by
-- a clock ahead of ours is due by the database's.
SELECT q.id, q.ecosystem_org_id, q.action, q.position FROM ecosystem_sync_queue q
WHERE q.status = 'pending'
  AND coalesce(q.available_at, q.created_at) <= greatest($1::timestamptz, now())
  AND (q.available_at IS NULL OR q.available_at <= $1)
  AND NOT EXISTS (
        SELECT FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = q.ecosystem_org_id AND e.id <> q.id
          AND (e.status = 'processing' OR (e.status = 'pending' AND e.position < q.position)))
ORDER BY coalesce(q.available_at, q.created_at), q.position
LIMIT 1 FOR UPDATE OF q SKIP LOCKED;

-- name: later_success
-- What the other side has seen of the organization since: an item that a person put back must not undo it.
SELECT id FROM ecosystem_sync_queue
WHERE ecosystem_org_id = $1 AND position > $2 AND status = 'success' AND superseded_by IS NULL
ORDER BY position DESC LIMIT 1;

-- name: last_of_run
-- The last of the updates that wait one behind the other after the item at $2; rows that a person is editing are left.
SELECT q.id, q.position FROM ecosystem_sync_queue q
WHERE q.ecosystem_org_id = $1 AND q.status = 'pending' AND q.action = 'update' AND q.position > $2
  AND NOT EXISTS (
        SELECT FROM ecosystem_sync_queue o
        WHERE o.ecosystem_org_id = $1 AND o.status = 'pending' AND o.action <> 'update'
          AND o.position > $2 AND o.position < q.position)
ORDER BY q.position DESC LIMIT 1 FOR UPDATE OF q SKIP LOCKED;

-- name: supersede
-- What waits of the organization from position $3 up to $4 tells no news: item $2 carries it as well.
UPDATE ecosystem_sync_queue
SET status = 'success', superseded_by = $2, processed_at = $5, error_message = NULL, available_at = NULL
WHERE id IN (
    SELECT q.id FROM ecosystem_sync_queue q
    WHERE q.ecosystem_org_id = $1 AND q.status = 'pending' AND q.position >= $3 AND q.position < $4
    FOR UPDATE SKIP LOCKED)
RETURNING id;

-- name: claim
-- An update behind a register that failed becomes the register. The attempt is counted before it is made.
UPDATE ecosystem_sync_queue q
SET status = 'processing', attempts = attempts + 1, last_attempt_at = $3, claim_id = $2, leased_until = $4,
    available_at = NULL,
    action = CASE WHEN q.action = 'update' AND (
        SELECT e.action = 'register' AND e.status = 'failed' FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = q.ecosystem_org_id AND e.position < q.position
          AND (e.action = 'register' OR (e.status = 'success' AND e.superseded_by IS NULL))
        ORDER BY e.position DESC LIMIT 1) THEN 'register' ELSE q.action END
WHERE q.id = $1 AND q.status = 'pending'
RETURNING q.id, q.entity_type, q.ecosystem_org_id, q.action, q.payload, q.idempotency_key, q.attempts;

-- name: succeed
UPDATE ecosystem_sync_queue
SET status = 'success', processed_at = $3, remote_org_id = coalesce($4, remote_org_id), error_message = NULL,
    claim_id = NULL, leased_until = NULL
WHERE id = $1 AND claim_id = $2 AND status = 'processing'
RETURNING attempts, created_at;

-- name: fail
UPDATE ecosystem_sync_queue
SET status = 'failed', processed_at = $3, error_message = $4, claim_id = NULL, leased_until = NULL
WHERE id = $1 AND claim_id = $2 AND status = 'processing'
RETURNING attempts, created_at;

-- name: put_off
-- `$5` says how many attempts to take back: one that was not looked at does not count.
UPDATE ecosystem_sync_queue
SET status = 'pending', available_at = $3, error_message = $4, attempts = greatest(attempts - $5, 0),
    claim_id = NULL, leased_until = NULL
WHERE id = $1 AND claim_id = $2 AND status = 'processing'
RETURNING attempts, created_at;

-- name: note_attempt
INSERT INTO ecosystem_sync_attempts (item_id, attempt, is_counted, started_at, ended_at, http_status, error)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: pause
INSERT INTO outbound_pauses AS p (connection_id, reason, paused_at, refused_at, probe_at) VALUES ($1, $2, $3, $3, $4)
ON CONFLICT (connection_id) DO UPDATE SET reason = excluded.reason, refused_at = excluded.refused_at,
    probe_at = excluded.probe_at
RETURNING p.paused_at = $3;

-- name: resume
DELETE FROM outbound_pauses WHERE connection_id = $1 RETURNING paused_at;

-- name: find_stuck
-- Items whose deliverer died; those of another program's, which takes no lease, after the ten minutes that they had.
SELECT id, attempts, last_attempt_at FROM ecosystem_sync_queue
WHERE status = 'processing'
  AND coalesce(leased_until, coalesce(last_attempt_at, created_at) + interval '10 minutes') < $1
FOR UPDATE SKIP LOCKED;

-- name: return_stuck
UPDATE ecosystem_sync_queue
SET status = CASE WHEN attempts >= $3 THEN 'failed' ELSE 'pending' END,
    processed_at = CASE WHEN attempts >= $3 THEN $2::timestamptz END,
    error_message = $4, claim_id = NULL, leased_until = NULL
WHERE id IN (SELECT unnest($1::uuid[])) AND status = 'processing';

-- name: next_due
-- When to look again although nobody rings: at the next attempt's time, or when a lease runs out.
SELECT least(
    (SELECT coalesce(available_at, created_at) FROM ecosystem_sync_queue
     WHERE status = 'pending' AND coalesce(available_at, created_at) > $1
     ORDER BY coalesce(available_at, created_at), position LIMIT 1),
    (SELECT min(leased_until) FROM ecosystem_sync_queue WHERE status = 'processing'));

-- name: preview
-- What would be sent, in the order of being due; not the items that wait behind others of their organization.
SELECT q.id, q.entity_type, q.ecosystem_org_id, q.action, q.payload, q.idempotency_key, q.attempts, q.available_at,
       (SELECT count(*) FROM ecosystem_sync_queue b
        WHERE b.ecosystem_org_id = q.ecosystem_org_id AND b.status = 'pending' AND b.position > q.position) AS behind
FROM ecosystem_sync_queue q
WHERE q.status = 'pending'
  AND NOT EXISTS (
        SELECT FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = q.ecosystem_org_id AND e.id <> q.id
          AND (e.status = 'processing' OR (e.status = 'pending' AND e.position < q.position)))
ORDER BY coalesce(q.available_at, q.created_at), q.position LIMIT $1;

-- name: count_unfinished
SELECT status, count(*) AS count FROM ecosystem_sync_queue WHERE status IN ('pending', 'processing') GROUP BY status;

-- name: count_failed
SELECT count(*) FROM ecosystem_sync_queue WHERE status = 'failed';

-- name: oldest_waiting
SELECT min(waiting_since) FROM ecosystem_sync_queue WHERE status IN ('pending', 'processing');

-- name: list_pauses
SELECT p.paused_at, p.reason FROM outbound_pauses p JOIN connections c ON c.id = p.connection_id
WHERE c.disabled_at IS NULL ORDER BY p.paused_at LIMIT 1;

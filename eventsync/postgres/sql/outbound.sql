-- The outbound queue's items: claimed one at a time, in the order of each organization, and ended once.

-- name: lock_claims
-- Claims are taken one after the other: who looks for an organization's first item must see what others have taken. A
-- claimer that stands still in between, as on a frozen machine, loses its session, and with it the lock.
SELECT set_config('idle_in_transaction_session_timeout', '10s', true),
       pg_advisory_xact_lock(hashtextextended('eventsync:outbound:claim', 0));

-- name: find_account
-- Whether the account may be sent to, and whether it is paused: then once a probe is due, and once for each change.
SELECT p.connection_id IS NOT NULL AS is_paused, c.updated_at,
       coalesce(p.probe_at > $2
                AND NOT (c.updated_at > p.refused_at AND c.updated_at IS DISTINCT FROM p.probed_as_of),
                false) AS is_closed
FROM connections c LEFT JOIN outbound_pauses p ON p.connection_id = c.id
WHERE c.id = $1 AND c.disabled_at IS NULL;

-- name: begin_probe
UPDATE outbound_pauses SET probe_at = $2, probed_as_of = $3 WHERE connection_id = $1;

-- name: next_head
-- The item that has been due longest, of those that no earlier one of their organization holds up. What was put in by a
-- clock ahead of ours is due by the database's. $2: organizations to be left out. It is crowded where more than a
-- hundred stood in front of it for nothing.
SELECT q.id, q.ecosystem_org_id, coalesce((
    SELECT (f.due_at, f.position) < (q.due_at, q.position) FROM ecosystem_sync_queue f
    WHERE f.status = 'pending' ORDER BY f.due_at, f.position OFFSET 100 LIMIT 1), false) AS is_crowded
FROM ecosystem_sync_queue q
WHERE q.status = 'pending' AND q.due_at <= greatest($1::timestamptz, now())
  AND (q.available_at IS NULL OR q.available_at <= $1)
  AND q.ecosystem_org_id <> ALL ($2::text[])
  AND NOT EXISTS (
        SELECT FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = q.ecosystem_org_id AND e.status IN ('pending', 'processing')
          AND e.position < q.position)
ORDER BY q.due_at, q.position
LIMIT 1 FOR NO KEY UPDATE OF q SKIP LOCKED;

-- name: hold_back
-- Of the $2 items that have been due longest, those whose organization waits for an earlier one are not looked at again
-- before that one's next attempt, or the end of its lease; when it ends, a trigger lets the next one go. It is locked,
-- so that its end either sees them or is seen here.
WITH due AS MATERIALIZED (
    SELECT d.id, d.ecosystem_org_id, d.position FROM ecosystem_sync_queue d
    WHERE d.status = 'pending' AND d.due_at <= greatest($1::timestamptz, now())
    ORDER BY d.due_at, d.position LIMIT $2),
first AS MATERIALIZED (
    SELECT f.id FROM (SELECT DISTINCT ecosystem_org_id FROM due) o CROSS JOIN LATERAL (
        SELECT e.id FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = o.ecosystem_org_id AND e.status IN ('pending', 'processing')
        ORDER BY e.position LIMIT 1) f),
waiting AS MATERIALIZED (
    SELECT e.ecosystem_org_id, e.position, coalesce(e.leased_until, e.available_at) AS until
    FROM ecosystem_sync_queue e
    WHERE e.id = ANY (ARRAY (SELECT f.id FROM first f))
      AND e.status IN ('pending', 'processing') AND coalesce(e.leased_until, e.available_at) > $1
    FOR NO KEY UPDATE SKIP LOCKED),
behind AS MATERIALIZED (
    SELECT q.id, q.ecosystem_org_id FROM ecosystem_sync_queue q
    WHERE q.status = 'pending' AND q.id = ANY (ARRAY (
        SELECT d.id FROM due d JOIN waiting w USING (ecosystem_org_id) WHERE d.position > w.position))
    FOR NO KEY UPDATE SKIP LOCKED)
UPDATE ecosystem_sync_queue q
SET held_until = (SELECT w.until FROM waiting w WHERE w.ecosystem_org_id = q.ecosystem_org_id)
WHERE q.id = ANY (ARRAY (SELECT b.id FROM behind b));

-- name: lock_organization
-- What is unfinished of an organization, in its order, and what of it is in our hands: not what is on its way, and not
-- what somebody else is editing. The condition is put so that no index of the status alone is read.
WITH ours AS MATERIALIZED (
    SELECT q.id FROM ecosystem_sync_queue q
    WHERE q.ecosystem_org_id = $1 AND q.status IN ('pending', 'processing') AND q.status <> 'processing'
    FOR NO KEY UPDATE SKIP LOCKED)
SELECT q.id, q.action, q.position, q.waiting_since, q.id IN (SELECT ours.id FROM ours) AS is_ours
FROM ecosystem_sync_queue q
WHERE q.ecosystem_org_id = $1 AND q.status IN ('pending', 'processing')
ORDER BY q.position;

-- name: last_reached
-- The latest that the other side has seen of an organization, or may have, whatever people did with the row since.
SELECT id, position, status = 'failed' AS is_failed FROM ecosystem_sync_queue
WHERE ecosystem_org_id = $1 AND reached_at IS NOT NULL
ORDER BY position DESC LIMIT 1;

-- name: put_back
UPDATE ecosystem_sync_queue SET status = 'pending', attempts = 0 WHERE id = $1 AND status = 'failed';

-- name: supersede
-- These items tell no news: item $2 has told it, or carries it as well.
UPDATE ecosystem_sync_queue
SET status = 'success', superseded_by = $2, processed_at = $3, error_message = NULL, available_at = NULL,
    held_until = NULL
WHERE id = ANY ($1::uuid[]) AND status = 'pending';

-- name: claim
-- An update behind a register that failed becomes the register. The attempt is counted before it is made. The news has
-- been waiting since $5, although an earlier item may have brought it.
UPDATE ecosystem_sync_queue q
SET status = 'processing', attempts = attempts + 1, last_attempt_at = $3, claim_id = $2, leased_until = $4,
    available_at = NULL, held_until = NULL, waiting_since = least(q.waiting_since, $5),
    action = CASE WHEN q.action = 'update' AND (
        SELECT (e.status = 'failed' OR e.superseded_by IS NOT NULL) AND e.accepted_at IS NULL
        FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = q.ecosystem_org_id AND e.position < q.position
          AND (e.action = 'register' OR e.accepted_at IS NOT NULL)
        ORDER BY e.position DESC LIMIT 1) THEN 'register' ELSE q.action END
WHERE q.id = $1 AND q.status = 'pending'
RETURNING q.id, q.entity_type, q.ecosystem_org_id, q.action, q.payload, q.idempotency_key, q.attempts;

-- name: succeed
UPDATE ecosystem_sync_queue
SET status = 'success', processed_at = $3, accepted_at = $3, reached_at = $3, remote_org_id = coalesce($4, remote_org_id),
    error_message = NULL, claim_id = NULL, leased_until = NULL
WHERE id = $1 AND claim_id = $2 AND status = 'processing'
RETURNING created_at;

-- name: fail
UPDATE ecosystem_sync_queue
SET status = 'failed', processed_at = $3, error_message = $4, claim_id = NULL, leased_until = NULL,
    reached_at = CASE WHEN $5 THEN $3 ELSE reached_at END
WHERE id = $1 AND claim_id = $2 AND status = 'processing'
RETURNING created_at;

-- name: put_off
-- `$5` says how many attempts to take back: one that was not looked at does not count.
UPDATE ecosystem_sync_queue
SET status = 'pending', available_at = $3, error_message = $4, attempts = greatest(attempts - $5, 0),
    claim_id = NULL, leased_until = NULL, reached_at = CASE WHEN $5 = 0 THEN $6 ELSE reached_at END
WHERE id = $1 AND claim_id = $2 AND status = 'processing'
RETURNING created_at;

-- name: note_attempt
INSERT INTO ecosystem_sync_attempts (item_id, claim_id, attempt, is_counted, started_at, ended_at, http_status, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: find_end
-- Whether the attempt has ended already: a link that breaks at the commit leaves that open.
SELECT q.created_at FROM ecosystem_sync_attempts a JOIN ecosystem_sync_queue q ON q.id = a.item_id
WHERE a.item_id = $1 AND a.claim_id = $2;

-- name: pause
-- Only a row that is new has never been locked: the answer tells whether the pause begins.
INSERT INTO outbound_pauses AS p (connection_id, reason, paused_at, refused_at, probe_at) VALUES ($1, $2, $3, $3, $4)
ON CONFLICT (connection_id) DO UPDATE SET reason = excluded.reason, refused_at = excluded.refused_at,
    probe_at = excluded.probe_at
RETURNING p.xmax = 0;

-- name: resume
DELETE FROM outbound_pauses WHERE connection_id = $1 RETURNING paused_at;

-- name: find_stuck
-- Items whose deliverer died. Another program's lease is written down by a trigger, but for rows that came as they are.
SELECT id, attempts, last_attempt_at FROM ecosystem_sync_queue
WHERE status = 'processing'
  AND coalesce(leased_until, coalesce(last_attempt_at, created_at) + interval '10 minutes') < $1
FOR NO KEY UPDATE SKIP LOCKED;

-- name: return_stuck
UPDATE ecosystem_sync_queue
SET status = CASE WHEN attempts >= $3 THEN 'failed' ELSE 'pending' END,
    processed_at = CASE WHEN attempts >= $3 THEN $2::timestamptz END,
    error_message = $4, claim_id = NULL, leased_until = NULL, reached_at = $2
WHERE id IN (SELECT unnest($1::uuid[])) AND status = 'processing';

-- name: next_due
-- When to look again although nobody rings: at the next attempt's time, or when a lease runs out, which may be past.
SELECT least(
    (SELECT due_at FROM ecosystem_sync_queue
     WHERE status = 'pending' AND due_at > $1 ORDER BY due_at, position LIMIT 1),
    (SELECT min(leased_until) FROM ecosystem_sync_queue WHERE status = 'processing'));

-- name: preview
-- What would be sent, in the order of being due: of each organization the first item that tells news, or the last of
-- the updates that wait one behind the other from there on. Not of an organization of which one is on its way.
SELECT s.id, s.entity_type, s.ecosystem_org_id, s.action, s.payload, s.idempotency_key, s.attempts,
       f.available_at,
       (SELECT count(*) FROM ecosystem_sync_queue b
        WHERE b.ecosystem_org_id = h.ecosystem_org_id AND b.status = 'pending' AND b.position > s.position) AS behind
FROM ecosystem_sync_queue h
CROSS JOIN LATERAL (
    SELECT q.position, q.action, q.available_at FROM ecosystem_sync_queue q
    WHERE q.ecosystem_org_id = h.ecosystem_org_id AND q.status = 'pending' AND q.position >= coalesce((
        SELECT a.position FROM ecosystem_sync_queue a
        WHERE a.ecosystem_org_id = h.ecosystem_org_id AND a.reached_at IS NOT NULL
        ORDER BY a.position DESC LIMIT 1), 0)
    ORDER BY q.position LIMIT 1) f
CROSS JOIN LATERAL (
    SELECT q.* FROM ecosystem_sync_queue q
    WHERE q.ecosystem_org_id = h.ecosystem_org_id AND q.status = 'pending'
      AND q.position >= f.position
      AND CASE WHEN f.action = 'update' THEN q.position < coalesce((
                   SELECT o.position FROM ecosystem_sync_queue o
                   WHERE o.ecosystem_org_id = h.ecosystem_org_id AND o.status = 'pending' AND o.action <> 'update'
                     AND o.position > f.position ORDER BY o.position LIMIT 1), q.position + 1)
               ELSE q.position = f.position END
    ORDER BY q.position DESC LIMIT 1) s
WHERE h.status = 'pending'
  AND NOT EXISTS (
        SELECT FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = h.ecosystem_org_id AND e.status IN ('pending', 'processing')
          AND e.position < h.position)
  AND NOT EXISTS (
        SELECT FROM ecosystem_sync_queue e
        WHERE e.ecosystem_org_id = h.ecosystem_org_id AND e.status = 'processing')
ORDER BY h.due_at, h.position LIMIT $1;

-- name: count_unfinished
SELECT status, count(*) AS count FROM ecosystem_sync_queue WHERE status IN ('pending', 'processing') GROUP BY status;

-- name: count_failed
SELECT count(*) FROM ecosystem_sync_queue WHERE status = 'failed';

-- name: oldest_waiting
SELECT min(waiting_since) FROM ecosystem_sync_queue WHERE status IN ('pending', 'processing');

-- name: list_pauses
SELECT p.paused_at, p.reason FROM outbound_pauses p JOIN connections c ON c.id = p.connection_id
WHERE c.disabled_at IS NULL ORDER BY p.paused_at LIMIT 1;

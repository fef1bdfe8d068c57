-- The ledger of calls to vendors' APIs, by the fingerprint of the key that pays for them.

-- name: lock_ledger
-- Reservations of one key happen one after the other, whichever process makes them.
SELECT pg_advisory_xact_lock(hashtextextended('eventsync:budget:' || $1, 0));

-- name: find_places
-- A window of n calls has a place as soon as the n-th latest call has left it, so only that call matters. For the minute
-- and the day, n is the asking purpose's ceiling ($4, $5): all purposes' calls count, and what is above it is others'.
-- A call ends at its answer or, without one, when it must have timed out ($2, seconds after it was reserved).
WITH recent AS MATERIALIZED (
    SELECT purpose, coalesce(finished_at, reserved_at + make_interval(secs => $2)) AS ended_at
    FROM api_calls WHERE key_fingerprint = $1 AND reserved_at > $3
)
SELECT (SELECT ended_at FROM recent ORDER BY ended_at DESC OFFSET $4::bigint - 1 LIMIT 1) AS minute_taken_by,
       (SELECT ended_at FROM recent ORDER BY ended_at DESC OFFSET $5::bigint - 1 LIMIT 1) AS day_taken_by,
       (SELECT ended_at FROM recent WHERE purpose = $6 ORDER BY ended_at DESC OFFSET $7::bigint - 1 LIMIT 1)
           AS share_taken_by,
       (SELECT closed_until FROM api_closures WHERE key_fingerprint = $1) AS closed_until;

-- name: insert_call
INSERT INTO api_calls (key_fingerprint, purpose, reserved_at) VALUES ($1, $2, $3) RETURNING id;

-- name: finish_call
UPDATE api_calls SET finished_at = $2 WHERE id = $1 AND finished_at IS NULL;

-- name: close
INSERT INTO api_closures AS c (key_fingerprint, closed_until, refusals) VALUES ($1, $2, 1)
ON CONFLICT (key_fingerprint) DO UPDATE
    SET closed_until = greatest(c.closed_until, excluded.closed_until), refusals = c.refusals + 1;

-- name: forget_closure
-- A call that was made after the closure and answered without closing the budget again: the vendor serves us.
DELETE FROM api_closures c
WHERE c.key_fingerprint = $1 AND c.closed_until <= $2 AND EXISTS (
    SELECT 1 FROM api_calls a
    WHERE a.key_fingerprint = $1 AND a.reserved_at >= c.closed_until AND a.finished_at IS NOT NULL);

-- name: count_spent
WITH recent AS (
    SELECT purpose, coalesce(finished_at, reserved_at + make_interval(secs => $2)) AS ended_at
    FROM api_calls WHERE key_fingerprint = $1 AND reserved_at > $3
)
SELECT purpose, count(*) AS day, count(*) FILTER (WHERE ended_at > $5) AS minute
FROM recent WHERE ended_at > $4 GROUP BY purpose;

-- name: load_closure
SELECT closed_until, refusals FROM api_closures WHERE key_fingerprint = $1;

-- name: prune_calls
DELETE FROM api_calls WHERE reserved_at < $1;

-- Who may use the management API, who read what, and who was turned away at the door.

-- name: insert_token
INSERT INTO api_tokens (token_hash, name, role, organization_id, created_at) VALUES ($1, $2, $3, $4, $5) RETURNING id;

-- name: list_tokens
SELECT id, name, role, organization_id, created_at, last_used_at, revoked_at FROM api_tokens
WHERE $1::uuid IS NULL OR organization_id = $1 ORDER BY created_at, id;

-- name: revoke_token
UPDATE api_tokens SET revoked_at = $2
WHERE id = $1 AND revoked_at IS NULL AND ($3::uuid IS NULL OR organization_id = $3)
RETURNING id;

-- name: authenticate
-- The time of use is written once a minute at most, so that reading stays reading.
WITH found AS (
    SELECT id, role, organization_id FROM api_tokens WHERE token_hash = $1 AND revoked_at IS NULL
), used AS (
    UPDATE api_tokens t SET last_used_at = $2 FROM found
    WHERE t.id = found.id AND (t.last_used_at IS NULL OR t.last_used_at <= $2::timestamptz - interval '1 minute')
)
SELECT id, role, organization_id FROM found;

-- name: insert_access
INSERT INTO access_log (at, actor, action, subject) VALUES ($1, $2, $3, $4);

-- name: list_accesses
SELECT id, at, actor, action, subject FROM access_log
WHERE $1::bigint IS NULL OR id < $1 ORDER BY id DESC LIMIT $2;

-- name: count_refused
-- The vendor's name comes from the caller's path, so only names that we know become rows of their own.
INSERT INTO refused_requests AS r (hour, vendor, reason, count, last_at)
SELECT hour, known_vendor, reason, sum(count), $5
FROM (
    SELECT hour, reason, count,
           CASE WHEN vendor IN (SELECT c.vendor FROM connections c) THEN vendor ELSE 'unknown' END AS known_vendor
    FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::bigint[]) AS g(hour, vendor, reason, count)
) given
GROUP BY hour, known_vendor, reason
ORDER BY hour, known_vendor, reason
ON CONFLICT (hour, vendor, reason) DO UPDATE
    SET count = r.count + excluded.count, last_at = greatest(r.last_at, excluded.last_at);

-- name: list_refused
SELECT hour, vendor, reason, count, last_at FROM refused_requests WHERE hour >= $1 ORDER BY hour DESC, count DESC;

-- name: prune_refused
DELETE FROM refused_requests WHERE hour < $1;

-- name: prune_accesses
DELETE FROM access_log WHERE at < $1;

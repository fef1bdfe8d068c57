-- Events as people search them.

-- name: connection_ids
-- Resolved first, so that the search itself compares columns only and its order can come from an index.
SELECT coalesce(array_agg(id), '{}') FROM connections
WHERE ($1::uuid IS NULL OR organization_id = $1) AND ($2::uuid IS NULL OR id = $2);

-- name: plan_for_values
-- The filters are optional: a plan made for these very values leaves the unused ones out.
SET LOCAL plan_cache_mode = force_custom_plan;

-- name: list_events
SELECT * FROM v_events
WHERE ($1::uuid[] IS NULL OR connection_id = ANY($1))
  AND ($2::text IS NULL OR vendor = $2)
  AND ($3::text IS NULL OR state = $3)
  AND ($4::text IS NULL OR event_type = $4)
  AND ($5::text IS NULL OR entity_kind = $5)
  AND ($6::text IS NULL OR entity_id = $6)
  AND ($7::timestamptz IS NULL OR received_at >= $7)
  AND ($8::timestamptz IS NULL OR received_at < $8)
  AND ($9::timestamptz IS NULL OR (received_at, event_id) < ($9, $10::uuid))
ORDER BY received_at DESC, event_id DESC
LIMIT $11;

-- name: find_event
SELECT e.* FROM v_events e JOIN connections c ON c.id = e.connection_id
WHERE e.received_at = $1 AND e.event_id = $2 AND ($3::uuid IS NULL OR c.organization_id = $3);

-- name: find_queue_place
SELECT work, lane, available_at, publishes, published_at, leased_until FROM event_queue WHERE event_id = $1;

-- name: find_payload
SELECT headers_sealed, body_sealed FROM events WHERE received_at = $1 AND id = $2;

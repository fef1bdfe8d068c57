-- Events as they were stored, whatever became of them; each is found by its id and the time that the id tells.

-- name: find_states
SELECT v.event_id, v.state, v.event_type, v.reason, v.error, v.changed_fields, v.received_at, v.finished_at,
       EXISTS (SELECT 1 FROM events e WHERE e.received_at = w.received_at AND e.id = w.event_id) AS has_request
FROM unnest($1::uuid[], $2::timestamptz[]) AS w(event_id, received_at)
JOIN v_events v ON v.received_at = w.received_at AND v.event_id = w.event_id;

-- name: load_requests
SELECT e.id AS event_id, e.received_at, e.connection_id, e.vendor, e.headers_sealed, e.body_sealed
FROM unnest($1::uuid[], $2::timestamptz[]) AS w(event_id, received_at)
JOIN events e ON e.received_at = w.received_at AND e.id = w.event_id;

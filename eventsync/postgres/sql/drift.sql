-- What sweeps found wrong, and what became of the webhooks that should have told of it. The webhook is looked for when
-- somebody asks, since it may still come.

-- name: insert_findings
INSERT INTO drift_findings (connection_id, kind, external_id, run_id, found_at, read_began_at, since, position,
                            changed_fields, is_new, expected_event)
SELECT connection_id, kind, external_id, run_id, found_at, read_began_at, since, position, changed_fields, is_new,
       expected_event
FROM jsonb_to_recordset($1::jsonb) AS f(
    connection_id uuid, kind text, external_id text, run_id uuid, found_at timestamptz, read_began_at timestamptz,
    since timestamptz, position bigint, changed_fields text[], is_new boolean, expected_event text);

-- name: plan_for_values
-- The filters are optional: a plan made for these very values leaves the unused ones out.
SET LOCAL plan_cache_mode = force_custom_plan;

-- name: list_findings
SELECT d.id, d.connection_id, c.number AS connection, d.kind, d.external_id, d.run_id, d.found_at, d.since,
       d.changed_fields, d.is_new, d.expected_event, d.verdict, d.webhook_event_id, d.webhook_received_at
FROM (
    SELECT v.*, coalesce(v.told, CASE WHEN v.awaited_until > $1 OR v.may_wait_unread THEN 'awaited'
                                      ELSE 'never_came' END) AS verdict
    FROM v_drift v
    WHERE (($2::uuid IS NULL AND $3::uuid IS NULL) OR v.connection_id = ANY (ARRAY(
            SELECT o.id FROM connections o
            WHERE ($2::uuid IS NULL OR o.organization_id = $2) AND ($3::uuid IS NULL OR o.id = $3))))
      AND ($4::uuid IS NULL OR v.run_id = $4)
      AND ($5::text IS NULL OR v.kind = $5)
      AND ($6::text IS NULL OR v.external_id = $6)
      AND ($7::timestamptz IS NULL OR v.found_at >= $7)
      AND ($8::timestamptz IS NULL OR v.found_at < $8)
      AND ($10::timestamptz IS NULL OR (v.found_at, v.id) < ($10, $11::bigint))
) d
JOIN connections c ON c.id = d.connection_id
WHERE $9::text IS NULL OR d.verdict = $9
ORDER BY d.found_at DESC, d.id DESC
LIMIT $12;

-- name: count_findings
SELECT d.expected_event, d.verdict, count(*) AS count
FROM (
    SELECT v.expected_event, coalesce(v.told, CASE WHEN v.awaited_until > $1 OR v.may_wait_unread THEN 'awaited'
                                                   ELSE 'never_came' END) AS verdict
    FROM v_drift v
    WHERE (($2::uuid IS NULL AND $3::uuid IS NULL) OR v.connection_id = ANY (ARRAY(
            SELECT o.id FROM connections o
            WHERE ($2::uuid IS NULL OR o.organization_id = $2) AND ($3::uuid IS NULL OR o.id = $3))))
      AND ($4::uuid IS NULL OR v.run_id = $4)
      AND ($5::text IS NULL OR v.kind = $5)
      AND ($6::text IS NULL OR v.external_id = $6)
      AND ($7::timestamptz IS NULL OR v.found_at >= $7)
      AND ($8::timestamptz IS NULL OR v.found_at < $8)
) d
WHERE $9::text IS NULL OR d.verdict = $9
GROUP BY d.expected_event, d.verdict
ORDER BY d.expected_event NULLS LAST, d.verdict;

-- name: count_parked_unread
-- Parked events of which nobody knows the record: some of the webhooks that were not seen may be among them.
SELECT count(*) FROM event_queue q JOIN connections c ON c.id = q.connection_id
WHERE q.status = 'parked' AND q.entity_id IS NULL AND q.source = 'webhook'
  AND ($1::uuid IS NULL OR c.organization_id = $1) AND ($2::uuid IS NULL OR c.id = $2)
  AND ($3::timestamptz IS NULL OR q.received_at >= $3) AND ($4::timestamptz IS NULL OR q.received_at < $4);

-- name: signs_of_silence
-- Of each connection that has a webhook: when it was heard last since $2, and how many changes of its practice between
-- then and $3 a sweep had to find. Events are looked through only where enough such changes are known ($4).
SELECT c.id AS connection_id, c.number AS connection, heard.received_at AS last_received_at,
       CASE WHEN announced.count < $4 THEN 0 ELSE (
           SELECT count(*) FROM drift_findings f
           WHERE f.connection_id = c.id AND f.expected_event IS NOT NULL
             AND f.since > coalesce(heard.received_at, $2) AND f.since < $3
       ) END AS missed_changes
FROM connections c
CROSS JOIN LATERAL (
    SELECT count(*) AS count FROM drift_findings f
    WHERE f.connection_id = c.id AND f.expected_event IS NOT NULL AND f.since > $2 AND f.since < $3
) announced
LEFT JOIN LATERAL (
    SELECT e.received_at FROM events e
    WHERE announced.count >= $4 AND e.received_at > $2 AND e.connection_id = c.id AND e.source = 'webhook'
    ORDER BY e.received_at DESC LIMIT 1
) heard ON true
WHERE c.disabled_at IS NULL AND ($1::uuid IS NULL OR c.id = $1)
  AND (EXISTS (SELECT FROM webhook_tokens t WHERE t.connection_id = c.id AND (t.expires_at IS NULL OR t.expires_at > $3))
       OR (SELECT true FROM event_history h WHERE h.connection_id = c.id
           ORDER BY h.entity_kind, h.entity_id, h.received_at LIMIT 1))
ORDER BY c.number;

-- name: prune_findings
DELETE FROM drift_findings WHERE found_at < $1;

-- What all kinds of records share: evidence of absence, and the news of what changed.

-- name: write_alone
SELECT pg_advisory_xact_lock(hashtextextended('eventsync:records:' || c, 0)) FROM unnest($1::uuid[]) c;

-- name: write_side_by_side
SELECT pg_advisory_xact_lock_shared(hashtextextended('eventsync:records:' || c, 0)) FROM unnest($1::uuid[]) c;

-- name: load_absences
SELECT a.* FROM record_absences a
JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS k(connection_id, kind, external_id)
    USING (connection_id, kind, external_id);

-- name: insert_absences
INSERT INTO record_absences (connection_id, kind, external_id, read_began_at, window_from, window_to, margin_ms)
SELECT connection_id, kind, external_id, read_began_at, window_from, window_to, margin_ms
FROM jsonb_populate_recordset(NULL::record_absences, $1::jsonb)
ON CONFLICT DO NOTHING;

-- name: insert_news
-- A client who is linked is told under the id of the patient whom people see. The relays are woken, since nobody else
-- would tell them before they poll.
INSERT INTO change_outbox (connection_id, kind, record_id, external_id, position, deleted, event_id, created_at)
SELECT n.connection_id, n.kind, coalesce(i.patient_id, n.record_id), n.external_id, n.position, n.deleted, n.event_id, $2
FROM jsonb_populate_recordset(NULL::change_outbox, $1::jsonb) n
LEFT JOIN patient_identities i
    ON n.kind = 'patient' AND i.connection_id = n.connection_id AND i.external_id = n.external_id
ORDER BY n.kind DESC, n.connection_id, n.external_id  -- patients before what names them
RETURNING pg_notify('eventsync_queue', '');

-- name: take_news
-- As an array, since a plan may run a subquery under IN several times, and each run would lock other rows.
DELETE FROM change_outbox WHERE id = ANY(ARRAY(
    SELECT id FROM change_outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
))
RETURNING id, connection_id, kind, record_id, external_id, position, deleted, event_id;

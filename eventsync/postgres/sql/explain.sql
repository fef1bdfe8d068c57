-- The whole history of one record.

-- name: find_appointments
SELECT id, connection_id, 'appointment' AS kind, external_id, patient_id, status, version, seen_at AS verified_at, deleted_at,
       changed_at, applied_event_id, created_at, updated_at
FROM appointments WHERE connection_id = ANY($1::uuid[]) AND (external_id = $2 OR id = $3::uuid)
ORDER BY connection_id, external_id LIMIT 20;

-- name: find_documents
SELECT id, connection_id, kind, external_id, patient_id, status, version, seen_at AS verified_at, deleted_at, changed_at,
       applied_event_id, created_at, updated_at
FROM documents WHERE connection_id = ANY($1::uuid[]) AND kind = $4 AND (external_id = $2 OR id = $3::uuid)
ORDER BY connection_id, external_id LIMIT 20;

-- name: find_clients
-- A client is found by its own id, by its patient's, and by the id of the patient that it was before it was linked.
SELECT i.patient_id AS id, i.connection_id, 'patient' AS kind, i.external_id, i.patient_id,
       CASE WHEN i.archived THEN 'archived' ELSE 'active' END AS status, i.version, i.seen_at AS verified_at, i.deleted_at,
       i.changed_at, i.applied_event_id, i.created_at, i.updated_at
FROM patient_identities i
WHERE i.connection_id = ANY($1::uuid[])
  AND (i.external_id = $2 OR i.patient_id = $3::uuid OR (i.connection_id, i.external_id) IN (
        SELECT l.connection_id, l.external_id FROM patient_links l
        WHERE l.derived_patient_id = $3::uuid AND l.ended_at IS NULL))
ORDER BY i.connection_id, i.external_id LIMIT 20;

-- name: list_record_keys_of_client
-- A client's fields also come with its appointments, so their events belong to its history.
(SELECT 'appointment' AS kind, external_id FROM appointments
 WHERE connection_id = $1 AND client_external_id = $2 ORDER BY start_time DESC LIMIT 500)
UNION ALL
(SELECT kind, external_id FROM documents
 WHERE connection_id = $1 AND client_external_id = $2 ORDER BY document_time DESC NULLS LAST LIMIT 500);

-- name: list_events_of_records
SELECT e.* FROM v_events e
JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS k(connection_id, entity_kind, entity_id)
    USING (connection_id, entity_kind, entity_id)
ORDER BY e.received_at DESC, e.event_id DESC LIMIT $4;

-- name: list_events_by_id
SELECT e.* FROM v_events e
JOIN unnest($1::timestamptz[], $2::uuid[]) AS k(received_at, event_id) USING (received_at, event_id)
WHERE e.connection_id = ANY($3::uuid[]);

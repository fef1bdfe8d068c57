-- The whole history of one record.

-- name: find_appointments
SELECT a.id, a.connection_id, 'appointment' AS kind, a.external_id, a.patient_id, a.status, a.version, v.verified_at,
       a.deleted_at, a.changed_at, a.applied_event_id, a.created_at, a.updated_at
FROM (
    SELECT * FROM appointments WHERE connection_id = ANY($1::uuid[]) AND (external_id = $2 OR id = $3::uuid)
    ORDER BY connection_id, external_id LIMIT 20
) a
CROSS JOIN LATERAL verification(a.connection_id, 'appointment', a.external_id, a.start_time,
                                greatest(a.source_version, a.seen_at)) v
ORDER BY a.connection_id, a.external_id;

-- name: find_documents
-- Only invoices have a vendor's time as their version; that of the others is a number, which tells no time.
SELECT d.id, d.connection_id, d.kind, d.external_id, d.patient_id, d.status, d.version, v.verified_at, d.deleted_at,
       d.changed_at, d.applied_event_id, d.created_at, d.updated_at
FROM (
    SELECT * FROM documents WHERE connection_id = ANY($1::uuid[]) AND kind = $4 AND (external_id = $2 OR id = $3::uuid)
    ORDER BY connection_id, external_id LIMIT 20
) d
CROSS JOIN LATERAL verification(d.connection_id, d.kind, d.external_id, NULL,
                                greatest(d.seen_at, CASE WHEN d.kind = 'invoice' THEN d.source_version END)) v
ORDER BY d.connection_id, d.external_id;

-- name: find_clients
-- A client is found by its own id, by its patient's, and by the id of the patient that it was before it was linked.
SELECT i.patient_id AS id, i.connection_id, 'patient' AS kind, i.external_id, i.patient_id,
       CASE WHEN i.archived THEN 'archived' ELSE 'active' END AS status, i.version, v.verified_at, i.deleted_at,
       i.changed_at, i.applied_event_id, i.created_at, i.updated_at
FROM (
    SELECT c.* FROM patient_identities c
    WHERE c.connection_id = ANY($1::uuid[])
      AND (c.external_id = $2 OR c.patient_id = $3::uuid OR (c.connection_id, c.external_id) IN (
            SELECT l.connection_id, l.external_id FROM patient_links l
            WHERE l.derived_patient_id = $3::uuid AND l.ended_at IS NULL))
    ORDER BY c.connection_id, c.external_id LIMIT 20
) i
CROSS JOIN LATERAL verification(i.connection_id, 'patient', i.external_id, NULL,
                                greatest(i.source_version, i.seen_at)) v
ORDER BY i.connection_id, i.external_id;

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

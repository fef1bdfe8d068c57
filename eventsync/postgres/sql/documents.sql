-- Intakes, notes and invoices: found by their columns, read by opening their sealed content.

-- name: load
SELECT d.* FROM documents d
JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS k(connection_id, kind, external_id)
    USING (connection_id, kind, external_id)
ORDER BY d.connection_id, d.kind, d.external_id
FOR UPDATE OF d;

-- name: insert
INSERT INTO documents (
    id, connection_id, kind, external_id, patient_id, client_external_id, status, title, document_time, content_sealed,
    version, source_version, content_hash, seen_at, deleted_at, changed_at, applied_event_id, created_at, updated_at)
SELECT r.id, r.connection_id, r.kind, r.external_id, coalesce(i.patient_id, r.patient_id), r.client_external_id,
    r.status, r.title, r.document_time, r.content_sealed, r.version, r.source_version, r.content_hash, r.seen_at,
    r.deleted_at, $2, r.applied_event_id, $2, $2
FROM jsonb_populate_recordset(NULL::documents, $1::jsonb) r
LEFT JOIN patient_identities i ON i.connection_id = r.connection_id AND i.external_id = r.client_external_id
ORDER BY r.connection_id, r.kind, r.external_id
ON CONFLICT DO NOTHING
RETURNING connection_id, kind, external_id;

-- name: update
UPDATE documents t SET
    patient_id = coalesce(i.patient_id, r.patient_id), client_external_id = r.client_external_id, status = r.status,
    title = r.title, document_time = r.document_time, content_sealed = r.content_sealed, version = r.version,
    source_version = r.source_version, content_hash = r.content_hash, seen_at = r.seen_at, deleted_at = r.deleted_at,
    changed_at = coalesce(r.changed_at, t.changed_at),
    applied_event_id = coalesce(r.applied_event_id, t.applied_event_id), updated_at = $2
FROM jsonb_populate_recordset(NULL::documents, $1::jsonb) r
LEFT JOIN patient_identities i ON i.connection_id = r.connection_id AND i.external_id = r.client_external_id
WHERE t.connection_id = r.connection_id AND t.kind = r.kind AND t.external_id = r.external_id
  AND t.version <= r.version;

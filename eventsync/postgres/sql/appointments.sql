-- Appointments as rows: loaded and locked in key order, then written once a batch.

-- name: load
SELECT a.* FROM appointments a
JOIN unnest($1::uuid[], $2::text[]) AS k(connection_id, external_id) USING (connection_id, external_id)
ORDER BY a.connection_id, a.external_id
FOR UPDATE OF a;

-- name: insert
-- Whoever inserts a row first wins; the loser loads it and merges, so nothing is overwritten unread. Whichever of the
-- two unique keys it meets first: naming one of them would make the other an error.
INSERT INTO appointments (
    id, connection_id, external_id, patient_id, client_external_id, status, vendor_status, start_time, end_time,
    duration_minutes, practitioner_external_id, practitioner_name, service_external_id, service_name,
    location_external_id, location_name, location_type, meeting_url, price, cancellation_reason, booked_by_client,
    vendor_created_at, details, package_external_id, package_name, procedures, version, extras_version, source_version,
    content_hash, seen_at, deleted_at, changed_at, applied_event_id, created_at, updated_at)
SELECT r.id, r.connection_id, r.external_id, coalesce(i.patient_id, r.patient_id), r.client_external_id, r.status,
    r.vendor_status, r.start_time, r.end_time, r.duration_minutes, r.practitioner_external_id, r.practitioner_name,
    r.service_external_id, r.service_name, r.location_external_id, r.location_name, r.location_type, r.meeting_url,
    r.price, r.cancellation_reason, r.booked_by_client, r.vendor_created_at, r.details, r.package_external_id,
    r.package_name, r.procedures, r.version, r.extras_version, r.source_version, r.content_hash, r.seen_at,
    r.deleted_at, $2, r.applied_event_id, $2, $2
FROM jsonb_populate_recordset(NULL::appointments, $1::jsonb) r
LEFT JOIN patient_identities i ON i.connection_id = r.connection_id AND i.external_id = r.client_external_id
ORDER BY r.connection_id, r.external_id
ON CONFLICT DO NOTHING
RETURNING connection_id, external_id;

-- name: update
-- The row is locked and was merged, so it is never older than what stands; the guard says so in SQL as well.
UPDATE appointments t SET
    patient_id = coalesce(i.patient_id, r.patient_id), client_external_id = r.client_external_id, status = r.status,
    vendor_status = r.vendor_status, start_time = r.start_time, end_time = r.end_time,
    duration_minutes = r.duration_minutes, practitioner_external_id = r.practitioner_external_id,
    practitioner_name = r.practitioner_name, service_external_id = r.service_external_id,
    service_name = r.service_name, location_external_id = r.location_external_id, location_name = r.location_name,
    location_type = r.location_type, meeting_url = r.meeting_url, price = r.price,
    cancellation_reason = r.cancellation_reason, booked_by_client = r.booked_by_client,
    vendor_created_at = r.vendor_created_at, details = r.details, package_external_id = r.package_external_id,
    package_name = r.package_name, procedures = r.procedures, version = r.version, extras_version = r.extras_version,
    source_version = r.source_version, content_hash = r.content_hash, seen_at = r.seen_at, deleted_at = r.deleted_at,
    changed_at = coalesce(r.changed_at, t.changed_at),
    applied_event_id = coalesce(r.applied_event_id, t.applied_event_id), updated_at = $2
FROM jsonb_populate_recordset(NULL::appointments, $1::jsonb) r
LEFT JOIN patient_identities i ON i.connection_id = r.connection_id AND i.external_id = r.client_external_id
WHERE t.connection_id = r.connection_id AND t.external_id = r.external_id AND t.version <= r.version;

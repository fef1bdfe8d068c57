-- A client of one connection is an identity; the patient whom people see is drawn from its identities.

-- name: load
SELECT p.* FROM patient_identities p
JOIN unnest($1::uuid[], $2::text[]) AS k(connection_id, external_id) USING (connection_id, external_id)
ORDER BY p.connection_id, p.external_id
FOR UPDATE OF p;

-- name: insert
INSERT INTO patient_identities (
    connection_id, external_id, patient_id, first_name, last_name, email, phone, date_of_birth, archived, version,
    source_version, content_hash, seen_at, deleted_at, changed_at, applied_event_id, created_at, updated_at)
SELECT r.connection_id, r.external_id, r.patient_id, r.first_name, r.last_name, r.email, r.phone, r.date_of_birth,
    r.archived, r.version, r.source_version, r.content_hash, r.seen_at, r.deleted_at, $2, r.applied_event_id, $2, $2
FROM jsonb_populate_recordset(NULL::patient_identities, $1::jsonb) r
ORDER BY r.connection_id, r.external_id
ON CONFLICT (connection_id, external_id) DO NOTHING
RETURNING connection_id, external_id;

-- name: update
UPDATE patient_identities t SET
    first_name = r.first_name, last_name = r.last_name, email = r.email, phone = r.phone,
    date_of_birth = r.date_of_birth, archived = r.archived, version = r.version, source_version = r.source_version,
    content_hash = r.content_hash, seen_at = r.seen_at, deleted_at = r.deleted_at,
    changed_at = coalesce(r.changed_at, t.changed_at),
    applied_event_id = coalesce(r.applied_event_id, t.applied_event_id), updated_at = $2
FROM jsonb_populate_recordset(NULL::patient_identities, $1::jsonb) r
WHERE t.connection_id = r.connection_id AND t.external_id = r.external_id AND t.version <= r.version;

-- name: project
-- Draw the patients of these identities anew: a living client outranks a deleted one, a client record a mention, then
-- the newer, then the smaller id. What no vendor says of a local patient stays as the organization itself knows it.
INSERT INTO patients AS p (id, organization_id, first_name, last_name, email, phone, date_of_birth,
                           intakeq_client_id, status, origin, created_at, updated_at)
SELECT DISTINCT ON (i.patient_id)
    i.patient_id, c.organization_id, coalesce(i.first_name, own.first_name, 'Unknown'),
    coalesce(i.last_name, own.last_name, 'Unknown'), coalesce(i.email, own.email), coalesce(i.phone, own.phone),
    coalesce(i.date_of_birth, own.date_of_birth),
    (SELECT j.external_id FROM patient_identities j JOIN connections d ON d.id = j.connection_id
     WHERE j.patient_id = i.patient_id AND d.vendor = 'intakeq'
     ORDER BY j.deleted_at IS NOT NULL, j.version DESC, j.external_id LIMIT 1),
    CASE WHEN i.archived OR i.deleted_at IS NOT NULL THEN 'archived' ELSE 'active' END, 'vendor', $3, $3
FROM patient_identities i
JOIN connections c ON c.id = i.connection_id
LEFT JOIN local_patients own ON own.patient_id = i.patient_id
WHERE i.patient_id IN (
    SELECT w.patient_id FROM patient_identities w
    JOIN unnest($1::uuid[], $2::text[]) AS k(connection_id, external_id) USING (connection_id, external_id))
ORDER BY i.patient_id, i.deleted_at IS NOT NULL, i.version DESC, i.external_id
ON CONFLICT (id) DO UPDATE SET
    first_name = excluded.first_name, last_name = excluded.last_name, email = excluded.email, phone = excluded.phone,
    date_of_birth = excluded.date_of_birth, intakeq_client_id = excluded.intakeq_client_id,
    status = excluded.status, updated_at = excluded.updated_at
WHERE (p.first_name, p.last_name, p.email, p.phone, p.date_of_birth, p.intakeq_client_id, p.status)
    IS DISTINCT FROM (excluded.first_name, excluded.last_name, excluded.email, excluded.phone, excluded.date_of_birth,
                      excluded.intakeq_client_id, excluded.status);

-- Linking vendors' clients to patients whom their organization already knew, by e-mail; undoable.

-- name: lock
-- One at a time: the rules look at all patients of an organization.
SELECT pg_advisory_xact_lock(hashtext('eventsync:linking'));

-- name: find_contested
-- Links that no longer hold: the client is gone, or somebody else has a claim as good. A client's e-mail that merely
-- changed ends nothing, since the person is the same.
SELECT l.id, CASE WHEN i.deleted_at IS NOT NULL THEN 'deleted' ELSE 'ambiguous' END AS because
FROM patient_links l
JOIN patient_identities i USING (connection_id, external_id)
JOIN local_patients p ON p.patient_id = l.patient_id
WHERE l.ended_at IS NULL AND (
    i.deleted_at IS NOT NULL
    OR EXISTS (
        SELECT 1 FROM connections c JOIN patient_identities other ON other.connection_id = c.id
        WHERE c.organization_id = p.organization_id AND other.deleted_at IS NULL
          AND email_key(other.email) = email_key(p.email)
          AND (other.connection_id, other.external_id) <> (i.connection_id, i.external_id))
    OR EXISTS (
        SELECT 1 FROM local_patients other
        WHERE other.organization_id = p.organization_id AND other.patient_id <> p.patient_id
          AND email_key(other.email) IN (email_key(p.email), email_key(i.email))))
ORDER BY l.connection_id, l.external_id
FOR UPDATE OF i;

-- name: find_linkable
-- Exactly one living client and exactly one local patient of the organization have the e-mail, neither is linked yet,
-- and nobody has undone this very link.
SELECT i.connection_id, i.external_id, p.patient_id, i.patient_id AS derived_patient_id
FROM local_patients p
JOIN connections c ON c.organization_id = p.organization_id
JOIN patient_identities i ON i.connection_id = c.id AND email_key(i.email) = email_key(p.email)
WHERE i.deleted_at IS NULL
  AND NOT EXISTS (
    SELECT 1 FROM connections d JOIN patient_identities other ON other.connection_id = d.id
    WHERE d.organization_id = p.organization_id AND other.deleted_at IS NULL
      AND email_key(other.email) = email_key(p.email)
      AND (other.connection_id, other.external_id) <> (i.connection_id, i.external_id))
  AND NOT EXISTS (
    SELECT 1 FROM local_patients other
    WHERE other.organization_id = p.organization_id AND other.patient_id <> p.patient_id
      AND email_key(other.email) = email_key(p.email))
  AND NOT EXISTS (
    SELECT 1 FROM patient_links l
    WHERE l.connection_id = i.connection_id AND l.external_id = i.external_id
      AND (l.ended_at IS NULL OR (l.patient_id = p.patient_id AND l.ended_because = 'undone')))
  AND NOT EXISTS (SELECT 1 FROM patient_identities mine WHERE mine.patient_id = p.patient_id)
ORDER BY i.connection_id, i.external_id
FOR UPDATE OF i;

-- name: count_ambiguous
SELECT count(*) FROM (
    SELECT 1
    FROM local_patients p
    JOIN connections c ON c.organization_id = p.organization_id
    JOIN patient_identities i ON i.connection_id = c.id AND email_key(i.email) = email_key(p.email)
    WHERE i.deleted_at IS NULL
    GROUP BY p.organization_id, email_key(p.email)
    HAVING count(*) > 1
) ambiguous;

-- name: insert_links
INSERT INTO patient_links (connection_id, external_id, patient_id, derived_patient_id, method, linked_at)
SELECT connection_id, external_id, patient_id, derived_patient_id, 'email', $5
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[])
    AS n(connection_id, external_id, patient_id, derived_patient_id)
RETURNING id, connection_id, external_id, patient_id, derived_patient_id;

-- name: end_links
UPDATE patient_links l SET ended_at = $3, ended_because = e.because
FROM unnest($1::bigint[], $2::text[]) AS e(id, because)
WHERE l.id = e.id AND l.ended_at IS NULL
RETURNING l.id, l.connection_id, l.external_id, l.patient_id, l.derived_patient_id;

-- name: find_live_link
SELECT l.id FROM patient_links l JOIN patients p ON p.id = l.patient_id
WHERE l.id = $1 AND l.ended_at IS NULL AND ($2::uuid IS NULL OR p.organization_id = $2);

-- name: point_identities
UPDATE patient_identities i SET patient_id = n.patient_id, updated_at = $4
FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS n(connection_id, external_id, patient_id)
WHERE i.connection_id = n.connection_id AND i.external_id = n.external_id;

-- name: mark_linked
UPDATE patients SET status = 'linked', intakeq_client_id = NULL, updated_at = $2 WHERE id = ANY($1::uuid[]);

-- name: redraw_local
UPDATE patients p
SET first_name = own.first_name, last_name = own.last_name, email = own.email, phone = own.phone,
    date_of_birth = own.date_of_birth, intakeq_client_id = NULL, status = 'active', updated_at = $2
FROM local_patients own
WHERE p.id = ANY($1::uuid[]) AND own.patient_id = p.id
  AND NOT EXISTS (SELECT 1 FROM patient_identities i WHERE i.patient_id = p.id);

-- name: move_affiliations
-- The local patient's own affiliation with an organization stays; only where it has none is the other's taken over.
UPDATE patient_organization_affiliations a
SET patient_id = l.patient_id, moved_from = l.derived_patient_id, updated_at = $2
FROM patient_links l
WHERE l.id = ANY($1::bigint[]) AND a.patient_id = l.derived_patient_id
  AND NOT (a.status = 'active' AND EXISTS (
    SELECT 1 FROM patient_organization_affiliations own
    WHERE own.patient_id = l.patient_id AND own.organization_id = a.organization_id AND own.status = 'active'));

-- name: return_affiliations
UPDATE patient_organization_affiliations a
SET patient_id = l.derived_patient_id, moved_from = NULL, updated_at = $2
FROM patient_links l
WHERE l.id = ANY($1::bigint[]) AND a.patient_id = l.patient_id AND a.moved_from = l.derived_patient_id
  AND NOT (a.status = 'active' AND EXISTS (
    SELECT 1 FROM patient_organization_affiliations own
    WHERE own.patient_id = l.derived_patient_id AND own.organization_id = a.organization_id AND own.status = 'active'));

-- name: point_appointments
-- What a client's records say follows the client. All links are looked at each time: a record written while its
-- client was being linked carries the patient of before.
UPDATE appointments a SET patient_id = i.patient_id, updated_at = $1
FROM patient_links l JOIN patient_identities i USING (connection_id, external_id)
WHERE a.connection_id = l.connection_id AND a.client_external_id = l.external_id
  AND a.patient_id IS DISTINCT FROM i.patient_id;

-- name: point_documents
UPDATE documents d SET patient_id = i.patient_id, updated_at = $1
FROM patient_links l JOIN patient_identities i USING (connection_id, external_id)
WHERE d.connection_id = l.connection_id AND d.client_external_id = l.external_id
  AND d.patient_id IS DISTINCT FROM i.patient_id;

-- name: backfill_client_ids
UPDATE patients p SET intakeq_client_id = known.external_id, updated_at = $1
FROM (
    SELECT DISTINCT ON (i.patient_id) i.patient_id, i.external_id
    FROM patient_identities i
    JOIN connections c ON c.id = i.connection_id
    JOIN patients missing ON missing.id = i.patient_id
    WHERE missing.intakeq_client_id IS NULL AND c.vendor = 'intakeq' AND i.deleted_at IS NULL
    ORDER BY i.patient_id, i.version DESC, i.external_id
) known
WHERE p.id = known.patient_id;

-- name: list_links
SELECT l.id, l.connection_id, l.external_id, l.patient_id, l.method, l.linked_at, l.ended_at, l.ended_because
FROM patient_links l JOIN patients p ON p.id = l.patient_id
WHERE ($1::uuid IS NULL OR p.organization_id = $1) AND ($2::uuid IS NULL OR l.patient_id = $2)
  AND ($3::bigint IS NULL OR l.id < $3)
ORDER BY l.id DESC LIMIT $4;

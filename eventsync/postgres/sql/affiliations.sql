-- Which partner organization follows which patient. A patient is its owner organization's; a partner sees it only here.

-- name: lock_import
-- One import an organization at a time, so that two of them do not both make the same unknown patient.
SELECT pg_advisory_xact_lock(hashtextextended('eventsync:affiliations:' || $1::uuid::text, 0));

-- name: find_patient
-- A linked client's own patient stands for the patient that it was linked to.
SELECT coalesce(l.patient_id, p.id) AS id
FROM patients p LEFT JOIN patient_links l ON l.derived_patient_id = p.id AND l.ended_at IS NULL
WHERE p.id = $1 AND p.organization_id = $2;

-- name: find_by_client_id
SELECT DISTINCT i.patient_id AS id
FROM patient_identities i JOIN connections c ON c.id = i.connection_id
WHERE c.organization_id = $1 AND c.vendor = 'intakeq' AND i.external_id = $2 AND i.deleted_at IS NULL
ORDER BY i.patient_id LIMIT 2;

-- name: find_by_email
-- By the e-mail that people see, and by the one that the organization itself gave.
SELECT p.id, p.first_name, p.last_name, own.first_name AS own_first_name, own.last_name AS own_last_name
FROM patients p LEFT JOIN local_patients own ON own.patient_id = p.id
WHERE p.organization_id = $1 AND p.status <> 'linked' AND p.id IN (
    SELECT s.id FROM patients s WHERE s.organization_id = $1 AND email_key(s.email) = email_key($2)
    UNION ALL
    SELECT o.patient_id FROM local_patients o WHERE o.organization_id = $1 AND email_key(o.email) = email_key($2))
ORDER BY p.id LIMIT 20;

-- name: insert_local_patient
WITH person AS (
    INSERT INTO patients (id, organization_id, first_name, last_name, email, origin, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, 'local', $6, $6)
    RETURNING id, organization_id, first_name, last_name, email, created_at
)
INSERT INTO local_patients (patient_id, organization_id, first_name, last_name, email, created_at)
SELECT id, organization_id, first_name, last_name, email, created_at FROM person;

-- name: upsert
-- One living affiliation a patient and partner: giving it again changes its terms.
WITH before AS (
    SELECT 1 FROM patient_organization_affiliations
    WHERE patient_id = $1 AND organization_id = $2 AND status = 'active'
)
INSERT INTO patient_organization_affiliations AS a (
    patient_id, organization_id, affiliation_type, status, start_date, end_date, consent_expires_on,
    created_at, updated_at)
VALUES ($1, $2, $3, 'active', $4, $5, $6, $7, $7)
ON CONFLICT (patient_id, organization_id) WHERE status = 'active' DO UPDATE
    SET affiliation_type = excluded.affiliation_type, start_date = excluded.start_date, end_date = excluded.end_date,
        consent_expires_on = excluded.consent_expires_on, updated_at = excluded.updated_at
RETURNING a.id, NOT EXISTS (SELECT 1 FROM before) AS is_new;

-- name: end
UPDATE patient_organization_affiliations a
SET status = 'inactive', start_date = least(a.start_date, $2), end_date = $2, updated_at = $4
FROM patients p
WHERE a.id = $1 AND a.status = 'active' AND p.id = a.patient_id AND ($3::uuid IS NULL OR p.organization_id = $3)
RETURNING a.id;

-- name: list
SELECT a.id, a.patient_id, p.organization_id AS owner_id, a.organization_id, a.affiliation_type, a.status,
       a.start_date, a.end_date, a.consent_expires_on, a.last_practiceq_sync_at
FROM patient_organization_affiliations a JOIN patients p ON p.id = a.patient_id
WHERE ($1::uuid IS NULL OR p.organization_id = $1 OR a.organization_id = $1)
  AND ($2::uuid IS NULL OR a.patient_id = $2) AND ($3::uuid IS NULL OR a.id > $3)
ORDER BY a.id LIMIT $4;

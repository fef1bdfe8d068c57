-- Whose appointments a run has brought up to date.

-- name: count_patients
-- Affiliated: followed today by a partner organization ($3: by this one alone), with its consent where that ends.
-- Local patients, whom the organization named itself, count as well: they are whom a vendor's client must be found for.
WITH mine AS (
    SELECT p.id, p.email, p.intakeq_client_id,
           EXISTS (SELECT FROM patient_identities i WHERE i.patient_id = p.id AND i.connection_id = $1) AS is_client,
           EXISTS (SELECT FROM patient_organization_affiliations f
                   WHERE f.patient_id = p.id AND f.status = 'active' AND f.start_date <= $4
                     AND (f.end_date IS NULL OR f.end_date >= $4)
                     AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $4)
                     AND ($3::uuid IS NULL OR f.organization_id = $3)) AS is_affiliated
    FROM patients p
    WHERE p.organization_id = $2 AND p.status = 'active'
), counted AS (
    SELECT mine.*, mine.intakeq_client_id IS NULL AND NOT mine.is_client AND email_key(mine.email) IS NULL AS is_unreachable,
           $5::text[] IS NULL OR EXISTS (
               SELECT FROM appointments a WHERE a.patient_id = mine.id AND a.connection_id = $1
                 AND a.external_id = ANY($5)) AS is_read,
           $6::text[] IS NOT NULL AND EXISTS (
               SELECT FROM appointments a WHERE a.patient_id = mine.id AND a.connection_id = $1
                 AND a.external_id = ANY($6)) AS is_spoiled
    FROM mine
)
SELECT count(*) FILTER (WHERE is_affiliated) AS affiliated,
       count(*) FILTER (WHERE is_affiliated AND is_read AND NOT is_unreachable AND NOT is_spoiled) AS processed,
       count(*) FILTER (WHERE is_affiliated AND (is_unreachable OR is_spoiled)) AS failed,
       -- Whom a partner does not follow is none of its business, not even as a number.
       count(*) FILTER (WHERE $3::uuid IS NULL AND NOT is_affiliated AND is_client AND is_read AND NOT is_spoiled)
           AS unaffiliated,
       (array_agg(id ORDER BY id) FILTER (WHERE is_affiliated AND is_unreachable))[1:10] AS unreachable
FROM counted;

-- name: mark_synced
UPDATE patient_organization_affiliations f SET last_practiceq_sync_at = $4, updated_at = $4
FROM patients p
WHERE p.id = f.patient_id AND f.status = 'active' AND p.organization_id = $2 AND p.status = 'active'
  AND ($3::uuid IS NULL OR f.organization_id = $3)
  AND EXISTS (SELECT FROM patient_identities i WHERE i.patient_id = p.id AND i.connection_id = $1)
  AND ($5::text[] IS NULL OR EXISTS (
        SELECT FROM appointments a WHERE a.patient_id = p.id AND a.connection_id = $1 AND a.external_id = ANY($5)));

-- name: count_appointments
-- What a list of changes did to the appointments of one organization's patients; those that it did not list stand.
SELECT count(*) FILTER (WHERE a.external_id = ANY($9::text[])) AS deleted,
       count(*) FILTER (WHERE a.external_id = ANY($5::text[])) AS new,
       count(*) FILTER (WHERE a.external_id = ANY($6::text[])) AS updated,
       count(*) FILTER (WHERE a.deleted_at IS NULL AND a.start_time >= $7 AND a.start_time < $8
                          AND NOT a.external_id = ANY($5::text[]) AND NOT a.external_id = ANY($6::text[])) AS unchanged
FROM appointments a
JOIN patients p ON p.id = a.patient_id
WHERE a.connection_id = $1 AND p.organization_id = $2
  AND ($3::uuid IS NULL OR EXISTS (
        SELECT FROM patient_organization_affiliations f
        WHERE f.patient_id = p.id AND f.organization_id = $3 AND f.status = 'active' AND f.start_date <= $4
          AND (f.end_date IS NULL OR f.end_date >= $4)
          AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $4)));

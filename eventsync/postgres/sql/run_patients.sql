-- Whose appointments a run has brought up to date. A run reads thousands of patients and tens of thousands of
-- appointments: each is looked up once, by its index, and sets of them are hashed, whatever the planner thinks of them.

-- name: count_patients
-- Affiliated: followed today by a partner organization ($3: by this one alone), with its consent where that ends.
-- Local patients, whom the organization named itself, count as well: they are whom a vendor's client must be found for.
-- Clients of the owner's other connections do not: they are read by those connections' runs.
WITH mine AS MATERIALIZED (
    SELECT p.id, p.email, p.intakeq_client_id, coalesce(known.is_here, false) AS is_client,
           follower.organization_ids IS NOT NULL AS is_affiliated, follower.organization_ids
    FROM patients p
    CROSS JOIN LATERAL (
        SELECT bool_or(i.connection_id = $1) AS is_here FROM patient_identities i WHERE i.patient_id = p.id
    ) known
    LEFT JOIN LATERAL (
        SELECT array_agg(f.organization_id) AS organization_ids FROM patient_organization_affiliations f
        WHERE f.patient_id = p.id AND f.status = 'active' AND f.start_date <= $4
          AND (f.end_date IS NULL OR f.end_date >= $4)
          AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $4)
          AND ($3::uuid IS NULL OR f.organization_id = $3)
    ) follower ON true
    WHERE p.organization_id = $2 AND p.status = 'active' AND known.is_here IS NOT FALSE
), read AS MATERIALIZED (
    SELECT DISTINCT a.patient_id FROM unnest($5::text[]) listed(external_id) CROSS JOIN LATERAL (
        SELECT patient_id FROM appointments WHERE connection_id = $1 AND external_id = listed.external_id LIMIT 1
    ) a WHERE a.patient_id IS NOT NULL
), spoiled AS MATERIALIZED (
    SELECT DISTINCT a.patient_id FROM unnest($6::text[]) listed(external_id) CROSS JOIN LATERAL (
        SELECT patient_id FROM appointments WHERE connection_id = $1 AND external_id = listed.external_id LIMIT 1
    ) a WHERE a.patient_id IS NOT NULL
), counted AS (
    SELECT mine.*, mine.intakeq_client_id IS NULL AND NOT mine.is_client AND email_key(mine.email) IS NULL AS is_unreachable,
           $5::text[] IS NULL OR mine.id IN (SELECT patient_id FROM read) AS is_read,
           mine.id IN (SELECT patient_id FROM spoiled) AS is_spoiled
    FROM mine
)
SELECT count(*) FILTER (WHERE is_affiliated) AS affiliated,
       (SELECT count(DISTINCT organization_id) FROM mine, unnest(organization_ids) organization_id) AS organizations,
       count(*) FILTER (WHERE is_affiliated AND is_read AND NOT is_unreachable AND NOT is_spoiled) AS processed,
       count(*) FILTER (WHERE is_affiliated AND (is_unreachable OR is_spoiled)) AS failed,
       -- Whom a partner does not follow is none of its business, not even as a number.
       count(*) FILTER (WHERE $3::uuid IS NULL AND NOT is_affiliated AND is_client AND is_read AND NOT is_spoiled)
           AS unaffiliated,
       (array_agg(id ORDER BY id) FILTER (WHERE is_affiliated AND is_unreachable))[1:10] AS unreachable
FROM counted;

-- name: mark_synced
-- Those who follow the patients, as they are counted above: nobody's consent that has ended is told of a sync. A run
-- that ends after a later read of the patient does not take the time back.
WITH local AS MATERIALIZED (
    SELECT ($4::timestamptz AT TIME ZONE timezone)::date AS today FROM connections WHERE id = $1
), read AS MATERIALIZED (
    SELECT i.patient_id FROM patient_identities i WHERE $5::text[] IS NULL AND i.connection_id = $1
    UNION
    SELECT a.patient_id FROM unnest($5::text[]) listed(external_id) CROSS JOIN LATERAL (
        SELECT patient_id FROM appointments WHERE connection_id = $1 AND external_id = listed.external_id LIMIT 1
    ) a
)
UPDATE patient_organization_affiliations
SET last_practiceq_sync_at = greatest(last_practiceq_sync_at, $4), updated_at = greatest(updated_at, $4)
WHERE id = ANY(ARRAY(
    SELECT follower.id FROM read
    CROSS JOIN LATERAL (
        SELECT f.id
        FROM patient_organization_affiliations f
        WHERE f.patient_id = read.patient_id AND f.status = 'active' AND ($3::uuid IS NULL OR f.organization_id = $3)
          AND f.start_date <= (SELECT today FROM local)
          AND (f.end_date IS NULL OR f.end_date >= (SELECT today FROM local))
          AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= (SELECT today FROM local))
          AND EXISTS (SELECT FROM patients p WHERE p.id = f.patient_id AND p.organization_id = $2 AND p.status = 'active')
          AND EXISTS (SELECT FROM patient_identities i WHERE i.patient_id = f.patient_id AND i.connection_id = $1)
        OFFSET 0
    ) follower
));

-- name: count_appointments
-- What a list of changes did to the appointments of one organization's patients; those that it did not list stand.
WITH listed AS (
    SELECT DISTINCT unnest($5::text[] || $6::text[] || $9::text[]) AS external_id
), met AS MATERIALIZED (
    SELECT a.external_id, a.patient_id, a.deleted_at IS NULL AND a.start_time >= $7 AND a.start_time < $8 AS is_due
    FROM listed CROSS JOIN LATERAL (
        SELECT * FROM appointments WHERE connection_id = $1 AND external_id = listed.external_id LIMIT 1
    ) a
    UNION
    SELECT a.external_id, a.patient_id, true FROM appointments a
    WHERE a.connection_id = $1 AND a.start_time >= $7 AND a.start_time < $8 AND a.deleted_at IS NULL
)
SELECT count(*) FILTER (WHERE m.external_id IN (SELECT unnest($9::text[]))) AS deleted,
       count(*) FILTER (WHERE m.external_id IN (SELECT unnest($5::text[]))) AS new,
       count(*) FILTER (WHERE m.external_id IN (SELECT unnest($6::text[]))) AS updated,
       count(*) FILTER (WHERE m.is_due AND m.external_id NOT IN (SELECT unnest($5::text[]))
                          AND m.external_id NOT IN (SELECT unnest($6::text[]))) AS unchanged
FROM met m
WHERE m.patient_id IN (SELECT p.id FROM patients p WHERE p.organization_id = $2)
  AND ($3::uuid IS NULL OR m.patient_id IN (
        SELECT f.patient_id FROM patient_organization_affiliations f
        WHERE f.organization_id = $3 AND f.status = 'active' AND f.start_date <= $4
          AND (f.end_date IS NULL OR f.end_date >= $4)
          AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $4)));

-- What an organization sees: as owner all of its rows, as partner the patients it follows today with their consent.

-- name: plan_for_values
-- The filters are optional: a plan made for these very values leaves the unused ones out.
SET LOCAL plan_cache_mode = force_custom_plan;

-- name: list_appointments
-- Each connection and each followed patient gives at most one page from its index; the page is the first of those.
WITH own AS (
    SELECT mine.* FROM connections c
    CROSS JOIN LATERAL (
        SELECT a.* FROM appointments a
        WHERE a.connection_id = c.id AND ($4::uuid IS NULL OR a.patient_id = $4)
          AND ($5::timestamptz IS NULL OR a.start_time >= $5) AND ($6::timestamptz IS NULL OR a.start_time < $6)
          AND ($7::timestamptz IS NULL OR (a.start_time, a.id) > ($7, $8::uuid))
          AND ($9::boolean OR a.deleted_at IS NULL)
        ORDER BY a.start_time, a.id LIMIT $10
    ) mine
    WHERE ($1::uuid IS NULL OR c.organization_id = $1) AND ($3::uuid IS NULL OR c.id = $3)
), followed AS (
    SELECT theirs.* FROM patient_organization_affiliations f
    CROSS JOIN LATERAL (
        SELECT a.* FROM appointments a
        WHERE a.patient_id = f.patient_id AND ($3::uuid IS NULL OR a.connection_id = $3)
          AND ($5::timestamptz IS NULL OR a.start_time >= $5) AND ($6::timestamptz IS NULL OR a.start_time < $6)
          AND ($7::timestamptz IS NULL OR (a.start_time, a.id) > ($7, $8::uuid))
          AND ($9::boolean OR a.deleted_at IS NULL)
        ORDER BY a.start_time, a.id LIMIT $10
    ) theirs
    JOIN connections c ON c.id = theirs.connection_id AND c.organization_id <> $1
    WHERE f.organization_id = $1 AND f.status = 'active' AND f.start_date <= $2
      AND (f.end_date IS NULL OR f.end_date >= $2) AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $2)
      AND ($4::uuid IS NULL OR f.patient_id = $4)
)
SELECT a.id, a.connection_id, a.external_id, a.patient_id,
       CASE WHEN a.status = 'confirmed' AND a.end_time < $11 THEN 'completed' ELSE a.status END AS status,
       a.vendor_status, a.start_time, a.end_time, a.duration_minutes, a.practitioner_external_id, a.practitioner_name,
       s.provider_name, a.service_name, a.location_name, a.location_type, a.meeting_url, a.price,
       meeting_url_status(a.meeting_url, a.location_type) AS meeting_url_status, a.cancellation_reason, a.source_version,
       v.verified_at, a.changed_at, a.deleted_at, a.created_at, a.updated_at
FROM (
    SELECT * FROM (SELECT * FROM own UNION ALL SELECT * FROM followed) seen
    ORDER BY seen.start_time, seen.id LIMIT $10  -- before anything is looked up for them
) a
CROSS JOIN LATERAL verification(a.connection_id, 'appointment', a.external_id, a.start_time,
                                greatest(a.source_version, a.seen_at)) v
LEFT JOIN provider_intakeq_settings s
    ON s.connection_id = a.connection_id AND s.practitioner_id = a.practitioner_external_id
ORDER BY a.start_time, a.id;

-- name: list_patients
-- A patient was verified when the client was from whom it is drawn, in the order of patients.sql.
WITH own AS (
    SELECT p.* FROM patients p
    WHERE ($1::uuid IS NULL OR p.organization_id = $1) AND p.status <> 'linked'
      AND ($3::uuid IS NULL OR p.id = $3) AND ($4::text IS NULL OR email_key(p.email) = email_key($4))
      AND ($5::text IS NULL OR p.status = $5)
      AND ($6::text IS NULL OR (p.last_name, p.first_name, p.id) > ($6, $7::text, $8::uuid))
    ORDER BY p.last_name, p.first_name, p.id LIMIT $9
), followed AS (
    SELECT p.* FROM patient_organization_affiliations f
    JOIN patients p ON p.id = f.patient_id
    WHERE f.organization_id = $1 AND p.organization_id <> $1 AND p.status <> 'linked'
      AND f.status = 'active' AND f.start_date <= $2
      AND (f.end_date IS NULL OR f.end_date >= $2) AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $2)
      AND ($3::uuid IS NULL OR p.id = $3) AND ($4::text IS NULL OR email_key(p.email) = email_key($4))
      AND ($5::text IS NULL OR p.status = $5)
      AND ($6::text IS NULL OR (p.last_name, p.first_name, p.id) > ($6, $7::text, $8::uuid))
)
SELECT p.id, p.organization_id, p.first_name, p.last_name, p.email, p.phone, p.date_of_birth, p.intakeq_client_id,
       p.status, p.origin, v.verified_at, p.created_at, p.updated_at
FROM (
    SELECT * FROM (SELECT * FROM own UNION ALL SELECT * FROM followed) seen
    ORDER BY seen.last_name, seen.first_name, seen.id LIMIT $9
) p
LEFT JOIN LATERAL (
    SELECT i.connection_id, i.external_id, greatest(i.source_version, i.seen_at) AS sighted_at FROM patient_identities i
    WHERE i.patient_id = p.id ORDER BY i.deleted_at IS NOT NULL, i.version DESC, i.external_id LIMIT 1
) i ON true
LEFT JOIN LATERAL verification(i.connection_id, 'patient', i.external_id, NULL, i.sighted_at) v ON true
ORDER BY p.last_name, p.first_name, p.id;

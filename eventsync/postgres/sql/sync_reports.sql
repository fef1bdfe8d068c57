-- What people are shown of runs: whose they are, what they found, how they went.

-- name: find_rights
-- NULL stands for an admin. Whoever sees a patient today sees how far that patient's refresh is, whoever asked for it.
SELECT $2::uuid IS NULL OR c.organization_id = $2 AS owns,
       $2::uuid IS NULL OR c.organization_id = $2 OR s.organization_id = $2 OR EXISTS (
           SELECT FROM patient_organization_affiliations f
           WHERE f.patient_id = s.patient_id AND f.organization_id = $2 AND f.status = 'active' AND f.start_date <= $3
             AND (f.end_date IS NULL OR f.end_date >= $3)
             AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $3)) AS sees
FROM sync_logs s LEFT JOIN connections c ON c.id = s.connection_id
WHERE s.id = $1;

-- name: list_visible_patients
SELECT p.id FROM patients p
WHERE p.id = ANY($1::uuid[]) AND (p.organization_id = $2 OR EXISTS (
    SELECT FROM patient_organization_affiliations f
    WHERE f.patient_id = p.id AND f.organization_id = $2 AND f.status = 'active' AND f.start_date <= $3
      AND (f.end_date IS NULL OR f.end_date >= $3) AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $3)));

-- name: list_appointments
-- A deleted one keeps its last status in its row; here it must not look as if it stood.
SELECT a.id, a.patient_id, a.external_id, a.start_time, coalesce(s.provider_name, a.practitioner_name) AS provider_name,
       CASE WHEN a.deleted_at IS NOT NULL THEN 'cancelled'
            WHEN a.status = 'confirmed' AND a.end_time < $2 THEN 'completed' ELSE a.status END AS status
FROM appointments a
LEFT JOIN provider_intakeq_settings s
    ON s.connection_id = a.connection_id AND s.practitioner_id = a.practitioner_external_id
WHERE a.id = ANY($1::uuid[])
ORDER BY a.start_time, a.id;

-- name: measure
-- Of an organization: the runs that it asked for, and those of its own connections.
SELECT count(*) AS total, count(*) FILTER (WHERE status IN ('completed', 'partial_success')) AS successful,
       count(*) FILTER (WHERE status = 'failed') AS failed, max(started_at) AS last_at,
       max(completed_at) FILTER (WHERE status IN ('completed', 'partial_success')) AS last_successful_at,
       (avg(duration_ms) FILTER (WHERE status IN ('completed', 'partial_success')) / 1000)::float8 AS average_duration_s
FROM (
    SELECT status, started_at, completed_at, duration_ms FROM sync_logs WHERE organization_id = $1
    UNION ALL
    SELECT s.status, s.started_at, s.completed_at, s.duration_ms
    FROM connections c JOIN sync_logs s ON s.connection_id = c.id
    WHERE c.organization_id = $1 AND s.organization_id IS DISTINCT FROM $1
) of_organization;

-- name: list_latest
-- The latest of each connection and of all that it asked for, few of which are then the latest: in the order of indexes.
SELECT id, sync_type, status, started_at, completed_at, patients_processed, patients_failed, appointments_new,
       appointments_updated, appointments_unchanged, appointments_errors
FROM sync_logs
WHERE id = ANY(ARRAY(
    SELECT l.id FROM (
        (SELECT id, started_at FROM sync_logs WHERE organization_id = $1 ORDER BY started_at DESC, id LIMIT $2)
        UNION
        SELECT s.id, s.started_at FROM connections c
        CROSS JOIN LATERAL (
            SELECT id, started_at FROM sync_logs WHERE connection_id = c.id ORDER BY started_at DESC, id LIMIT $2
        ) s
        WHERE c.organization_id = $1
    ) l
    ORDER BY l.started_at DESC, l.id LIMIT $2
))
ORDER BY started_at DESC, id;

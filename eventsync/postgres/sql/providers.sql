-- The names by which an organization knows a connection's practitioners.

-- name: map
INSERT INTO provider_intakeq_settings AS s (connection_id, practitioner_id, provider_name, email, created_at, updated_at)
SELECT c.id, $2, $3, $4, $5, $5 FROM connections c WHERE c.id = $1 AND ($6::uuid IS NULL OR c.organization_id = $6)
ON CONFLICT (connection_id, practitioner_id) DO UPDATE
    SET provider_name = excluded.provider_name, email = excluded.email, updated_at = excluded.updated_at
RETURNING s.id;

-- name: list
SELECT s.id, s.connection_id, s.practitioner_id, s.provider_name, s.email
FROM provider_intakeq_settings s JOIN connections c ON c.id = s.connection_id
WHERE ($1::uuid IS NULL OR c.organization_id = $1) AND ($2::uuid IS NULL OR s.connection_id = $2)
ORDER BY c.number, s.provider_name, s.practitioner_id;

-- name: learn
-- Names that a person has given stay. Rows in the order of their key, so that two who learn do not wait in a circle.
INSERT INTO provider_intakeq_settings (connection_id, practitioner_id, provider_name, email, created_at, updated_at)
SELECT $1, n.practitioner_id, n.provider_name, n.email, $5, $5
FROM unnest($2::text[], $3::text[], $4::text[]) AS n(practitioner_id, provider_name, email)
ORDER BY n.practitioner_id
ON CONFLICT (connection_id, practitioner_id) DO NOTHING
RETURNING id;

-- name: without_name
SELECT n.practitioner_id FROM unnest($2::text[]) AS n(practitioner_id)
WHERE NOT EXISTS (SELECT FROM provider_intakeq_settings s
                  WHERE s.connection_id = $1 AND s.practitioner_id = n.practitioner_id)
ORDER BY n.practitioner_id;

-- name: unknown
SELECT DISTINCT a.practitioner_external_id AS practitioner_id FROM appointments a
WHERE a.connection_id = $1 AND a.start_time >= $2 AND a.start_time < $3 AND a.deleted_at IS NULL
  AND a.practitioner_external_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM provider_intakeq_settings s
                  WHERE s.connection_id = $1 AND s.practitioner_id = a.practitioner_external_id)
ORDER BY practitioner_id;

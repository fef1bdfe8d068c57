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

-- Organizations and their connections to vendors.

-- name: insert_organization
INSERT INTO organizations (name, external_id, created_at) VALUES ($1, $2, $3)
ON CONFLICT (external_id) DO NOTHING
RETURNING id, number, external_id, name, created_at;

-- name: list_organizations
SELECT id, number, external_id, name, created_at FROM organizations ORDER BY number;

-- name: find_organization
-- What is given may be any of the three; an id outranks an external id, and that outranks a number.
SELECT id, number, external_id, name, created_at FROM organizations
WHERE id = $1::uuid OR external_id = $2 OR number = $3::int
ORDER BY id = $1::uuid DESC NULLS LAST, external_id = $2 DESC NULLS LAST
LIMIT 1;

-- name: insert_connection
INSERT INTO connections (id, organization_id, vendor, base_url, api_key_sealed, hmac_sealed, practice_id, timezone,
                         allowed_networks, settings, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text[], $10::jsonb, $11, $11)
RETURNING id;

-- name: list_connections
SELECT * FROM connections WHERE $1::uuid IS NULL OR organization_id = $1 ORDER BY number;

-- name: find_connection
SELECT * FROM connections
WHERE (id = $1::uuid OR number = $2::int) AND ($3::uuid IS NULL OR organization_id = $3)
ORDER BY id = $1::uuid DESC NULLS LAST LIMIT 1;

-- name: load_connection
SELECT * FROM connections WHERE id = $1;

-- name: load_connections
SELECT * FROM connections WHERE disabled_at IS NULL ORDER BY number;

-- name: disable_connection
UPDATE connections SET disabled_at = $2, updated_at = $2
WHERE id = $1 AND disabled_at IS NULL AND ($3::uuid IS NULL OR organization_id = $3)
RETURNING id;

-- name: relocate_connection
UPDATE connections SET base_url = $2, updated_at = $3 WHERE id = $1 AND base_url <> $2;

-- name: lock_signature
-- Its change is made of what it was. The lock lets events in meanwhile, which refer to the connection by its key.
SELECT vendor, hmac_sealed FROM connections WHERE id = $1 AND ($2::uuid IS NULL OR organization_id = $2)
FOR NO KEY UPDATE;

-- name: update_connection
-- What is NULL stays, but for the signature; an empty practice id takes the check away.
UPDATE connections
SET api_key_sealed = coalesce($2, api_key_sealed), base_url = coalesce($3, base_url),
    practice_id = nullif(coalesce($4, practice_id), ''), timezone = coalesce($5, timezone),
    settings = settings || $6::jsonb, updated_at = $7, hmac_sealed = $8
WHERE id = $1;

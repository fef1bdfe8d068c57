-- The tokens in the webhook URLs that people paste into a vendor's page.

-- name: insert_token
INSERT INTO webhook_tokens (token_hash, connection_id, token_sealed, created_at) VALUES ($1, $2, $3, $4);

-- name: lock_connection
SELECT id FROM connections WHERE id = $1 AND ($2::uuid IS NULL OR organization_id = $2) FOR UPDATE;

-- name: drop_expired
DELETE FROM webhook_tokens WHERE connection_id = $1 AND expires_at <= $2;

-- name: expire_earlier
-- Both work until $2: the vendor's page is changed by a person, in their own time.
UPDATE webhook_tokens SET expires_at = least(expires_at, $2) WHERE connection_id = $1;

-- name: list_tokens
SELECT t.token_hash, t.token_sealed, t.created_at, t.expires_at
FROM webhook_tokens t JOIN connections c ON c.id = t.connection_id
WHERE t.connection_id = $1 AND (t.expires_at IS NULL OR t.expires_at > $2)
  AND ($3::uuid IS NULL OR c.organization_id = $3)
ORDER BY t.created_at DESC, t.token_hash;

-- name: load_verifiers
SELECT t.token_hash, t.expires_at, c.id AS connection_id, c.vendor, c.hmac_sealed, c.allowed_networks
FROM webhook_tokens t JOIN connections c ON c.id = t.connection_id
WHERE c.disabled_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $1)
ORDER BY t.token_hash;

-- name: find_verifier
SELECT t.token_hash, t.expires_at, c.id AS connection_id, c.vendor, c.hmac_sealed, c.allowed_networks
FROM webhook_tokens t JOIN connections c ON c.id = t.connection_id
WHERE t.token_hash = $2 AND c.disabled_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $1);

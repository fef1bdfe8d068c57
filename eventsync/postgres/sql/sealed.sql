-- What is sealed at rest, with the contexts that bind each value to its place.

-- name: sample_sealed
-- All credentials, the oldest and the latest event, and some documents: ids are random, so the first by id are of any age.
SELECT 'connection' AS kind, 'connection:' || id || ':api_key' AS context, api_key_sealed AS sealed FROM connections
UNION ALL
SELECT 'connection', 'connection:' || id || ':hmac', hmac_sealed FROM connections WHERE hmac_sealed IS NOT NULL
UNION ALL
SELECT 'webhook token', 'webhook-token:' || encode(token_hash, 'hex'), token_sealed FROM webhook_tokens
UNION ALL
(SELECT 'event', 'event:' || id, headers_sealed FROM events ORDER BY received_at, id LIMIT 1)
UNION ALL
(SELECT 'event', 'event:' || id, headers_sealed FROM events ORDER BY received_at DESC, id DESC LIMIT 1)
UNION ALL
(SELECT 'document', 'document:' || connection_id || ':' || kind || ':' || external_id, content_sealed
 FROM documents WHERE content_sealed IS NOT NULL ORDER BY id LIMIT 20);

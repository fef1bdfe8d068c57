-- Which connection the outbound queue is delivered by, and whether one is to be made of the settings.

-- name: find_registry
-- The first of those that can deliver; $1: the vendors that are registries.
SELECT id FROM connections WHERE vendor = ANY ($1::text[]) AND disabled_at IS NULL ORDER BY number LIMIT 1;

-- name: lock_seeding
SELECT pg_advisory_xact_lock(hashtextextended('eventsync:connections:seed', 0));

-- name: has_connection
-- A disabled one counts: a person has decided about it.
SELECT EXISTS (SELECT FROM connections WHERE vendor = $1);

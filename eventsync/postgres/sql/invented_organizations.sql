-- The demo's practices and therapists: rows of our own tables (migration 0006), known by ids that the demo gives them.

-- name: are_tables_ours
-- Whether organizations come from our own two tables and from no other. Ours make the organization's id from the row's;
-- in the tables of an application it is a column like others.
SELECT count(*) = 2 AND count(*) FILTER (WHERE a.attgenerated = 's') = 2
       AND bool_and(s.source = to_regclass(CASE s.entity_type WHEN 'practice' THEN 'practices' ELSE 'therapists' END))
FROM eventsync_sources() s
LEFT JOIN pg_attribute a ON a.attrelid = s.source AND a.attname = 'ecosystem_org_id';

-- name: list_existing
SELECT id, email, subscription_tier AS plan, subscription_status = 'active' AS is_active
FROM practices WHERE id = ANY ($1::uuid[])
UNION ALL
SELECT id, email, subscription_tier, is_available FROM therapists WHERE id = ANY ($1::uuid[]);

-- name: add_practice
INSERT INTO practices (id, name, email, subscription_tier, subscription_status, business_type, verification_status)
VALUES ($1, $2, $3, $4, CASE WHEN $5::boolean THEN 'active' ELSE 'canceled' END, 'clinic', 'verified')
ON CONFLICT (id) DO NOTHING;

-- name: add_therapist
INSERT INTO therapists (id, full_name, email, subscription_tier, is_available, is_independent, vetting_status)
VALUES ($1, $2, $3, $4, $5::boolean, true, 'approved')
ON CONFLICT (id) DO NOTHING;

-- name: change_practice
UPDATE practices
SET email = $2, subscription_tier = $3, updated_at = now(),
    subscription_status = CASE WHEN $4::boolean THEN 'active' ELSE 'canceled' END
WHERE id = $1;

-- name: change_therapist
UPDATE therapists SET email = $2, subscription_tier = $3, updated_at = now(), is_available = $4 WHERE id = $1;

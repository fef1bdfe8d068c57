-- Which living connections a wish for a sync concerns. A patient's are those where the patient is a client; whom no
-- vendor knows yet may turn up on any connection of the owner's.

-- name: list_owned
SELECT c.id, c.organization_id FROM connections c
WHERE c.vendor = $1 AND c.disabled_at IS NULL AND ($2::uuid IS NULL OR c.organization_id = $2)
ORDER BY c.number;

-- name: list_owned_or_followed
-- The patients first, each looked up once: there are many of them, and few connections.
WITH followed AS MATERIALIZED (
    SELECT k.owner_id, k.connection_id
    FROM patient_organization_affiliations f
    CROSS JOIN LATERAL (
        SELECT p.organization_id AS owner_id, i.connection_id
        FROM patients p LEFT JOIN patient_identities i ON i.patient_id = p.id
        WHERE p.id = f.patient_id
        OFFSET 0
    ) k
    WHERE f.organization_id = $2 AND f.status = 'active' AND f.start_date <= $3
      AND (f.end_date IS NULL OR f.end_date >= $3) AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $3)
    GROUP BY k.owner_id, k.connection_id
)
SELECT c.id, c.organization_id FROM connections c
WHERE c.vendor = $1 AND c.disabled_at IS NULL AND (c.organization_id = $2 OR EXISTS (
    SELECT FROM followed k
    WHERE k.owner_id = c.organization_id AND (k.connection_id = c.id OR k.connection_id IS NULL)))
ORDER BY c.number;

-- name: list_of_patient
SELECT c.id, c.organization_id
FROM patients p JOIN connections c ON c.organization_id = p.organization_id
WHERE p.id = $2 AND c.vendor = $1 AND c.disabled_at IS NULL
  AND (EXISTS (SELECT FROM patient_identities i WHERE i.patient_id = p.id AND i.connection_id = c.id)
       OR NOT EXISTS (SELECT FROM patient_identities i WHERE i.patient_id = p.id))
ORDER BY c.number;

-- What the refresh of one patient must know, and what its partial lists are kept as.

-- name: load_patient
-- Only the owner's own connection reads a patient, and only for the owner or for who follows the patient today.
SELECT p.id, p.email, (
    EXISTS (SELECT FROM local_patients o
            WHERE o.organization_id = p.organization_id AND o.patient_id <> p.id
              AND email_key(o.email) = email_key(p.email))
    OR EXISTS (SELECT FROM connections d JOIN patient_identities i ON i.connection_id = d.id
               WHERE d.organization_id = p.organization_id AND d.id <> c.id AND i.patient_id <> p.id
                 AND i.deleted_at IS NULL AND email_key(i.email) = email_key(p.email))
) AS shares_email
FROM patients asked
LEFT JOIN patient_links l ON l.derived_patient_id = asked.id AND l.ended_at IS NULL
JOIN patients p ON p.id = coalesce(l.patient_id, asked.id)
JOIN connections c ON c.id = $1 AND c.organization_id = p.organization_id
WHERE asked.id = $2 AND ($3::uuid IS NULL OR $3 = p.organization_id OR EXISTS (
    SELECT FROM patient_organization_affiliations f
    WHERE f.patient_id = p.id AND f.organization_id = $3 AND f.status = 'active' AND f.start_date <= $4::date
      AND (f.end_date IS NULL OR f.end_date >= $4) AND (f.consent_expires_on IS NULL OR f.consent_expires_on >= $4)));

-- name: load_clients
SELECT external_id, email, first_name, last_name
FROM patient_identities WHERE connection_id = $1 AND patient_id = $2
ORDER BY deleted_at IS NOT NULL, version DESC, external_id;

-- name: rule_out_clients
-- Clients who stand for somebody else, or of whom a person has said that they are not this patient.
SELECT DISTINCT l.external_id FROM patient_links l
WHERE l.connection_id = $1 AND l.external_id = ANY($2::text[])
  AND ((l.ended_at IS NULL AND l.patient_id <> $3) OR (l.patient_id = $3 AND l.ended_because = 'undone'));

-- name: find_of_others
SELECT a.external_id FROM unnest($2::text[]) listed(external_id)
CROSS JOIN LATERAL (
    SELECT * FROM appointments WHERE connection_id = $1 AND external_id = listed.external_id LIMIT 1
) a
WHERE a.client_external_id IS NOT NULL AND a.client_external_id <> ALL($3::text[]);

-- name: find_unlisted
SELECT a.external_id FROM (SELECT DISTINCT unnest($2::text[])) client(external_id)
CROSS JOIN LATERAL (
    SELECT * FROM appointments WHERE connection_id = $1 AND client_external_id = client.external_id OFFSET 0
) a
WHERE a.deleted_at IS NULL AND a.start_time >= $3 AND a.start_time < $4 AND a.external_id <> ALL($5::text[])
ORDER BY a.external_id;

-- name: suspect
-- A row that changed as the list was read, or shortly before, may have been missing from it only for that.
INSERT INTO absence_candidates (connection_id, kind, external_id, first_missed_at)
SELECT a.connection_id, 'appointment', a.external_id, $3
FROM unnest($2::text[]) unlisted(external_id)
CROSS JOIN LATERAL (
    SELECT * FROM appointments WHERE connection_id = $1 AND external_id = unlisted.external_id LIMIT 1
) a
WHERE a.deleted_at IS NULL AND a.source_version < $3::timestamptz - interval '5 minutes' AND (a.seen_at IS NULL OR a.seen_at < $3)
ORDER BY a.external_id
ON CONFLICT DO NOTHING;

-- name: clear
-- A list that began later may have missed it since.
DELETE FROM absence_candidates
WHERE connection_id = $1 AND kind = 'appointment' AND external_id = ANY($2::text[]) AND first_missed_at <= $3;

-- name: mark_synced
-- Nobody's consent that has ended is told of a sync.
UPDATE patient_organization_affiliations
SET last_practiceq_sync_at = greatest(last_practiceq_sync_at, $2), updated_at = $3
WHERE patient_id = $1 AND status = 'active' AND start_date <= $4 AND (end_date IS NULL OR end_date >= $4)
  AND (consent_expires_on IS NULL OR consent_expires_on >= $4);

-- Lists that do not tell their records whole: which of them must be read, one by one.

-- name: find_unlike
-- Unlike what the list said when the record was last read; or never listed before, and not held as the list has it.
SELECT s.external_id, s.fingerprint
FROM unnest($3::text[], $4::text[], $5::bytea[], $6::boolean[]) AS s(external_id, status, fingerprint, is_finished)
LEFT JOIN LATERAL (
    SELECT fingerprint FROM summary_fingerprints WHERE connection_id = $1 AND kind = $2 AND external_id = s.external_id
    LIMIT 1
) f ON true
LEFT JOIN LATERAL (
    SELECT id, status, deleted_at FROM documents WHERE connection_id = $1 AND kind = $2 AND external_id = s.external_id
    LIMIT 1
) d ON true
WHERE CASE WHEN f.fingerprint IS NOT NULL THEN f.fingerprint <> s.fingerprint AND (s.is_finished OR d.id IS NOT NULL)
           WHEN d.id IS NULL THEN s.is_finished
           ELSE d.status IS DISTINCT FROM s.status OR d.deleted_at IS NOT NULL END
ORDER BY s.external_id;

-- name: remember
INSERT INTO summary_fingerprints (connection_id, kind, external_id, fingerprint)
-- A page that names a record twice is kept as it names it last. In the order of their key, so that none wait in a circle.
SELECT DISTINCT ON (s.external_id) $1::uuid, $2::text, s.external_id, s.fingerprint
FROM unnest($3::text[], $4::bytea[]) WITH ORDINALITY AS s(external_id, fingerprint, place)
ORDER BY s.external_id, s.place DESC
ON CONFLICT (connection_id, kind, external_id) DO UPDATE SET fingerprint = excluded.fingerprint
WHERE summary_fingerprints.fingerprint <> excluded.fingerprint;

-- name: lease_read
-- One read at a time a record, as for events that only name one; nothing while another read of it is on its way.
INSERT INTO record_reads AS r (connection_id, kind, external_id, sequence, leased_until) VALUES ($1, $2, $3, 1, $5)
ON CONFLICT (connection_id, kind, external_id) DO UPDATE
    SET sequence = r.sequence + 1, leased_until = excluded.leased_until
    WHERE r.leased_until < $4 OR r.leased_until > $5 + interval '1 minute'
RETURNING sequence;

-- name: end_read
UPDATE record_reads SET leased_until = '-infinity'
WHERE connection_id = $1 AND kind = $2 AND external_id = $3 AND sequence = $4;

-- Records that complete lists lacked: found, remembered until a second look, forgotten when they were seen.
-- What was listed can be tens of thousands of ids. IN (SELECT unnest(...)) hashes them in every plan; = ANY(...) does not
-- in one that is made for any arguments, and would compare each row with each id.

-- name: find_missing_appointments
-- Living appointments that would still lie in the window, were not listed, and are older than the read by the margin.
-- Those that are wanted soonest first: of them a person would miss the truth first.
SELECT a.external_id, c.first_missed_at, a.start_time
FROM appointments a
LEFT JOIN absence_candidates c
    ON c.connection_id = a.connection_id AND c.kind = 'appointment' AND c.external_id = a.external_id
WHERE a.connection_id = $1 AND a.start_time >= $2 AND a.start_time < $3 AND a.deleted_at IS NULL
  AND a.source_version < $4::timestamptz - make_interval(secs => $5)
  AND coalesce(a.seen_at, '-infinity') < $4 AND a.external_id NOT IN (SELECT unnest($6::text[]))
ORDER BY abs(extract(epoch FROM a.start_time - $4)), a.external_id;

-- name: count_appointments
SELECT count(*) FROM appointments
WHERE connection_id = $1 AND start_time >= $2 AND start_time < $3 AND deleted_at IS NULL;

-- name: find_missing_clients
-- Only clients whose own record was read before: one that appointments alone name need not be listed.
SELECT i.external_id, c.first_missed_at
FROM patient_identities i
LEFT JOIN absence_candidates c
    ON c.connection_id = i.connection_id AND c.kind = 'patient' AND c.external_id = i.external_id
WHERE i.connection_id = $1 AND i.deleted_at IS NULL AND substr(i.version, 1, 1) = '\x01'
  AND i.source_version < $2::timestamptz - make_interval(secs => $3)
  AND coalesce(i.seen_at, '-infinity') < $2 AND i.external_id NOT IN (SELECT unnest($4::text[]))
ORDER BY i.external_id;

-- name: count_clients
SELECT count(*) FROM patient_identities
WHERE connection_id = $1 AND deleted_at IS NULL AND substr(version, 1, 1) = '\x01';

-- name: remember_missing_appointments
-- The same records, let wait in the transaction that ends their list: what it lacked, it must not be taken to verify.
INSERT INTO absence_candidates (connection_id, kind, external_id, first_missed_at)
SELECT a.connection_id, 'appointment', a.external_id, $4
FROM appointments a
WHERE a.connection_id = $1 AND a.start_time >= $2 AND a.start_time < $3 AND a.deleted_at IS NULL
  AND a.source_version < $4::timestamptz - make_interval(secs => $5)
  AND coalesce(a.seen_at, '-infinity') < $4 AND a.external_id NOT IN (SELECT unnest($6::text[]))
ORDER BY a.external_id
ON CONFLICT DO NOTHING;

-- name: remember_missing_clients
INSERT INTO absence_candidates (connection_id, kind, external_id, first_missed_at)
SELECT i.connection_id, 'patient', i.external_id, $2
FROM patient_identities i
WHERE i.connection_id = $1 AND i.deleted_at IS NULL AND substr(i.version, 1, 1) = '\x01'
  AND i.source_version < $2::timestamptz - make_interval(secs => $3)
  AND coalesce(i.seen_at, '-infinity') < $2 AND i.external_id NOT IN (SELECT unnest($4::text[]))
ORDER BY i.external_id
ON CONFLICT DO NOTHING;

-- name: remember
INSERT INTO absence_candidates (connection_id, kind, external_id, first_missed_at)
SELECT $1, $2, missing, $4 FROM unnest($3::text[]) missing
ON CONFLICT DO NOTHING;

-- name: forget
DELETE FROM absence_candidates
WHERE connection_id = $1 AND kind = $2 AND external_id IN (SELECT unnest($3::text[]));

-- name: forget_refuted
-- Those that a webhook or a read has shown since, within the margin of which nothing is certain, or has told to be gone.
DELETE FROM absence_candidates c
WHERE c.connection_id = $1 AND (
    (c.kind = 'appointment' AND EXISTS (
        SELECT FROM appointments a WHERE a.connection_id = c.connection_id AND a.external_id = c.external_id
          AND (a.deleted_at IS NOT NULL OR a.seen_at >= c.first_missed_at
               OR a.source_version >= c.first_missed_at - make_interval(secs => $2))))
    OR (c.kind = 'patient' AND EXISTS (
        SELECT FROM patient_identities i WHERE i.connection_id = c.connection_id AND i.external_id = c.external_id
          AND (i.deleted_at IS NOT NULL OR i.seen_at >= c.first_missed_at
               OR i.source_version >= c.first_missed_at - make_interval(secs => $2)))));

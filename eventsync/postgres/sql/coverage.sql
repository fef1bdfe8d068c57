-- What complete reads have shown, how far lists of changes were followed, and what waits for a second look.

-- name: count_clients
SELECT count(*) FILTER (WHERE deleted_at IS NULL) AS living,
       count(*) FILTER (WHERE source_version > $2::timestamptz - interval '7 days') AS changed,
       count(*) FILTER (WHERE deleted_at > $2::timestamptz - interval '10 days') AS deleted
FROM patient_identities WHERE connection_id = $1;

-- name: count_appointments
SELECT count(*) FILTER (WHERE source_version > $2::timestamptz - interval '7 days') AS changed,
       count(*) FILTER (WHERE deleted_at > $2::timestamptz - interval '10 days') AS deleted
FROM appointments WHERE connection_id = $1;

-- name: count_appointments_by_day
SELECT (start_time AT TIME ZONE 'UTC')::date AS day, count(*) AS count
FROM appointments
WHERE connection_id = $1 AND start_time >= $2 AND start_time < $3 AND deleted_at IS NULL
GROUP BY day ORDER BY day;

-- name: load_cursors
SELECT kind, list, unbroken_since, covered_until, last_modified FROM sync_cursors WHERE connection_id = $1;

-- name: load_coverage
SELECT kind, window_from, window_to, read_began_at FROM sync_coverage
WHERE connection_id = $1 AND read_began_at > $2 AND ($3::uuid IS NULL OR run_id = $3)
ORDER BY kind, window_from;

-- name: load_found
-- What earlier workers of a run have found: what was changed since it began, and what stands in the windows that it has
-- listed, whose days reach a day farther than what they prove.
-- The windows overlap: together they are ranges, each of which is looked up once.
SELECT a.external_id, a.created_at >= $3 AS is_new, a.changed_at >= $3 AS is_changed, a.deleted_at IS NOT NULL AS is_gone
FROM appointments a WHERE a.connection_id = $1 AND a.changed_at >= $3
UNION ALL
SELECT listed.external_id, listed.created_at >= $3, false, false
FROM (SELECT unnest(range_agg(tstzrange(c.window_from - interval '1 day', c.window_to + interval '1 day'))) AS days
      FROM sync_coverage c WHERE c.connection_id = $1 AND c.kind = 'appointment' AND c.run_id = $2) w
CROSS JOIN LATERAL (
    SELECT a.external_id, a.created_at FROM appointments a
    WHERE a.connection_id = $1 AND a.start_time >= lower(w.days) AND a.start_time < upper(w.days)
      AND a.deleted_at IS NULL AND a.changed_at < $3
    OFFSET 0  -- looked up range by range, whatever is thought of their number
) listed;

-- name: load_walks
SELECT kind, next_page, began_at FROM sync_walks WHERE connection_id = $1;

-- name: watched_since
SELECT created_at FROM connections WHERE id = $1;

-- name: insert_coverage
INSERT INTO sync_coverage (connection_id, kind, window_from, window_to, read_began_at, run_id)
SELECT $1, $2, w.window_from, w.window_to, w.read_began_at, $3
FROM unnest($4::timestamptz[], $5::timestamptz[], $6::timestamptz[]) AS w(window_from, window_to, read_began_at);

-- name: advance_cursor
-- A list that begins after the last one ended leaves a gap, and the chain begins anew. One that ended before the chain
-- began was written late, and adds nothing to it.
INSERT INTO sync_cursors AS c (connection_id, kind, list, unbroken_since, covered_until, last_modified)
VALUES ($1, $2, $3, least($4::timestamptz, $5), $5, $6)
ON CONFLICT (connection_id, kind, list) DO UPDATE SET
    unbroken_since = CASE WHEN excluded.covered_until < c.unbroken_since THEN c.unbroken_since
                          WHEN excluded.unbroken_since <= c.covered_until
                          THEN least(c.unbroken_since, excluded.unbroken_since) ELSE excluded.unbroken_since END,
    covered_until = greatest(c.covered_until, excluded.covered_until),
    last_modified = greatest(c.last_modified, excluded.last_modified);

-- name: keep_walk
INSERT INTO sync_walks AS w (connection_id, kind, next_page, began_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (connection_id, kind) DO UPDATE SET next_page = excluded.next_page, began_at = excluded.began_at;

-- name: end_walk
DELETE FROM sync_walks WHERE connection_id = $1 AND kind = $2;

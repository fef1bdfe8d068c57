-- How old the truth is of what an organization owns, and the evidence of it that is needed no more.

-- name: measure
-- Of each organization (NULL: all), and of its connections where it has several. What begins later is upcoming.
WITH connected AS (
    SELECT c.id, c.number, o.number AS organization,
           count(*) OVER (PARTITION BY c.organization_id) > 1 AS is_one_of_several
    FROM connections c JOIN organizations o ON o.id = c.organization_id
    WHERE c.disabled_at IS NULL AND ($1::uuid IS NULL OR c.organization_id = $1)
)
SELECT r.organization_id, c.organization, r.connection_id, c.number AS connection, k.kind, count(*) AS records,
       percentile_disc(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (ORDER BY r.verified_at DESC) AS verified
FROM verified_records($1) r
JOIN connected c ON c.id = r.connection_id
CROSS JOIN LATERAL unnest(CASE WHEN r.start_time >= $2::timestamptz THEN ARRAY[r.kind, 'appointment_upcoming']
                               ELSE ARRAY[r.kind] END) k(kind)
GROUP BY GROUPING SETS ((r.organization_id, c.organization, k.kind),
                        (r.organization_id, c.organization, k.kind, r.connection_id, c.number))
HAVING r.connection_id IS NULL OR bool_or(c.is_one_of_several)
ORDER BY c.organization, c.number NULLS FIRST, k.kind;

-- name: prune_coverage
-- Newer complete reads that together cover a window say all that an older one of it said. A run that has not ended
-- still asks which windows it has read itself.
DELETE FROM sync_coverage old
WHERE ($1::uuid IS NULL OR old.connection_id = $1)
  AND tstzrange(old.window_from, old.window_to) <@ (
        SELECT range_agg(tstzrange(newer.window_from, newer.window_to)) FROM sync_coverage newer
        WHERE newer.connection_id = old.connection_id AND newer.kind = old.kind
          AND (newer.read_began_at, newer.id) > (old.read_began_at, old.id))
  AND NOT EXISTS (SELECT FROM sync_logs l WHERE l.id = old.run_id AND l.status IN ('starting', 'running'));

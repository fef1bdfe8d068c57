-- How old the truth is: when each record was last known to stand as its row says.

-- The newest coverage comes first, so that a record's is found after a look at few rows.
CREATE INDEX sync_coverage_newest ON sync_coverage (connection_id, kind, read_began_at DESC)
    INCLUDE (window_from, window_to);

-- When one record was last verified, for a page of records. `sighted_at` is its own evidence: the vendor's time of its
-- version, or a read of its own. Lists add to it: the newest complete one in whose window the record lies (one of
-- everything, where the kind has no `start_time`), and from there on, as far as changes and deletions were followed
-- without a gap. Of a record that a complete list lacked they prove nothing until the second look.
CREATE FUNCTION verification(
    of_connection uuid, of_kind text, of_external_id text, at_start timestamptz, sighted_at timestamptz
) RETURNS TABLE (verified_at timestamptz) LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE WHEN EXISTS (SELECT FROM absence_candidates a
                             WHERE a.connection_id = of_connection AND a.kind = of_kind
                               AND a.external_id = of_external_id)
                THEN sighted_at ELSE greatest(sighted_at, covered.at, followed.until) END
    FROM (SELECT) record
    LEFT JOIN LATERAL (
        SELECT c.read_began_at AS at FROM sync_coverage c
        WHERE c.connection_id = of_connection AND c.kind = of_kind
          AND c.read_began_at > coalesce(sighted_at, '-infinity')
          AND c.window_from <= coalesce(at_start, '-infinity')
          AND (c.window_to > at_start OR (at_start IS NULL AND c.window_to = 'infinity'))
        ORDER BY c.read_began_at DESC LIMIT 1
    ) covered ON true
    LEFT JOIN LATERAL (
        SELECT least(changed.covered_until, deleted.covered_until) AS until
        FROM sync_cursors changed JOIN sync_cursors deleted USING (connection_id, kind)
        WHERE changed.connection_id = of_connection AND changed.kind = of_kind
          AND changed.list = 'changed' AND deleted.list = 'deleted'
          AND greatest(changed.unbroken_since, deleted.unbroken_since) <= coalesce(covered.at, sighted_at)
    ) followed ON true;
END;

-- The same of all living appointments and clients at once, of one organization's connections or (NULL) of everyone's.
-- Windows overlap in hundreds, so they are first cut at their edges: a record then lies between two of them.
CREATE FUNCTION verified_records(of_organization uuid)
RETURNS TABLE (organization_id uuid, connection_id uuid, kind text, external_id text, start_time timestamptz,
               verified_at timestamptz) LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    WITH owned AS MATERIALIZED (
        SELECT c.id, c.organization_id FROM connections c
        WHERE c.disabled_at IS NULL AND (of_organization IS NULL OR c.organization_id = of_organization)
    ), coverage AS MATERIALIZED (
        SELECT c.connection_id, c.kind, c.window_from, c.window_to, c.read_began_at
        FROM owned o JOIN sync_coverage c ON c.connection_id = o.id
    ), pieces AS (
        SELECT e.connection_id, e.kind, e.edge, coalesce(max(c.read_began_at), '-infinity') AS newest
        FROM (SELECT b.connection_id, b.kind, b.window_from AS edge FROM coverage b
              UNION SELECT b.connection_id, b.kind, b.window_to FROM coverage b) e
        LEFT JOIN coverage c ON c.connection_id = e.connection_id AND c.kind = e.kind
            AND c.window_from <= e.edge AND c.window_to > e.edge
        GROUP BY e.connection_id, e.kind, e.edge
    ), windows AS (
        SELECT p.connection_id, p.kind, array_agg(p.edge ORDER BY p.edge) AS edges,
               array_agg(p.newest ORDER BY p.edge) AS newest
        FROM pieces p GROUP BY p.connection_id, p.kind
    ), wholes AS (
        SELECT c.connection_id, c.kind, max(c.read_began_at) AS newest FROM coverage c
        WHERE c.window_from = '-infinity' AND c.window_to = 'infinity' GROUP BY c.connection_id, c.kind
    ), followed AS (
        SELECT c.connection_id, c.kind, max(c.unbroken_since) AS since, min(c.covered_until) AS until
        FROM sync_cursors c GROUP BY c.connection_id, c.kind HAVING count(*) = 2
    ), lists AS MATERIALIZED (
        SELECT o.organization_id, o.id AS connection_id, k.kind, w.edges, w.newest, e.newest AS newest_whole,
               f.since, f.until
        FROM owned o CROSS JOIN (VALUES ('appointment'), ('patient')) k(kind)
        LEFT JOIN windows w ON w.connection_id = o.id AND w.kind = k.kind
        LEFT JOIN wholes e ON e.connection_id = o.id AND e.kind = k.kind
        LEFT JOIN followed f ON f.connection_id = o.id AND f.kind = k.kind
    ), living AS (
        -- Each table by itself, with the candidates it has: there can be as many of them as records.
        SELECT a.connection_id, 'appointment' AS kind, a.external_id, a.start_time, m.external_id IS NOT NULL AS is_missed,
               greatest(a.source_version, a.seen_at) AS sighted_at
        FROM owned o
        JOIN appointments a ON a.connection_id = o.id AND a.deleted_at IS NULL
        LEFT JOIN absence_candidates m
            ON m.connection_id = a.connection_id AND m.kind = 'appointment' AND m.external_id = a.external_id
        UNION ALL
        SELECT i.connection_id, 'patient', i.external_id, NULL, m.external_id IS NOT NULL,
               greatest(i.source_version, i.seen_at)
        FROM owned o
        JOIN patient_identities i ON i.connection_id = o.id AND i.deleted_at IS NULL
        LEFT JOIN absence_candidates m
            ON m.connection_id = i.connection_id AND m.kind = 'patient' AND m.external_id = i.external_id
    )
    SELECT l.organization_id, l.connection_id, l.kind, r.external_id, r.start_time,
           CASE WHEN r.is_missed THEN r.sighted_at
                WHEN l.since <= known.at THEN greatest(known.at, l.until)
                ELSE known.at END
    FROM lists l
    JOIN living r ON r.connection_id = l.connection_id AND r.kind = l.kind
    CROSS JOIN LATERAL (
        SELECT greatest(r.sighted_at, CASE WHEN r.start_time IS NULL THEN l.newest_whole
                                           ELSE l.newest[width_bucket(r.start_time, l.edges)] END) AS at
        OFFSET 0  -- computed once
    ) known;
END;

-- IntakeQ's API never carries the link of a visit over Google Meet: there is nothing to wait for.
CREATE FUNCTION meeting_url_status(meeting_url text, location_type text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN meeting_url <> '' THEN 'available' WHEN location_type = 'telehealth' THEN 'not_in_api' END;

CREATE OR REPLACE VIEW v_appointments AS
SELECT a.id, a.connection_id, a.external_id, a.patient_id, a.client_external_id,
       CASE WHEN a.status = 'confirmed' AND a.end_time < now() THEN 'completed' ELSE a.status END AS status,
       a.vendor_status, a.start_time, a.end_time, a.duration_minutes, a.practitioner_external_id, a.practitioner_name,
       a.service_name, a.location_name, a.location_type, a.meeting_url, a.price, a.cancellation_reason,
       a.source_version, a.content_hash, a.changed_at, a.deleted_at, a.created_at, a.updated_at,
       -- A sub-select, so that it costs nothing where nobody asks for it.
       (SELECT v.verified_at
        FROM verification(a.connection_id, 'appointment', a.external_id, a.start_time,
                          greatest(a.source_version, a.seen_at)) v) AS verified_at,
       meeting_url_status(a.meeting_url, a.location_type) AS meeting_url_status
FROM appointments a;

-- The age of truth of each connection's living records: of half, 95 and 99 percent of them it is at most so much.
-- `appointment_upcoming` are those of `appointment` that have not begun. Disabled connections are left out.
CREATE VIEW v_freshness AS
SELECT g.organization_id, g.connection_id, g.kind, g.records,
       greatest(now() - g.verified[1], interval '0') AS p50_age, greatest(now() - g.verified[2], interval '0') AS p95_age,
       greatest(now() - g.verified[3], interval '0') AS p99_age,
       greatest(now() - g.verified[4], interval '0') AS oldest_age
FROM (
    SELECT r.organization_id, r.connection_id, k.kind, count(*) AS records,
           percentile_disc(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (ORDER BY r.verified_at DESC) AS verified
    FROM verified_records(NULL) r
    CROSS JOIN LATERAL unnest(CASE WHEN r.start_time >= now() THEN ARRAY[r.kind, 'appointment_upcoming']
                                   ELSE ARRAY[r.kind] END) k(kind)
    GROUP BY r.organization_id, r.connection_id, k.kind
) g;

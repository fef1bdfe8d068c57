-- What an API's pages say of records that stand already, recognized by index look-ups, without a lock and a write.

-- name: find_known
-- A version's bytes: authority 1, position 2-9, deleted 10, source 11, the read's begin 12-19, mapping 20-23, hash 24-.
-- Nothing is locked: a row's version and sighting only ever grow, so what is known once stays known.
WITH offered AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bigint[]) WITH ORDINALITY
        AS o(connection_id, kind, external_id, version, seen_ms, place)
), met AS (
    SELECT o.*, h.version AS held, h.seen_at FROM offered o JOIN appointments h USING (connection_id, external_id)
    WHERE o.kind = 'appointment'
    UNION ALL
    SELECT o.*, h.version, h.seen_at FROM offered o JOIN patient_identities h USING (connection_id, external_id)
    WHERE o.kind = 'patient'
    UNION ALL
    SELECT o.*, h.version, h.seen_at FROM offered o JOIN documents h USING (connection_id, kind, external_id)
    WHERE o.kind IN ('invoice', 'intake', 'note')
), known AS (
    SELECT m.place, substr(m.held, 10, 1) = substr(m.version, 10, 1) AND substr(m.held, 24) = substr(m.version, 24) AS same
    FROM met m
    CROSS JOIN LATERAL (SELECT timestamptz 'epoch' + m.seen_ms * interval '1 ms' AS at) sighting
    -- The content's version stays; in order, the time of the read alone may be behind. Not that of a client, which
    -- takes part in choosing the one of several clients that people see as their patient.
    WHERE (m.held >= m.version
           OR ($6 AND m.kind <> 'patient'
               AND substr(m.held, 1, 11) = substr(m.version, 1, 11) AND substr(m.held, 20) = substr(m.version, 20)))
    -- So does the sighting, where there is one; in order, it may be behind unless an absence on record waits for it.
      AND (m.seen_ms IS NULL OR m.seen_at >= sighting.at
           OR ($6 AND NOT EXISTS (
               SELECT FROM record_absences a
               WHERE a.connection_id = m.connection_id AND a.kind = m.kind AND a.external_id = m.external_id
                 AND a.read_began_at <= sighting.at AND a.read_began_at > coalesce(m.seen_at, '-infinity'))))
)
SELECT array_agg(place) FILTER (WHERE same) AS unchanged, array_agg(place) FILTER (WHERE NOT same) AS stale FROM known;

-- What sweeps found wrong although a webhook should have told of it, or because none does; and what became of that one.

CREATE TABLE drift_findings (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_id  uuid NOT NULL REFERENCES connections,
    kind           text NOT NULL,
    external_id    text NOT NULL,
    run_id         uuid REFERENCES sync_logs,
    found_at       timestamptz NOT NULL,
    read_began_at  timestamptz NOT NULL,
    since          timestamptz,           -- the vendor's modification time of the version found; none for absences
    position       bigint,                -- of the version found; for an absence, of the one that it ended
    changed_fields text[] NOT NULL,
    is_new         boolean NOT NULL,
    expected_event text                   -- the vendor's name of the webhook that tells of it; none for what it tells nobody
);
CREATE INDEX drift_findings_latest ON drift_findings (found_at DESC, id DESC);
CREATE INDEX drift_findings_of_connection ON drift_findings (connection_id, found_at DESC, id DESC);
CREATE INDEX drift_findings_of_record ON drift_findings (connection_id, kind, external_id, found_at DESC, id DESC);
CREATE INDEX drift_findings_of_run ON drift_findings (run_id, found_at DESC, id DESC);
CREATE INDEX drift_findings_announced ON drift_findings (connection_id, since) WHERE expected_event IS NOT NULL;

CREATE INDEX event_queue_parked_of_entity ON event_queue (connection_id, entity_kind, entity_id)
    WHERE status = 'parked' AND entity_id IS NOT NULL;

-- An event's id begins with the millisecond of its receipt: this is the first one that could have come then.
CREATE FUNCTION first_event_id_at(at timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

-- Each finding with the webhook that should have told of it, as far as one was seen. `told` says what became of it, NULL
-- where none was seen: then it is awaited until `awaited_until`, and as long as it may be among events that nobody has
-- read yet, and never came after that.
--
-- A webhook counts for the version that was found, and not for an earlier one of the same record; a webhook that changed
-- the record before the read was about something else, even at the same millisecond. Where the version found has no time
-- (an absence), the event's name tells. A parked event has no version: its time of receipt must fit, by the longest way
-- seen (IntakeQ: 204 s), and a little more for clocks that differ. The day and the week only bound the search.
CREATE VIEW v_drift AS
SELECT f.id, f.connection_id, f.kind, f.external_id, f.run_id, f.found_at, f.read_began_at, f.since, f.changed_fields,
       f.is_new, f.expected_event, w.event_id AS webhook_event_id, w.received_at AS webhook_received_at,
       CASE WHEN f.expected_event IS NULL THEN 'unannounced' ELSE w.became END AS told, due.awaited_until,
       EXISTS (
           SELECT FROM event_queue q
           WHERE q.event_id >= first_event_id_at(due.earliest) AND q.event_id < first_event_id_at(due.awaited_until)
             AND q.connection_id = f.connection_id AND q.work = 'apply' AND q.status <> 'parked'
       ) AS may_wait_unread
FROM drift_findings f
CROSS JOIN LATERAL (
    SELECT coalesce(f.since, f.read_began_at) - interval '10 seconds' AS earliest,
           coalesce(f.since, f.read_began_at) + interval '5 minutes' AS awaited_until,
           coalesce(f.since, to_timestamp(f.position / 1000.0), f.read_began_at) - interval '1 day' AS searched_from
) due
LEFT JOIN LATERAL (
    SELECT e.event_id, e.received_at, e.became
    FROM (
        SELECT q.event_id, q.received_at, 'parked' AS became
        FROM event_queue q
        WHERE q.connection_id = f.connection_id AND q.entity_kind = f.kind AND q.entity_id = f.external_id
          AND q.status = 'parked'
          AND CASE WHEN f.since IS NULL THEN q.event_type IS NULL OR q.event_type = f.expected_event
                   ELSE q.received_at >= due.earliest AND q.received_at < due.awaited_until END
        UNION ALL
        SELECT q.event_id, q.received_at, 'late'
        FROM event_queue q
        WHERE q.connection_id = f.connection_id AND q.entity_kind = f.kind AND q.entity_id = f.external_id
          AND q.work = 'refetch' AND q.status <> 'parked' AND q.source = 'webhook'
          AND CASE WHEN f.since IS NULL THEN q.event_type = f.expected_event
                   ELSE q.received_at >= due.earliest AND q.received_at < due.awaited_until END
        UNION ALL
        SELECT h.event_id, h.received_at,
               CASE WHEN h.received_at >= f.read_began_at OR h.finished_at > f.found_at THEN 'late'
                    ELSE 'dropped_by_guard' END
        FROM event_history h
        WHERE h.connection_id = f.connection_id AND h.entity_kind = f.kind AND h.entity_id = f.external_id
          AND h.received_at >= due.searched_from AND h.received_at < f.found_at + interval '7 days'
          AND h.source = 'webhook'
          AND CASE WHEN f.since IS NULL
                   THEN h.event_type = f.expected_event AND coalesce(h.entity_version >= f.position, true)
                   WHEN f.position IS NULL OR h.entity_version IS NULL
                   THEN h.received_at >= due.earliest AND h.received_at < due.awaited_until
                   ELSE h.entity_version = f.position
                        AND (h.event_type = f.expected_event OR NOT 'deleted_at' = ANY (f.changed_fields)) END
          AND (h.received_at >= f.read_began_at OR h.finished_at > f.found_at OR NOT EXISTS (
                SELECT FROM unnest(h.changed_fields) AS name WHERE name NOT LIKE 'patient.%'))
    ) e
    WHERE f.expected_event IS NOT NULL
    ORDER BY e.became <> 'parked', e.received_at, e.event_id
    LIMIT 1
) w ON true;

-- The unfinished events: from the INSERT at the door to the DELETE at the end.

-- name: store
-- An event that is already there (a commit whose outcome was unknown, tried again) is left alone, and so is its
-- place in the queue, which it may have left by now. It is due at once, also where the door's clock is ahead of ours.
WITH incoming AS (
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::uuid[],
                         $7::bytea[], $8::bytea[], $9::int[], $10::smallint[], $11::text[])
        AS i(id, received_at, connection_id, vendor, source, caused_by, headers_sealed, body_sealed, body_bytes,
             lane, parked_reason)
), stored AS (
    INSERT INTO events (id, received_at, connection_id, vendor, source, caused_by, headers_sealed, body_sealed, body_bytes)
    SELECT id, received_at, connection_id, vendor, source, caused_by, headers_sealed, body_sealed, body_bytes FROM incoming
    ON CONFLICT DO NOTHING
    RETURNING id
)
INSERT INTO event_queue (event_id, received_at, connection_id, vendor, source, caused_by, lane, status, reason, available_at)
SELECT id, received_at, connection_id, vendor, source, caused_by, lane,
       CASE WHEN parked_reason IS NULL THEN 'pending' ELSE 'parked' END, parked_reason, least(received_at, now())
FROM incoming JOIN stored USING (id);

-- name: claim_due
-- Each work class and lane has a bounded window in flight: what does not fit waits here, where it is safe and in order.
-- The relay's commit does not wait for the disk: a crash of PostgreSQL that undoes it only publishes once more.
WITH commit_without_waiting AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
SELECT q.event_id, c.work, c.lane
FROM commit_without_waiting
CROSS JOIN unnest($1::text[], $2::smallint[], $3::int[]) AS c(work, lane, flight_window)
CROSS JOIN LATERAL (
    SELECT event_id FROM event_queue
    WHERE status = 'pending' AND work = c.work AND lane = c.lane AND available_at <= $4
    ORDER BY available_at, event_id
    LIMIT least($5::int, greatest(0, c.flight_window - (
        SELECT count(*) FROM event_queue f WHERE f.status = 'published' AND f.work = c.work AND f.lane = c.lane
    )))
    FOR UPDATE SKIP LOCKED
) q;

-- name: mark_published
UPDATE event_queue SET status = 'published', published_at = $2, publishes = least(publishes + 1, 1000)
WHERE event_id = ANY($1::uuid[]);

-- name: next_due
-- When each class should be looked at next although nobody has called, and whether it has room in its window.
SELECT q.available_at, c.flight_window > (
    SELECT count(*) FROM event_queue f WHERE f.status = 'published' AND f.work = c.work AND f.lane = c.lane
) AS has_room
FROM unnest($1::text[], $2::smallint[], $3::int[]) AS c(work, lane, flight_window)
CROSS JOIN LATERAL (
    SELECT available_at FROM event_queue
    WHERE status = 'pending' AND work = c.work AND lane = c.lane
    ORDER BY available_at LIMIT 1
) q;

-- name: republish_lost
-- Only a bounded window is in flight, so age means lost; the wait doubles with each publish, up to an hour, so that a
-- long stop of all consumers does not fill the broker with copies. What somebody has locked is not lost.
UPDATE event_queue SET status = 'pending', available_at = least(available_at, $1)
WHERE event_id = ANY(ARRAY(
    SELECT event_id FROM event_queue
    WHERE status = 'published'
      AND published_at < $1::timestamptz - least(make_interval(secs => $2 * power(2, least(publishes - 1, 10))),
                                                 interval '1 hour')
    FOR UPDATE SKIP LOCKED
));

-- name: follow_clock_set_back
-- A clock was ahead and has been set back: what was written by it would wait until the clock is there again. Whatever
-- began in the future began now, and keeps its pause or its lease from now on.
WITH waiting AS (
    UPDATE event_queue
    SET available_at = $1 + greatest(available_at - coalesce(put_off_at, received_at), interval '0'), put_off_at = $1
    WHERE event_id = ANY(ARRAY(
        SELECT q.event_id FROM unnest($2::text[], $3::smallint[]) AS c(work, lane) CROSS JOIN LATERAL (
            SELECT event_id FROM event_queue
            WHERE status = 'pending' AND work = c.work AND lane = c.lane AND available_at > $1
              AND coalesce(put_off_at, received_at) > $1
            FOR UPDATE SKIP LOCKED
        ) q
    ))
    RETURNING 1
), in_flight AS (
    UPDATE event_queue SET published_at = $1
    WHERE event_id = ANY(ARRAY(
        SELECT event_id FROM event_queue WHERE status = 'published' AND published_at > $1 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
), leased AS (
    UPDATE event_queue SET leased_until = $1 + (leased_until - attempt_started_at), attempt_started_at = $1
    WHERE event_id = ANY(ARRAY(
        SELECT event_id FROM event_queue WHERE status = 'running' AND attempt_started_at > $1 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT (SELECT count(*) FROM waiting) + (SELECT count(*) FROM in_flight) + (SELECT count(*) FROM leased);

-- name: republish_all
-- The bus has lost its queues (or its process): everything in flight goes out again, oldest first.
UPDATE event_queue SET status = 'pending'
WHERE event_id = ANY(ARRAY(SELECT event_id FROM event_queue WHERE status = 'published' FOR UPDATE SKIP LOCKED))
RETURNING pg_notify('eventsync_queue', '');

-- name: wait_for_bus_turn
-- Two processes that replace the same dead queue would each delete what the other has just declared.
SELECT pg_advisory_xact_lock(hashtext('eventsync:bus'));

-- name: return_expired_leases
UPDATE event_queue SET status = 'pending', available_at = least(available_at, $1), leased_until = NULL
WHERE status = 'running' AND leased_until < $1;

-- name: begin_attempts
-- Attempts are counted before they are made. A row that still carries the start of an earlier attempt was in the
-- hands of a consumer that died, and is counted when its turn comes to run alone ($4): otherwise a batch that holds
-- one killer would use up the attempts of all the others. `$2` names those which this very process let go when the
-- database went away. A due pending row is taken as well: its relay may not have committed yet, and this waits until
-- it has. Rows are locked in key order, since two consumers may hold the same ones. The commit does not wait for the
-- disk: what is counted are consumers that die, and none is blamed for a death of PostgreSQL.
WITH commit_without_waiting AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), held AS MATERIALIZED (
    SELECT event_id, received_at, attempts, attempt_started_at IS NOT NULL AND NOT event_id = ANY($2::uuid[]) AS is_suspect
    FROM commit_without_waiting CROSS JOIN event_queue
    WHERE event_id = ANY($1::uuid[]) AND work = 'apply'
      AND (status = 'published' OR (status = 'pending' AND available_at <= $3))
    ORDER BY event_id
    FOR UPDATE OF event_queue
), counted AS (
    UPDATE event_queue q
    SET attempts = held.attempts + CASE WHEN $4::boolean OR NOT (held.is_suspect OR q.event_id = ANY($2::uuid[]))
                                        THEN 1 ELSE 0 END,
        attempt_started_at = $3
    FROM held WHERE q.event_id = held.event_id AND q.event_id = ANY($1::uuid[])
    RETURNING q.event_id, q.received_at, q.connection_id, q.vendor, q.attempts, held.is_suspect
)
SELECT c.event_id, c.received_at, c.connection_id, c.vendor, c.attempts, c.is_suspect, e.headers_sealed, e.body_sealed
FROM counted c CROSS JOIN LATERAL (
    SELECT headers_sealed, body_sealed FROM events
    WHERE received_at = c.received_at AND id = c.event_id
    LIMIT 1  -- so that each is looked up in its own partition, whatever the planner thinks of scanning them all
) e
ORDER BY c.event_id;

-- name: finish
WITH ended AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS f(
        event_id uuid, event_type text, entity_kind text, entity_id text, entity_version bigint,
        outcome text, reason text, changed_fields text[])
), gone AS (
    DELETE FROM event_queue q WHERE q.event_id = ANY(ARRAY(SELECT event_id FROM ended))
    RETURNING q.event_id, q.received_at, q.connection_id, q.vendor, q.source, q.caused_by, q.attempts
)
INSERT INTO event_history (event_id, received_at, connection_id, vendor, source, caused_by, event_type, entity_kind,
                           entity_id, entity_version, outcome, reason, changed_fields, attempts, finished_at)
SELECT gone.event_id, gone.received_at, gone.connection_id, gone.vendor, gone.source, gone.caused_by, ended.event_type,
       ended.entity_kind, ended.entity_id, ended.entity_version, ended.outcome, ended.reason, ended.changed_fields,
       gone.attempts, $2
FROM gone JOIN ended USING (event_id);

-- name: park
UPDATE event_queue q
SET status = 'parked', reason = p.reason, error = p.error, attempt_started_at = NULL, leased_until = NULL,
    event_type = coalesce(p.event_type, q.event_type), entity_kind = coalesce(p.entity_kind, q.entity_kind),
    entity_id = coalesce(p.entity_id, q.entity_id)
FROM jsonb_to_recordset($1::jsonb) AS p(event_id uuid, reason text, error text, event_type text, entity_kind text,
                                        entity_id text)
WHERE q.event_id = p.event_id AND q.status <> 'parked'
RETURNING q.event_id;

-- name: hand_to_refetch
-- Due since it was received, so that no clock that was ahead at this moment can hold it up.
UPDATE event_queue q
SET work = 'refetch', status = 'pending', available_at = least(q.received_at, $2), attempts = 0, publishes = 0, attempt_started_at = NULL,
    event_type = r.event_type, entity_kind = r.entity_kind, entity_id = r.entity_id
FROM jsonb_to_recordset($1::jsonb) AS r(event_id uuid, event_type text, entity_kind text, entity_id text)
WHERE q.event_id = r.event_id AND q.status <> 'parked' AND q.work = 'apply'
RETURNING q.event_id, pg_notify('eventsync_queue', '');

-- name: retry_later
-- The relays are told, since they sleep until what was the next due event before.
UPDATE event_queue
SET status = 'pending', available_at = $2, put_off_at = $5, error = $3, attempt_started_at = NULL, leased_until = NULL,
    publishes = 0,
    attempts = attempts - CASE WHEN $4::boolean THEN 0 ELSE 1 END
WHERE event_id = ANY($1::uuid[]) AND status <> 'parked'
RETURNING pg_notify('eventsync_queue', '');

-- name: lease_refetch
-- One read at a time per record, its sequence number taken before the read, and so is the snapshot, which tells what
-- had been committed by then. Nothing comes back while another worker holds the record or the event is no longer
-- waiting. A lease that ends much later than one taken now was taken by a clock that was ahead, and holds no more.
-- With $4 this is tried again since an answer was lost: then the row may be ours already, which its time ($2) tells.
WITH wanted AS (
    SELECT event_id, connection_id, entity_kind, entity_id, status = 'running' AS is_ours FROM event_queue
    WHERE event_id = $1 AND work = 'refetch'
      AND (status = 'published' OR (status = 'pending' AND available_at <= $2)
           OR ($4::boolean AND status = 'running' AND attempt_started_at = $2))
    FOR UPDATE
), reading AS (
    INSERT INTO record_reads AS r (connection_id, kind, external_id, sequence, leased_until)
    SELECT connection_id, entity_kind, entity_id, 1, $3 FROM wanted
    ON CONFLICT (connection_id, kind, external_id) DO UPDATE
        SET sequence = r.sequence + 1, leased_until = excluded.leased_until
        WHERE r.leased_until < $2 OR r.leased_until > $3 + interval '1 minute' OR (SELECT is_ours FROM wanted)
    RETURNING sequence
)
UPDATE event_queue q
SET status = 'running', leased_until = $3, attempts = attempts + CASE WHEN is_ours THEN 0 ELSE 1 END,
    attempt_started_at = $2
FROM wanted, reading
WHERE q.event_id = wanted.event_id
RETURNING q.event_id, q.received_at, q.connection_id, q.vendor, q.entity_kind, q.entity_id, q.event_type, q.attempts,
          reading.sequence, pg_current_snapshot()::text AS snapshot;

-- name: end_read
UPDATE record_reads SET leased_until = '-infinity'
WHERE connection_id = $1 AND kind = $2 AND external_id = $3 AND sequence = $4;

-- name: covered_by_read
-- Every event of this record that was committed before the lease, and so before the read began, is answered by the
-- read, even where it was understood only afterwards. Clocks have no say, since each machine has its own; and after a
-- move to another cluster, whose transactions count anew, a read answers too few events but never one too many.
-- They are locked, so that each is ended by one read alone, and what the read changes can be told to be an event's.
SELECT event_id, event_type FROM event_queue
WHERE work = 'refetch' AND connection_id = $1 AND entity_kind = $2 AND entity_id = $3
  AND (pg_visible_in_snapshot(enqueued_in, $4::text::pg_snapshot) OR event_id = $5) AND status <> 'parked'
ORDER BY event_id
FOR UPDATE;

-- name: defer
-- The event's record is being read for someone else; that read may answer this event too.
UPDATE event_queue SET status = 'pending', available_at = $2, put_off_at = $3, publishes = 0
WHERE event_id = $1 AND work = 'refetch' AND status = 'published'
RETURNING pg_notify('eventsync_queue', '');

-- name: count_dead_letter
-- A dead letter that was never attempted only shared its consumer's fate; it gets its own chances, counted. One that
-- waits for its next try by now is an old copy of the message, and counts for nothing.
UPDATE event_queue
SET attempts = attempts + 1, status = 'pending', available_at = least(available_at, $2), attempt_started_at = $2
WHERE event_id = $1 AND (status = 'published' OR (status = 'pending' AND available_at <= $2))
RETURNING attempts, pg_notify('eventsync_queue', '');

-- name: unpark
UPDATE event_queue
SET status = 'pending', available_at = least(available_at, $2), attempts = 0, publishes = 0, attempt_started_at = NULL, reason = NULL,
    error = NULL, lane = $3, enqueued_in = pg_current_xact_id()
WHERE event_id = $1 AND status = 'parked'
RETURNING event_id, pg_notify('eventsync_queue', '');

-- name: measure
SELECT work, lane, status, count(*) AS count, min(received_at) AS oldest_received_at
FROM event_queue WHERE status <> 'parked' GROUP BY work, lane, status
UNION ALL
SELECT work, lane, status, count(*), min(received_at)
FROM event_queue WHERE status = 'parked' GROUP BY work, lane, status;

-- When connections are read of themselves: by their settings once a day, and in between by `sync_schedules`.

-- name: begin_sweeps
-- A connection that has just been made; several schedulers at once agree on the first one's time.
INSERT INTO sync_schedules (connection_id, next_sweep_at)
SELECT c.id, $2 FROM connections c
WHERE c.disabled_at IS NULL AND c.vendor = ANY($1::text[])
  AND NOT EXISTS (SELECT FROM sync_schedules s WHERE s.connection_id = c.id)
ON CONFLICT (connection_id) DO NOTHING;

-- name: list_connections
-- With the latest time of the daily schedule that a run has answered, which its unique index knows.
SELECT c.id, c.number, c.organization_id, c.timezone, c.settings, c.created_at, s.next_sweep_at,
       (SELECT max(r.due_at) FROM sync_logs r WHERE r.connection_id = c.id AND r.sync_type = 'automated_daily')
       AS daily_answered_at
FROM connections c JOIN sync_schedules s ON s.connection_id = c.id
WHERE c.disabled_at IS NULL AND c.vendor = ANY($1::text[])
ORDER BY c.number;

-- name: put_off_sweep
-- Not where someone has planned the next one since it was looked at: a run at its end knows best.
UPDATE sync_schedules SET next_sweep_at = $3 WHERE connection_id = $1 AND next_sweep_at = $2
RETURNING connection_id;

-- name: plan_sweep
INSERT INTO sync_schedules (connection_id, next_sweep_at) VALUES ($1, $2)
ON CONFLICT (connection_id) DO UPDATE SET next_sweep_at = excluded.next_sweep_at;

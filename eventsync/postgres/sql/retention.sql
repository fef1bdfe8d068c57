-- Partitions made ahead and dropped after their retention.

-- name: lock_partitions
-- One keeper at a time. Making and dropping partitions needs a moment alone with their parent, for which everyone who
-- comes later waits along: so not for long behind someone who reads for hours.
SELECT set_config('lock_timeout', '2s', true), pg_advisory_xact_lock(hashtext('eventsync:partitions'));

-- name: ensure_partitions
SELECT ensure_event_partitions($1, $2);

-- name: covered_until
-- How far ahead a new event finds a partition.
SELECT max((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass;

-- name: expired_partitions
SELECT c.relname::text
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = $1::text::regclass
  AND (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz <= $2
ORDER BY c.relname;

-- name: drop_event_partition
-- Answers whether the partition went: one that still holds unfinished events stays, without what is finished.
SELECT CASE WHEN to_regclass($1::text) IS NULL THEN false ELSE drop_event_partition($1) END;

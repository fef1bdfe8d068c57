-- The tables whose rows are organizations at Colectiva: what they are like, and the triggers on them (migration 0006).

-- name: bound_waiting
SELECT set_config('lock_timeout', $1, true);

-- name: describe
-- The table of that name, null where there is none that we may see.
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind, c.relispartition AS is_partition,
       c.relpersistence = 't' AS is_temporary, has_table_privilege(c.oid, 'SELECT') AS is_readable,
       has_table_privilege(c.oid, 'TRIGGER') AS takes_triggers, row_security_active(c.oid) AS hides_rows,
       ARRAY(SELECT ARRAY[a.attname::text, format_type(a.atttypid, NULL)] FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1::text);

-- name: rival_triggers
SELECT eventsync_rival_triggers($1::oid::regclass);

-- name: drop_rival_triggers
SELECT eventsync_drop_rival_triggers($1::oid::regclass);

-- name: attach
SELECT eventsync_attach($1, $2::oid::regclass, $3::oid::regclass);

-- name: count_unqueued
SELECT organizations, never_queued, queue_them FROM eventsync_unqueued($1, $2::oid::regclass);

-- name: detach
SELECT eventsync_detach($1::oid::regclass);

-- What fills the outbound queue: the tables whose rows are organizations at Colectiva, and the triggers on them.
-- The triggers see rows as JSON, so that they fit any table with these columns, whatever else it has or lacks. They run
-- in the writer's own transaction: the row and its item are kept together or not at all.

-- A therapist whose name stands in a table of users is told of by two tables. Of such a therapist one transaction at a
-- time writes items: the later one sees what the earlier one wrote, and its item, which comes last, tells both.
CREATE TABLE outbound_turns (
    entity_id uuid PRIMARY KEY,
    taken_at  timestamptz NOT NULL
);

-- Plenura's application keeps in this column also what Colectiva answered, which Colectiva does not take as the
-- organization's id at Plenura (it must begin with plenura_): then, and without a value, the id is made of the row's.
CREATE FUNCTION eventsync_org_id(prefix text, source jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN starts_with(source ->> 'ecosystem_org_id', 'plenura_') THEN source ->> 'ecosystem_org_id'
                ELSE prefix || replace(source ->> 'id', '-', '') END
$$;

CREATE FUNCTION eventsync_practice(source jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'ecosystem_org_id', eventsync_org_id('plenura_', source),
        'app_name', 'plenura',
        'organization_name', source -> 'name',
        'email', source -> 'email',
        'tax_id', source -> 'tax_id',
        'business_type', source -> 'business_type',
        'subscription_tier', source -> 'subscription_tier',
        'verification_status', source -> 'verification_status',
        'is_active', coalesce(source ->> 'subscription_status', 'active') = 'active',
        'created_at', source -> 'created_at',
        'metadata', jsonb_build_object(
            'practice_id', source -> 'id',
            'city', source -> 'city',
            'state', source -> 'state',
            'phone', source -> 'phone',
            'website', source -> 'website',
            'rating_avg', source -> 'rating_avg',
            'total_bookings', source -> 'total_bookings'))
$$;

CREATE FUNCTION eventsync_therapist(source jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'ecosystem_org_id', eventsync_org_id('plenura_therapist_', source),
        'app_name', 'plenura',
        'organization_name', coalesce(source ->> 'full_name', source ->> 'name') || ' (Independent Therapist)',
        'email', source -> 'email',
        'tax_id', NULL,
        'business_type', 'solo',
        'subscription_tier', source -> 'subscription_tier',
        'verification_status', source -> 'verification_status',
        'is_active', (source ->> 'is_available') IS DISTINCT FROM 'false',
        'created_at', source -> 'created_at',
        'metadata', jsonb_build_object(
            'therapist_id', source -> 'id',
            'user_id', source -> 'user_id',
            'is_independent', source -> 'is_independent',
            'years_of_experience', source -> 'years_of_experience',
            'rating_avg', source -> 'rating_avg',
            'trust_level', source -> 'trust_level'))
    WHERE source ->> 'is_independent' = 'true' AND source ->> 'vetting_status' = 'approved'
$$;

-- The item's payload for a row, or NULL where the row is no organization at Colectiva.
CREATE FUNCTION eventsync_organization(entity_type text, source jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN CASE entity_type WHEN 'practice' THEN eventsync_practice(source) ELSE eventsync_therapist(source) END;
END $$;

-- What Colectiva sees of a payload; where two are equal, there is nothing to tell.
CREATE FUNCTION eventsync_seen(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT jsonb_build_array(
        payload -> 'ecosystem_org_id', payload -> 'organization_name', payload -> 'email', payload -> 'tax_id',
        coalesce(payload ->> 'business_type', 'business'), coalesce(payload ->> 'subscription_tier', 'free'),
        payload -> 'is_active')
$$;

CREATE FUNCTION eventsync_id(entity_type text, source jsonb) RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF source ->> 'id' IS NULL THEN
        RAISE not_null_violation USING
            MESSAGE = format('a %s without an id cannot be registered at Colectiva', entity_type),
            HINT = 'Give the row an id, or take the table off the queue: eventsync ecosystem attach --detach';
    END IF;
    RETURN source ->> 'id';
END $$;

CREATE FUNCTION eventsync_queue_item(entity_type text, source jsonb, action text, payload jsonb) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    item_id uuid;
BEGIN
    INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload)
    VALUES (entity_type, eventsync_id(entity_type, source), payload ->> 'ecosystem_org_id', action, payload)
    RETURNING id INTO item_id;
    RETURN item_id;
END $$;

-- Queue what Colectiva must be told when a row that was `before` is `after` now; either is NULL where there is none.
CREATE FUNCTION eventsync_queue_change(entity_type text, before jsonb, after jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    was     jsonb := eventsync_organization(entity_type, before);
    becomes jsonb := eventsync_organization(entity_type, after);
    is_same boolean := was ->> 'ecosystem_org_id' IS NOT DISTINCT FROM becomes ->> 'ecosystem_org_id';
BEGIN
    IF was IS NOT NULL AND NOT is_same THEN
        PERFORM eventsync_queue_item(entity_type, before, 'deactivate', was || '{"is_active": false}');
    END IF;
    IF becomes IS NULL THEN
        RETURN;
    ELSIF was IS NULL OR NOT is_same THEN
        PERFORM eventsync_queue_item(entity_type, after, 'register', becomes);
    ELSIF was -> 'is_active' = 'true' AND becomes -> 'is_active' = 'false' THEN
        PERFORM eventsync_queue_item(entity_type, after, 'deactivate', becomes);
    ELSIF eventsync_seen(was) <> eventsync_seen(becomes) THEN
        PERFORM eventsync_queue_item(entity_type, after, 'update', becomes);
    END IF;
END $$;

CREATE FUNCTION eventsync_name_of_user(account jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'full_name', coalesce(account ->> 'full_name', account ->> 'name'), 'email', account -> 'email'))
$$;

-- The therapist's row with the name and address of its user. When the user is deleted first, as cascades do, the row
-- goes with the name that was told last: an organization without a name could not be deactivated.
CREATE FUNCTION eventsync_with_user(source jsonb, users text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    account jsonb;
BEGIN
    IF source IS NULL OR users IS NULL THEN
        RETURN source;
    ELSIF to_regclass(users) IS NULL THEN
        RAISE undefined_table USING
            MESSAGE = format('the table %s, which has the names of therapists, is gone', users),
            HINT = 'Name the one that has them now: eventsync ecosystem attach --therapists TABLE --users TABLE';
    END IF;
    EXECUTE format('SELECT to_jsonb(u) FROM %s u WHERE u.id = $1', to_regclass(users))
        INTO account USING (source ->> 'user_id')::uuid;
    IF account IS NULL THEN
        SELECT jsonb_build_object(
                   'full_name', regexp_replace(q.payload ->> 'organization_name', ' \(Independent Therapist\)$', ''),
                   'email', q.payload -> 'email')
        INTO account FROM ecosystem_sync_queue q
        WHERE q.entity_type = 'therapist' AND q.entity_id = (source ->> 'id')::uuid
        ORDER BY q.position DESC LIMIT 1;
    END IF;
    RETURN source || coalesce(eventsync_name_of_user(account), '{}');
END $$;

-- A write and not a lock alone: a transaction that could not see what the one before it wrote fails then.
CREATE FUNCTION eventsync_take_turn(entity_id uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO outbound_turns AS t (entity_id, taken_at) VALUES (entity_id, now())
    ON CONFLICT (entity_id) DO UPDATE SET taken_at = excluded.taken_at
$$;

-- Trigger of a table of organizations. Arguments: the entity's type and, where names stand elsewhere, that table.
CREATE FUNCTION eventsync_organization_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    before jsonb;
    after  jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        before := to_jsonb(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        after := to_jsonb(NEW);
    END IF;
    IF before -> 'user_id' IS NOT DISTINCT FROM after -> 'user_id'
       AND eventsync_seen(eventsync_organization(TG_ARGV[0], before))
           IS NOT DISTINCT FROM eventsync_seen(eventsync_organization(TG_ARGV[0], after)) THEN
        RETURN NULL;
    END IF;
    IF TG_ARGV[1] IS NOT NULL THEN
        PERFORM eventsync_take_turn(eventsync_id(TG_ARGV[0], coalesce(after, before)));
        before := eventsync_with_user(before, TG_ARGV[1]);
        after := eventsync_with_user(after, TG_ARGV[1]);
    END IF;
    PERFORM eventsync_queue_change(TG_ARGV[0], before, after);
    RETURN NULL;
END $$;

-- To empty a table is to delete its rows: each organization is deactivated.
CREATE FUNCTION eventsync_organizations_truncated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    source jsonb;
BEGIN
    FOR source IN EXECUTE format('SELECT to_jsonb(t) FROM %s t', TG_RELID::regclass) LOOP
        PERFORM eventsync_queue_change(TG_ARGV[0], eventsync_with_user(source, TG_ARGV[1]), NULL);
    END LOOP;
    RETURN NULL;
END $$;

-- Every table that fills the queue: those that carry our trigger, and where the names of therapists stand.
CREATE FUNCTION eventsync_sources() RETURNS TABLE (entity_type text, source regclass, users regclass)
LANGUAGE sql STABLE AS $$
    SELECT a.entity_type, t.tgrelid::regclass,
           CASE WHEN t.tgnargs = 2 THEN to_regclass(convert_from(
               substring(t.tgargs FROM a.ends_at + 1 FOR length(t.tgargs) - a.ends_at - 1), getdatabaseencoding())) END
    FROM pg_trigger t
    CROSS JOIN LATERAL (
        SELECT position('\x00'::bytea IN t.tgargs) AS ends_at,
               convert_from(substring(t.tgargs FOR position('\x00'::bytea IN t.tgargs) - 1), 'SQL_ASCII') AS entity_type
    ) a
    WHERE t.tgfoid = 'eventsync_organization_changed()'::regprocedure AND t.tgparentid = 0
$$;

-- Trigger of a table of users. Its argument is that table's own name, since a partition's trigger sees another.
CREATE FUNCTION eventsync_user_renamed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    was          jsonb := eventsync_name_of_user(to_jsonb(OLD));
    becomes      jsonb := eventsync_name_of_user(to_jsonb(NEW));
    user_id      uuid := to_jsonb(NEW) ->> 'id';
    therapists   regclass;
    therapist_id uuid;
    source       jsonb;
BEGIN
    IF was = becomes THEN
        RETURN NULL;
    END IF;
    FOR therapists IN SELECT s.source FROM eventsync_sources() s WHERE s.users = to_regclass(TG_ARGV[0]) LOOP
        FOR therapist_id IN EXECUTE format('SELECT t.id FROM %s t WHERE t.user_id = $1 ORDER BY t.id', therapists)
            USING user_id LOOP
            PERFORM eventsync_take_turn(therapist_id);
            EXECUTE format('SELECT to_jsonb(t) FROM %s t WHERE t.id = $1 AND t.user_id = $2', therapists)
                INTO source USING therapist_id, user_id;
            PERFORM eventsync_queue_change('therapist', source || was, source || becomes);
        END LOOP;
    END LOOP;
    RETURN NULL;
END $$;

-- Queue one organization by hand, as for rows that were there before the triggers. Answers the item's id.
CREATE FUNCTION eventsync_queue_registration(entity_type text, entity_id uuid, action text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    place   record;
    source  jsonb;
    payload jsonb;
BEGIN
    FOR place IN SELECT s.source, s.users FROM eventsync_sources() s
                 WHERE s.entity_type = eventsync_queue_registration.entity_type ORDER BY s.source::text LOOP
        -- Where we may, the row is held while its item is written: a change that is about to commit comes first.
        IF has_table_privilege(place.source, 'UPDATE') THEN
            EXECUTE format('SELECT FROM %s t WHERE t.id = $1 FOR NO KEY UPDATE', place.source) USING entity_id;
        END IF;
        IF place.users IS NOT NULL THEN
            PERFORM eventsync_take_turn(entity_id);
        END IF;
        EXECUTE format('SELECT to_jsonb(t) FROM %s t WHERE t.id = $1', place.source) INTO source USING entity_id;
        IF source IS NOT NULL THEN
            source := eventsync_with_user(source, place.users::text);
            EXIT;
        END IF;
    END LOOP;
    IF source IS NULL THEN
        RAISE no_data_found USING
            MESSAGE = format('no attached table holds the %s %s', entity_type, entity_id),
            HINT = 'SELECT * FROM eventsync_sources() lists the tables; eventsync ecosystem attach adds one.';
    END IF;
    payload := eventsync_organization(entity_type, CASE entity_type
        WHEN 'therapist' THEN source || CASE action WHEN 'deactivate' THEN
            '{"is_independent": true, "vetting_status": "approved"}'::jsonb ELSE '{}' END
        ELSE source END);
    IF payload IS NULL THEN
        RAISE check_violation USING
            MESSAGE = format('the %s %s is not registered at Colectiva', entity_type, entity_id),
            HINT = 'Therapists are while they are independent and vetted (vetting_status approved).';
    ELSIF action = 'deactivate' THEN
        payload := payload || '{"is_active": false}';
    END IF;
    RETURN eventsync_queue_item(entity_type, source, action, payload);
END $$;

-- Put a trigger on a table unless it is there already, just so. Answers whether it had to be put there.
CREATE FUNCTION eventsync_ensure_trigger(target regclass, called text, moment text, arguments text[]) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    wanted   bytea := '';
    given    text;
    argument text;
BEGIN
    FOREACH argument IN ARRAY arguments LOOP
        wanted := wanted || convert_to(argument, getdatabaseencoding()) || '\x00'::bytea;
        given := concat_ws(', ', given, quote_literal(argument));
    END LOOP;
    IF EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
               WHERE t.tgrelid = target AND t.tgname = called AND p.oid = to_regprocedure(quote_ident(called) || '()')
                 AND t.tgargs = wanted AND t.tgenabled IN ('O', 'A')) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE OR REPLACE TRIGGER %I %s EXECUTE FUNCTION %I(%s)',
                   called, format(moment, target), called, given);
    RETURN true;
END $$;

-- Users' tables of which no therapists are told any more lose their trigger.
CREATE FUNCTION eventsync_drop_idle_triggers() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    users   regclass;
    dropped boolean := false;
BEGIN
    FOR users IN SELECT t.tgrelid FROM pg_trigger t
                 WHERE t.tgfoid = 'eventsync_user_renamed()'::regprocedure AND t.tgparentid = 0
                   AND NOT EXISTS (SELECT FROM eventsync_sources() s WHERE s.users = t.tgrelid) LOOP
        EXECUTE format('DROP TRIGGER eventsync_user_renamed ON %s', users);
        dropped := true;
    END LOOP;
    RETURN dropped;
END $$;

-- Let a table fill the queue. Answers whether anything had to be changed for it.
CREATE FUNCTION eventsync_attach(entity_type text, source regclass, users regclass DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    -- With its schema: triggers outlive a change of the search path, and a dump.
    names     text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                       JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = users);
    arguments text[] := array_remove(ARRAY[entity_type, names], NULL);
    changed   boolean[] := ARRAY[
        eventsync_ensure_trigger(source, 'eventsync_organization_changed',
                                 'AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW', arguments),
        eventsync_ensure_trigger(source, 'eventsync_organizations_truncated',
                                 'BEFORE TRUNCATE ON %s FOR EACH STATEMENT', arguments)];
BEGIN
    IF users IS NOT NULL THEN
        changed := changed || eventsync_ensure_trigger(users, 'eventsync_user_renamed',
                                                       'AFTER UPDATE ON %s FOR EACH ROW', ARRAY[names]);
    END IF;
    RETURN eventsync_drop_idle_triggers() OR true = ANY (changed);
END $$;

-- Let a table fill the queue no more. Answers whether it did.
CREATE FUNCTION eventsync_detach(source regclass) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    called  text;
    dropped boolean := false;
BEGIN
    FOR called IN SELECT t.tgname FROM pg_trigger t
                  WHERE t.tgrelid = source AND t.tgparentid = 0
                    AND t.tgfoid IN ('eventsync_organization_changed()'::regprocedure,
                                     'eventsync_organizations_truncated()'::regprocedure) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', called, source);
        dropped := true;
    END LOOP;
    RETURN eventsync_drop_idle_triggers() OR dropped;
END $$;

-- Triggers of others that fill the queue from the same table: each change would be told twice.
CREATE FUNCTION eventsync_rival_triggers(source regclass) RETURNS SETOF text LANGUAGE sql STABLE AS $$
    SELECT t.tgname::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = source AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'D'
      AND p.prosrc ~* 'ecosystem_sync_queue|queue_ecosystem_sync' AND NOT starts_with(p.proname, 'eventsync_')
    ORDER BY t.tgname
$$;

CREATE FUNCTION eventsync_drop_rival_triggers(source regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    called text;
BEGIN
    FOR called IN SELECT eventsync_rival_triggers(source) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', called, source);
    END LOOP;
END $$;

-- How many organizations a table holds, how many of them were never queued, and the SQL that queues those.
CREATE FUNCTION eventsync_unqueued(
    entity_type text, source regclass, OUT organizations bigint, OUT never_queued bigint, OUT queue_them text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    condition text := format('NOT EXISTS (SELECT FROM ecosystem_sync_queue q'
                             ' WHERE q.entity_type = %L AND q.entity_id = t.id)', entity_type);
BEGIN
    EXECUTE format('SELECT count(*), count(*) FILTER (WHERE %s) FROM %s t'
                   ' WHERE eventsync_organization($1, to_jsonb(t)) IS NOT NULL', condition, source)
        INTO organizations, never_queued USING entity_type;
    queue_them := format('SELECT eventsync_queue_registration(%L, t.id, ''register'') FROM %s t WHERE %s%s',
        entity_type, source, condition,
        CASE entity_type WHEN 'therapist' THEN ' AND t.is_independent AND t.vetting_status = ''approved''' ELSE '' END);
END $$;

-- Who writes to an attached table queues items by our right, whatever their own search path and objects are. Row
-- security that would hide rows from us is an error then, not an organization without a name. And nobody else may put
-- such triggers on a table of theirs, or queue by hand, unless it is granted to them.
DO $$
DECLARE
    called regprocedure;
BEGIN
    FOR called IN SELECT p.oid FROM pg_proc p
                  WHERE p.pronamespace = quote_ident(current_schema())::regnamespace
                    AND (p.prosecdef AND p.proname LIKE 'eventsync\_%'
                         OR p.proname IN ('eventsync_sources', 'eventsync_ensure_trigger', 'eventsync_attach',
                                          'eventsync_detach', 'eventsync_drop_idle_triggers',
                                          'eventsync_drop_rival_triggers')) LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', called, current_schema());
        EXECUTE format('ALTER FUNCTION %s SET row_security = off', called);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', called);
    END LOOP;
END $$;

-- The demo's organizations. Who has such tables keeps them, without triggers until `eventsync ecosystem attach`.
DO $$
BEGIN
    IF to_regclass('practices') IS NULL THEN
        CREATE TABLE practices (
            id                  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            name                text NOT NULL,
            business_type       text,
            tax_id              text,
            email               text,
            phone               text,
            website             text,
            city                text,
            state               text,
            verification_status text DEFAULT 'pending',
            ecosystem_org_id    text GENERATED ALWAYS AS ('plenura_' || replace(id::text, '-', '')) STORED,
            subscription_tier   text DEFAULT 'free',
            subscription_status text DEFAULT 'active',
            rating_avg          numeric(3, 2),
            total_bookings      int NOT NULL DEFAULT 0,
            created_at          timestamptz NOT NULL DEFAULT now(),
            updated_at          timestamptz NOT NULL DEFAULT now()
        );
        PERFORM eventsync_attach('practice', 'practices');
    END IF;
    IF to_regclass('therapists') IS NULL THEN
        CREATE TABLE therapists (
            id                  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            user_id             uuid,
            full_name           text NOT NULL,
            email               text,
            is_independent      boolean NOT NULL DEFAULT false,
            vetting_status      text NOT NULL DEFAULT 'pending',
            is_available        boolean NOT NULL DEFAULT true,
            verification_status text DEFAULT 'pending',
            ecosystem_org_id    text GENERATED ALWAYS AS ('plenura_therapist_' || replace(id::text, '-', '')) STORED,
            subscription_tier   text DEFAULT 'free',
            years_of_experience int,
            rating_avg          numeric(3, 2),
            trust_level         int,
            created_at          timestamptz NOT NULL DEFAULT now(),
            updated_at          timestamptz NOT NULL DEFAULT now()
        );
        PERFORM eventsync_attach('therapist', 'therapists');
    END IF;
    IF to_regclass('ecosystem_sync_stats') IS NULL THEN
        CREATE VIEW ecosystem_sync_stats AS
        SELECT status, count(*) AS count, min(created_at) AS oldest_item, max(created_at) AS newest_item,
               avg(attempts) AS avg_attempts
        FROM ecosystem_sync_queue GROUP BY status;
    END IF;
END $$;

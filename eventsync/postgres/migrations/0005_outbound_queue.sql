-- The outbound queue: registrations on their way to Colectiva. Its rows are the truth: people read and edit them by SQL.

-- A database that has this table already, as Plenura's own has, keeps its rows and gains what deliveries need.
CREATE TABLE IF NOT EXISTS ecosystem_sync_queue (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    entity_type      text NOT NULL,
    entity_id        uuid NOT NULL,
    ecosystem_org_id text NOT NULL,
    action           text NOT NULL,
    payload          jsonb NOT NULL,
    status           text DEFAULT 'pending',
    attempts         int DEFAULT 0,
    last_attempt_at  timestamptz,
    error_message    text,
    created_at       timestamptz DEFAULT now(),
    processed_at     timestamptz
);
UPDATE ecosystem_sync_queue
SET status = coalesce(status, 'pending'), attempts = coalesce(attempts, 0), created_at = coalesce(created_at, now())
WHERE status IS NULL OR attempts IS NULL OR created_at IS NULL;
-- A processor without a claim could leave two items of one organization on their way, or one with no attempt left.
UPDATE ecosystem_sync_queue q SET status = 'pending'
WHERE q.status = 'processing' AND EXISTS (
    SELECT FROM ecosystem_sync_queue l
    WHERE l.ecosystem_org_id = q.ecosystem_org_id AND l.status = 'processing'
      AND (l.created_at, l.id) > (q.created_at, q.id));
UPDATE ecosystem_sync_queue SET attempts = 2 WHERE status = 'pending' AND attempts > 2;

ALTER TABLE ecosystem_sync_queue
    ALTER COLUMN status SET NOT NULL,
    ALTER COLUMN attempts SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL,
    ADD COLUMN remote_org_id   text,
    ADD COLUMN superseded_by   uuid,         -- the later item that carried this one's news as well
    ADD COLUMN position        bigint,       -- the order of one organization's items
    ADD COLUMN waiting_since   timestamptz,  -- created, or last put back by a person after it had ended
    ADD COLUMN available_at    timestamptz,  -- when the next attempt may begin; NULL: at once
    ADD COLUMN held_until      timestamptz,  -- an earlier item of its organization waits so long: nobody looks before
    ADD COLUMN due_at          timestamptz NOT NULL
        GENERATED ALWAYS AS (greatest(coalesce(available_at, created_at), held_until)) STORED,
    ADD COLUMN accepted_at     timestamptz,  -- when the other side last took it, whatever became of the row since
    ADD COLUMN reached_at      timestamptz,  -- when it last reached the other side, or may have: nothing older may follow
    ADD COLUMN claim_id        uuid,         -- the fence: who claimed last may end the attempt
    ADD COLUMN leased_until    timestamptz,
    ADD COLUMN idempotency_key uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD CONSTRAINT ecosystem_sync_queue_entity_type CHECK (entity_type IN ('practice', 'therapist')),
    ADD CONSTRAINT ecosystem_sync_queue_action CHECK (action IN ('register', 'update', 'deactivate')),
    ADD CONSTRAINT ecosystem_sync_queue_status CHECK (status IN ('pending', 'processing', 'success', 'failed')),
    ADD CONSTRAINT ecosystem_sync_queue_payload CHECK (jsonb_typeof(payload) = 'object'),
    ADD CONSTRAINT ecosystem_sync_queue_superseded CHECK (superseded_by IS NULL OR status = 'success');
UPDATE ecosystem_sync_queue q
SET position = o.position, waiting_since = q.created_at,
    accepted_at = CASE WHEN q.status = 'success' THEN coalesce(q.processed_at, q.created_at) END,
    reached_at = CASE WHEN q.status = 'success' THEN coalesce(q.processed_at, q.created_at)
                      WHEN q.attempts > 0 THEN coalesce(q.last_attempt_at, q.created_at) END
FROM (SELECT id, row_number() OVER (ORDER BY created_at, id) AS position FROM ecosystem_sync_queue) o
WHERE o.id = q.id;
ALTER TABLE ecosystem_sync_queue
    ALTER COLUMN waiting_since SET DEFAULT now(),
    ALTER COLUMN waiting_since SET NOT NULL,
    ALTER COLUMN position SET NOT NULL,
    ALTER COLUMN position ADD GENERATED ALWAYS AS IDENTITY;
SELECT setval(pg_get_serial_sequence('ecosystem_sync_queue', 'position'), coalesce(max(position), 0) + 1, false)
FROM ecosystem_sync_queue;

CREATE INDEX ecosystem_sync_queue_due ON ecosystem_sync_queue (due_at, position) WHERE status = 'pending';
CREATE INDEX ecosystem_sync_queue_waiting ON ecosystem_sync_queue (waiting_since)
    WHERE status IN ('pending', 'processing');
CREATE INDEX ecosystem_sync_queue_unfinished ON ecosystem_sync_queue (ecosystem_org_id, position)
    WHERE status IN ('pending', 'processing');
CREATE INDEX ecosystem_sync_queue_seen ON ecosystem_sync_queue (ecosystem_org_id, position)
    WHERE action = 'register' OR accepted_at IS NOT NULL;
CREATE INDEX ecosystem_sync_queue_reached ON ecosystem_sync_queue (ecosystem_org_id, position)
    WHERE reached_at IS NOT NULL;
CREATE INDEX ecosystem_sync_queue_superseded_by ON ecosystem_sync_queue (superseded_by)
    WHERE superseded_by IS NOT NULL;
CREATE INDEX ecosystem_sync_queue_of_entity ON ecosystem_sync_queue (entity_type, entity_id);
CREATE INDEX ecosystem_sync_queue_by_status ON ecosystem_sync_queue (status, created_at);
-- Of one organization, one item at a time is on its way: two could arrive in either order.
CREATE UNIQUE INDEX ecosystem_sync_queue_on_its_way ON ecosystem_sync_queue (ecosystem_org_id)
    WHERE status = 'processing';

-- What became of each attempt: the item itself shows the last one only.
CREATE TABLE ecosystem_sync_attempts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item_id     uuid NOT NULL REFERENCES ecosystem_sync_queue ON DELETE CASCADE,
    claim_id    uuid,               -- tells a deliverer that its end was written, where it heard no answer
    attempt     int NOT NULL,
    is_counted  boolean NOT NULL,   -- not where nobody looked at it: refused credentials, limits, no route
    started_at  timestamptz,
    ended_at    timestamptz NOT NULL,
    http_status int,
    error       text                -- NULL: Colectiva took it
);
CREATE INDEX ecosystem_sync_attempts_of_item ON ecosystem_sync_attempts (item_id, id);

-- An account that refuses us: the whole queue waits, but for a probe now and then.
CREATE TABLE outbound_pauses (
    connection_id uuid PRIMARY KEY REFERENCES connections,
    reason        text NOT NULL,
    paused_at     timestamptz NOT NULL,
    refused_at    timestamptz NOT NULL,   -- the last time; a connection that was changed since is tried at once
    probed_as_of  timestamptz,            -- the connection's last change that a probe has tried: once will do
    probe_at      timestamptz NOT NULL
);

-- What people and other programs do by SQL takes effect like our own doing. Deliverers change the claim in the same
-- statement, and say themselves what follows.
CREATE FUNCTION ecosystem_sync_queue_edit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_unlike CONSTANT boolean := NEW.payload <> OLD.payload OR NEW.action <> OLD.action
                                  OR NEW.ecosystem_org_id <> OLD.ecosystem_org_id;
BEGIN
    -- What is on its way is not what is wanted any more: it goes out anew, and the running attempt ends for nothing.
    IF OLD.status = 'processing' AND NEW.status = 'processing' AND is_unlike THEN
        NEW.status := 'pending';
    END IF;
    IF OLD.status IN ('success', 'failed') AND NEW.status IN ('pending', 'processing') THEN
        NEW.idempotency_key := gen_random_uuid();
        NEW.waiting_since := now();
        NEW.processed_at := NULL;
    ELSIF is_unlike THEN
        NEW.idempotency_key := gen_random_uuid();
    END IF;
    IF NEW.status <> 'success' THEN
        NEW.superseded_by := NULL;
    ELSIF OLD.status <> 'success' AND NEW.superseded_by IS NULL THEN
        NEW.accepted_at := coalesce(NEW.processed_at, now());
        NEW.reached_at := NEW.accepted_at;
    END IF;
    IF OLD.status = 'processing' AND NEW.status = 'pending' THEN
        NEW.reached_at := now();  -- whatever the attempt that is given up has brought about
    END IF;
    IF NEW.status <> 'processing' THEN
        NEW.claim_id := NULL;
        NEW.leased_until := NULL;
    ELSIF OLD.status <> 'processing' THEN
        -- Another program, which takes no lease, is given ten minutes from now, or from the time that it wrote down.
        NEW.leased_until := interval '10 minutes' + CASE
            WHEN NEW.last_attempt_at IS DISTINCT FROM OLD.last_attempt_at THEN coalesce(NEW.last_attempt_at, now())
            ELSE now() END;
    END IF;
    -- Whatever is done to an item that waits makes it due at once, with an attempt left to it; unless that is a time.
    IF NEW.status = 'pending' THEN
        NEW.attempts := least(NEW.attempts, 2);
        IF NEW.held_until IS NOT DISTINCT FROM OLD.held_until THEN
            NEW.held_until := NULL;
            IF NEW.available_at IS NOT DISTINCT FROM OLD.available_at THEN
                NEW.available_at := NULL;
            END IF;
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ecosystem_sync_queue_edit BEFORE UPDATE ON ecosystem_sync_queue
    FOR EACH ROW WHEN (NEW.claim_id IS NOT DISTINCT FROM OLD.claim_id) EXECUTE FUNCTION ecosystem_sync_queue_edit();

-- Who was held up by an item that has ended, or that is gone, is due. One that somebody is editing is due by that.
-- Where a person deletes an item that was to carry the news of others, these carry it themselves again.
CREATE FUNCTION ecosystem_sync_queue_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.accepted_at IS NULL THEN
        UPDATE ecosystem_sync_queue SET status = 'pending', attempts = 0 WHERE superseded_by = OLD.id;
    END IF;
    UPDATE ecosystem_sync_queue SET held_until = NULL
    WHERE held_until IS NOT NULL AND status = 'pending' AND id = (
        SELECT q.id FROM ecosystem_sync_queue q
        WHERE q.ecosystem_org_id = OLD.ecosystem_org_id AND q.status IN ('pending', 'processing')
        ORDER BY q.position LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED);
    RETURN NULL;
END $$;
CREATE TRIGGER ecosystem_sync_queue_release_for_ended AFTER UPDATE ON ecosystem_sync_queue
    FOR EACH ROW WHEN (OLD.status IN ('pending', 'processing') AND NEW.superseded_by IS NULL
                       AND (NEW.status IN ('success', 'failed') OR NEW.ecosystem_org_id <> OLD.ecosystem_org_id))
    EXECUTE FUNCTION ecosystem_sync_queue_release();
CREATE TRIGGER ecosystem_sync_queue_release_for_deleted AFTER DELETE ON ecosystem_sync_queue
    FOR EACH ROW WHEN (OLD.status IN ('pending', 'processing')) EXECUTE FUNCTION ecosystem_sync_queue_release();

CREATE FUNCTION ecosystem_sync_queue_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('eventsync_outbound', '');
    RETURN NULL;
END $$;
CREATE TRIGGER ecosystem_sync_queue_wake_for_new AFTER INSERT ON ecosystem_sync_queue
    FOR EACH STATEMENT EXECUTE FUNCTION ecosystem_sync_queue_wake();
CREATE TRIGGER ecosystem_sync_queue_wake_for_due AFTER UPDATE ON ecosystem_sync_queue
    FOR EACH ROW WHEN (NEW.status = 'pending' AND NEW.available_at IS NULL AND NEW.held_until IS NULL
                       AND (OLD.status <> 'pending' OR OLD.available_at IS NOT NULL OR OLD.held_until IS NOT NULL))
    EXECUTE FUNCTION ecosystem_sync_queue_wake();

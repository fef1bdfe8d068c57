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

ALTER TABLE ecosystem_sync_queue
    ALTER COLUMN status SET NOT NULL,
    ALTER COLUMN attempts SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL,
    ADD COLUMN remote_org_id   text,
    ADD COLUMN superseded_by   uuid,   -- the later item that carried this one's news as well
    ADD COLUMN position        bigint GENERATED ALWAYS AS IDENTITY,  -- the order of one organization's items
    ADD COLUMN waiting_since   timestamptz NOT NULL DEFAULT now(),   -- created, or last put back by a person
    ADD COLUMN available_at    timestamptz,                          -- when the next attempt may begin; NULL: at once
    ADD COLUMN claim_id        uuid,                                 -- the fence: who claimed last may end the attempt
    ADD COLUMN leased_until    timestamptz,
    ADD COLUMN idempotency_key uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD CONSTRAINT ecosystem_sync_queue_entity_type CHECK (entity_type IN ('practice', 'therapist')),
    ADD CONSTRAINT ecosystem_sync_queue_action CHECK (action IN ('register', 'update', 'deactivate')),
    ADD CONSTRAINT ecosystem_sync_queue_status CHECK (status IN ('pending', 'processing', 'success', 'failed')),
    ADD CONSTRAINT ecosystem_sync_queue_payload CHECK (jsonb_typeof(payload) = 'object'),
    ADD CONSTRAINT ecosystem_sync_queue_superseded CHECK (superseded_by IS NULL OR status = 'success');

CREATE INDEX ecosystem_sync_queue_due ON ecosystem_sync_queue ((coalesce(available_at, created_at)), position)
    WHERE status = 'pending';
CREATE INDEX ecosystem_sync_queue_waiting ON ecosystem_sync_queue (waiting_since)
    WHERE status IN ('pending', 'processing');
CREATE INDEX ecosystem_sync_queue_of_organization ON ecosystem_sync_queue (ecosystem_org_id, position);
CREATE INDEX ecosystem_sync_queue_of_entity ON ecosystem_sync_queue (entity_type, entity_id);
CREATE INDEX ecosystem_sync_queue_by_status ON ecosystem_sync_queue (status, created_at);
-- Of one organization, one item at a time is on its way: two could arrive in either order.
CREATE UNIQUE INDEX ecosystem_sync_queue_on_its_way ON ecosystem_sync_queue (ecosystem_org_id)
    WHERE status = 'processing';

-- What became of each attempt: the item itself shows the last one only.
CREATE TABLE ecosystem_sync_attempts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item_id     uuid NOT NULL REFERENCES ecosystem_sync_queue ON DELETE CASCADE,
    attempt     int NOT NULL,
    is_counted  boolean NOT NULL,   -- not where Colectiva did not even look at it: refused credentials, limits, no route
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
    probe_at      timestamptz NOT NULL
);

-- What a person does by SQL takes effect like our own doing: an item that is put back to `pending` is due at once, the
-- claim on it has ended, at least one attempt is left to it, and one that had ended begins anew under another key.
-- Deliverers, who give their claim up in the same statement, say themselves when the next attempt is due.
CREATE FUNCTION ecosystem_sync_queue_put_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('success', 'failed') THEN
        NEW.idempotency_key := gen_random_uuid();
        NEW.waiting_since := now();
        NEW.processed_at := NULL;
        NEW.superseded_by := NULL;
    ELSIF NEW.payload IS DISTINCT FROM OLD.payload THEN
        NEW.idempotency_key := gen_random_uuid();
    END IF;
    IF NEW.claim_id IS NOT DISTINCT FROM OLD.claim_id THEN
        NEW.claim_id := NULL;
        NEW.leased_until := NULL;
        NEW.available_at := NULL;
        NEW.attempts := least(NEW.attempts, 2);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ecosystem_sync_queue_put_back BEFORE UPDATE ON ecosystem_sync_queue
    FOR EACH ROW WHEN (NEW.status = 'pending') EXECUTE FUNCTION ecosystem_sync_queue_put_back();

CREATE FUNCTION ecosystem_sync_queue_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('eventsync_outbound', '');
    RETURN NULL;
END $$;
CREATE TRIGGER ecosystem_sync_queue_wake_for_new AFTER INSERT ON ecosystem_sync_queue
    FOR EACH STATEMENT EXECUTE FUNCTION ecosystem_sync_queue_wake();
CREATE TRIGGER ecosystem_sync_queue_wake_for_put_back AFTER UPDATE ON ecosystem_sync_queue
    FOR EACH ROW WHEN (NEW.status = 'pending' AND NEW.available_at IS NULL
                       AND (OLD.status <> 'pending' OR OLD.available_at IS NOT NULL))
    EXECUTE FUNCTION ecosystem_sync_queue_wake();

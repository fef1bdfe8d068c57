-- The spine: tenants, the path of an event, the records, and the API budget.

CREATE TABLE organizations (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number      int GENERATED ALWAYS AS IDENTITY UNIQUE,
    external_id text UNIQUE,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE connections (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number             int GENERATED ALWAYS AS IDENTITY UNIQUE,
    organization_id    uuid NOT NULL REFERENCES organizations,
    vendor             text NOT NULL,
    base_url           text NOT NULL,
    api_key_sealed     bytea NOT NULL,
    hmac_sealed        bytea,              -- header, secrets, encoding and prefix of a signing gateway, as JSON
    practice_id        text,
    timezone           text NOT NULL DEFAULT 'UTC',
    allowed_networks   text[] NOT NULL DEFAULT '{}',
    settings           jsonb NOT NULL DEFAULT '{}',
    disabled_at        timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
);

-- Two live tokens overlap while one is rotated: the vendor's page is changed by a person, in their own time.
CREATE TABLE webhook_tokens (
    token_hash    bytea PRIMARY KEY,
    connection_id uuid NOT NULL REFERENCES connections,
    token_sealed  bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz
);
CREATE INDEX webhook_tokens_of_connection ON webhook_tokens (connection_id);

CREATE TABLE api_tokens (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    token_hash      bytea NOT NULL UNIQUE,
    name            text NOT NULL DEFAULT '',
    role            text NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
    organization_id uuid REFERENCES organizations,
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    CHECK ((role = 'admin') = (organization_id IS NULL))
);

-- Who read personal data or revealed a secret, by which means. Ids only.
CREATE TABLE access_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL,
    actor   text NOT NULL,
    action  text NOT NULL,
    subject text NOT NULL
);

-- Evidence of requests that were turned away at the door, counted by the hour and therefore bounded; no body.
CREATE TABLE refused_requests (
    hour    timestamptz NOT NULL,
    vendor  text NOT NULL,
    reason  text NOT NULL,
    count   bigint NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (hour, vendor, reason)
);

-- The raw side of every accepted event; append-only, dropped by partition after the raw retention.
CREATE TABLE events (
    id             uuid NOT NULL,
    received_at    timestamptz NOT NULL,   -- the millisecond that the id begins with
    connection_id  uuid NOT NULL,
    vendor         text NOT NULL,
    source         text NOT NULL CHECK (source IN ('webhook', 'replay')),
    caused_by      uuid,                   -- the event that a replay repeats
    headers_sealed bytea NOT NULL,
    body_sealed    bytea NOT NULL,
    body_bytes     int NOT NULL,
    PRIMARY KEY (received_at, id)
) PARTITION BY RANGE (received_at);

-- Unfinished events only, so that the hot path stays as fast after a year as on the first day.
CREATE TABLE event_queue (
    event_id           uuid PRIMARY KEY,
    received_at        timestamptz NOT NULL,
    connection_id      uuid NOT NULL,
    vendor             text NOT NULL,
    source             text NOT NULL,
    caused_by          uuid,
    work               text NOT NULL DEFAULT 'apply' CHECK (work IN ('apply', 'refetch')),
    lane               smallint NOT NULL DEFAULT 0 CHECK (lane IN (0, 1)),
    status             text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'published', 'running', 'parked')),
    available_at       timestamptz NOT NULL,
    put_off_at         timestamptz,        -- when it was put off until `available_at`, by the clock that set both
    attempts           smallint NOT NULL DEFAULT 0,
    attempt_started_at timestamptz,        -- set before an attempt, cleared by its orderly end: left over by a crash
    publishes          smallint NOT NULL DEFAULT 0,
    published_at       timestamptz,
    leased_until       timestamptz,
    enqueued_in        xid8 NOT NULL DEFAULT pg_current_xact_id(),  -- tells without a clock what came before a read
    event_type         text,
    entity_kind        text,
    entity_id          text,
    reason             text,
    error              text,
    CHECK (status <> 'published' OR published_at IS NOT NULL),
    CHECK (status <> 'running' OR leased_until IS NOT NULL),
    CHECK (status <> 'parked' OR reason IS NOT NULL)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX event_queue_due ON event_queue (work, lane, available_at, event_id) WHERE status = 'pending';
CREATE INDEX event_queue_in_flight ON event_queue (work, lane, published_at) WHERE status = 'published';
CREATE INDEX event_queue_leased ON event_queue (leased_until) WHERE status = 'running';
CREATE INDEX event_queue_parked ON event_queue (received_at DESC, event_id DESC) WHERE status = 'parked';
CREATE INDEX event_queue_refetches ON event_queue (connection_id, entity_kind, entity_id) WHERE work = 'refetch';

-- One wake-up a statement, with an empty payload: NOTIFY takes an instance-wide lock at commit.
CREATE FUNCTION event_queue_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('eventsync_queue', '');
    RETURN NULL;
END $$;
CREATE TRIGGER event_queue_wake AFTER INSERT ON event_queue
    FOR EACH STATEMENT EXECUTE FUNCTION event_queue_wake();

-- What became of every finished event; slim, kept much longer than the raw side.
CREATE TABLE event_history (
    event_id       uuid NOT NULL,
    received_at    timestamptz NOT NULL,
    connection_id  uuid NOT NULL,
    vendor         text NOT NULL,
    source         text NOT NULL,
    caused_by      uuid,
    event_type     text,
    entity_kind    text,
    entity_id      text,
    entity_version bigint,                 -- the change's position: the vendor's time in ms, or a sequence number
    outcome        text NOT NULL CHECK (outcome IN ('applied', 'unchanged', 'stale')),
    reason         text,
    changed_fields text[] NOT NULL DEFAULT '{}',
    attempts       smallint NOT NULL,
    finished_at    timestamptz NOT NULL,
    PRIMARY KEY (received_at, event_id)
) PARTITION BY RANGE (received_at);
CREATE INDEX event_history_of_entity ON event_history (connection_id, entity_kind, entity_id, received_at);

CREATE FUNCTION ensure_event_partitions(covered_from timestamptz, covered_until timestamptz)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    week   timestamptz := date_trunc('week', covered_from AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    parent text;
    child  text;
    made   int := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('eventsync:partitions'));
    WHILE week < covered_until LOOP
        FOREACH parent IN ARRAY ARRAY['events', 'event_history'] LOOP
            child := parent || '_' || to_char(week AT TIME ZONE 'UTC', 'IYYY"w"IW');
            IF to_regclass(child) IS NULL THEN
                -- Attached, not created in place: that would lock the door out while a long reader holds the parent.
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                               parent, child, week, week + interval '7 days');
                made := made + 1;
            END IF;
        END LOOP;
        week := week + interval '7 days';
    END LOOP;
    RETURN made;
END $$;

-- Raw bodies of events that wait for a person stay as long as they wait; the rest of their week goes all the same.
CREATE FUNCTION drop_event_partition(child text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL lock_timeout = '2s';
    IF child LIKE 'events\_%' THEN
        EXECUTE format('DELETE FROM %I e WHERE NOT EXISTS (SELECT FROM event_queue q WHERE q.event_id = e.id)', child);
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', child);
        IF EXISTS (SELECT FROM event_queue q JOIN events e ON e.received_at = q.received_at AND e.id = q.event_id
                   WHERE e.tableoid = to_regclass(child)) THEN
            RETURN false;
        END IF;
    END IF;
    EXECUTE format('DROP TABLE %I', child);
    RETURN true;
END $$;

-- Every event, whether unfinished or finished, as people search them.
CREATE VIEW v_events AS
SELECT event_id, received_at, connection_id, vendor, source, caused_by, event_type, entity_kind, entity_id,
       status AS state, reason, error, attempts, '{}'::text[] AS changed_fields, NULL::timestamptz AS finished_at
FROM event_queue
UNION ALL
SELECT event_id, received_at, connection_id, vendor, source, caused_by, event_type, entity_kind, entity_id,
       outcome, reason, NULL, attempts, changed_fields, finished_at
FROM event_history;

-- A record's `version` is its place in the total order as bytes that sort alike; `source_version` and
-- `content_hash` are parts of it, for people and reports.

-- How e-mail addresses are compared: without case and surrounding blanks; NULL where nothing is left.
CREATE FUNCTION email_key(email text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN nullif(lower(btrim(email, E' \t\r\n')), '');

CREATE TABLE patients (
    id                uuid PRIMARY KEY,
    organization_id   uuid NOT NULL REFERENCES organizations,
    first_name        text NOT NULL,
    last_name         text NOT NULL,
    email             text,
    phone             text,
    date_of_birth     date,
    intakeq_client_id text,
    status            text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'archived', 'linked')),
    origin            text NOT NULL CHECK (origin IN ('vendor', 'local')),
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX patients_by_email ON patients (organization_id, email_key(email)) WHERE email_key(email) IS NOT NULL;
CREATE INDEX patients_by_name ON patients (organization_id, last_name, first_name, id);

-- What an organization itself knows of a patient whom it named before any vendor did (origin `local`): its row in
-- `patients` is drawn from here where no linked client says more, so that a link can be undone without loss.
CREATE TABLE local_patients (
    patient_id      uuid PRIMARY KEY REFERENCES patients,
    organization_id uuid NOT NULL REFERENCES organizations,
    first_name      text NOT NULL,
    last_name       text NOT NULL,
    email           text,
    phone           text,
    date_of_birth   date,
    created_at      timestamptz NOT NULL
);
CREATE INDEX local_patients_by_email ON local_patients (organization_id, email_key(email)) WHERE email_key(email) IS NOT NULL;

CREATE TABLE patient_identities (
    connection_id    uuid NOT NULL REFERENCES connections,
    external_id      text NOT NULL,
    patient_id       uuid NOT NULL,
    first_name       text,
    last_name        text,
    email            text,
    phone            text,
    date_of_birth    date,
    archived         boolean NOT NULL DEFAULT false,
    version          bytea NOT NULL,
    source_version   timestamptz,
    content_hash     bytea NOT NULL,
    seen_at          timestamptz,
    deleted_at       timestamptz,
    changed_at       timestamptz NOT NULL,
    applied_event_id uuid,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (connection_id, external_id)
);
CREATE INDEX patient_identities_of_patient ON patient_identities (patient_id);
CREATE INDEX patient_identities_by_email ON patient_identities (connection_id, email_key(email)) WHERE email_key(email) IS NOT NULL;

-- A link from a vendor's client to a patient whom the organization already knew; ended, never deleted, when undone.
CREATE TABLE patient_links (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_id      uuid NOT NULL,
    external_id        text NOT NULL,
    patient_id         uuid NOT NULL REFERENCES patients,
    derived_patient_id uuid NOT NULL REFERENCES patients,  -- the client's own, to which it returns
    method             text NOT NULL CHECK (method IN ('email')),
    linked_at          timestamptz NOT NULL,
    ended_at           timestamptz,
    ended_because      text CHECK (ended_because IN ('ambiguous', 'deleted', 'undone')),
    CHECK ((ended_at IS NULL) = (ended_because IS NULL))
);
CREATE UNIQUE INDEX patient_links_live ON patient_links (connection_id, external_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX patient_links_derived ON patient_links (derived_patient_id) WHERE ended_at IS NULL;
CREATE INDEX patient_links_of_client ON patient_links (connection_id, external_id);
CREATE INDEX patient_links_of_patient ON patient_links (patient_id);

CREATE TABLE patient_organization_affiliations (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    patient_id             uuid NOT NULL REFERENCES patients,
    organization_id        uuid NOT NULL REFERENCES organizations,
    affiliation_type       text NOT NULL DEFAULT 'case_management'
                           CHECK (affiliation_type IN ('case_management', 'referral_source', 'treatment_program', 'other')),
    status                 text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive', 'transferred')),
    start_date             date NOT NULL DEFAULT current_date,
    end_date               date,
    consent_expires_on     date,
    last_practiceq_sync_at timestamptz,
    moved_from             uuid,          -- the linked patient whose it was, and is again when the link ends
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    CHECK (end_date >= start_date)
);
CREATE UNIQUE INDEX patient_organization_affiliations_live
    ON patient_organization_affiliations (patient_id, organization_id) WHERE status = 'active';
CREATE INDEX patient_organization_affiliations_of_organization
    ON patient_organization_affiliations (organization_id) WHERE status = 'active';

CREATE TABLE provider_intakeq_settings (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    connection_id   uuid NOT NULL REFERENCES connections,
    practitioner_id text NOT NULL,
    provider_name   text NOT NULL,
    email           text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (connection_id, practitioner_id)
);

CREATE TABLE appointments (
    id                       uuid PRIMARY KEY,
    connection_id            uuid NOT NULL REFERENCES connections,
    external_id              text NOT NULL,
    patient_id               uuid,
    client_external_id       text,
    status                   text NOT NULL,
    vendor_status            text NOT NULL,
    start_time               timestamptz NOT NULL,
    end_time                 timestamptz NOT NULL,
    duration_minutes         int,
    practitioner_external_id text,
    practitioner_name        text,
    service_external_id      text,
    service_name             text,
    location_external_id     text,
    location_name            text,
    location_type            text,
    meeting_url              text,
    price                    numeric(12, 2),
    cancellation_reason      text,
    booked_by_client         boolean,
    vendor_created_at        timestamptz,
    details                  jsonb NOT NULL DEFAULT '{}',
    package_external_id      text,
    package_name             text,
    procedures               jsonb,
    version                  bytea NOT NULL,
    extras_version           bytea,
    source_version           timestamptz NOT NULL,
    content_hash             bytea NOT NULL,
    seen_at                  timestamptz,
    deleted_at               timestamptz,
    changed_at               timestamptz NOT NULL,
    applied_event_id         uuid,
    created_at               timestamptz NOT NULL,
    updated_at               timestamptz NOT NULL,
    UNIQUE (connection_id, external_id)
);
CREATE INDEX appointments_of_patient ON appointments (patient_id, start_time);
CREATE INDEX appointments_by_start ON appointments (connection_id, start_time, id);
CREATE INDEX appointments_of_client ON appointments (connection_id, client_external_id);

CREATE VIEW v_appointments AS
SELECT id, connection_id, external_id, patient_id, client_external_id,
       CASE WHEN status = 'confirmed' AND end_time < now() THEN 'completed' ELSE status END AS status,
       vendor_status, start_time, end_time, duration_minutes, practitioner_external_id, practitioner_name,
       service_name, location_name, location_type, meeting_url, price, cancellation_reason,
       source_version, content_hash, changed_at, deleted_at, created_at, updated_at
FROM appointments;

CREATE TABLE documents (
    id                 uuid PRIMARY KEY,
    connection_id      uuid NOT NULL REFERENCES connections,
    kind               text NOT NULL CHECK (kind IN ('invoice', 'intake', 'note')),
    external_id        text NOT NULL,
    patient_id         uuid,
    client_external_id text,
    status             text,
    title              text,
    document_time      timestamptz,
    content_sealed     bytea,
    version            bytea NOT NULL,
    source_version     timestamptz,
    content_hash       bytea NOT NULL,
    seen_at            timestamptz,
    deleted_at         timestamptz,
    changed_at         timestamptz NOT NULL,
    applied_event_id   uuid,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    UNIQUE (connection_id, kind, external_id)
);
CREATE INDEX documents_of_patient ON documents (patient_id, kind);
CREATE INDEX documents_of_client ON documents (connection_id, client_external_id);

-- Evidence that one complete read lacked a record; it may come before the record does.
CREATE TABLE record_absences (
    connection_id uuid NOT NULL,
    kind          text NOT NULL,
    external_id   text NOT NULL,
    read_began_at timestamptz NOT NULL,
    window_from   timestamptz NOT NULL,
    window_to     timestamptz NOT NULL,
    margin_ms     int NOT NULL,
    PRIMARY KEY (connection_id, kind, external_id, read_began_at, window_from, window_to, margin_ms)
);

-- One read at a time per record of a kind that has no vendor's version; `sequence` is taken before the read.
CREATE TABLE record_reads (
    connection_id uuid NOT NULL,
    kind          text NOT NULL,
    external_id   text NOT NULL,
    sequence      bigint NOT NULL,
    leased_until  timestamptz NOT NULL,
    PRIMARY KEY (connection_id, kind, external_id)
);

-- News for other teams, written with the change that it tells of and removed once the bus has confirmed it.
CREATE TABLE change_outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_id uuid NOT NULL,
    kind          text NOT NULL,
    record_id     uuid NOT NULL,
    external_id   text NOT NULL,
    position      bigint NOT NULL,
    deleted       boolean NOT NULL,
    event_id      uuid,
    created_at    timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- The ledger of calls to vendors' APIs, by the fingerprint of the key that pays for them.
CREATE TABLE api_calls (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_fingerprint text NOT NULL,
    purpose         text NOT NULL,
    reserved_at     timestamptz NOT NULL,
    finished_at     timestamptz
);
CREATE INDEX api_calls_recent ON api_calls (key_fingerprint, reserved_at);

CREATE TABLE api_closures (
    key_fingerprint text PRIMARY KEY,
    closed_until    timestamptz NOT NULL,
    refusals        int NOT NULL DEFAULT 1
);

CREATE FUNCTION configuration_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('eventsync_configuration', '');
    RETURN NULL;
END $$;
CREATE TRIGGER connections_wake AFTER INSERT OR UPDATE OR DELETE ON connections
    FOR EACH STATEMENT EXECUTE FUNCTION configuration_wake();
CREATE TRIGGER webhook_tokens_wake AFTER INSERT OR UPDATE OR DELETE ON webhook_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION configuration_wake();

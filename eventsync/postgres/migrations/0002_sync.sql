-- Keeping the copy true: runs of a sync, what they have covered, what they wait to be sure of, when the next is due.

-- One row is one run over one connection: what was asked for, how far it is, what came of it. Runs of one lane and
-- connection never overlap: long ones read in full, short ones what changed, a patient's only that patient.
CREATE TABLE sync_logs (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sync_type              text NOT NULL CHECK (sync_type IN (
                               'automated_daily', 'automated_sweep', 'manual_org_bulk', 'manual_patient', 'interval',
                               'backfill', 'webhook')),
    lane                   text NOT NULL GENERATED ALWAYS AS (
                               CASE WHEN sync_type = 'manual_patient' THEN 'patient'
                                    WHEN sync_type IN ('automated_sweep', 'manual_org_bulk', 'webhook') THEN 'short'
                                    ELSE 'long' END) STORED,
    status                 text NOT NULL DEFAULT 'starting' CHECK (status IN (
                               'starting', 'running', 'completed', 'partial_success', 'failed', 'cancelled')),
    connection_id          uuid REFERENCES connections,
    organization_id        uuid REFERENCES organizations,   -- for whom it was asked: counts of patients are its own
    patient_id             uuid REFERENCES patients,
    triggered_by           text NOT NULL,
    due_at                 timestamptz,                     -- the schedule's time that it answers
    options                jsonb NOT NULL DEFAULT '{}',
    started_at             timestamptz NOT NULL,
    completed_at           timestamptz,
    duration_ms            bigint,
    patients_processed     int NOT NULL DEFAULT 0,
    patients_failed        int NOT NULL DEFAULT 0,
    appointments_new       int NOT NULL DEFAULT 0,
    appointments_updated   int NOT NULL DEFAULT 0,
    appointments_unchanged int NOT NULL DEFAULT 0,
    appointments_errors    int NOT NULL DEFAULT 0,
    error_message          text,
    metadata               jsonb NOT NULL DEFAULT '{}',
    progress               jsonb NOT NULL DEFAULT '{}',
    attempts               smallint NOT NULL DEFAULT 0,     -- how often a worker took it
    worker_id              uuid,                            -- the fence: only who took it last may write for it
    leased_until           timestamptz,
    cancel_requested_at    timestamptz,
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL,
    CHECK ((status IN ('starting', 'running')) = (completed_at IS NULL)),
    CHECK (status <> 'running' OR (leased_until IS NOT NULL AND worker_id IS NOT NULL)),
    CHECK ((sync_type = 'manual_patient') = (patient_id IS NOT NULL))
);
CREATE UNIQUE INDEX sync_logs_running ON sync_logs (connection_id, lane) WHERE status = 'running' AND lane <> 'patient';
CREATE UNIQUE INDEX sync_logs_waiting ON sync_logs (connection_id, sync_type, organization_id) NULLS NOT DISTINCT
    WHERE status = 'starting' AND lane <> 'patient';
CREATE UNIQUE INDEX sync_logs_of_one_patient ON sync_logs (connection_id, patient_id)
    WHERE status IN ('starting', 'running') AND lane = 'patient';
CREATE UNIQUE INDEX sync_logs_due ON sync_logs (connection_id, sync_type, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX sync_logs_unfinished ON sync_logs (connection_id) WHERE status IN ('starting', 'running');
CREATE INDEX sync_logs_recent ON sync_logs (started_at DESC);
CREATE INDEX sync_logs_of_type ON sync_logs (sync_type, started_at DESC);
-- With what the history sums up of all runs, so that it needs none of their rows.
CREATE INDEX sync_logs_of_connection ON sync_logs (connection_id, started_at DESC)
    INCLUDE (organization_id, status, completed_at, duration_ms);
CREATE INDEX sync_logs_of_organization ON sync_logs (organization_id, started_at DESC)
    INCLUDE (status, completed_at, duration_ms);

CREATE FUNCTION sync_logs_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('eventsync_runs', '');
    RETURN NULL;
END $$;
-- By the row, of which there are few: a statement that changed none must wake nobody, or looking for work would go on
-- and on.
CREATE TRIGGER sync_logs_wake AFTER INSERT OR UPDATE OF status, cancel_requested_at ON sync_logs
    FOR EACH ROW EXECUTE FUNCTION sync_logs_wake();

CREATE VIEW v_recent_sync_activity AS
SELECT s.id, s.sync_type, s.status, s.started_at, s.completed_at, s.duration_ms, s.appointments_new,
       s.appointments_updated, s.appointments_unchanged, s.appointments_errors, s.patients_processed,
       s.patients_failed, s.error_message, s.organization_id, o.name AS organization_name, s.patient_id,
       p.first_name AS patient_first_name, p.last_name AS patient_last_name, s.triggered_by AS triggered_by_name,
       s.created_at
FROM sync_logs s
LEFT JOIN organizations o ON o.id = s.organization_id
LEFT JOIN patients p ON p.id = s.patient_id
ORDER BY s.started_at DESC LIMIT 100;

-- What complete lists have shown: every record of the kind within the window stood, when the read began, as its row
-- said afterwards. Verifying writes one row here instead of one a record.
CREATE TABLE sync_coverage (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_id uuid NOT NULL REFERENCES connections,
    kind          text NOT NULL,
    window_from   timestamptz NOT NULL,   -- '-infinity' and 'infinity' for kinds that have no time of their own
    window_to     timestamptz NOT NULL,
    read_began_at timestamptz NOT NULL,
    run_id        uuid REFERENCES sync_logs,
    CHECK (window_from < window_to)
);
CREATE INDEX sync_coverage_of_window ON sync_coverage (connection_id, kind, window_to, window_from);

-- How far the lists of changes and of deletions were followed. Between `unbroken_since` and `covered_until` nothing
-- that they tell was left out, so that what was verified after the one is verified until the other.
CREATE TABLE sync_cursors (
    connection_id  uuid NOT NULL REFERENCES connections,
    kind           text NOT NULL,
    list           text NOT NULL CHECK (list IN ('changed', 'deleted')),
    unbroken_since timestamptz NOT NULL,
    covered_until  timestamptz NOT NULL,
    last_modified  timestamptz,            -- the latest modification that the vendor has listed
    PRIMARY KEY (connection_id, kind, list),
    CHECK (unbroken_since <= covered_until)
);

-- A walk through a list that ended before the list did: where the next run goes on.
CREATE TABLE sync_walks (
    connection_id uuid NOT NULL REFERENCES connections,
    kind          text NOT NULL,
    next_page     int NOT NULL CHECK (next_page > 1),
    began_at      timestamptz NOT NULL,
    PRIMARY KEY (connection_id, kind)
);

-- Records that one complete list lacked; a second look decides whether they are gone.
CREATE TABLE absence_candidates (
    connection_id   uuid NOT NULL REFERENCES connections,
    kind            text NOT NULL,
    external_id     text NOT NULL,
    first_missed_at timestamptz NOT NULL,  -- when that list's read began
    PRIMARY KEY (connection_id, kind, external_id)
);

-- With what is counted of a window's appointments, so that it needs none of their rows. `source_version` is in no index
-- for a reason: almost every update changes it, and would have to write every index anew (measured: three times slower).
DROP INDEX appointments_by_start;
CREATE INDEX appointments_by_start ON appointments (connection_id, start_time, id)
    INCLUDE (deleted_at, practitioner_external_id);

-- When a connection is read next of itself; written at the end of each run, by what its budget and practice allow.
CREATE TABLE sync_schedules (
    connection_id uuid PRIMARY KEY REFERENCES connections,
    next_sweep_at timestamptz NOT NULL
);

-- What a list said of a record that it does not tell whole, when the record was last read or found to be as it is held.
CREATE TABLE summary_fingerprints (
    connection_id uuid NOT NULL REFERENCES connections,
    kind          text NOT NULL,
    external_id   text NOT NULL,
    fingerprint   bytea NOT NULL,
    PRIMARY KEY (connection_id, kind, external_id)
);

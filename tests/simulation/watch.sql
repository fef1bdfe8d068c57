-- Watches the records while the simulation runs: every row that was really written, in the order of writing.
CREATE TABLE simulation_writes (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, record text NOT NULL, external_id text NOT NULL,
    version bytea NOT NULL, earlier_version bytea, place text NOT NULL, is_visible boolean NOT NULL
);
CREATE TABLE simulation_news (external_id text NOT NULL);

CREATE FUNCTION simulation_watch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bookkeeping text[] := ARRAY['version', 'extras_version', 'source_version', 'seen_at', 'changed_at',
                                'applied_event_id', 'created_at', 'updated_at', 'content_sealed', 'deleted_at'];
    before jsonb := CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) END;
    after  jsonb := to_jsonb(NEW);
BEGIN
    INSERT INTO simulation_writes (record, external_id, version, earlier_version, place, is_visible) VALUES (
        TG_TABLE_NAME || coalesce('/' || (after ->> 'kind'), ''), NEW.external_id, NEW.version,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.version END,
        concat_ws('|', after ->> 'version', after ->> 'extras_version', after ->> 'seen_at', after ->> 'deleted_at'),
        before IS NULL OR before - bookkeeping IS DISTINCT FROM after - bookkeeping
            OR before ->> 'changed_at' IS DISTINCT FROM after ->> 'changed_at'
            OR (before ->> 'deleted_at' IS NULL) <> (after ->> 'deleted_at' IS NULL));
    RETURN NULL;
END $$;
CREATE FUNCTION simulation_watch_news() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO simulation_news VALUES (NEW.external_id);
    RETURN NULL;
END $$;

CREATE TRIGGER simulation_watch AFTER INSERT OR UPDATE ON appointments
    FOR EACH ROW EXECUTE FUNCTION simulation_watch();
CREATE TRIGGER simulation_watch AFTER INSERT OR UPDATE ON patient_identities
    FOR EACH ROW EXECUTE FUNCTION simulation_watch();
CREATE TRIGGER simulation_watch AFTER INSERT OR UPDATE ON documents
    FOR EACH ROW EXECUTE FUNCTION simulation_watch();
CREATE TRIGGER simulation_watch AFTER INSERT ON change_outbox
    FOR EACH ROW EXECUTE FUNCTION simulation_watch_news();

-- Key rotations: signed records beside the log that lead from the first published keys to those in force.

CREATE TABLE reserves.key_rotations (
    rotation_no bigint PRIMARY KEY CHECK (rotation_no >= 0),
    log_size    bigint NOT NULL CHECK (log_size >= 0),
    record      text NOT NULL,
    signatures  jsonb NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE reserves.key_rotations IS 'One row per change of the signing keys: a record signed by the old and the new ones; log_size entries were sealed before it.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reserves.key_rotations
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE FUNCTION reserves.guard_rotations() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('reserves.log'));
    IF NEW.rotation_no <> (SELECT coalesce(max(rotation_no) + 1, 0) FROM reserves.key_rotations)
        OR NEW.log_size <> (SELECT coalesce(max(log_index) + 1, 0) FROM reserves.log_entries) THEN
        PERFORM close.refuse('CL013', format('rotation %s at log size %s is not the next one here', NEW.rotation_no, NEW.log_size),
            'a rotation names the log as it is');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON reserves.key_rotations FOR EACH ROW EXECUTE FUNCTION reserves.guard_rotations();
REVOKE EXECUTE ON FUNCTION reserves.guard_rotations() FROM PUBLIC;
GRANT SELECT, INSERT ON reserves.key_rotations TO compline_app;
GRANT SELECT ON reserves.key_rotations TO compline_auditor;

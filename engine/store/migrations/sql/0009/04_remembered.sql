-- What a seal saw, kept as it was: breaks age and close, waivers expire, versions follow, and the evidence of a day must
-- come out the same whenever it is written again.

CREATE TABLE close.seal_gates (
    close_date date NOT NULL,
    version    integer NOT NULL,
    gate       text NOT NULL,
    scope      text NOT NULL,
    verdict    text NOT NULL,
    waiver     text,
    detail     jsonb NOT NULL,
    PRIMARY KEY (close_date, version, gate, scope)
);
COMMENT ON TABLE close.seal_gates IS 'One row per required gate of a sealed version, as the seal saw it.';

CREATE TABLE close.seal_breaks (
    close_date  date NOT NULL,
    version     integer NOT NULL,
    break_id    bigint NOT NULL,
    gate        text NOT NULL,
    subject     text NOT NULL,
    asset       text NOT NULL,
    first_date  date NOT NULL,
    expected    numeric(38, 18) NOT NULL,
    actual      numeric(38, 18) NOT NULL,
    difference  numeric(38, 18) NOT NULL,
    state       text NOT NULL,
    reason_code text,
    PRIMARY KEY (close_date, version, break_id)
);
COMMENT ON TABLE close.seal_breaks IS 'One row per break that was open when a version was sealed.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON close.seal_gates
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON close.seal_breaks
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE FUNCTION close.remember_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO close.seal_gates (close_date, version, gate, scope, verdict, waiver, detail)
    SELECT NEW.close_date, NEW.version, g.gate, g.scope, g.verdict, g.waiver, g.detail FROM recon.gates(NEW.close_date) g
    WHERE NEW.kind = 'day';
    INSERT INTO close.seal_breaks (close_date, version, break_id, gate, subject, asset, first_date, expected, actual, difference,
        state, reason_code)
    SELECT NEW.close_date, NEW.version, b.break_id, b.gate, b.subject, b.asset, b.first_date, b.expected, b.actual, b.difference,
        b.state, b.reason_code
    FROM recon.breaks b WHERE b.state NOT IN ('corrected', 'closed') AND b.first_date <= NEW.close_date;
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER INSERT ON close.seals FOR EACH ROW EXECUTE FUNCTION close.remember_seal();
REVOKE EXECUTE ON FUNCTION close.remember_seal() FROM PUBLIC;
GRANT SELECT ON close.seal_gates, close.seal_breaks TO compline_app, compline_dbt, compline_auditor;

-- Books that were sealed before this revision: their gates as they stand, their breaks as they are.
INSERT INTO close.seal_gates (close_date, version, gate, scope, verdict, waiver, detail)
SELECT s.close_date, s.version, v.gate, v.scope, v.verdict,
    (SELECT min(w.waiver_id)::text FROM recon.waivers w WHERE v.verdict <> 'pass' AND w.gate = v.gate AND w.close_date = s.close_date
        AND w.at <= s.sealed_at AND w.expires_at >= s.sealed_at), v.detail
FROM close.seals s JOIN recon.verdicts v USING (close_date, version, books_sha256)
CROSS JOIN LATERAL close.policy_on(s.close_date) p
WHERE s.kind = 'day' AND p.policy -> 'required_gates' ? v.gate;
INSERT INTO close.seal_breaks (close_date, version, break_id, gate, subject, asset, first_date, expected, actual, difference, state,
    reason_code)
SELECT s.close_date, s.version, b.break_id, b.gate, b.subject, b.asset, b.first_date, b.expected, b.actual, b.difference, b.state,
    b.reason_code
FROM close.seals s JOIN recon.breaks b ON b.first_date <= s.close_date AND b.last_date >= s.close_date
WHERE b.state NOT IN ('corrected', 'closed');

-- What compares the books with another source sees one state of both: the verdict, the breaks and the freezes are of one snapshot.

ALTER TABLE recon.known_gates ADD COLUMN one_snapshot boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN recon.known_gates.one_snapshot IS 'Whether the gate is judged in a REPEATABLE READ transaction only.';
UPDATE recon.known_gates SET one_snapshot = true
WHERE gate IN ('engine_vs_ledger', 'ledger_vs_custody', 'custody_covers_liabilities', 'staking_vs_chain');

-- Judge one gate, as before.
CREATE OR REPLACE FUNCTION recon.judge(d date, g text, e bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day close.days;
    j recon.judgement;
    late_or_open boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('close.day ' || d));
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') OR day.books_sha256 IS NULL THEN
        PERFORM close.refuse('CL009', format('%s has no books hash to judge %s for', d, g), 'run the close from its cut-off on');
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable')
        AND (SELECT k.one_snapshot FROM recon.known_gates k WHERE k.gate = g) THEN
        PERFORM close.refuse('CL047', format('%s is judged in a transaction that is %s', g, current_setting('transaction_isolation')),
            'judge it in one REPEATABLE READ snapshot');
    END IF;
    j := recon.gate(d, day.version, g);
    IF j IS NULL OR j.verdict IS NULL THEN
        PERFORM close.refuse('CL007', format('there is no gate %s', g), 'see docs/runbooks');
    END IF;
    INSERT INTO recon.verdicts AS v (close_date, version, books_sha256, gate, verdict, detail)
    VALUES (d, day.version, day.books_sha256, g, j.verdict, j.detail)
    ON CONFLICT (close_date, version, books_sha256, gate, scope) DO UPDATE
        SET verdict = excluded.verdict, detail = excluded.detail, judged_at = excluded.judged_at
        WHERE (v.verdict, v.detail) IS DISTINCT FROM (excluded.verdict, excluded.detail);
    IF j.verdict <> 'unknown' THEN
        IF g = 'engine_vs_ledger' THEN
            PERFORM recon.write_engine_breaks(d, day.version, day.books_sha256);
        ELSIF (SELECT k.breaks FROM recon.known_gates k WHERE k.gate = g) THEN
            PERFORM recon.write_breaks(g, d, day.version, day.books_sha256);
        END IF;
    END IF;
    SELECT bool_or(NOT s.stands) INTO late_or_open FROM recon.gates(d) s WHERE NOT recon.is_late_gate(s.gate);
    UPDATE close.days SET state = CASE WHEN late_or_open THEN 'cutoff' ELSE 'reconciled' END, changed_at = clock_timestamp()
    WHERE close_date = d AND state <> CASE WHEN late_or_open THEN 'cutoff' ELSE 'reconciled' END;
    RETURN j.verdict;
END $$;

-- Engine against ledger at a marker of the journal, while trading goes on: one snapshot, one verdict a marker, the nightly gate's breaks.

CREATE TYPE recon.difference AS (subject text, asset text, expected numeric(38, 18), actual numeric(38, 18));

CREATE TABLE recon.markers (
    marker_seq   bigint PRIMARY KEY,
    close_date   date NOT NULL,
    sequenced_at timestamptz NOT NULL,
    reference    text NOT NULL,
    verdict      text NOT NULL CHECK (verdict IN ('pass', 'fail', 'unknown')),
    engine_rows  bigint,
    ledger_rows  bigint,
    breaks       bigint,
    compared_ms  bigint,
    detail       jsonb NOT NULL,
    judged_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT markers_judged_are_counted CHECK (verdict = 'unknown' OR (engine_rows IS NOT NULL AND ledger_rows IS NOT NULL
        AND compared_ms IS NOT NULL AND breaks IS NOT NULL AND (verdict = 'pass') = (breaks = 0)))
);
COMMENT ON TABLE recon.markers IS 'One row per marker of the engine''s journal: what the comparison with the ledger at its sequence came to, or that there was none.';
CREATE INDEX markers_judged_at ON recon.markers (judged_at);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recon.markers
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE TABLE recon.marker_breaks (
    marker_seq bigint NOT NULL REFERENCES recon.markers,
    break_id   bigint NOT NULL REFERENCES recon.breaks,
    expected   numeric(38, 18) NOT NULL,
    actual     numeric(38, 18) NOT NULL CHECK (actual <> expected),
    PRIMARY KEY (marker_seq, break_id)
);
COMMENT ON TABLE recon.marker_breaks IS 'One row per break that a marker saw, with what ledger (expected) and engine (actual) had at its sequence.';
CREATE INDEX marker_breaks_of ON recon.marker_breaks (break_id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recon.marker_breaks
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- The engine's side of the marker that is being compared. Rows of one marker; emptied, not kept: a lost one is sent again.
CREATE UNLOGGED TABLE recon.marker_balances (
    subject text NOT NULL,
    asset   text NOT NULL,
    amount  numeric(38, 18) NOT NULL
);
COMMENT ON TABLE recon.marker_balances IS 'One row per account and asset that the engine has a balance of at the marker that is compared now; unlogged.';

-- Every customer (sub-)account, the house's fees and what users owe: the ledger as it is in this snapshot against what the engine sent.
CREATE FUNCTION recon.marker_differences()
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB'
    SET max_parallel_workers_per_gather = 0 AS $$
    WITH ledger_side AS (
        SELECT a.account AS subject, a.asset, a.balance AS amount FROM ledger.accounts a
        WHERE a.liability_class IN ('customer', 'affiliate') AND a.balance <> 0
        UNION ALL
        SELECT CASE a.liability_class WHEN 'receivable' THEN 'house:owed' ELSE 'house:fees' END, a.asset, sum(a.balance) FROM ledger.accounts a
        WHERE (a.liability_class = 'receivable' OR a.account IN ('fee_clearing', 'fee_income')) AND a.balance <> 0 GROUP BY 1, 2)
    SELECT subject, asset, coalesce(l.amount, 0), coalesce(m.amount, 0)
    FROM ledger_side l FULL JOIN recon.marker_balances m USING (subject, asset)
    WHERE l.amount IS DISTINCT FROM m.amount AND coalesce(l.amount, 0) <> coalesce(m.amount, 0)
$$;

-- Make ready for the engine's rows of a marker. Null: send them; otherwise why there is nothing to compare (any more).
CREATE FUNCTION recon.begin_marker(seq bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE there bigint;
BEGIN
    IF EXISTS (SELECT FROM recon.markers m WHERE m.marker_seq = seq) THEN RETURN 'judged'; END IF;
    SELECT c.last_seq INTO there FROM ledger.settlement_cursor c;
    IF there <> seq THEN RETURN 'settlement has gone past it'; END IF;
    -- Whoever reads it (a dump of the database does, for as long as it takes) keeps nobody waiting: then the rows are deleted.
    BEGIN
        SET LOCAL lock_timeout = '200ms';
        TRUNCATE recon.marker_balances;
        SET LOCAL lock_timeout = 0;
    EXCEPTION WHEN lock_not_available THEN
        DELETE FROM recon.marker_balances;
    END;
    RETURN NULL;
END $$;

CREATE FUNCTION recon.tell_marker(m recon.markers, book text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO events.outbox (event_key, subject, payload)
    SELECT 'recon.marker:' || m.marker_seq, 'eod.recon.marker.' || CASE m.verdict WHEN 'pass' THEN 'completed' ELSE 'failed' END,
        jsonb_build_object('book', book, 'close_date', m.close_date, 'step', 'marker', 'marker_seq', m.marker_seq,
            'status', CASE m.verdict WHEN 'pass' THEN 'succeeded' WHEN 'fail' THEN 'failed' ELSE 'unknown' END, 'detail', m.detail)
    ON CONFLICT (event_key) DO NOTHING
$$;

-- Compare, write the verdict, its breaks and freezes: in the caller's one snapshot, whose settlement cursor is the marker's sequence.
CREATE FUNCTION recon.judge_marker(seq bigint, day date, sequenced timestamptz, ref text, book text, sent bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m recon.markers;
    started timestamptz := clock_timestamp();
    xs recon.difference[];
    found recon.marker_breaks[];
    v integer;
BEGIN
    IF current_setting('transaction_isolation') <> 'repeatable read' THEN
        PERFORM close.refuse('CL010', format('marker %s is compared in a transaction that is %s', seq, current_setting('transaction_isolation')),
            'compare in one REPEATABLE READ snapshot');
    END IF;
    IF (SELECT c.last_seq FROM ledger.settlement_cursor c) <> seq THEN
        PERFORM close.refuse('CL010', format('marker %s is not where settlement is in this snapshot', seq), 'compare before settlement goes on');
    END IF;
    IF EXISTS (SELECT FROM recon.markers x WHERE x.marker_seq = seq) THEN RETURN NULL; END IF;
    m.marker_seq := seq; m.close_date := day; m.sequenced_at := sequenced; m.reference := ref;
    SELECT count(*) INTO m.engine_rows FROM recon.marker_balances;
    SELECT count(*) INTO m.ledger_rows FROM ledger.accounts a WHERE a.balance <> 0
        AND (a.liability_class IN ('customer', 'affiliate', 'receivable') OR a.account IN ('fee_clearing', 'fee_income'));
    IF m.engine_rows <> sent THEN
        PERFORM close.refuse('CL010', format('marker %s: %s rows of the engine are there, %s were sent', seq, m.engine_rows, sent), 'send them again');
    END IF;
    IF m.engine_rows = 0 AND m.ledger_rows > 0 THEN
        PERFORM close.refuse('CL010', format('marker %s: the engine''s balances were not sent', seq), 'send them again');
    END IF;
    SELECT y.version INTO v FROM close.days y WHERE y.close_date = day;
    SELECT coalesce(array_agg(ROW(x.subject, x.asset, x.expected, x.actual)::recon.difference), '{}') INTO xs FROM recon.marker_differences() x;
    -- Gone when a close read again, and there again before two people closed it: the same break.
    WITH again AS (
        UPDATE recon.breaks b SET state = CASE WHEN b.owner IS NULL THEN 'open' ELSE 'investigating' END, reason_code = NULL
        WHERE b.break_id IN (
            SELECT max(o.break_id) FROM recon.breaks o JOIN unnest(xs) x ON x.subject = o.subject AND x.asset = o.asset
            WHERE o.gate = 'engine_vs_ledger' AND o.state = 'corrected' AND o.reason_code = 'capture_re_read'
              AND NOT EXISTS (SELECT FROM recon.breaks a WHERE a.gate = o.gate AND a.subject = o.subject AND a.asset = o.asset
                  AND a.state NOT IN ('corrected', 'closed'))
            GROUP BY o.subject, o.asset)
        RETURNING b.break_id)
    INSERT INTO recon.break_events (break_id, what, actor, text)
    SELECT break_id, 'reopened', 'recon', format('there again at sequence %s', seq) FROM again;
    -- A break that the nightly gate has judged keeps that gate's figures and date: a waiver and a correction are of those.
    WITH seen AS (
        INSERT INTO recon.breaks AS b (gate, subject, asset, first_date, last_date, version, books_sha256, expected, actual, difference)
        SELECT 'engine_vs_ledger', x.subject, x.asset, day, day, coalesce(v, 1), 'marker:' || seq, x.expected, x.actual, x.actual - x.expected
        FROM unnest(xs) x
        ON CONFLICT (gate, subject, asset) WHERE state NOT IN ('corrected', 'closed') DO UPDATE
            SET last_seen = clock_timestamp(),
                last_date = CASE WHEN starts_with(b.books_sha256, 'marker:') THEN excluded.last_date ELSE b.last_date END,
                version = CASE WHEN starts_with(b.books_sha256, 'marker:') THEN excluded.version ELSE b.version END,
                expected = CASE WHEN starts_with(b.books_sha256, 'marker:') THEN excluded.expected ELSE b.expected END,
                actual = CASE WHEN starts_with(b.books_sha256, 'marker:') THEN excluded.actual ELSE b.actual END,
                difference = CASE WHEN starts_with(b.books_sha256, 'marker:') THEN excluded.difference ELSE b.difference END
        RETURNING b.break_id, b.subject, b.asset)
    SELECT array_agg(ROW(seq, s.break_id, x.expected, x.actual)::recon.marker_breaks ORDER BY x.subject COLLATE "C", x.asset COLLATE "C")
    INTO found FROM unnest(xs) x JOIN seen s USING (subject, asset);
    m.breaks := coalesce(cardinality(found), 0);
    m.verdict := CASE WHEN m.breaks = 0 THEN 'pass' ELSE 'fail' END;
    SELECT jsonb_build_object('break_count', m.breaks, 'breaks', coalesce(jsonb_agg(jsonb_build_object('break_id', b.break_id, 'account', b.subject,
        'asset', b.asset, 'expected', trim_scale(f.expected)::text, 'actual', trim_scale(f.actual)::text,
        'difference', trim_scale(f.actual - f.expected)::text) ORDER BY f.n), '[]')) INTO m.detail
    FROM unnest(found[1:20]) WITH ORDINALITY AS f (marker_seq, break_id, expected, actual, n) JOIN recon.breaks b USING (break_id);
    m.judged_at := clock_timestamp();
    m.compared_ms := extract(epoch FROM m.judged_at - started) * 1000;
    INSERT INTO recon.markers SELECT m.*;
    INSERT INTO recon.marker_breaks SELECT * FROM unnest(found);
    INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)
    SELECT u.user_id, 'break', 'break-' || b.break_id,
        format('engine and ledger differ by %s %s at sequence %s', trim_scale(f.actual - f.expected), b.asset, seq), 'recon'
    FROM unnest(found) f JOIN recon.breaks b USING (break_id) JOIN accounts.users u ON u.account = split_part(b.subject, ':', 1)
    ORDER BY u.user_id
    ON CONFLICT (user_id, kind, reference) DO NOTHING;
    PERFORM recon.tell_marker(m, book);
    RETURN m.verdict;
END $$;

-- A marker that was not compared is unknown, never passed. Null: it has its verdict.
CREATE FUNCTION recon.marker_unknown(seq bigint, day date, sequenced timestamptz, ref text, book text, why text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE m recon.markers;
BEGIN
    INSERT INTO recon.markers (marker_seq, close_date, sequenced_at, reference, verdict, detail)
    VALUES (seq, day, sequenced, ref, 'unknown', jsonb_build_object('what', why)) ON CONFLICT (marker_seq) DO NOTHING RETURNING * INTO m;
    IF m.marker_seq IS NULL THEN RETURN NULL; END IF;
    PERFORM recon.tell_marker(m, book);
    RETURN m.verdict;
END $$;

-- Ask the exchange for a marker now; returns the reference that its verdict will have.
CREATE FUNCTION recon.request_marker() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE key text := 'marker:' || gen_random_uuid();
BEGIN
    PERFORM exchange.request_command(key, 'marker', '{}');
    RETURN key;
END $$;
INSERT INTO exchange.command_kinds (kind, required, optional, key) VALUES ('marker', '{}', '{}', NULL);

REVOKE EXECUTE ON FUNCTION recon.marker_differences(), recon.begin_marker(bigint), recon.tell_marker(recon.markers, text),
    recon.judge_marker(bigint, date, timestamptz, text, text, bigint),
    recon.marker_unknown(bigint, date, timestamptz, text, text, text), recon.request_marker() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION recon.begin_marker(bigint), recon.judge_marker(bigint, date, timestamptz, text, text, bigint),
    recon.marker_unknown(bigint, date, timestamptz, text, text, text), recon.request_marker() TO compline_app;
GRANT INSERT ON recon.marker_balances TO compline_app;
GRANT SELECT ON recon.marker_balances, recon.markers, recon.marker_breaks TO compline_app;

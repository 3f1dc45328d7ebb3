-- A break seen again is the same break: across dates, versions and captures, and also where a date's barrier came before its correction.

-- Differences of a gate become breaks or age those that are there; what is gone is marked re-read; what comes back lives on. What a
-- marker found between two closes is not called re-read by a close that never read it: people say what it was.
CREATE FUNCTION recon.put_breaks(source text, g text, d date, v integer, hash text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE xs recon.difference[];
BEGIN
    EXECUTE format('SELECT coalesce(array_agg(ROW(x.subject, x.asset, x.expected, x.actual)::recon.difference), ''{}'') FROM recon.%I($1, $2) x',
        source) INTO xs USING d, v;
    WITH gone AS (
        UPDATE recon.breaks b SET state = 'corrected', reason_code = 'capture_re_read', last_seen = clock_timestamp()
        WHERE b.gate = g AND b.last_date = d AND b.state NOT IN ('corrected', 'closed')
          AND NOT starts_with(b.books_sha256, 'marker:')
          AND NOT EXISTS (SELECT FROM unnest(xs) x WHERE x.subject = b.subject AND x.asset = b.asset)
        RETURNING b.break_id)
    INSERT INTO recon.break_events (break_id, what, actor, text)
    SELECT break_id, 'corrected', 'recon', format('gone when %s was read again (v%s)', d, v) FROM gone;
    -- Read again and there again, before two people closed it.
    WITH again AS (
        UPDATE recon.breaks b SET state = CASE WHEN b.owner IS NULL THEN 'open' ELSE 'investigating' END, reason_code = NULL
        WHERE b.break_id IN (
            SELECT max(o.break_id) FROM recon.breaks o JOIN unnest(xs) x ON x.subject = o.subject AND x.asset = o.asset
            WHERE o.gate = g AND o.state = 'corrected' AND o.reason_code = 'capture_re_read'
              AND NOT EXISTS (SELECT FROM recon.breaks a WHERE a.gate = g AND a.subject = o.subject AND a.asset = o.asset
                  AND a.state NOT IN ('corrected', 'closed'))
            GROUP BY o.subject, o.asset)
        RETURNING b.break_id)
    INSERT INTO recon.break_events (break_id, what, actor, text)
    SELECT break_id, 'reopened', 'recon', format('there again on %s (v%s)', d, v) FROM again;
    -- Corrected or closed since, and of this very amount: a correction after this date's barrier cannot show on it.
    UPDATE recon.breaks b SET last_date = d, version = v, books_sha256 = hash, last_seen = clock_timestamp()
    FROM unnest(xs) x
    WHERE b.gate = g AND b.subject = x.subject AND b.asset = x.asset AND b.difference = x.actual - x.expected
      AND b.state IN ('corrected', 'closed') AND EXISTS (SELECT FROM recon.corrections c
        LEFT JOIN ledger.journals j ON j.posting_no = c.posting_no
        LEFT JOIN exchange.command_requests q ON q.request_key = c.request_key
        WHERE c.break_id = b.break_id AND CASE c.side WHEN 'ledger' THEN j.close_date > d
            ELSE q.engine_seq > (SELECT y.barrier_seq FROM close.days y WHERE y.close_date = d) END);
    INSERT INTO recon.breaks AS b (gate, subject, asset, first_date, last_date, version, books_sha256, expected, actual, difference)
    SELECT g, x.subject, x.asset, d, d, v, hash, x.expected, x.actual, x.actual - x.expected FROM unnest(xs) x
    WHERE NOT EXISTS (SELECT FROM recon.breaks o WHERE o.gate = g AND o.subject = x.subject AND o.asset = x.asset
        AND o.difference = x.actual - x.expected AND o.state IN ('corrected', 'closed') AND o.last_date = d AND o.books_sha256 = hash)
    ON CONFLICT (gate, subject, asset) WHERE state NOT IN ('corrected', 'closed') DO UPDATE
        SET first_date = least(b.first_date, excluded.first_date), last_date = excluded.last_date, version = excluded.version,
            books_sha256 = excluded.books_sha256, expected = excluded.expected, actual = excluded.actual,
            difference = excluded.difference, last_seen = clock_timestamp();
END $$;

CREATE OR REPLACE FUNCTION recon.write_breaks(g text, d date, v integer, hash text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recon.put_breaks('breaks_of_' || g, g, d, v, hash)
$$;

-- Of engine against ledger, each user concerned is frozen too.
CREATE OR REPLACE FUNCTION recon.write_engine_breaks(d date, v integer, hash text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recon.put_breaks('engine_differences_judged', 'engine_vs_ledger', d, v, hash);
    INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)
    SELECT u.user_id, 'break', 'break-' || b.break_id,
        format('engine and ledger differ by %s %s on %s', trim_scale(b.difference), b.asset, d), 'recon'
    FROM recon.breaks b JOIN accounts.users u ON u.account = split_part(b.subject, ':', 1)
    WHERE b.gate = 'engine_vs_ledger' AND b.last_date = d AND b.books_sha256 = hash AND b.state NOT IN ('corrected', 'closed')
    ON CONFLICT (user_id, kind, reference) DO NOTHING;
END $$;

-- The waiver that lets a day seal over a failed or unknown gate: in force, waivable, and large enough for every difference that the
-- verdict is about, whatever became of its break since.
CREATE OR REPLACE FUNCTION recon.waiver_for(d date, hash text, g text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT min(w.waiver_id) FROM recon.waivers w
    WHERE w.gate = g AND w.close_date = d AND w.expires_at >= clock_timestamp()
      AND (w.scope = 'book' OR EXISTS (SELECT FROM recon.verdicts v
        WHERE v.close_date = d AND v.books_sha256 = hash AND v.gate = g AND v.verdict = 'fail'))
      AND NOT EXISTS (
        SELECT FROM recon.breaks b WHERE b.gate = g AND b.last_date = d AND b.books_sha256 = hash
            AND NOT EXISTS (SELECT FROM recon.waivers x WHERE x.gate = g AND x.close_date = d AND x.asset = b.asset
                AND x.expires_at >= clock_timestamp() AND x.scope IN ('book', b.subject) AND abs(b.difference) <= x.amount_cap))
$$;

REVOKE EXECUTE ON FUNCTION recon.put_breaks(text, text, date, integer, text) FROM PUBLIC;

-- What a seal saw, as before, and the breaks that its verdicts are about, whatever became of them since.
CREATE OR REPLACE FUNCTION close.remember_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO close.seal_gates (close_date, version, gate, scope, verdict, waiver, detail)
    SELECT NEW.close_date, NEW.version, g.gate, g.scope, g.verdict, g.waiver, g.detail FROM recon.gates(NEW.close_date) g
    WHERE NEW.kind = 'day';
    INSERT INTO close.seal_breaks (close_date, version, break_id, gate, subject, asset, first_date, expected, actual, difference,
        state, reason_code)
    SELECT NEW.close_date, NEW.version, b.break_id, b.gate, b.subject, b.asset, b.first_date, b.expected, b.actual, b.difference,
        b.state, b.reason_code
    FROM recon.breaks b WHERE b.first_date <= NEW.close_date
      AND (b.state NOT IN ('corrected', 'closed') OR (b.last_date = NEW.close_date AND b.books_sha256 = NEW.books_sha256));
    RETURN NULL;
END $$;
COMMENT ON TABLE close.seal_breaks IS 'One row per break that was open when a version was sealed, or that its verdicts are about.';

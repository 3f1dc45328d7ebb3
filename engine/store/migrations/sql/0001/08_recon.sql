-- Verdicts, breaks, waivers. Verdicts are computed and written here, by functions that the application may call but not forge.

CREATE TABLE recon.verdicts (
    close_date   date NOT NULL,
    version      integer NOT NULL,
    books_sha256 text NOT NULL,
    gate         text NOT NULL,
    scope        text NOT NULL DEFAULT 'book',
    verdict      text NOT NULL CHECK (verdict IN ('pass', 'fail', 'unknown')),
    detail       jsonb NOT NULL,
    judged_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (close_date, version, books_sha256, gate, scope)
);
COMMENT ON TABLE recon.verdicts IS 'One row per gate and books hash: pass, fail or unknown (could not be checked).';

CREATE TABLE recon.breaks (
    break_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gate        text NOT NULL,
    subject     text NOT NULL,
    asset       text NOT NULL,
    first_date  date NOT NULL,
    last_date   date NOT NULL,
    version     integer NOT NULL,
    books_sha256 text NOT NULL,
    expected    numeric(38, 18) NOT NULL,
    actual      numeric(38, 18) NOT NULL,
    difference  numeric(38, 18) NOT NULL CHECK (difference = actual - expected AND difference <> 0),
    state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'investigating', 'explained', 'corrected', 'closed')),
    reason_code text,
    owner       text,
    maker       text,
    checker     text,
    first_seen  timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT breaks_two_people CHECK (state <> 'closed' OR (maker IS NOT NULL AND checker IS NOT NULL AND maker <> checker))
);
COMMENT ON TABLE recon.breaks IS 'One row per difference between two sources; seen again it ages, it is not written twice.';
CREATE UNIQUE INDEX breaks_one_alive ON recon.breaks (gate, subject, asset) WHERE state NOT IN ('corrected', 'closed');

CREATE TABLE recon.waivers (
    waiver_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gate       text NOT NULL CHECK (gate IN ('engine_vs_ledger', 'ledger_vs_custody', 'custody_covers_liabilities', 'staking_vs_chain')),
    scope      text NOT NULL,
    close_date date NOT NULL,
    asset      text NOT NULL,
    amount_cap numeric(38, 18) NOT NULL CHECK (amount_cap >= 0 AND amount_cap < 'NaN'),
    reason     text NOT NULL CHECK (reason <> ''),
    maker      text NOT NULL,
    checker    text NOT NULL,
    expires_at timestamptz NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT waivers_two_people CHECK (maker <> checker)
);
COMMENT ON TABLE recon.waivers IS 'One row per accepted break of a waivable gate: scope, cap, two people, expiry. It never turns a verdict.';

CREATE TABLE recon.tolerances (
    gate       text NOT NULL,
    asset      text NOT NULL,
    absolute   numeric(38, 18) NOT NULL DEFAULT 0 CHECK (absolute >= 0 AND absolute < 'NaN'),
    bps        integer NOT NULL DEFAULT 0 CHECK (bps >= 0),
    approver   text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (gate, asset)
);
COMMENT ON TABLE recon.tolerances IS 'One row per gate and asset: how far two outside sources may differ.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recon.waivers
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON recon.breaks
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON recon.verdicts
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Each gate is one function: verdict and detail for a day, read only. `unknown` is what could not be checked.
CREATE TYPE recon.judgement AS (verdict text, detail jsonb);

CREATE FUNCTION recon.gate_debits_equal_credits(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    journals bigint;
    forged jsonb;
    forged_count bigint;
    off jsonb;
    totals bigint;
    trades_off bigint;
    stale jsonb;
    not_of_balances jsonb;
    not_rolled bigint;
    before integer;
BEGIN
    SELECT count(*) INTO totals FROM ledger.control_totals WHERE close_date = d AND version = v;
    SELECT count(*) INTO journals FROM ledger.journals WHERE close_date = d;
    IF totals = 0 AND journals > 0 THEN
        RETURN ('unknown', jsonb_build_object('what', 'no control totals were written for the day'))::recon.judgement;
    END IF;
    SELECT count(*), jsonb_agg(h.posting_no) FILTER (WHERE h.nth <= 20) INTO forged_count, forged
    FROM (SELECT posting_no, row_number() OVER (ORDER BY posting_no) AS nth FROM ledger.journal_hashes(d)
          WHERE stored IS DISTINCT FROM computed OR legs < 2) h;
    SELECT jsonb_agg(jsonb_build_object('asset', asset, 'off', trim_scale(s)::text)) INTO off FROM (
        SELECT asset, sum(credits) - sum(debits) AS s FROM ledger.control_totals
        WHERE close_date = d AND version = v GROUP BY asset HAVING sum(credits) <> sum(debits) OR sum(closing) <> 0) x;
    SELECT jsonb_agg(jsonb_build_object('asset', asset, 'class', liability_class)) INTO stale FROM (
        SELECT asset, liability_class FROM (
            SELECT a.asset, a.liability_class, coalesce(-sum(e.amount) FILTER (WHERE e.amount < 0), 0) AS debits,
                coalesce(sum(e.amount) FILTER (WHERE e.amount > 0), 0) AS credits
            FROM (SELECT account_id, amount FROM ledger.ledger_entries WHERE close_date = d) e
            JOIN ledger.accounts a USING (account_id) GROUP BY 1, 2) e
        FULL JOIN (SELECT * FROM ledger.control_totals WHERE close_date = d AND version = v) c USING (asset, liability_class)
        WHERE coalesce(e.debits, 0) IS DISTINCT FROM coalesce(c.debits, 0)
           OR coalesce(e.credits, 0) IS DISTINCT FROM coalesce(c.credits, 0)) y;
    SELECT count(*) INTO trades_off FROM (SELECT posting_no FROM exchange.trades WHERE close_date = d) t
        FULL JOIN (SELECT posting_no FROM ledger.journals WHERE close_date = d AND kind = 'trade') j USING (posting_no)
        WHERE t.posting_no IS NULL OR j.posting_no IS NULL;
    -- Balances are yesterday's plus today's legs, account by account, and the totals are theirs.
    SELECT version INTO before FROM close.days WHERE close_date = d - 1;
    SELECT count(*) INTO not_rolled FROM (
        SELECT account_id FROM (
            SELECT account_id, balance AS amount FROM ledger.daily_balances WHERE close_date = d - 1 AND version = before
            UNION ALL SELECT account_id, amount FROM ledger.ledger_entries WHERE close_date = d
            UNION ALL SELECT account_id, -balance FROM ledger.daily_balances WHERE close_date = d AND version = v) x
        GROUP BY account_id HAVING sum(amount) <> 0) y;
    SELECT jsonb_agg(jsonb_build_object('asset', asset, 'class', liability_class)) INTO not_of_balances FROM (
        SELECT a.asset, a.liability_class, sum(b.balance) AS closing FROM ledger.daily_balances b
        JOIN ledger.accounts a USING (account_id) WHERE b.close_date = d AND b.version = v GROUP BY 1, 2) b
        FULL JOIN (SELECT * FROM ledger.control_totals WHERE close_date = d AND version = v) c USING (asset, liability_class)
        WHERE coalesce(b.closing, 0) <> coalesce(c.closing, 0);
    RETURN (CASE WHEN forged_count = 0 AND off IS NULL AND stale IS NULL AND trades_off = 0 AND not_rolled = 0
                 AND not_of_balances IS NULL THEN 'pass' ELSE 'fail' END,
        jsonb_build_object('journals', journals, 'journals_not_as_posted', forged_count, 'postings', coalesce(forged, '[]'),
            'unbalanced', coalesce(off, '[]'), 'totals_not_of_entries', coalesce(stale, '[]'),
            'totals_not_of_balances', coalesce(not_of_balances, '[]'), 'balances_not_rolled_forward', not_rolled,
            'trades_without_journal_or_reverse', trades_off))::recon.judgement;
END $$;

CREATE FUNCTION recon.gate_fee_clearing_swept(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unswept jsonb;
    differs jsonb;
    fees jsonb;
    accruals_off bigint;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('asset', a.asset, 'left', trim_scale(b.balance)::text)) INTO unswept
    FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
    WHERE b.close_date = d AND b.version = v AND a.account = 'fee_clearing';
    WITH charged AS (
        SELECT m.quote AS asset, sum(t.maker_fee + t.taker_fee) AS amount
        FROM exchange.trades t JOIN exchange.markets m USING (market) WHERE t.close_date = d GROUP BY m.quote),
    income AS (
        SELECT e.asset, sum(e.amount) AS amount FROM ledger.ledger_entries e
        JOIN ledger.accounts a USING (account_id)
        JOIN ledger.journals j ON j.posting_no = e.posting_no AND j.close_date = d AND j.kind = 'fee_accrual'
        WHERE e.close_date = d AND a.account = 'fee_income' GROUP BY e.asset)
    SELECT jsonb_agg(jsonb_build_object('asset', asset, 'charged', trim_scale(coalesce(c.amount, 0))::text,
               'income', trim_scale(coalesce(i.amount, 0))::text)) FILTER (WHERE coalesce(c.amount, 0) <> coalesce(i.amount, 0)),
           jsonb_object_agg(asset, trim_scale(coalesce(i.amount, 0))::text)
    INTO differs, fees FROM charged c FULL JOIN income i USING (asset);
    SELECT count(*) INTO accruals_off FROM (
        SELECT x.user_id, m.quote AS asset, x.role, sum(x.fee) AS amount, count(*) AS trades
        FROM exchange.trades t JOIN exchange.markets m USING (market)
        CROSS JOIN LATERAL (VALUES ('maker', t.maker_id, t.maker_fee), ('taker', t.taker_id, t.taker_fee)) x (role, user_id, fee)
        WHERE t.close_date = d GROUP BY 1, 2, 3) c
        FULL JOIN (SELECT * FROM ledger.fee_accruals WHERE close_date = d AND version = v) f USING (user_id, asset, role)
        WHERE c.amount IS DISTINCT FROM f.amount OR c.trades IS DISTINCT FROM f.trades;
    RETURN (CASE WHEN unswept IS NULL AND differs IS NULL AND accruals_off = 0 THEN 'pass' ELSE 'fail' END,
        jsonb_build_object('left_in_clearing', coalesce(unswept, '[]'), 'income_differs', coalesce(differs, '[]'),
            'accruals_not_of_trades', accruals_off, 'income', coalesce(fees, '{}')))::recon.judgement;
END $$;

CREATE FUNCTION recon.gate_marks_fresh(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing jsonb;
    stale jsonb;
    held bigint;
    cut timestamptz;
    max_age integer;
BEGIN
    SELECT cutoff_at INTO cut FROM close.days WHERE close_date = d;
    SELECT (p.policy ->> 'mark_max_age_s')::integer INTO max_age FROM close.policy_on(d) p;
    WITH held AS (
        SELECT DISTINCT a.asset FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
        WHERE b.close_date = d AND b.version = v)
    SELECT count(*), jsonb_agg(h.asset) FILTER (WHERE m.asset IS NULL),
        jsonb_agg(jsonb_build_object('asset', h.asset, 'at', m.at)) FILTER (
            WHERE m.at > cut OR m.at < cut - make_interval(secs => max_age))
    INTO held, missing, stale
    FROM held h LEFT JOIN market.mark_prices m ON m.asset = h.asset AND m.close_date = d AND m.version = v;
    RETURN (CASE WHEN missing IS NULL AND stale IS NULL THEN 'pass' ELSE 'unknown' END,
        jsonb_build_object('assets_held', held, 'missing', coalesce(missing, '[]'), 'stale', coalesce(stale, '[]'),
            'max_age_s', max_age))::recon.judgement;
END $$;

-- Every customer (sub-)account and the house's fees: the ledger at the cut-off against the engine at the barrier.
CREATE FUNCTION recon.engine_ledger_differences(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    WITH ledger_side AS (
        SELECT CASE WHEN a.user_id IS NULL THEN 'house:fees' ELSE a.account END AS subject, a.asset, sum(b.balance) AS amount
        FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
        WHERE b.close_date = d AND b.version = v
          AND (a.liability_class IN ('customer', 'affiliate') OR a.account IN ('fee_clearing', 'fee_income'))
        GROUP BY 1, 2),
    engine_side AS (
        SELECT account || x.suffix AS subject, asset, x.amount
        FROM exchange.engine_balances b
        CROSS JOIN LATERAL (VALUES ('', b.available + b.locked), (':staked', b.staked), (':in_transit', b.in_transit)) x (suffix, amount)
        WHERE b.close_date = d AND b.version = v AND x.amount <> 0)
    SELECT subject, asset, coalesce(l.amount, 0), coalesce(g.amount, 0)
    FROM ledger_side l FULL JOIN engine_side g USING (subject, asset)
    WHERE coalesce(l.amount, 0) <> coalesce(g.amount, 0)
$$;

CREATE FUNCTION recon.gate_engine_vs_ledger(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    how_many bigint;
    shown jsonb;
    compared bigint;
    held boolean;
BEGIN
    SELECT count(*) INTO compared FROM exchange.engine_balances WHERE close_date = d AND version = v;
    SELECT EXISTS (SELECT FROM ledger.daily_balances WHERE close_date = d AND version = v) INTO held;
    IF compared = 0 AND held THEN
        RETURN ('unknown', jsonb_build_object('what', 'the engine''s balances were not captured'))::recon.judgement;
    END IF;
    SELECT count(*), jsonb_agg(jsonb_build_object('account', x.subject, 'asset', x.asset, 'ledger', trim_scale(x.expected)::text,
            'engine', trim_scale(x.actual)::text, 'difference', trim_scale(x.actual - x.expected)::text)) FILTER (WHERE x.nth <= 20)
    INTO how_many, shown
    FROM (SELECT *, row_number() OVER (ORDER BY subject COLLATE "C", asset COLLATE "C") AS nth FROM recon.engine_ledger_differences(d, v)) x;
    RETURN (CASE WHEN how_many = 0 THEN 'pass' ELSE 'fail' END, jsonb_build_object('rows_compared', compared,
        'breaks', how_many, 'shown', coalesce(shown, '[]')))::recon.judgement;
END $$;

CREATE FUNCTION recon.gate_trees_equal_control_totals(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    differs jsonb;
    trees bigint;
    owed bigint;
    hash text;
    rows_off bigint;
BEGIN
    SELECT books_sha256 INTO hash FROM close.days WHERE close_date = d;
    SELECT count(*) INTO trees FROM reserves.liability_trees WHERE close_date = d AND version = v AND books_sha256 = hash;
    SELECT count(*) INTO owed FROM ledger.control_totals
        WHERE close_date = d AND version = v AND liability_class = 'customer' AND closing <> 0;
    IF trees = 0 AND owed > 0 THEN
        RETURN ('unknown', jsonb_build_object('what', 'no tree was built for this books hash'))::recon.judgement;
    END IF;
    WITH tree AS (SELECT asset, total FROM reserves.liability_trees WHERE close_date = d AND version = v AND books_sha256 = hash),
    total AS (SELECT asset, closing FROM ledger.control_totals
              WHERE close_date = d AND version = v AND liability_class = 'customer' AND closing <> 0),
    snapshot AS (SELECT asset, sum(total) AS total FROM close.user_balance_snapshots
                 WHERE close_date = d AND version = v GROUP BY asset HAVING sum(total) <> 0)
    SELECT jsonb_agg(jsonb_build_object('asset', asset, 'tree', trim_scale(coalesce(t.total, 0))::text,
        'control_total', trim_scale(coalesce(c.closing, 0))::text, 'snapshot', trim_scale(coalesce(s.total, 0))::text)) INTO differs
    FROM tree t FULL JOIN total c USING (asset) FULL JOIN snapshot s USING (asset)
    WHERE coalesce(t.total, 0) <> coalesce(c.closing, 0) OR coalesce(s.total, 0) <> coalesce(c.closing, 0);
    SELECT count(*) INTO rows_off FROM (
        (SELECT * FROM close.expected_snapshots(d, v)
         EXCEPT ALL SELECT * FROM close.user_balance_snapshots WHERE close_date = d AND version = v)
        UNION ALL
        (SELECT * FROM close.user_balance_snapshots WHERE close_date = d AND version = v
         EXCEPT ALL SELECT * FROM close.expected_snapshots(d, v))) x;
    RETURN (CASE WHEN differs IS NULL AND rows_off = 0 THEN 'pass' ELSE 'fail' END,
        jsonb_build_object('trees', trees, 'differs', coalesce(differs, '[]'), 'snapshot_rows_not_of_captures', rows_off))::recon.judgement;
END $$;

-- Gates that come after the day is reconciled; every other required gate must stand for the day to be reconciled.
CREATE FUNCTION recon.is_late_gate(gate text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$ SELECT gate IN ('trees_equal_control_totals', 'reserves_cover_liabilities') $$;

-- One gate of a day as the tables stand now; null where there is no such gate.
CREATE FUNCTION recon.gate(d date, v integer, g text) RETURNS recon.judgement
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE g
        WHEN 'debits_equal_credits' THEN recon.gate_debits_equal_credits(d, v)
        WHEN 'fee_clearing_swept' THEN recon.gate_fee_clearing_swept(d, v)
        WHEN 'marks_fresh' THEN recon.gate_marks_fresh(d, v)
        WHEN 'engine_vs_ledger' THEN recon.gate_engine_vs_ledger(d, v)
        WHEN 'trees_equal_control_totals' THEN recon.gate_trees_equal_control_totals(d, v) END
$$;

-- The waiver that lets a day seal over a failed or unknown gate: in force, waivable, and large enough for its breaks.
-- What could not be checked has no breaks to measure: only a waiver of the whole book covers it.
CREATE FUNCTION recon.waiver_for(d date, hash text, g text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT min(w.waiver_id) FROM recon.waivers w
    WHERE w.gate = g AND w.close_date = d AND w.expires_at >= clock_timestamp()
      AND (w.scope = 'book' OR EXISTS (SELECT FROM recon.verdicts v
        WHERE v.close_date = d AND v.books_sha256 = hash AND v.gate = g AND v.verdict = 'fail'))
      AND NOT EXISTS (
        SELECT FROM recon.breaks b WHERE b.gate = g AND b.last_date = d AND b.books_sha256 = hash
            AND b.state NOT IN ('corrected', 'closed')
            AND NOT EXISTS (SELECT FROM recon.waivers x WHERE x.gate = g AND x.close_date = d AND x.asset = b.asset
                AND x.expires_at >= clock_timestamp() AND x.scope IN ('book', b.subject) AND abs(b.difference) <= x.amount_cap))
$$;

-- The required gates of a day and how each stands for the books hash in force.
CREATE FUNCTION recon.gates(d date)
RETURNS TABLE (gate text, scope text, verdict text, waiver text, stands boolean, detail jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.gate, 'book', coalesce(v.verdict, 'unknown'),
        CASE WHEN v.verdict IN ('fail', 'unknown') THEN recon.waiver_for(d, y.books_sha256, g.gate)::text END,
        coalesce(v.verdict = 'pass' OR recon.waiver_for(d, y.books_sha256, g.gate) IS NOT NULL, false),
        coalesce(v.detail, jsonb_build_object('what', 'not judged for the books hash in force'))
    FROM close.days y
    CROSS JOIN LATERAL close.policy_on(d) p
    CROSS JOIN LATERAL jsonb_array_elements_text(p.policy -> 'required_gates') g (gate)
    LEFT JOIN recon.verdicts v ON v.close_date = d AND v.version = y.version AND v.books_sha256 = y.books_sha256
        AND v.gate = g.gate AND v.scope = 'book'
    WHERE y.close_date = d
$$;

-- Judge one gate for the books hash in force, write the verdict, its breaks and freezes, and move the day.
CREATE FUNCTION recon.judge(d date, g text, e bigint) RETURNS text
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
    j := recon.gate(d, day.version, g);
    IF j IS NULL OR j.verdict IS NULL THEN
        PERFORM close.refuse('CL007', format('there is no gate %s', g), 'see docs/runbooks');
    END IF;
    INSERT INTO recon.verdicts AS v (close_date, version, books_sha256, gate, verdict, detail)
    VALUES (d, day.version, day.books_sha256, g, j.verdict, j.detail)
    ON CONFLICT (close_date, version, books_sha256, gate, scope) DO UPDATE
        SET verdict = excluded.verdict, detail = excluded.detail, judged_at = excluded.judged_at
        WHERE (v.verdict, v.detail) IS DISTINCT FROM (excluded.verdict, excluded.detail);
    IF g = 'engine_vs_ledger' AND j.verdict <> 'unknown' THEN
        PERFORM recon.write_engine_breaks(d, day.version, day.books_sha256);
    END IF;
    SELECT bool_or(NOT s.stands) INTO late_or_open FROM recon.gates(d) s WHERE NOT recon.is_late_gate(s.gate);
    UPDATE close.days SET state = CASE WHEN late_or_open THEN 'cutoff' ELSE 'reconciled' END, changed_at = clock_timestamp()
    WHERE close_date = d AND state <> CASE WHEN late_or_open THEN 'cutoff' ELSE 'reconciled' END;
    RETURN j.verdict;
END $$;

-- Differences become breaks (or age), those gone are marked re-read, and each user concerned is frozen.
CREATE FUNCTION recon.write_engine_breaks(d date, v integer, hash text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE recon.breaks b SET state = 'corrected', reason_code = 'capture_re_read', last_seen = clock_timestamp()
    WHERE b.gate = 'engine_vs_ledger' AND b.last_date = d AND b.version = v AND b.state NOT IN ('corrected', 'closed')
      AND NOT EXISTS (SELECT FROM recon.engine_ledger_differences(d, v) x WHERE x.subject = b.subject AND x.asset = b.asset);
    INSERT INTO recon.breaks AS b (gate, subject, asset, first_date, last_date, version, books_sha256, expected, actual, difference)
    SELECT 'engine_vs_ledger', x.subject, x.asset, d, d, v, hash, x.expected, x.actual, x.actual - x.expected
    FROM recon.engine_ledger_differences(d, v) x
    ON CONFLICT (gate, subject, asset) WHERE state NOT IN ('corrected', 'closed') DO UPDATE
        SET last_date = excluded.last_date, version = excluded.version, books_sha256 = excluded.books_sha256,
            expected = excluded.expected, actual = excluded.actual, difference = excluded.difference, last_seen = clock_timestamp();
    INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)
    SELECT u.user_id, 'break', 'break-' || b.break_id,
        format('engine and ledger differ by %s %s on %s', trim_scale(b.difference), b.asset, d), 'recon'
    FROM recon.breaks b JOIN accounts.users u ON u.account = split_part(b.subject, ':', 1)
    WHERE b.gate = 'engine_vs_ledger' AND b.last_date = d AND b.books_sha256 = hash AND b.state NOT IN ('corrected', 'closed')
    ON CONFLICT (user_id, kind, reference) DO NOTHING;
END $$;

-- A corrected break is closed, and its user's hold lifted, by two different people.
CREATE FUNCTION recon.close_break(which bigint, who text, second text, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(who, '') = '' OR coalesce(second, '') = '' OR who = second THEN
        PERFORM close.refuse('CL012', format('break %s needs two different people', which), 'name a maker and a checker');
    END IF;
    UPDATE recon.breaks SET state = 'closed', maker = who, checker = second, reason_code = coalesce(reason_code, why)
    WHERE break_id = which AND state IN ('explained', 'corrected');
    IF NOT FOUND THEN
        PERFORM close.refuse('CL012', format('break %s is not explained or corrected', which), 'recapture or correct it first');
    END IF;
    UPDATE accounts.holds SET released_by = who || ' and ' || second, released_at = clock_timestamp()
    WHERE kind = 'break' AND reference = 'break-' || which AND released_at IS NULL;
END $$;

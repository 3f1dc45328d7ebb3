-- The fee sweep: one journal per user, asset and role, set by set, so that 100,000 users cost seconds.

-- What the trades of a close date charged, by user, asset and role; negative for net rebates.
CREATE FUNCTION ledger.fees_charged(d date)
RETURNS TABLE (user_id bigint, account text, asset text, role text, amount numeric, trades bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT g.user_id, u.account, g.asset, g.role, g.amount, g.trades
    FROM (SELECT x.user_id, m.quote AS asset, x.role, sum(x.fee) AS amount, count(*) AS trades
          FROM exchange.trades t JOIN exchange.markets m USING (market)
          CROSS JOIN LATERAL (VALUES ('maker', t.maker_id, t.maker_fee), ('taker', t.taker_id, t.taker_fee)) x (role, user_id, fee)
          WHERE t.close_date = d GROUP BY 1, 2, 3) g
    JOIN accounts.users u USING (user_id)
$$;

-- What the close's own journals moved into income for a close date, by user, asset and role, as their references say.
CREATE FUNCTION ledger.fees_swept(d date)
RETURNS TABLE (account text, asset text, role text, amount numeric, sweep integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT split_part(j.reference_id, ':', 2), e.asset, split_part(j.reference_id, ':', -2), sum(e.amount),
        max(split_part(j.reference_id, ':', -1)::integer)
    FROM (SELECT posting_no, reference_id FROM ledger.journals WHERE close_date = d AND kind = 'fee_accrual') j
    JOIN (SELECT posting_no, account_id, asset, amount FROM ledger.ledger_entries WHERE close_date = d) e USING (posting_no)
    JOIN ledger.accounts a USING (account_id)
    WHERE a.account = 'fee_income' GROUP BY 1, 2, 3
$$;

-- The canonical hash of a journal of the close with two legs, the debited account's first in byte order.
CREATE FUNCTION ledger.pair_hash(kind text, reference_id text, effective_at timestamptz, first_leg text, second_leg text)
RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(convert_to(concat_ws(E'\t', kind, kind, reference_id, '',
        to_char(effective_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'close', first_leg, second_leg) || E'\n', 'UTF8'))
$$;

CREATE TYPE ledger.fee_due AS (account text, asset text, role text, amount numeric(38, 18));

-- Write the accrual rows of a day and post what they differ from the sweeps before; returns rows and journals.
CREATE FUNCTION ledger.sweep_fees(d date, e bigint, who text) RETURNS TABLE (rows bigint, journals bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    written bigint;
    dues ledger.fee_due[];
    first bigint;
    nth integer;
BEGIN
    PERFORM ledger.replace_fee_accruals(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d;
    INSERT INTO ledger.fee_accruals (close_date, version, user_id, asset, role, amount, trades)
    SELECT d, day.version, c.user_id, c.asset, c.role, c.amount, c.trades FROM ledger.fees_charged(d) c;
    GET DIAGNOSTICS written = ROW_COUNT;
    SELECT coalesce(max(s.sweep), 0) + 1 INTO nth FROM ledger.fees_swept(d) s;
    SELECT array_agg((x.account, x.asset, x.role, x.due)::ledger.fee_due ORDER BY x.account COLLATE "C", x.asset COLLATE "C", x.role)
    INTO dues FROM (
        SELECT account, asset, role, coalesce(c.amount, 0) - coalesce(s.amount, 0) AS due
        FROM (SELECT u.account, f.asset, f.role, f.amount FROM ledger.fee_accruals f JOIN accounts.users u USING (user_id)
              WHERE f.close_date = d AND f.version = day.version) c
        FULL JOIN (SELECT * FROM ledger.fees_swept(d)) s USING (account, asset, role)) x
    WHERE x.due <> 0;
    IF dues IS NOT NULL THEN
        PERFORM ledger.ensure_accounts(array_agg(x.name), array_agg(x.asset)) FROM (
            SELECT n.name, f.asset FROM (SELECT DISTINCT u.asset FROM unnest(dues) u) f
            CROSS JOIN (VALUES ('fee_clearing'), ('fee_income')) n (name)) x;
        first := ledger.reserve_postings(cardinality(dues));
        INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, effective_at, close_date, origin, epoch,
            actor, reason, row_hash)
        SELECT first - 1 + f.n, 'fee_accrual', 'fee_accrual', r.id, r.at, d, 'close', e, who, f.role || ' fees of ' || f.account,
            ledger.pair_hash('fee_accrual', r.id, r.at, 'fee_clearing' || E'\t' || f.asset || E'\t' || r.units * -1,
                'fee_income' || E'\t' || f.asset || E'\t' || r.units)
        FROM unnest(dues) WITH ORDINALITY f (account, asset, role, amount, n)
        JOIN exchange.assets s ON s.asset = f.asset
        CROSS JOIN LATERAL (SELECT concat_ws(':', to_char(d, 'YYYY-MM-DD'), f.account, f.asset, f.role, nth) AS id,
            day.cutoff_at - interval '1 microsecond' AS at, trunc(f.amount * s.scale) AS units) r;
        INSERT INTO ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)
        SELECT first - 1 + f.n, d, a.account_id, f.asset, x.sign * f.amount
        FROM unnest(dues) WITH ORDINALITY f (account, asset, role, amount, n)
        CROSS JOIN (VALUES ('fee_clearing', -1), ('fee_income', 1)) x (name, sign)
        JOIN ledger.accounts a ON a.account = x.name AND a.asset = f.asset
        ORDER BY f.n;
    END IF;
    PERFORM close.fence(d, e);
    RETURN QUERY SELECT written, coalesce(cardinality(dues), 0)::bigint;
END $$;

-- The gate, per user and role too: what each was charged, what the accrual row says and what the journals moved are one number.
CREATE OR REPLACE FUNCTION recon.gate_fee_clearing_swept(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    unswept jsonb;
    differs jsonb;
    fees jsonb;
    accruals_off bigint;
    journals_off bigint;
    shown jsonb;
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
    SELECT count(*) FILTER (WHERE x.accrual_off), count(*) FILTER (WHERE x.journal_off),
        jsonb_agg(jsonb_build_object('account', x.account, 'asset', x.asset, 'role', x.role, 'charged', x.charged,
            'accrued', x.accrued, 'swept', x.swept)) FILTER (WHERE x.nth <= 20)
    INTO accruals_off, journals_off, shown
    FROM (SELECT *, row_number() OVER (ORDER BY account COLLATE "C", asset COLLATE "C", role) AS nth FROM (
        SELECT account, asset, role, trim_scale(coalesce(c.amount, 0))::text AS charged, trim_scale(f.amount)::text AS accrued,
            trim_scale(coalesce(s.amount, 0))::text AS swept,
            (c.amount, c.trades) IS DISTINCT FROM (f.amount, f.trades) AS accrual_off,
            coalesce(c.amount, 0) <> coalesce(s.amount, 0) AS journal_off
        FROM (SELECT * FROM ledger.fees_charged(d)) c
        FULL JOIN (SELECT coalesce(u.account, g.user_id::text) AS account, g.asset, g.role, g.amount, g.trades FROM ledger.fee_accruals g
                   LEFT JOIN accounts.users u USING (user_id) WHERE g.close_date = d AND g.version = v) f USING (account, asset, role)
        FULL JOIN (SELECT * FROM ledger.fees_swept(d)) s USING (account, asset, role)) y
        WHERE y.accrual_off OR y.journal_off) x;
    RETURN (CASE WHEN unswept IS NULL AND differs IS NULL AND accruals_off = 0 AND journals_off = 0 THEN 'pass' ELSE 'fail' END,
        jsonb_build_object('left_in_clearing', coalesce(unswept, '[]'), 'income_differs', coalesce(differs, '[]'),
            'accruals_not_of_trades', accruals_off, 'journals_not_of_trades', journals_off, 'shown', coalesce(shown, '[]'),
            'income', coalesce(fees, '{}')))::recon.judgement;
END $$;

REVOKE EXECUTE ON FUNCTION ledger.fees_charged(date), ledger.fees_swept(date), ledger.sweep_fees(date, bigint, text),
    ledger.pair_hash(text, text, timestamptz, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.sweep_fees(date, bigint, text) TO compline_app;

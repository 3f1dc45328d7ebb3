-- Every customer (sub-)account, the house's fees, and what users owe: the ledger at the cut-off against the engine at the barrier.
-- As before, without grouping what is one row already, and without a row for each part that is zero: 2.1 bare joins, not 4.8.
CREATE OR REPLACE FUNCTION recon.engine_ledger_differences(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    WITH ledger_side AS (
        SELECT a.account AS subject, a.asset, b.balance AS amount
        FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
        WHERE b.close_date = d AND b.version = v AND a.liability_class IN ('customer', 'affiliate')
        UNION ALL
        SELECT CASE a.liability_class WHEN 'receivable' THEN 'house:owed' ELSE 'house:fees' END, a.asset, sum(b.balance)
        FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
        WHERE b.close_date = d AND b.version = v AND (a.liability_class = 'receivable' OR a.account IN ('fee_clearing', 'fee_income'))
        GROUP BY 1, 2),
    engine_side AS (
        SELECT b.account AS subject, b.asset, b.available + b.locked AS amount FROM exchange.engine_balances b
        WHERE b.close_date = d AND b.version = v
        UNION ALL
        SELECT b.account || ':staked', b.asset, b.staked FROM exchange.engine_balances b
        WHERE b.close_date = d AND b.version = v AND b.staked <> 0
        UNION ALL
        SELECT b.account || ':in_transit', b.asset, b.in_transit FROM exchange.engine_balances b
        WHERE b.close_date = d AND b.version = v AND b.in_transit <> 0)
    SELECT subject, asset, coalesce(l.amount, 0), coalesce(g.amount, 0)
    FROM ledger_side l FULL JOIN engine_side g USING (subject, asset)
    WHERE l.amount IS DISTINCT FROM g.amount AND coalesce(l.amount, 0) <> coalesce(g.amount, 0)
$$;

CREATE TYPE recon.difference AS (subject text, asset text, expected numeric(38, 18), actual numeric(38, 18));

-- Whether a difference at a date's barrier is one that people have corrected since: the correction lies in a later date.
CREATE FUNCTION recon.corrected_after(d date, x recon.difference) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM recon.breaks b JOIN recon.corrections c USING (break_id)
        WHERE b.gate = 'engine_vs_ledger' AND b.subject = x.subject AND b.asset = x.asset AND b.state IN ('corrected', 'closed')
          AND b.difference = x.actual - x.expected
          AND CASE c.side
            WHEN 'ledger' THEN EXISTS (SELECT FROM ledger.journals j WHERE j.posting_no = c.posting_no AND j.close_date > d)
            ELSE EXISTS (SELECT FROM exchange.command_requests r JOIN close.days y ON y.close_date = d
                WHERE r.request_key = c.request_key AND r.engine_seq > y.barrier_seq) END)
$$;
REVOKE EXECUTE ON FUNCTION recon.corrected_after(date, recon.difference) FROM PUBLIC;

-- Differences become breaks (or age), those gone are marked re-read, and each user concerned is frozen. As before; the verdict that
-- was just written names them where they are few, so that they are computed once;
-- what a marker found between two closes is not called re-read by a close that never read it: people say what it was; and a
-- difference that is judged again after it was corrected in a later date is no new break.
CREATE OR REPLACE FUNCTION recon.write_engine_breaks(d date, v integer, hash text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    off recon.difference[];
    said jsonb;
BEGIN
    SELECT x.detail INTO said FROM recon.verdicts x
    WHERE x.close_date = d AND x.version = v AND x.books_sha256 = hash AND x.gate = 'engine_vs_ledger' AND x.scope = 'book';
    IF (said ->> 'breaks')::bigint = jsonb_array_length(said -> 'shown') THEN
        SELECT array_agg(ROW(x ->> 'account', x ->> 'asset', (x ->> 'ledger')::numeric, (x ->> 'engine')::numeric)::recon.difference)
        INTO off FROM jsonb_array_elements(said -> 'shown') x;
    ELSE
        SELECT array_agg(ROW(x.subject, x.asset, x.expected, x.actual)::recon.difference) INTO off
        FROM recon.engine_ledger_differences(d, v) x;
    END IF;
    UPDATE recon.breaks b SET state = 'corrected', reason_code = 'capture_re_read', last_seen = clock_timestamp()
    WHERE b.gate = 'engine_vs_ledger' AND b.last_date = d AND b.version = v AND b.state NOT IN ('corrected', 'closed')
      AND NOT starts_with(b.books_sha256, 'marker:')
      AND NOT EXISTS (SELECT FROM unnest(off) x WHERE x.subject = b.subject AND x.asset = b.asset);
    INSERT INTO recon.breaks AS b (gate, subject, asset, first_date, last_date, version, books_sha256, expected, actual, difference)
    SELECT 'engine_vs_ledger', x.subject, x.asset, d, d, v, hash, x.expected, x.actual, x.actual - x.expected
    FROM unnest(off) x WHERE NOT recon.corrected_after(d, x)
    ON CONFLICT (gate, subject, asset) WHERE state NOT IN ('corrected', 'closed') DO UPDATE
        SET first_date = least(b.first_date, excluded.first_date), last_date = excluded.last_date, version = excluded.version,
            books_sha256 = excluded.books_sha256, expected = excluded.expected, actual = excluded.actual,
            difference = excluded.difference, last_seen = clock_timestamp();
    INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)
    SELECT u.user_id, 'break', 'break-' || b.break_id,
        format('engine and ledger differ by %s %s on %s', trim_scale(b.difference), b.asset, d), 'recon'
    FROM recon.breaks b JOIN accounts.users u ON u.account = split_part(b.subject, ':', 1)
    WHERE b.gate = 'engine_vs_ledger' AND b.last_date = d AND b.books_sha256 = hash AND b.state NOT IN ('corrected', 'closed')
    ON CONFLICT (user_id, kind, reference) DO NOTHING;
END $$;

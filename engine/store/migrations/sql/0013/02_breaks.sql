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

-- The same of a day that was just judged: where its verdict names them all, they are not computed again.
CREATE FUNCTION recon.engine_differences_judged(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE said jsonb;
BEGIN
    SELECT x.detail INTO said FROM close.days y JOIN recon.verdicts x USING (close_date, version, books_sha256)
    WHERE y.close_date = d AND y.version = v AND x.gate = 'engine_vs_ledger' AND x.scope = 'book';
    IF (said ->> 'breaks')::bigint = jsonb_array_length(said -> 'shown') THEN
        RETURN QUERY SELECT x ->> 'account', x ->> 'asset', (x ->> 'ledger')::numeric, (x ->> 'engine')::numeric
            FROM jsonb_array_elements(said -> 'shown') x;
    ELSE
        RETURN QUERY SELECT * FROM recon.engine_ledger_differences(d, v);
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION recon.engine_differences_judged(date, integer) FROM PUBLIC;

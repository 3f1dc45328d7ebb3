-- Plans that hold at every size. Nothing of what these functions decide or write has changed.

-- The lots that positions begin a date with; n is a position's place in the list. A position without lots (the reporting
-- currency) comes as one row without a lot. Positions are joined by hash: by nested loop, 3,000 of them cost ten million
-- comparisons. Their lots are looked up by index, one position at a time (OFFSET 0 keeps it so): a join that scanned
-- would read every day there is.
CREATE OR REPLACE FUNCTION positions.opening(d date, users bigint[], assets text[])
RETURNS TABLE (n integer, quantity numeric, cost numeric, lot_seq bigint, lot_no integer, acquired_on date, acquired_quantity numeric,
    acquired_cost numeric, lot_quantity numeric, lot_cost numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET work_mem = '256MB' AS $$
    SELECT k.n::integer - 1, u.quantity, u.cost, l.lot_seq, l.lot_no, l.acquired_on, l.acquired_quantity, l.acquired_cost, l.quantity, l.cost
    FROM unnest(users, assets) WITH ORDINALITY k (user_id, asset, n)
    JOIN (SELECT * FROM positions.unrealized_pnl WHERE close_date = d - 1
        AND version = (SELECT version FROM close.days WHERE close_date = d - 1)) u USING (user_id, asset)
    LEFT JOIN LATERAL (SELECT x.lot_seq, x.lot_no, x.acquired_on, x.acquired_quantity, x.acquired_cost, x.quantity, x.cost
        FROM positions.lots x WHERE x.close_date = u.lots_date AND x.version = u.lots_version AND x.user_id = u.user_id
            AND x.asset = u.asset OFFSET 0) l ON true
    ORDER BY 1, 4, 5
$$;

-- Statistics are taken so that a day's new rows are not thought to be one; a sample of 7,500 rows says that as well as
-- one of 30,000, and is most of what these functions cost on a small day.
ALTER FUNCTION close.cut_off_day(date, bigint, bigint, timestamptz) SET default_statistics_target = 25;
ALTER FUNCTION ledger.write_control_totals(date, bigint) SET default_statistics_target = 25;
ALTER FUNCTION positions.write_unrealized_pnl(date, bigint) SET default_statistics_target = 25;

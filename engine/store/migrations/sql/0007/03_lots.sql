-- Carrying lots from day to day: what a day begins with, what it writes, and what it is worth at the end.

-- Positions of the ledger at the cut-off of a date: what each user has of each asset, over all sub-accounts.
CREATE FUNCTION positions.ledger_positions(d date) RETURNS TABLE (user_id bigint, asset text, quantity numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT a.user_id, a.asset, sum(b.balance)
    FROM close.days y JOIN ledger.daily_balances b USING (close_date, version) JOIN ledger.accounts a USING (account_id)
    WHERE y.close_date = d AND a.liability_class IN ('customer', 'affiliate')
    GROUP BY a.user_id, a.asset HAVING sum(b.balance) <> 0
$$;

-- Genesis: lots of the opening balances, as loaded, else one lot at the first mark of the first day.
CREATE FUNCTION positions.write_genesis(zero date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day close.days;
    currency text;
    decimals integer;
    bad record;
BEGIN
    SELECT * INTO day FROM close.days WHERE close_date = zero;
    SELECT c.asset, c.places INTO currency, decimals FROM positions.currency_on(zero + 1) c;
    DELETE FROM positions.lots WHERE close_date = zero;
    DELETE FROM positions.unrealized_pnl WHERE close_date = zero;
    SELECT coalesce(o.user_id, p.user_id) AS user_id, coalesce(o.asset, p.asset) AS asset, o.loaded, p.quantity INTO bad
    FROM (SELECT user_id, asset, sum(quantity) AS loaded FROM positions.opening_lots GROUP BY user_id, asset) o
    LEFT JOIN positions.ledger_positions(zero) p USING (user_id, asset)
    WHERE o.loaded IS DISTINCT FROM p.quantity ORDER BY 1, 2 LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL032', format('user %s: opening lots of %s %s, an opening balance of %s', bad.user_id,
            trim_scale(bad.loaded), bad.asset, trim_scale(coalesce(bad.quantity, 0))), 'lots of an opening balance sum to it');
    END IF;
    INSERT INTO positions.lots (close_date, version, user_id, asset, lot_seq, lot_no, acquired_on, acquired_quantity, acquired_cost,
        quantity, cost)
    SELECT zero, day.version, o.user_id, o.asset, 0, o.lot_no, o.acquired_on, o.quantity, o.cost, o.quantity, o.cost
    FROM positions.opening_lots o WHERE o.asset <> currency;
    SELECT p.asset INTO bad FROM (SELECT DISTINCT asset FROM positions.ledger_positions(zero)) p WHERE p.asset <> currency
        AND positions.event_mark(zero + 1, p.asset, day.cutoff_at, day.barrier_seq) IS NULL ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL031', format('the opening balances of %s have no mark for %s', zero, bad.asset),
            'docs/runbooks/value_identity.md: nothing is valued at zero');
    END IF;
    INSERT INTO positions.unrealized_pnl (close_date, version, user_id, asset, quantity, cost, mark, value, unrealized, lots_date,
        lots_version)
    SELECT zero, day.version, p.user_id, p.asset, p.quantity, c.cost, m.mark, w.value, w.value - c.cost, zero, day.version
    FROM positions.ledger_positions(zero) p
    JOIN (SELECT a.asset, CASE WHEN a.asset = currency THEN 1
              ELSE positions.event_mark(zero + 1, a.asset, day.cutoff_at, day.barrier_seq) END AS mark
          FROM (SELECT DISTINCT asset FROM positions.ledger_positions(zero)) a) m USING (asset)
    CROSS JOIN LATERAL (SELECT round(p.quantity * m.mark, decimals) AS value) w
    CROSS JOIN LATERAL (SELECT CASE WHEN p.asset = currency THEN w.value ELSE coalesce((SELECT sum(o.cost)
        FROM positions.opening_lots o WHERE o.user_id = p.user_id AND o.asset = p.asset), w.value) END AS cost) c;
    INSERT INTO positions.lots (close_date, version, user_id, asset, lot_seq, lot_no, acquired_on, acquired_quantity, acquired_cost,
        quantity, cost)
    SELECT zero, day.version, u.user_id, u.asset, 0, 0, zero, u.quantity, u.cost, u.quantity, u.cost
    FROM positions.unrealized_pnl u WHERE u.close_date = zero AND u.asset <> currency
        AND NOT EXISTS (SELECT FROM positions.opening_lots o WHERE o.user_id = u.user_id AND o.asset = u.asset);
END $$;

-- The opening state is there and is the ledger's, the day's events have values, and its rows make room.
CREATE FUNCTION positions.begin_lots(d date, e bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    before close.days;
    bad record;
BEGIN
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    SELECT * INTO before FROM close.days WHERE close_date = d - 1;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') OR day.books_sha256 IS NULL THEN
        PERFORM close.refuse('CL030', format('%s is not being closed: its lots stay', d), 'run the close from ledger/control_totals on');
    END IF;
    -- A reopened first day keeps the basis that its first version sealed.
    IF before.genesis AND (day.version = 1 OR NOT EXISTS (SELECT FROM positions.unrealized_pnl WHERE close_date = before.close_date)) THEN
        PERFORM positions.write_genesis(before.close_date);
    END IF;
    SELECT coalesce(p.user_id, u.user_id) AS user_id, coalesce(p.asset, u.asset) AS asset, p.quantity AS held, u.quantity AS lotted
    INTO bad
    FROM positions.ledger_positions(d - 1) p
    FULL JOIN (SELECT * FROM positions.unrealized_pnl WHERE close_date = d - 1 AND version = before.version) u USING (user_id, asset)
    WHERE p.quantity IS DISTINCT FROM u.quantity ORDER BY 1, 2 LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL032', format('user %s has %s %s on %s and lots of %s', bad.user_id, trim_scale(coalesce(bad.held, 0)),
            bad.asset, d - 1, trim_scale(coalesce(bad.lotted, 0))), format('close %s first: compline close run %s', d - 1, d - 1));
    END IF;
    INSERT INTO positions.restatements (close_date, version, user_id, asset, what, was)
    SELECT d, day.version, r.user_id, r.asset, 'realized', r.realized FROM positions.realized_pnl r
    WHERE r.close_date = d AND r.version = day.version ON CONFLICT DO NOTHING;
    DELETE FROM positions.lots WHERE close_date = d AND version = day.version;
    DELETE FROM positions.realized_pnl WHERE close_date = d AND version = day.version;
    PERFORM positions.write_values(d, day.version);
END $$;

-- The lots that positions begin a date with; n is a position's place in the list. A position without lots (the reporting
-- currency) comes as one row without a lot. Index look-ups only: a join that scanned would read every day there is.
CREATE FUNCTION positions.opening(d date, users bigint[], assets text[])
RETURNS TABLE (n integer, quantity numeric, cost numeric, lot_seq bigint, lot_no integer, acquired_on date, acquired_quantity numeric,
    acquired_cost numeric, lot_quantity numeric, lot_cost numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET work_mem = '256MB' AS $$
    SELECT k.n::integer - 1, u.quantity, u.cost, l.lot_seq, l.lot_no, l.acquired_on, l.acquired_quantity, l.acquired_cost, l.quantity, l.cost
    FROM unnest(users, assets) WITH ORDINALITY k (user_id, asset, n)
    CROSS JOIN close.days y
    JOIN positions.unrealized_pnl u ON u.close_date = d - 1 AND u.version = y.version AND u.user_id = k.user_id AND u.asset = k.asset
    LEFT JOIN positions.lots l ON l.close_date = u.lots_date AND l.version = u.lots_version AND l.user_id = k.user_id AND l.asset = k.asset
    WHERE y.close_date = d - 1
    ORDER BY 1, 4, 5
$$;

-- The figures of a date that a second booking may move.
CREATE FUNCTION positions.figures(d date, v integer) RETURNS TABLE (user_id bigint, asset text, what text, amount numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.user_id, r.asset, 'realized', r.realized FROM positions.realized_pnl r WHERE r.close_date = d AND r.version = v
    UNION ALL
    SELECT u.user_id, u.asset, x.what, x.amount FROM positions.unrealized_pnl u
    CROSS JOIN LATERAL (VALUES ('unrealized', u.unrealized), ('value', u.value)) x (what, amount)
    WHERE u.close_date = d AND u.version = v
$$;

-- What is held at the cut-off at the closing marks: positions that changed as they were left, the others as they were.
CREATE FUNCTION positions.write_unrealized_pnl(d date, e bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    before integer;
    decimals integer;
    unpriced text;
    written bigint;
BEGIN
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') THEN
        PERFORM close.refuse('CL030', format('%s is not being closed: its P&L stays', d), 'run the close of the day');
    END IF;
    SELECT version INTO before FROM close.days WHERE close_date = d - 1;
    SELECT c.places INTO decimals FROM positions.currency_on(d) c;
    SELECT string_agg(h.asset, ', ') INTO unpriced
    FROM (SELECT DISTINCT asset FROM positions.ledger_positions(d)) h
    WHERE NOT EXISTS (SELECT FROM market.mark_prices m WHERE m.close_date = d AND m.version = day.version AND m.asset = h.asset);
    IF unpriced IS NOT NULL THEN
        PERFORM close.refuse('CL031', format('%s has no closing mark for %s', d, unpriced), 'an asset is never valued at zero');
    END IF;
    ANALYZE positions.realized_pnl, positions.lots;
    INSERT INTO positions.restatements (close_date, version, user_id, asset, what, was)
    SELECT d, day.version, u.user_id, u.asset, x.what, x.was FROM positions.unrealized_pnl u
    CROSS JOIN LATERAL (VALUES ('unrealized', u.unrealized), ('value', u.value)) x (what, was)
    WHERE u.close_date = d AND u.version = day.version ON CONFLICT DO NOTHING;
    DELETE FROM positions.unrealized_pnl WHERE close_date = d AND version = day.version;
    INSERT INTO positions.unrealized_pnl (close_date, version, user_id, asset, quantity, cost, mark, value, unrealized, lots_date,
        lots_version)
    SELECT d, day.version, x.user_id, x.asset, x.quantity, x.cost, m.price, w.value, w.value - x.cost, x.lots_date, x.lots_version
    FROM (
        SELECT r.user_id, r.asset, r.quantity, r.cost, d AS lots_date, day.version AS lots_version FROM positions.realized_pnl r
        WHERE r.close_date = d AND r.version = day.version AND r.quantity <> 0
        UNION ALL
        SELECT u.user_id, u.asset, u.quantity, u.cost, u.lots_date, u.lots_version FROM positions.unrealized_pnl u
        WHERE u.close_date = d - 1 AND u.version = before AND NOT EXISTS (SELECT FROM positions.realized_pnl r
            WHERE r.close_date = d AND r.version = day.version AND r.user_id = u.user_id AND r.asset = u.asset)) x
    LEFT JOIN market.mark_prices m ON m.close_date = d AND m.version = day.version AND m.asset = x.asset
    CROSS JOIN LATERAL (SELECT round(x.quantity * m.price, decimals) AS value) w;
    GET DIAGNOSTICS written = ROW_COUNT;
    ANALYZE positions.unrealized_pnl;
    -- Booked again: what moved stays on record, what did not is none.
    IF EXISTS (SELECT FROM positions.restatements WHERE close_date = d AND version = day.version AND now IS NULL) THEN
        INSERT INTO positions.restatements (close_date, version, user_id, asset, what, was)
        SELECT d, day.version, f.user_id, f.asset, f.what, 0 FROM positions.figures(d, day.version) f ON CONFLICT DO NOTHING;
        UPDATE positions.restatements r SET at = clock_timestamp(), now = f.amount FROM positions.figures(d, day.version) f
        WHERE r.close_date = d AND r.version = day.version AND r.now IS NULL
            AND f.user_id = r.user_id AND f.asset = r.asset AND f.what = r.what;
        UPDATE positions.restatements r SET at = clock_timestamp(), now = 0
        WHERE r.close_date = d AND r.version = day.version AND r.now IS NULL;
        DELETE FROM positions.restatements r WHERE r.close_date = d AND r.version = day.version AND r.was = r.now;
    END IF;
    RETURN written;
END $$;

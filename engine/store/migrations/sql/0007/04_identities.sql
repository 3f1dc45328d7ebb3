-- The two identities, exactly: quantities per user and asset, values per user. Opening and closing are the ledger's, flows
-- come from its journals and the registry of trades; of what the kernel wrote, the identities take only gains.

-- What users bought, sold and paid in fees on a date, by asset.
CREATE FUNCTION positions.trade_flows(d date)
RETURNS TABLE (user_id bigint, asset text, bought numeric, sold numeric, fees numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT s.user_id, x.asset, sum(x.bought), sum(x.sold), sum(x.fees)
    FROM (
        SELECT t.market, x.user_id, sum(t.quantity) FILTER (WHERE x.buys) AS base_in, sum(t.quantity) FILTER (WHERE NOT x.buys) AS base_out,
            sum(t.quote_quantity) FILTER (WHERE NOT x.buys) AS quote_in, sum(t.quote_quantity) FILTER (WHERE x.buys) AS quote_out,
            sum(x.fee) AS fee
        FROM exchange.trades t
        CROSS JOIN LATERAL (VALUES (t.maker_id, t.taker_side = 'sell', t.maker_fee), (t.taker_id, t.taker_side = 'buy', t.taker_fee))
            x (user_id, buys, fee)
        WHERE t.close_date = d GROUP BY t.market, x.user_id) s
    JOIN exchange.markets m USING (market)
    CROSS JOIN LATERAL (VALUES (m.base, coalesce(s.base_in, 0), coalesce(s.base_out, 0), 0),
        (m.quote, coalesce(s.quote_in, 0), coalesce(s.quote_out, 0), s.fee)) x (asset, bought, sold, fees)
    GROUP BY s.user_id, x.asset
$$;

-- Opening + deposits - withdrawals + bought - sold - fees + rewards + adjustments, and what the ledger has at the end.
CREATE FUNCTION positions.quantity_lines(d date)
RETURNS TABLE (user_id bigint, asset text, opening numeric, bought numeric, sold numeric, fees numeric, deposited numeric,
    withdrawn numeric, rewarded numeric, adjusted numeric, closing numeric, moved boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT user_id, asset, sum(opening), sum(bought), sum(sold), sum(fees), sum(deposited), sum(withdrawn), sum(rewarded), sum(adjusted),
        sum(closing), bool_or(moved)
    FROM (
        SELECT user_id, asset, quantity AS opening, 0 AS bought, 0 AS sold, 0 AS fees, 0 AS deposited, 0 AS withdrawn, 0 AS rewarded,
            0 AS adjusted, 0 AS closing, false AS moved FROM positions.ledger_positions(d - 1)
        UNION ALL
        SELECT user_id, asset, 0, bought, sold, fees, 0, 0, 0, 0, 0, true FROM positions.trade_flows(d)
        UNION ALL
        SELECT user_id, asset, 0, 0, 0, 0, CASE WHEN term = 'deposit' THEN quantity ELSE 0 END,
            CASE WHEN term = 'withdrawal' THEN -quantity ELSE 0 END, CASE WHEN term = 'reward' THEN quantity ELSE 0 END,
            CASE WHEN term = 'adjustment' THEN quantity ELSE 0 END, 0, true FROM positions.transfer_flows(d)
        UNION ALL
        SELECT user_id, asset, 0, 0, 0, 0, 0, 0, 0, 0, quantity, false FROM positions.ledger_positions(d)) x
    GROUP BY user_id, asset
$$;

CREATE FUNCTION recon.gate_quantity_identity(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    currency text;
    positions_compared bigint;
    moves bigint;
    off_count bigint;
    off jsonb;
    rows_off bigint;
    differing jsonb;
    lots_off bigint;
    lots_shown jsonb;
BEGIN
    SELECT c.asset INTO currency FROM positions.currency_on(d) c;
    WITH lines AS MATERIALIZED (SELECT * FROM positions.quantity_lines(d)),
    off_lines AS (
        SELECT *, row_number() OVER (ORDER BY user_id, asset COLLATE "C") AS nth FROM (
            SELECT user_id, asset, opening + deposited - withdrawn + bought - sold - fees + rewarded + adjusted AS expected, closing
            FROM lines) x WHERE expected <> closing),
    off_rows AS (
        SELECT *, row_number() OVER (ORDER BY user_id, asset COLLATE "C") AS nth FROM (
            SELECT coalesce(l.user_id, r.user_id) AS user_id, coalesce(l.asset, r.asset) AS asset
            FROM (SELECT * FROM lines WHERE moved) l
            FULL JOIN (SELECT * FROM positions.realized_pnl WHERE close_date = d AND version = v) r
                ON r.user_id = l.user_id AND r.asset = l.asset
            WHERE (l.bought, l.sold, l.fees, l.deposited, l.withdrawn, l.rewarded, l.adjusted, l.closing) IS DISTINCT FROM
                (r.bought, r.sold, r.fees, r.deposited, r.withdrawn, r.rewarded, r.adjusted, r.quantity)) x)
    SELECT (SELECT count(*) FROM lines), (SELECT count(*) FROM lines WHERE moved), (SELECT count(*) FROM off_lines),
        (SELECT jsonb_agg(jsonb_build_object('user_id', user_id, 'asset', asset, 'expected', trim_scale(expected)::text,
            'ledger', trim_scale(closing)::text)) FROM off_lines WHERE nth <= 20),
        (SELECT count(*) FROM off_rows),
        (SELECT jsonb_agg(jsonb_build_object('user_id', user_id, 'asset', asset)) FROM off_rows WHERE nth <= 20)
    INTO positions_compared, moves, off_count, off, rows_off, differing;
    IF moves > 0 AND NOT EXISTS (SELECT FROM positions.realized_pnl WHERE close_date = d AND version = v) THEN
        RETURN ('unknown', jsonb_build_object('what', 'the lots of the day were not booked'))::recon.judgement;
    END IF;
    WITH off_lots AS (
        SELECT *, row_number() OVER (ORDER BY user_id, asset COLLATE "C") AS nth FROM (
            SELECT coalesce(l.user_id, r.user_id) AS user_id, coalesce(l.asset, r.asset) AS asset, r.quantity, l.quantity AS lots,
                r.cost, l.cost AS lots_cost
            FROM (SELECT user_id, asset, sum(quantity) AS quantity, sum(cost) AS cost FROM positions.lots
                  WHERE close_date = d AND version = v GROUP BY user_id, asset) l
            FULL JOIN (SELECT * FROM positions.realized_pnl WHERE close_date = d AND version = v AND asset <> currency) r
                ON r.user_id = l.user_id AND r.asset = l.asset
            WHERE coalesce(l.quantity, 0) IS DISTINCT FROM r.quantity OR coalesce(l.cost, 0) IS DISTINCT FROM r.cost) x)
    SELECT count(*), jsonb_agg(jsonb_build_object('user_id', user_id, 'asset', asset, 'quantity', trim_scale(quantity)::text,
        'lots', trim_scale(lots)::text, 'cost', trim_scale(cost)::text, 'lots_cost', trim_scale(lots_cost)::text)) FILTER (WHERE nth <= 20)
    INTO lots_off, lots_shown FROM off_lots;
    RETURN (CASE WHEN off_count = 0 AND rows_off = 0 AND lots_off = 0 THEN 'pass' ELSE 'fail' END,
        jsonb_build_object('positions', positions_compared, 'changed', moves, 'off', off_count, 'shown', coalesce(off, '[]'),
            'rows_not_of_flows', rows_off, 'such_rows', coalesce(differing, '[]'), 'lots_not_of_positions', lots_off,
            'such_lots', coalesce(lots_shown, '[]')))::recon.judgement;
END $$;

-- Every term of the value identity, per user. A fee is capitalised where the policy says so, unless a
-- sale brings less than it, or sells the reporting currency.
CREATE FUNCTION positions.value_lines(d date, v integer)
RETURNS TABLE (user_id bigint, opening numeric, deposits numeric, withdrawals numeric, realized numeric, unrealized_before numeric,
    unrealized numeric, fees numeric, rewards numeric, adjustments numeric, closing numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    WITH c AS MATERIALIZED (
        SELECT x.asset AS currency, x.places, coalesce(p.policy ->> 'fee_treatment', 'disposal') = 'capitalised' AS into_price,
            y.version AS before, y.genesis
        FROM positions.currency_on(d) x, close.policy_on(d) p, close.days y WHERE y.close_date = d - 1),
    marks_before AS MATERIALIZED (
        SELECT m.asset, m.price FROM market.mark_prices m, c WHERE m.close_date = d - 1 AND m.version = c.before AND NOT c.genesis
        UNION ALL
        SELECT u.asset, min(u.mark) FROM positions.unrealized_pnl u, c
        WHERE u.close_date = d - 1 AND u.version = c.before AND c.genesis GROUP BY u.asset),
    trade_fees AS (
        SELECT x.user_id, x.fee_value, c.into_price AND m.base <> c.currency AND x.fee_value > 0 AND (x.buys OR x.fee_value <= w.value)
            AS capitalised
        FROM exchange.trades t
        JOIN exchange.markets m USING (market)
        CROSS JOIN c
        LEFT JOIN positions.trade_values tv ON m.quote <> c.currency AND tv.close_date = d AND tv.version = v AND tv.trade_id = t.trade_id
        CROSS JOIN LATERAL (SELECT CASE WHEN m.quote = c.currency THEN t.quote_quantity ELSE tv.value END AS value) w
        CROSS JOIN LATERAL (VALUES
            (t.maker_id, t.taker_side = 'sell', CASE WHEN m.quote = c.currency THEN t.maker_fee ELSE tv.maker_fee_value END),
            (t.taker_id, t.taker_side = 'buy', CASE WHEN m.quote = c.currency THEN t.taker_fee ELSE tv.taker_fee_value END))
            x (user_id, buys, fee_value)
        WHERE t.close_date = d)
    SELECT user_id, sum(opening), sum(deposits), sum(withdrawals), sum(realized), sum(unrealized_before), sum(unrealized), sum(fees),
        sum(rewards), sum(adjustments), sum(closing)
    FROM (
        SELECT p.user_id, round(p.quantity * k.price, c.places) AS opening, 0 AS deposits, 0 AS withdrawals, 0 AS realized,
            0 AS unrealized_before, 0 AS unrealized, 0 AS fees, 0 AS rewards, 0 AS adjustments, 0 AS closing
        FROM positions.ledger_positions(d - 1) p CROSS JOIN c LEFT JOIN marks_before k USING (asset)
        UNION ALL
        SELECT p.user_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, round(p.quantity * m.price, c.places)
        FROM positions.ledger_positions(d) p CROSS JOIN c
        LEFT JOIN market.mark_prices m ON m.close_date = d AND m.version = v AND m.asset = p.asset
        UNION ALL
        SELECT t.user_id, 0, CASE WHEN t.term = 'deposit' THEN t.value ELSE 0 END, CASE WHEN t.term = 'withdrawal' THEN -t.value ELSE 0 END,
            0, 0, 0, 0, CASE WHEN t.term = 'reward' THEN t.value ELSE 0 END, CASE WHEN t.term = 'adjustment' THEN t.value ELSE 0 END, 0
        FROM positions.transfers t WHERE t.close_date = d AND t.version = v
        UNION ALL
        SELECT f.user_id, 0, 0, 0, 0, 0, 0, CASE WHEN f.capitalised THEN 0 ELSE f.fee_value END, 0, 0, 0 FROM trade_fees f
        UNION ALL
        SELECT r.user_id, 0, 0, 0, r.realized, 0, 0, 0, 0, 0, 0 FROM positions.realized_pnl r WHERE r.close_date = d AND r.version = v
        UNION ALL
        SELECT u.user_id, 0, 0, 0, 0, u.unrealized, 0, 0, 0, 0, 0 FROM positions.unrealized_pnl u, c
        WHERE u.close_date = d - 1 AND u.version = c.before
        UNION ALL
        SELECT u.user_id, 0, 0, 0, 0, 0, u.unrealized, 0, 0, 0, 0 FROM positions.unrealized_pnl u WHERE u.close_date = d AND u.version = v) x
    GROUP BY user_id
$$;

CREATE FUNCTION recon.gate_value_identity(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    currency text;
    decimals integer;
    users bigint;
    off_count bigint;
    off jsonb;
    unpriced bigint;
    rows_off bigint;
    transfers_off bigint;
BEGIN
    SELECT c.asset, c.places INTO currency, decimals FROM positions.currency_on(d) c;
    IF EXISTS (SELECT FROM positions.ledger_positions(d)) AND NOT EXISTS (
        SELECT FROM positions.unrealized_pnl WHERE close_date = d AND version = v) THEN
        RETURN ('unknown', jsonb_build_object('what', 'what is held was not valued'))::recon.judgement;
    END IF;
    SELECT count(*) INTO unpriced FROM (SELECT DISTINCT asset FROM positions.ledger_positions(d)) p
        WHERE NOT EXISTS (SELECT FROM market.mark_prices m WHERE m.close_date = d AND m.version = v AND m.asset = p.asset);
    IF unpriced > 0 THEN
        RETURN ('unknown', jsonb_build_object('what', 'assets held have no closing mark', 'assets', unpriced))::recon.judgement;
    END IF;
    WITH lines AS MATERIALIZED (SELECT * FROM positions.value_lines(d, v)),
    off_lines AS (
        SELECT *, row_number() OVER (ORDER BY user_id) AS nth FROM (
            SELECT user_id, opening + deposits - withdrawals + realized + unrealized - unrealized_before - fees + rewards + adjustments
                AS expected, closing FROM lines) x WHERE expected IS DISTINCT FROM closing)
    SELECT (SELECT count(*) FROM lines), (SELECT count(*) FROM off_lines),
        (SELECT jsonb_agg(jsonb_build_object('user_id', user_id, 'expected', trim_scale(expected)::text, 'value', trim_scale(closing)::text))
         FROM off_lines WHERE nth <= 20)
    INTO users, off_count, off;
    -- Each position's own row: the ledger's quantity, the closing mark, value and gain of them, the cost that lots have.
    SELECT count(*) INTO rows_off
    FROM positions.ledger_positions(d) p
    FULL JOIN (SELECT * FROM positions.unrealized_pnl WHERE close_date = d AND version = v) u USING (user_id, asset)
    LEFT JOIN market.mark_prices m ON m.close_date = d AND m.version = v AND m.asset = u.asset
    LEFT JOIN positions.realized_pnl r ON r.close_date = d AND r.version = v AND r.user_id = u.user_id AND r.asset = u.asset
    LEFT JOIN positions.unrealized_pnl b ON b.close_date = d - 1 AND b.user_id = u.user_id AND b.asset = u.asset
        AND b.version = (SELECT version FROM close.days WHERE close_date = d - 1)
    WHERE p.quantity IS DISTINCT FROM u.quantity OR u.mark IS DISTINCT FROM m.price
        OR u.value IS DISTINCT FROM round(u.quantity * m.price, decimals)
        OR u.cost IS DISTINCT FROM CASE WHEN r.user_id IS NOT NULL THEN r.cost ELSE b.cost END
        OR (u.lots_date, u.lots_version) IS DISTINCT FROM CASE WHEN r.user_id IS NOT NULL THEN (d, v) ELSE (b.lots_date, b.lots_version) END
        OR (u.asset = currency AND u.cost <> u.quantity);
    SELECT count(*) INTO transfers_off
    FROM positions.transfer_flows(d) f
    FULL JOIN (SELECT * FROM positions.transfers WHERE close_date = d AND version = v) t USING (user_id, asset, posting_no)
    WHERE (f.term, f.quantity) IS DISTINCT FROM (t.term, t.quantity) OR t.value IS DISTINCT FROM round(t.quantity * t.mark, decimals);
    RETURN (CASE WHEN off_count = 0 AND rows_off = 0 AND transfers_off = 0 THEN 'pass' ELSE 'fail' END,
        jsonb_build_object('users', users, 'off', off_count, 'shown', coalesce(off, '[]'), 'rows_not_of_positions', rows_off,
            'transfers_not_of_journals', transfers_off))::recon.judgement;
END $$;

INSERT INTO recon.known_gates (gate, late) VALUES ('quantity_identity', false), ('value_identity', false);

-- What moved in a date's P&L between two versions, by user and asset.
CREATE FUNCTION positions.version_differences(d date, old integer, new integer)
RETURNS TABLE (user_id bigint, asset text, what text, was numeric, now numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT user_id, asset, x.what, x.was, x.now
    FROM (SELECT * FROM positions.realized_pnl WHERE close_date = d AND version = old) a
    FULL JOIN (SELECT * FROM positions.realized_pnl WHERE close_date = d AND version = new) b USING (user_id, asset)
    CROSS JOIN LATERAL (VALUES ('realized', a.realized, b.realized), ('trading_pnl', a.trading_pnl, b.trading_pnl),
        ('fees_value', a.fees_value, b.fees_value)) x (what, was, now)
    WHERE coalesce(x.was, 0) <> coalesce(x.now, 0)
    UNION ALL
    SELECT user_id, asset, x.what, x.was, x.now
    FROM (SELECT * FROM positions.unrealized_pnl WHERE close_date = d AND version = old) a
    FULL JOIN (SELECT * FROM positions.unrealized_pnl WHERE close_date = d AND version = new) b USING (user_id, asset)
    CROSS JOIN LATERAL (VALUES ('cost', a.cost, b.cost), ('mark', a.mark, b.mark), ('unrealized', a.unrealized, b.unrealized))
        x (what, was, now)
    WHERE coalesce(x.was, 0) <> coalesce(x.now, 0)
    ORDER BY 1, 2, 3
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON positions.opening_lots
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA positions FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION recon.gate_quantity_identity(date, integer), recon.gate_value_identity(date, integer) FROM PUBLIC;
GRANT SELECT ON positions.opening_lots, positions.restatements, positions.lots, positions.transfers, positions.trade_values, positions.realized_pnl,
    positions.unrealized_pnl TO compline_app, compline_dbt;
GRANT INSERT ON positions.opening_lots, positions.lots, positions.realized_pnl TO compline_app;
GRANT EXECUTE ON FUNCTION positions.begin_lots(date, bigint), positions.opening(date, bigint[], text[]),
    positions.write_unrealized_pnl(date, bigint), positions.currency_on(date), positions.quantity_lines(date),
    positions.value_lines(date, integer), positions.version_differences(date, integer, integer) TO compline_app;

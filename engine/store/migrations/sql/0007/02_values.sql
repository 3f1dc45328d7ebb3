-- What each event is worth: once, rounded to the reporting currency's smallest unit, and used on both sides of it.

-- The reporting currency of a date and its decimals.
CREATE FUNCTION positions.currency_on(d date, OUT asset text, OUT places integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.asset, a.decimals FROM close.policy_on(d) p JOIN exchange.assets a ON a.asset = p.policy ->> 'reporting_currency'
$$;

-- The mark of an asset at an event of close date d; null where it has none. An asset that had no tick of any source yet
-- takes its first of that date, unless the policy refuses that: what arrives before anyone has traded it is worth what it
-- first traded at. A tick that is there and too old is never replaced.
CREATE FUNCTION positions.event_mark(d date, asset text, at timestamptz, seq bigint) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found numeric := market.mark_at(event_mark.asset, event_mark.at, event_mark.seq);
    in_force jsonb;
    barrier bigint;
    cut timestamptz;
    one text;
BEGIN
    IF found IS NOT NULL THEN RETURN found; END IF;
    SELECT p.policy INTO in_force FROM close.policy_on(d) p;
    SELECT y.barrier_seq, y.cutoff_at INTO barrier, cut FROM close.days y WHERE y.close_date = d;
    IF coalesce(in_force ->> 'unpriced_basis', 'first_mark') <> 'first_mark' THEN RETURN NULL; END IF;
    FOR one IN SELECT jsonb_array_elements_text(coalesce(in_force -> 'mark_sources', '["last_trade"]')) LOOP
        IF EXISTS (SELECT FROM market.tick_at(event_mark.asset, event_mark.at, event_mark.seq, one)) THEN RETURN NULL; END IF;
    END LOOP;
    FOR one IN SELECT jsonb_array_elements_text(coalesce(in_force -> 'mark_sources', '["last_trade"]')) LOOP
        IF one = 'last_trade' THEN
            SELECT x.price INTO found FROM exchange.markets m
                CROSS JOIN LATERAL (SELECT t.price, t.effective_at, t.engine_seq, t.fill_index FROM exchange.trades t
                    WHERE t.market = m.market AND t.effective_at <= cut AND t.engine_seq <= barrier AND t.close_date = d
                    ORDER BY t.effective_at, t.engine_seq, t.fill_index LIMIT 1) x
                WHERE m.base = event_mark.asset AND m.quote = in_force ->> 'reporting_currency'
                ORDER BY x.effective_at, x.engine_seq, x.fill_index LIMIT 1;
        ELSE
            SELECT t.price INTO found FROM market.mark_ticks t
                WHERE t.asset = event_mark.asset AND t.source = one AND t.at > event_mark.at AND t.at <= cut ORDER BY t.at LIMIT 1;
        END IF;
        IF found IS NOT NULL THEN RETURN found; END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- Deposits, confirmed withdrawals, rewards and adjustments of a date, as the ledger's journals have them. What stays with
-- its user (requested and failed withdrawals, stakes) sums to zero and is none.
CREATE FUNCTION positions.transfer_flows(d date)
RETURNS TABLE (user_id bigint, asset text, engine_seq bigint, posting_no bigint, effective_at timestamptz, term text, quantity numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT a.user_id, a.asset, max(j.engine_seq), j.posting_no, max(j.effective_at),
        CASE WHEN j.kind LIKE 'deposit%' THEN 'deposit' WHEN j.kind LIKE 'withdrawal%' THEN 'withdrawal'
             WHEN j.kind = 'reward' THEN 'reward' ELSE 'adjustment' END, sum(e.amount)
    FROM ledger.journals j
    JOIN ledger.ledger_entries e ON e.posting_no = j.posting_no AND e.close_date = d
    JOIN ledger.accounts a ON a.account_id = e.account_id AND a.liability_class IN ('customer', 'affiliate')
    WHERE j.close_date = d AND j.kind NOT IN ('trade', 'opening_balance') AND j.origin <> 'close'
    GROUP BY a.user_id, a.asset, j.posting_no, j.kind HAVING sum(e.amount) <> 0
$$;

-- The date's events with their values, in place of what was there.
CREATE FUNCTION positions.write_values(d date, v integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    currency text;
    decimals integer;
    basis text;
    unpriced text;
BEGIN
    SELECT c.asset, c.places INTO currency, decimals FROM positions.currency_on(d) c;
    SELECT coalesce(p.policy ->> 'deposit_basis', 'mark_at_arrival') INTO basis FROM close.policy_on(d) p;
    DELETE FROM positions.transfers WHERE close_date = d AND version = v;
    DELETE FROM positions.trade_values WHERE close_date = d AND version = v;
    BEGIN
        INSERT INTO positions.transfers (close_date, version, user_id, asset, engine_seq, posting_no, term, quantity, mark, value)
        SELECT d, v, f.user_id, f.asset, f.engine_seq, f.posting_no, f.term, f.quantity, m.mark, round(f.quantity * m.mark, decimals)
        FROM positions.transfer_flows(d) f
        CROSS JOIN LATERAL (SELECT CASE WHEN f.asset = currency THEN 1
            WHEN f.term = 'deposit' AND f.quantity > 0 AND basis = 'closing_mark' THEN
                (SELECT k.price FROM market.mark_prices k WHERE k.close_date = d AND k.version = v AND k.asset = f.asset)
            ELSE positions.event_mark(d, f.asset, f.effective_at, f.engine_seq) END AS mark) m;
        INSERT INTO positions.trade_values (close_date, version, trade_id, mark, value, maker_fee_value, taker_fee_value)
        SELECT d, v, t.trade_id, p.mark, CASE WHEN m.base = currency THEN t.quantity ELSE round(t.quote_quantity * p.mark, decimals) END,
            round(t.maker_fee * p.mark, decimals),
            round(t.taker_fee * p.mark, decimals)
        FROM exchange.markets m
        JOIN exchange.trades t ON t.market = m.market AND t.close_date = d
        CROSS JOIN LATERAL (SELECT positions.event_mark(d, m.quote, t.effective_at, t.engine_seq) AS mark) p
        WHERE m.quote <> currency;
    EXCEPTION WHEN not_null_violation THEN
        SELECT string_agg(DISTINCT x.asset, ', ') INTO unpriced FROM (
            SELECT f.asset FROM positions.transfer_flows(d) f WHERE f.asset <> currency
                AND positions.event_mark(d, f.asset, f.effective_at, f.engine_seq) IS NULL
            UNION ALL
            SELECT m.quote FROM exchange.markets m JOIN exchange.trades t ON t.market = m.market AND t.close_date = d
            WHERE m.quote <> currency AND positions.event_mark(d, m.quote, t.effective_at, t.engine_seq) IS NULL) x;
        PERFORM close.refuse('CL031', format('%s has events in %s with no fresh mark at their time', d, unpriced),
            'docs/runbooks/value_identity.md: nothing is valued at zero');
    END;
END $$;

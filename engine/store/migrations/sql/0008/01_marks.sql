-- Prices at event time. An internal trade against the reporting currency is a tick by itself, read where it stands in
-- exchange.trades; what other sources say stands in market.mark_ticks.

-- Lets the last tick of an asset and source be found without reading the others.
CREATE INDEX mark_ticks_last ON market.mark_ticks (asset, source, at);

-- The last tick of an asset at or before an instant: price, source and time; no row where there is none.
-- seq, where given, leaves out trades sequenced after it, so that a print which came late changes no earlier event.
CREATE FUNCTION market.tick_at(asset text, at timestamptz, seq bigint DEFAULT NULL, source text DEFAULT 'last_trade')
RETURNS TABLE (price numeric, tick_source text, tick_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE currency text;
BEGIN
    IF tick_at.source <> 'last_trade' THEN
        RETURN QUERY SELECT t.price, t.source, t.at FROM market.mark_ticks t
            WHERE t.asset = tick_at.asset AND t.source = tick_at.source AND t.at <= tick_at.at ORDER BY t.at DESC LIMIT 1;
        RETURN;
    END IF;
    SELECT p.policy ->> 'reporting_currency' INTO currency FROM close.policy_on((tick_at.at AT TIME ZONE 'UTC')::date) p;
    RETURN QUERY SELECT x.price::numeric, 'last_trade:' || m.market, x.effective_at FROM exchange.markets m
        CROSS JOIN LATERAL (SELECT t.price, t.effective_at, t.engine_seq, t.fill_index FROM exchange.trades t
            WHERE t.market = m.market AND t.effective_at <= tick_at.at AND (tick_at.seq IS NULL OR t.engine_seq <= tick_at.seq)
            ORDER BY t.effective_at DESC, t.engine_seq DESC, t.fill_index DESC LIMIT 1) x
        WHERE m.base = tick_at.asset AND m.quote = currency
        ORDER BY x.effective_at DESC, x.engine_seq DESC, x.fill_index DESC LIMIT 1;
END $$;

-- The price of one asset in the reporting currency at an event: of the first source that the policy names and that is not
-- older than the policy allows. Null where there is none: the caller names the asset and stops, it never takes zero.
-- The last trade is looked up here and not through market.tick_at: it is asked for once a trade.
CREATE FUNCTION market.mark_at(asset text, at timestamptz, seq bigint DEFAULT NULL) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    in_force jsonb;
    currency text;
    known numeric;
    oldest timestamptz;
    one text;
BEGIN
    SELECT p.policy INTO in_force FROM close.policies p
    WHERE p.effective_from <= (mark_at.at AT TIME ZONE 'UTC')::date ORDER BY p.effective_from DESC LIMIT 1;
    currency := in_force ->> 'reporting_currency';
    IF mark_at.asset = currency THEN RETURN 1; END IF;
    oldest := mark_at.at - make_interval(secs => (in_force ->> 'mark_max_age_s')::integer);
    FOREACH one IN ARRAY CASE WHEN in_force ? 'mark_sources'
        THEN ARRAY(SELECT jsonb_array_elements_text(in_force -> 'mark_sources')) ELSE '{last_trade}'::text[] END LOOP
        IF one = 'last_trade' THEN
            SELECT x.price INTO known FROM exchange.markets m
            CROSS JOIN LATERAL (SELECT t.price, t.effective_at, t.engine_seq, t.fill_index FROM exchange.trades t
                WHERE t.market = m.market AND t.effective_at <= mark_at.at AND t.effective_at >= oldest
                  AND (mark_at.seq IS NULL OR t.engine_seq <= mark_at.seq)
                ORDER BY t.effective_at DESC, t.engine_seq DESC, t.fill_index DESC LIMIT 1) x
            WHERE m.base = mark_at.asset AND m.quote = currency
            ORDER BY x.effective_at DESC, x.engine_seq DESC, x.fill_index DESC LIMIT 1;
        ELSE
            SELECT t.price INTO known FROM market.mark_ticks t
            WHERE t.asset = mark_at.asset AND t.source = one AND t.at <= mark_at.at AND t.at >= oldest ORDER BY t.at DESC LIMIT 1;
        END IF;
        IF known IS NOT NULL THEN RETURN known; END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- The same, where there must be one: what cannot be converted stops the caller by name.
CREATE FUNCTION market.require_mark(asset text, at timestamptz, seq bigint DEFAULT NULL) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE price numeric := market.mark_at(asset, at, seq);
BEGIN
    IF price IS NULL THEN
        PERFORM close.refuse('CL035', format('%s has no fresh price at %s (sequence %s)', asset, close.iso_us(at), coalesce(seq::text, 'any')),
            'nothing is converted at zero: see docs/runbooks/marks_fresh.md');
    END IF;
    RETURN price;
END $$;

REVOKE EXECUTE ON FUNCTION market.tick_at(text, timestamptz, bigint, text), market.mark_at(text, timestamptz, bigint),
    market.require_mark(text, timestamptz, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION market.tick_at(text, timestamptz, bigint, text), market.mark_at(text, timestamptz, bigint),
    market.require_mark(text, timestamptz, bigint) TO compline_app;

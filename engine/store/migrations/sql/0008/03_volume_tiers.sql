-- 30-day volume at event-time marks, and the fee tiers that it earns.

-- What a policy says of tiers must be a schedule: from 0 on, ascending, so that a volume is in one tier.
CREATE FUNCTION close.tiers_ascend(tiers jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(bool_and(jsonb_typeof(t.tier) = 'array' AND jsonb_array_length(t.tier) = 3
        AND CASE WHEN t.n = 1 THEN (t.tier ->> 0)::numeric = 0 ELSE (t.tier ->> 0)::numeric > (t.before ->> 0)::numeric END), true)
    FROM (SELECT tier, n, lag(tier) OVER (ORDER BY n) AS before
          FROM jsonb_array_elements(coalesce(tiers, '[]')) WITH ORDINALITY x (tier, n)) t
$$;
ALTER TABLE close.policies ADD CONSTRAINT policies_tiers_ascend CHECK (close.tiers_ascend(policy -> 'fee_tiers'));

ALTER TABLE positions.volume_30d ADD COLUMN tier integer NOT NULL DEFAULT 0 CHECK (tier >= 0);
COMMENT ON TABLE positions.volume_30d IS 'One row per user and close date: volume of the day and of the 30 close dates that end with it, in the reporting currency at trade-time marks, and the fee tier that it reaches; a user without a row is in tier 0.';

CREATE TABLE positions.user_tiers (
    user_id     bigint PRIMARY KEY REFERENCES accounts.users,
    tier        integer NOT NULL CHECK (tier >= 0),
    close_date  date NOT NULL,
    request_key text NOT NULL
);
COMMENT ON TABLE positions.user_tiers IS 'One row per user whose fee tier a close has changed: the tier last asked of the engine, by which day''s close, and under which request. When it began to apply stands in exchange.user_tiers.';

CREATE TABLE positions.tier_rates (
    tier           integer PRIMARY KEY CHECK (tier >= 0),
    maker_rate_ppm integer NOT NULL,
    taker_rate_ppm integer NOT NULL,
    close_date     date NOT NULL,
    request_key    text NOT NULL
);
COMMENT ON TABLE positions.tier_rates IS 'One row per fee tier: the rates last asked of the engine, by which day''s close, and under which request.';

-- Yesterday's window, plus today, minus the day that falls out of it: a day costs a day.
CREATE OR REPLACE FUNCTION positions.write_volume_30d(d date, e bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    currency text;
    places integer;
    thresholds numeric[];
    written bigint;
BEGIN
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') THEN
        PERFORM close.refuse('CL002', format('%s is not being closed: its volumes stay', d));
    END IF;
    SELECT a.asset, a.decimals, (SELECT array_agg((t.tier ->> 0)::numeric ORDER BY t.n)
        FROM jsonb_array_elements(p.policy -> 'fee_tiers') WITH ORDINALITY t (tier, n))
    INTO currency, places, thresholds FROM close.policy_on(d) p
        JOIN exchange.assets a ON a.asset = p.policy ->> 'reporting_currency';
    DELETE FROM positions.volume_30d WHERE close_date = d AND version = day.version;
    -- Materialized: each trade is valued once, not once a user and sum.
    WITH valued AS MATERIALIZED (
        SELECT t.maker_id, t.taker_id, round(t.quote_quantity * CASE WHEN m.quote = currency THEN 1
            ELSE market.require_mark(m.quote, t.effective_at, t.engine_seq) END, places) AS value
        FROM exchange.trades t JOIN exchange.markets m USING (market) WHERE t.close_date = d),
    today AS MATERIALIZED (
        SELECT x.user_id, sum(v.value) AS value FROM valued v
        CROSS JOIN LATERAL (VALUES (v.maker_id), (v.taker_id)) x (user_id) GROUP BY x.user_id)
    INSERT INTO positions.volume_30d (close_date, version, user_id, day_volume, volume, tier)
    SELECT d, day.version, user_id, sum(today), sum(total), coalesce(width_bucket(sum(total), thresholds) - 1, 0)
    FROM (
        SELECT y.user_id, y.value AS today, y.value AS total FROM today y
        UNION ALL
        SELECT w.user_id, 0, w.volume FROM positions.volume_30d w JOIN close.days y USING (close_date, version) WHERE w.close_date = d - 1
        UNION ALL
        SELECT w.user_id, 0, -w.day_volume FROM positions.volume_30d w JOIN close.days y USING (close_date, version) WHERE w.close_date = d - 30
        UNION ALL
        SELECT o.user_id, 0, o.volume FROM positions.opening_volumes o JOIN close.book b ON b.first_day = d
        UNION ALL
        SELECT o.user_id, 0, -o.volume FROM positions.opening_volumes o WHERE o.close_date = d - 30
    ) parts
    GROUP BY user_id HAVING sum(total) <> 0 ORDER BY user_id;
    GET DIAGNOSTICS written = ROW_COUNT;
    ANALYZE positions.volume_30d;
    RETURN written;
END $$;

-- Ask the engine for what a day's tiers change: the rates of tiers and the users whose tier is another one, as one command that
-- applies whole at its own sequence. In the transaction of the day's volumes, once; a day that a later one has overtaken asks
-- for nothing. What was asked for and refused is asked for again.
CREATE FUNCTION positions.ask_for_tiers(d date, e bigint) RETURNS TABLE (rates bigint, users bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    schedule jsonb;
    label text := concat('tiers:', to_char(d, 'YYYY-MM-DD'), ':');
    refused text[];
    key text;
    number bigint;
BEGIN
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    SELECT p.policy -> 'fee_tiers' INTO schedule FROM close.policy_on(d) p;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') OR jsonb_array_length(coalesce(schedule, '[]')) = 0
        OR EXISTS (SELECT FROM positions.volume_30d w JOIN close.days y USING (close_date, version) WHERE w.close_date > d) THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;
    LOCK TABLE positions.user_tiers, positions.tier_rates IN SHARE ROW EXCLUSIVE MODE;
    SELECT label || 1 + count(*) INTO key FROM exchange.tier_batches b WHERE starts_with(b.request_key, label);
    SELECT coalesce(array_agg(r.request_key), '{}') INTO refused FROM exchange.command_requests r
    WHERE r.kind = 'set_tiers' AND r.outcome NOT IN ('accepted', 'duplicate_reference');
    INSERT INTO positions.tier_rates AS r (tier, maker_rate_ppm, taker_rate_ppm, close_date, request_key)
    SELECT t.n - 1, (t.tier ->> 1)::integer, (t.tier ->> 2)::integer, d, key
    FROM jsonb_array_elements(schedule) WITH ORDINALITY t (tier, n) ORDER BY t.n
    ON CONFLICT (tier) DO UPDATE SET maker_rate_ppm = excluded.maker_rate_ppm, taker_rate_ppm = excluded.taker_rate_ppm,
        close_date = d, request_key = key
    WHERE (r.maker_rate_ppm, r.taker_rate_ppm) IS DISTINCT FROM (excluded.maker_rate_ppm, excluded.taker_rate_ppm)
        OR r.request_key = ANY (refused);
    GET DIAGNOSTICS rates = ROW_COUNT;
    INSERT INTO positions.user_tiers AS r (user_id, tier, close_date, request_key)
    SELECT user_id, coalesce(w.tier, 0), d, key
    FROM (SELECT user_id, tier FROM positions.volume_30d WHERE close_date = d AND version = day.version) w
    FULL JOIN positions.user_tiers t USING (user_id)
    WHERE coalesce(w.tier, 0) <> coalesce(t.tier, 0) OR t.request_key = ANY (refused)
    ON CONFLICT (user_id) DO UPDATE SET tier = excluded.tier, close_date = d, request_key = key;
    GET DIAGNOSTICS users = ROW_COUNT;
    IF rates + users > 0 THEN
        INSERT INTO exchange.tier_batches (request_key) VALUES (key) RETURNING batch INTO number;
        INSERT INTO exchange.tier_batch_rates (batch, tier, maker_rate_ppm, taker_rate_ppm)
        SELECT number, r.tier, r.maker_rate_ppm, r.taker_rate_ppm FROM positions.tier_rates r WHERE r.request_key = key;
        INSERT INTO exchange.tier_batch_users (batch, user_id, tier)
        SELECT number, u.user_id, u.tier FROM positions.user_tiers u WHERE u.request_key = key ORDER BY u.user_id;
        PERFORM exchange.request_tiers(number);
    END IF;
    RETURN NEXT;
END $$;

REVOKE EXECUTE ON FUNCTION close.tiers_ascend(jsonb), positions.ask_for_tiers(date, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION positions.ask_for_tiers(date, bigint) TO compline_app;
GRANT SELECT ON positions.user_tiers, positions.tier_rates TO compline_app, compline_dbt;

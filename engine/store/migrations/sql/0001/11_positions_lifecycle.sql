-- Positions and lifecycle in their first form: the 30-day volume, and hits on a sanctions list.

CREATE TABLE positions.volume_30d (
    close_date date NOT NULL,
    version    integer NOT NULL,
    user_id    bigint NOT NULL REFERENCES accounts.users,
    day_volume numeric(38, 18) NOT NULL CHECK (day_volume >= 0),
    volume     numeric(38, 18) NOT NULL CHECK (volume >= day_volume),
    PRIMARY KEY (close_date, version, user_id)
);
COMMENT ON TABLE positions.volume_30d IS 'One row per user and close date: volume of the day and of the 30 close dates that end with it, in the reporting currency at trade-time marks.';

-- Yesterday's window, plus today, minus the day that falls out of it: a day costs a day.
CREATE FUNCTION positions.write_volume_30d(d date, e bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    currency text;
    places integer;
    unpriced text;
    written bigint;
BEGIN
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') THEN
        PERFORM close.refuse('CL002', format('%s is not being closed: its volumes stay', d));
    END IF;
    SELECT a.asset, a.decimals INTO currency, places FROM close.policy_on(d) p
        JOIN exchange.assets a ON a.asset = p.policy ->> 'reporting_currency';
    SELECT string_agg(q.quote, ', ') INTO unpriced
    FROM (SELECT m.quote, min(t.effective_at) AS first_at FROM exchange.trades t JOIN exchange.markets m USING (market)
          WHERE t.close_date = d AND m.quote <> currency GROUP BY m.quote) q
    WHERE NOT EXISTS (
        SELECT FROM exchange.markets k
        CROSS JOIN LATERAL (SELECT b.effective_at FROM exchange.trades b WHERE b.market = k.market
            ORDER BY b.effective_at LIMIT 1) f
        WHERE k.market = (SELECT min(x.market) FROM exchange.markets x WHERE x.base = q.quote AND x.quote = currency)
          AND f.effective_at <= q.first_at);
    IF unpriced IS NOT NULL THEN
        PERFORM close.refuse('CL010', format('%s has trades quoted in %s before it had a price in %s', d, unpriced, currency),
            'nothing is converted at zero');
    END IF;
    DELETE FROM positions.volume_30d WHERE close_date = d AND version = day.version;
    INSERT INTO positions.volume_30d (close_date, version, user_id, day_volume, volume)
    SELECT d, day.version, user_id, sum(today), sum(total)
    FROM (
        SELECT x.user_id, v.value AS today, v.value AS total
        FROM exchange.trades t
        JOIN exchange.markets m USING (market)
        LEFT JOIN LATERAL (
            SELECT b.price FROM exchange.trades b
            WHERE b.market = (SELECT min(k.market) FROM exchange.markets k
                              WHERE m.quote <> currency AND k.base = m.quote AND k.quote = currency)
              AND b.effective_at <= t.effective_at AND b.engine_seq <= day.barrier_seq
            ORDER BY b.effective_at DESC, b.engine_seq DESC, b.fill_index DESC LIMIT 1) p ON true
        CROSS JOIN LATERAL (SELECT round(t.quote_quantity * CASE WHEN m.quote = currency THEN 1 ELSE p.price END, places) AS value) v
        CROSS JOIN LATERAL (VALUES (t.maker_id), (t.taker_id)) x (user_id)
        WHERE t.close_date = d
        UNION ALL
        SELECT w.user_id, 0, w.volume FROM positions.volume_30d w JOIN close.days y USING (close_date, version) WHERE w.close_date = d - 1
        UNION ALL
        SELECT w.user_id, 0, -w.day_volume FROM positions.volume_30d w JOIN close.days y USING (close_date, version) WHERE w.close_date = d - 30
    ) parts
    GROUP BY user_id HAVING sum(total) <> 0;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;

CREATE TABLE accounts.screening_hits (
    close_date   date NOT NULL,
    user_id      bigint NOT NULL REFERENCES accounts.users,
    list_version text NOT NULL,
    entry        text NOT NULL,
    hold_id      bigint NOT NULL REFERENCES accounts.holds,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, list_version, entry)
);
COMMENT ON TABLE accounts.screening_hits IS 'One row per user and entry of a list version: the hit, and the hold it opened; append-only.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.screening_hits
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Every user whose account stands on a list gets a sanctions hold, with the list's version as authority; returns new hits.
CREATE FUNCTION accounts.screen(d date, e bigint, version text, entries text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE written bigint;
BEGIN
    PERFORM close.fence(d, e);
    INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)
    SELECT u.user_id, 'sanctions', 'list ' || version, 'account stands on a sanctions list', 'screening'
    FROM accounts.users u WHERE u.account = ANY (entries)
    ON CONFLICT (user_id, kind, reference) DO NOTHING;
    INSERT INTO accounts.screening_hits (close_date, user_id, list_version, entry, hold_id)
    SELECT d, u.user_id, version, u.account, h.hold_id
    FROM accounts.users u
    JOIN accounts.holds h ON h.user_id = u.user_id AND h.kind = 'sanctions' AND h.reference = 'list ' || version
    WHERE u.account = ANY (entries)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA positions, accounts FROM PUBLIC;
GRANT SELECT ON positions.volume_30d, accounts.screening_hits TO compline_app;
GRANT SELECT ON positions.volume_30d TO compline_dbt;
GRANT EXECUTE ON FUNCTION positions.write_volume_30d(date, bigint), accounts.screen(date, bigint, text, text[]) TO compline_app;

-- What a closing index price was made of, and ticks that cannot lie in the future.

CREATE TABLE market.index_constituents (
    close_date date NOT NULL,
    version    integer NOT NULL,
    asset      text NOT NULL REFERENCES exchange.assets,
    venue      text NOT NULL CHECK (venue ~ '^[!-~]{1,64}$'),
    reading_id bigint NOT NULL REFERENCES capture.readings,
    price      numeric(38, 18) NOT NULL CHECK (price > 0 AND price < 'NaN'),
    counted    numeric(38, 18) NOT NULL CHECK (counted > 0 AND counted < 'NaN'),
    weight     integer NOT NULL CHECK (weight > 0),
    PRIMARY KEY (close_date, version, asset, venue)
);
COMMENT ON TABLE market.index_constituents IS 'One row per asset, close date and venue of a closing index price: the stored reading, its price, and the price that counted within the band.';
CREATE TRIGGER capture_guard AFTER INSERT ON market.index_constituents
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();

CREATE INDEX readings_of_venues ON capture.readings (subject, at);

CREATE FUNCTION market.guard_ticks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE bad record;
BEGIN
    SELECT n.asset, n.at, n.source INTO bad FROM n WHERE n.at > clock_timestamp() + interval '5 seconds' LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL037', format('a tick of %s from %s is of %s, which has not come', bad.asset, bad.source, close.iso_us(bad.at)),
            'correct the time at its source');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER INSERT ON market.mark_ticks
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION market.guard_ticks();

CREATE OR REPLACE FUNCTION close.replace_mark_prices(d date, e bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT close.void_books_hash(d, e);
    DELETE FROM market.mark_prices b USING close.days y
    WHERE y.close_date = d AND b.close_date = d AND b.version = y.version;
    DELETE FROM market.index_constituents b USING close.days y
    WHERE y.close_date = d AND b.close_date = d AND b.version = y.version
$$;

-- The readings that closing index prices were made of belong to the books, like those of custody and chain.
CREATE OR REPLACE FUNCTION close.books_digests(d date)
RETURNS TABLE (journals text, balances text, marks text, readings text, engine_balances text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT
        (SELECT encode(sha256(coalesce(string_agg(j.row_hash, ''::bytea ORDER BY j.row_hash), ''::bytea)), 'hex')
         FROM ledger.journals j WHERE j.close_date = d),
        (SELECT close.table_digest(array_agg(close.row_hash(a.account, a.asset, trunc(b.balance * s.scale)::text)))
         FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id) JOIN exchange.assets s ON s.asset = a.asset
         WHERE b.close_date = d AND b.version = y.version),
        (SELECT close.table_digest(array_agg(close.row_hash(m.asset, trim_scale(m.price)::text, m.source, close.iso_us(m.at))))
         FROM market.mark_prices m WHERE m.close_date = d AND m.version = y.version),
        (SELECT close.table_digest(array_agg(close.row_hash(r.source, r.subject, close.iso_us(r.at), r.sha256)))
         FROM capture.readings r WHERE r.reading_id IN (
            SELECT reading_id FROM custody.wallet_balances WHERE close_date = d AND version = y.version
            UNION SELECT reading_id FROM chain.staking_totals WHERE close_date = d AND version = y.version
            UNION SELECT reading_id FROM market.index_constituents WHERE close_date = d AND version = y.version)),
        (SELECT close.table_digest(array_agg(close.row_hash(b.account, b.asset, trunc(b.available * s.scale)::text,
            trunc(b.locked * s.scale)::text, trunc(b.staked * s.scale)::text, trunc(b.in_transit * s.scale)::text)))
         FROM exchange.engine_balances b JOIN exchange.assets s ON s.asset = b.asset
         WHERE b.close_date = d AND b.version = y.version)
    FROM close.days y WHERE y.close_date = d
$$;

REVOKE EXECUTE ON FUNCTION market.guard_ticks() FROM PUBLIC;
GRANT SELECT ON market.index_constituents TO compline_app, compline_dbt;
GRANT INSERT ON market.index_constituents TO compline_app;

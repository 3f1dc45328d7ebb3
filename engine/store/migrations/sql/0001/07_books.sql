-- Control totals and the books hash: what the day's books are, in 32 bytes.

-- Yesterday's balances plus today's legs, then the trial balance by class; replaces the day's rows, costs a day.
CREATE FUNCTION ledger.write_control_totals(d date, e bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    v integer;
    before integer;
    written bigint;
BEGIN
    PERFORM close.void_books_hash(d, e);
    -- A day's rows arrive at once: without fresh statistics the planner expects one row and joins by nested loop.
    ANALYZE exchange.engine_balances, market.mark_prices;
    SELECT version INTO v FROM close.days WHERE close_date = d;
    SELECT version INTO before FROM close.days WHERE close_date = d - 1;
    DELETE FROM ledger.daily_balances WHERE close_date = d AND version = v;
    DELETE FROM ledger.control_totals WHERE close_date = d AND version = v;
    INSERT INTO ledger.daily_balances (close_date, version, account_id, balance)
    SELECT d, v, account_id, sum(amount) FROM (
        SELECT account_id, balance AS amount FROM ledger.daily_balances WHERE close_date = d - 1 AND version = before
        UNION ALL
        SELECT account_id, sum(amount) FROM ledger.ledger_entries WHERE close_date = d GROUP BY account_id) x
    GROUP BY account_id HAVING sum(amount) <> 0;
    ANALYZE ledger.daily_balances;
    INSERT INTO ledger.control_totals (close_date, version, asset, liability_class, opening, debits, credits, closing, accounts)
    SELECT d, v, a.asset, a.liability_class, sum(x.opening), sum(x.debits), sum(x.credits), sum(x.closing),
        count(*) FILTER (WHERE x.closing <> 0)
    FROM (
        SELECT account_id, sum(opening) AS opening, sum(debits) AS debits, sum(credits) AS credits, sum(closing) AS closing FROM (
            SELECT account_id, balance AS opening, 0 AS debits, 0 AS credits, 0 AS closing
            FROM ledger.daily_balances WHERE close_date = d - 1 AND version = before
            UNION ALL
            SELECT account_id, 0, coalesce(-sum(amount) FILTER (WHERE amount < 0), 0), coalesce(sum(amount) FILTER (WHERE amount > 0), 0), 0
            FROM ledger.ledger_entries WHERE close_date = d GROUP BY account_id
            UNION ALL
            SELECT account_id, 0, 0, 0, balance FROM ledger.daily_balances WHERE close_date = d AND version = v) y
        GROUP BY account_id) x
    JOIN ledger.accounts a USING (account_id)
    GROUP BY a.asset, a.liability_class;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;

-- One digest of a table: SHA-256 over its rows' own hashes in ascending order (null for none is the empty digest).
CREATE FUNCTION close.table_digest(row_hashes bytea[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(coalesce(string_agg(h, ''::bytea ORDER BY h), ''::bytea)), 'hex') FROM unnest(row_hashes) AS h
$$;

CREATE FUNCTION close.row_hash(VARIADIC fields text[]) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(convert_to(array_to_string(fields, E'\t', '') || E'\n', 'UTF8'))
$$;

CREATE FUNCTION close.iso_us(at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- The five tables of the books hash, as digests.
CREATE FUNCTION close.books_digests(d date)
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
            UNION SELECT reading_id FROM chain.staking_totals WHERE close_date = d AND version = y.version)),
        (SELECT close.table_digest(array_agg(close.row_hash(b.account, b.asset, trunc(b.available * s.scale)::text,
            trunc(b.locked * s.scale)::text, trunc(b.staked * s.scale)::text, trunc(b.in_transit * s.scale)::text)))
         FROM exchange.engine_balances b JOIN exchange.assets s ON s.asset = b.asset
         WHERE b.close_date = d AND b.version = y.version)
    FROM close.days y WHERE y.close_date = d
$$;

CREATE FUNCTION close.books_sha256(d date) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(convert_to(format(
        '{"balances":"%s","barrier_seq":%s,"close_date":"%s","engine_balances":"%s","journals":"%s","marks":"%s","policy_sha256":"%s","readings":"%s","v":"books/1","version":%s}',
        g.balances, y.barrier_seq, to_char(d, 'YYYY-MM-DD'), g.engine_balances, g.journals, g.marks, y.policy_sha256, g.readings, y.version),
        'UTF8')), 'hex')
    FROM close.days y, close.books_digests(d) g WHERE y.close_date = d
$$;

-- Fix the books hash: from here on inputs cannot change unseen, and verdicts are written for this hash.
CREATE FUNCTION close.fix_books_hash(d date, e bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE fixed text;
BEGIN
    PERFORM close.fence(d, e);
    PERFORM 1 FROM close.days WHERE close_date = d AND state = 'cutoff' FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL002', format('%s is not in cutoff: its books hash cannot be fixed', d), 'compline close status');
    END IF;
    fixed := close.books_sha256(d);
    UPDATE close.days SET books_sha256 = fixed, changed_at = clock_timestamp() WHERE close_date = d;
    RETURN fixed;
END $$;

CREATE TABLE close.user_balance_snapshots (
    close_date date NOT NULL,
    version    integer NOT NULL,
    account    text NOT NULL,
    asset      text NOT NULL,
    available  numeric(38, 18) NOT NULL,
    locked     numeric(38, 18) NOT NULL,
    staked     numeric(38, 18) NOT NULL,
    in_transit numeric(38, 18) NOT NULL,
    total      numeric(38, 18) NOT NULL CHECK (total = available + locked + staked + in_transit),
    mark       numeric(38, 18) NOT NULL CHECK (mark > 0),
    value      numeric(38, 18) NOT NULL,
    row_hash   bytea NOT NULL CHECK (octet_length(row_hash) = 32),
    PRIMARY KEY (close_date, version, account, asset)
);
COMMENT ON TABLE close.user_balance_snapshots IS 'One row per user, asset and close date: what the user had at the cut-off and what it was worth.';

-- What a day's snapshot is: the engine's balances at the barrier at the closing marks, in the books' order of columns.
CREATE FUNCTION close.expected_snapshots(d date, v integer) RETURNS SETOF close.user_balance_snapshots
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT d, v, b.account, b.asset, b.available, b.locked, b.staked, b.in_transit, t.total, m.price, t.value,
        close.row_hash(b.account, b.asset, trunc(b.available * s.scale)::text, trunc(b.locked * s.scale)::text,
            trunc(b.staked * s.scale)::text, trunc(b.in_transit * s.scale)::text, trim_scale(m.price)::text,
            trim_scale(t.value)::text)
    FROM exchange.engine_balances b
    JOIN accounts.users u ON u.account = b.account
    JOIN exchange.assets s ON s.asset = b.asset
    JOIN market.mark_prices m ON m.close_date = d AND m.version = v AND m.asset = b.asset
    CROSS JOIN close.policy_on(d) p
    JOIN exchange.assets c ON c.asset = p.policy ->> 'reporting_currency'
    CROSS JOIN LATERAL (SELECT x.total, round(x.total * m.price, c.decimals)::numeric(38, 18) AS value
        FROM (SELECT b.available + b.locked + b.staked + b.in_transit AS total) x) t
    WHERE b.close_date = d AND b.version = v
$$;

-- The day's snapshot, written.
CREATE FUNCTION close.write_user_balance_snapshots(d date, e bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    written bigint;
    missing text;
BEGIN
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    IF day.state NOT IN ('cutoff', 'reconciled') OR day.books_sha256 IS NULL THEN
        PERFORM close.refuse('CL009', format('%s has no fixed books hash: there is nothing to snapshot', d),
            'run the close from ledger/control_totals on');
    END IF;
    SELECT string_agg(DISTINCT b.asset, ', ') INTO missing FROM exchange.engine_balances b
        LEFT JOIN market.mark_prices m ON m.close_date = d AND m.version = day.version AND m.asset = b.asset
        WHERE b.close_date = d AND b.version = day.version AND m.asset IS NULL;
    IF missing IS NOT NULL THEN
        PERFORM close.refuse('CL007', format('%s has no mark for %s', d, missing), 'an asset is never valued at zero');
    END IF;
    DELETE FROM close.user_balance_snapshots WHERE close_date = d AND version = day.version;
    INSERT INTO close.user_balance_snapshots SELECT * FROM close.expected_snapshots(d, day.version);
    GET DIAGNOSTICS written = ROW_COUNT;
    ANALYZE close.user_balance_snapshots;
    RETURN written;
END $$;

-- A sealed day is reopened by two people; every later day that was closed on it goes with it, to close again in order.

CREATE TABLE close.reopenings (
    close_date   date NOT NULL,
    from_version integer NOT NULL,
    asked_for    date NOT NULL,
    reason       text NOT NULL CHECK (reason ~ '[^[:space:]]'),
    maker        text NOT NULL CHECK (maker <> ''),
    checker      text NOT NULL CHECK (checker <> ''),
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (close_date, from_version),
    CONSTRAINT reopenings_two_people CHECK (maker <> checker),
    FOREIGN KEY (close_date, from_version) REFERENCES close.seals (close_date, version)
);
COMMENT ON TABLE close.reopenings IS 'One row per sealed version that was superseded: which date''s reopening took it along, why, and the two people.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON close.reopenings
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Reopen a sealed date and every later one; those closed but not sealed go back to their cut-off. Newest first: a seal
-- locks its own day and then its predecessor, so the other order could wait in a circle.
CREATE FUNCTION close.reopen(d date, why text, who text, second text)
RETURNS TABLE (close_date date, was text, version integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE day close.days;
BEGIN
    IF coalesce(who, '') = '' OR coalesce(second, '') = '' OR who = second THEN
        PERFORM close.refuse('CL012', format('reopening %s needs two different people', d), 'name a maker and a checker');
    END IF;
    IF coalesce(why, '') !~ '[^[:space:]]' THEN
        PERFORM close.refuse('CL012', format('reopening %s needs a reason', d), 'say why: --reason');
    END IF;
    SELECT * INTO day FROM close.days y WHERE y.close_date = d;
    IF day.close_date IS NULL OR day.state <> 'sealed' OR day.genesis THEN
        PERFORM close.refuse('CL002', format('%s cannot be reopened: it is %s', d,
            CASE WHEN day.genesis THEN 'the genesis day' ELSE coalesce(day.state, 'not open') END),
            'only a sealed date is reopened; an unsealed one is closed again with --recapture');
    END IF;
    FOR day IN SELECT y.* FROM close.days y WHERE y.close_date >= d AND y.state <> 'open' ORDER BY y.close_date DESC LOOP
        PERFORM pg_advisory_xact_lock(hashtext('close.day ' || day.close_date));
        SELECT * INTO day FROM close.days y WHERE y.close_date = day.close_date FOR UPDATE;
        IF day.state = 'sealed' THEN
            INSERT INTO close.reopenings (close_date, from_version, asked_for, reason, maker, checker)
            VALUES (day.close_date, day.version, d, why, who, second);
            UPDATE close.days y SET state = 'reopened', version = y.version + 1, books_sha256 = NULL, changed_at = clock_timestamp()
            WHERE y.close_date = day.close_date;
        ELSIF day.state IN ('cutoff', 'reconciled') THEN
            UPDATE close.days y SET state = 'cutoff', books_sha256 = NULL, changed_at = clock_timestamp()
            WHERE y.close_date = day.close_date;
        END IF;
        close_date := day.close_date;
        was := day.state;
        version := (SELECT y.version FROM close.days y WHERE y.close_date = day.close_date);
        RETURN NEXT;
    END LOOP;
    INSERT INTO events.outbox (event_key, subject, payload)
    SELECT format('eod.day.reopened:%s:v%s', d, y.version), 'eod.day.reopened', jsonb_build_object('book', b.book,
        'close_date', d, 'version', y.version, 'reason', why, 'maker', who, 'checker', second)
    FROM close.days y, close.book b WHERE y.close_date = d;
END $$;

-- A reopened day keeps its barrier and its instant: what belongs to a date was decided once, by sequence.
CREATE OR REPLACE FUNCTION close.cut_off_day(d date, e bigint, barrier bigint, at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day close.days;
    before close.days;
    settled bigint;
    in_force close.policies;
BEGIN
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    SELECT * INTO before FROM close.days WHERE close_date = d - 1 FOR SHARE;
    SELECT * INTO in_force FROM close.policy_on(d);
    IF day.close_date IS NULL THEN
        PERFORM close.refuse('CL008', format('%s is not open', d), 'import or settle its events first');
    END IF;
    IF NOT day.genesis AND (before.close_date IS NULL OR before.state NOT IN ('reconciled', 'sealed')) THEN
        PERFORM close.refuse('CL008',
            format('%s cannot be cut off: its predecessor %s is %s', d, d - 1, coalesce(before.state, 'unknown')),
            format('close %s first: compline close run %s', d - 1, d - 1));
    END IF;
    IF in_force.policy IS NULL THEN
        PERFORM close.refuse('CL014', format('no policy is in force on %s', d), 'run: compline up');
    END IF;
    SELECT last_seq INTO settled FROM ledger.settlement_cursor;
    IF settled < barrier THEN
        PERFORM close.refuse('CL010', format('settlement is at %s, the barrier of %s is %s', settled, d, barrier),
            'let settlement catch up and run the close again');
    END IF;
    IF day.state <> 'open' AND (day.barrier_seq <> barrier OR day.cutoff_at <> at) THEN
        PERFORM close.refuse('CL008', format('%s was cut off at sequence %s, not %s', d, day.barrier_seq, barrier),
            'the journal of this book differs from the one that was closed');
    ELSIF day.state IN ('open', 'reopened') THEN
        PERFORM close.open_day(d + 1);
        -- Samples, so its cost does not grow with history; the day's partition, trades and journals are read from now on.
        EXECUTE format('ANALYZE ledger.%I, ledger.journals, ledger.accounts, exchange.trades',
            'ledger_entries_' || to_char(d, 'YYYYMMDD'));
        UPDATE close.days SET state = 'cutoff', barrier_seq = barrier, cutoff_at = at, books_sha256 = NULL,
            policy_sha256 = in_force.policy_sha256, changed_at = clock_timestamp() WHERE close_date = d;
    END IF;
    PERFORM close.fence(d, e);
END $$;

-- What moved between two versions of a date, by account and asset: what users had and what it was worth, and house accounts.
CREATE FUNCTION close.version_differences(d date, old integer, new integer)
RETURNS TABLE (account text, asset text, what text, was numeric, now numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    WITH before AS (SELECT * FROM close.user_balance_snapshots WHERE close_date = d AND version = old),
    after AS (SELECT * FROM close.user_balance_snapshots WHERE close_date = d AND version = new),
    users AS (
        SELECT account, asset, x.what, x.was, x.now
        FROM before b FULL JOIN after a USING (account, asset)
        CROSS JOIN LATERAL (VALUES ('available', b.available, a.available), ('locked', b.locked, a.locked),
            ('staked', b.staked, a.staked), ('in_transit', b.in_transit, a.in_transit), ('mark', b.mark, a.mark),
            ('value', b.value, a.value)) x (what, was, now)),
    house AS (
        SELECT c.account, c.asset, 'balance', b.balance, a.balance
        FROM (SELECT * FROM ledger.daily_balances WHERE close_date = d AND version = old) b
        FULL JOIN (SELECT * FROM ledger.daily_balances WHERE close_date = d AND version = new) a USING (account_id)
        JOIN ledger.accounts c USING (account_id)
        WHERE c.user_id IS NULL)
    SELECT * FROM (SELECT * FROM users UNION ALL SELECT * FROM house) x
    WHERE coalesce(x.was, 0) <> coalesce(x.now, 0) ORDER BY 1, 2, 3
$$;

REVOKE EXECUTE ON FUNCTION close.reopen(date, text, text, text), close.version_differences(date, integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION close.reopen(date, text, text, text), close.version_differences(date, integer, integer) TO compline_app;
GRANT SELECT ON close.reopenings TO compline_app, compline_dbt;

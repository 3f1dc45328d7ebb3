-- The state of each day, who may close it, what ran, and the policy in force.

CREATE TABLE close.book (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    book      text NOT NULL,
    exchange  text NOT NULL CHECK (exchange ~ '^[!-~]{1,253}$'),
    first_day date NOT NULL
);
COMMENT ON TABLE close.book IS 'The one exchange (or tape) that this database holds; first_day is the first date that is closed.';

CREATE TABLE close.policies (
    effective_from date PRIMARY KEY,
    policy         jsonb NOT NULL,
    policy_sha256  text NOT NULL CHECK (policy_sha256 ~ '^[0-9a-f]{64}$'),
    actor          text NOT NULL,
    reason         text NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT policies_base_gates CHECK (policy -> 'required_gates' ?& ARRAY[
        'debits_equal_credits', 'fee_clearing_swept', 'marks_fresh', 'engine_vs_ledger', 'trees_equal_control_totals'])
);
COMMENT ON TABLE close.policies IS 'One row per change of policy, in force from a close date on; policy_sha256 is over its canonical JSON.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON close.policies
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE TABLE close.days (
    close_date   date PRIMARY KEY,
    version      integer NOT NULL DEFAULT 1,
    state        text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'cutoff', 'reconciled', 'sealed', 'reopened')),
    barrier_seq  bigint,
    cutoff_at    timestamptz,
    policy_sha256 text,
    books_sha256 text CHECK (books_sha256 ~ '^[0-9a-f]{64}$'),
    genesis      boolean NOT NULL DEFAULT false,
    opened_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT days_cut_off_is_whole CHECK (state = 'open' OR (barrier_seq IS NOT NULL AND cutoff_at IS NOT NULL)),
    CONSTRAINT days_reconciled_has_hash CHECK (state NOT IN ('reconciled', 'sealed') OR books_sha256 IS NOT NULL)
);
COMMENT ON TABLE close.days IS 'One row per close date: open -> cutoff -> reconciled -> sealed.';

CREATE TABLE close.leases (
    close_date date PRIMARY KEY,
    holder     text NOT NULL,
    epoch      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE close.leases IS 'One row per close date: who may write into it now. epoch only grows; it is checked last in every writing transaction.';

CREATE TABLE close.eod_runs (
    close_date    date NOT NULL,
    step_name     text NOT NULL,
    version       integer NOT NULL,
    attempt       integer NOT NULL,
    epoch         bigint NOT NULL,
    status        text NOT NULL CHECK (status IN ('succeeded', 'failed', 'unknown')),
    input_digest  text,
    output_digest text,
    row_count     bigint,
    metadata      jsonb NOT NULL DEFAULT '{}',
    error         text,
    run_id        text NOT NULL,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz NOT NULL,
    PRIMARY KEY (close_date, step_name, version)
);
COMMENT ON TABLE close.eod_runs IS 'One row per close date, step and version: the step''s last attempt and what it read and wrote.';

CREATE TABLE events.outbox (
    event_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_key    text NOT NULL UNIQUE,
    subject      text NOT NULL,
    payload      jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz
);
COMMENT ON TABLE events.outbox IS 'One row per event to be told on NATS; written in the transaction that made it true.';
CREATE INDEX outbox_unpublished ON events.outbox (event_id) WHERE published_at IS NULL;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON events.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- A day keeps the policy that it was cut off under.
CREATE FUNCTION close.guard_policies() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE bad record;
BEGIN
    SELECT y.close_date, y.state INTO bad FROM n JOIN close.days y ON y.close_date >= n.effective_from
    WHERE y.state IN ('cutoff', 'reconciled', 'sealed') ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL014', format('no policy can come into force on %s: that day is %s', bad.close_date, bad.state),
            'let it begin on a day that is still open');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER INSERT ON close.policies
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.guard_policies();

-- The policy in force on a close date.
CREATE FUNCTION close.policy_on(d date) RETURNS close.policies
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p FROM close.policies p WHERE p.effective_from <= d ORDER BY p.effective_from DESC LIMIT 1
$$;

-- A lease: taken when it is free, expired, already the holder's, or its holder is known dead (its session lock is free).
CREATE FUNCTION close.take_lease(d date, who text, ttl_s integer, holder_is_dead boolean) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO close.leases AS l (close_date, holder, epoch, expires_at)
    VALUES (d, who, 1, clock_timestamp() + make_interval(secs => ttl_s))
    ON CONFLICT (close_date) DO UPDATE
        SET holder = excluded.holder,
            epoch = CASE WHEN l.holder = excluded.holder AND l.expires_at >= clock_timestamp() THEN l.epoch ELSE l.epoch + 1 END,
            expires_at = excluded.expires_at
        WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp() OR holder_is_dead
    RETURNING epoch
$$;

CREATE FUNCTION close.renew_lease(d date, who text, e bigint, ttl_s integer) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH renewed AS (
        UPDATE close.leases SET expires_at = clock_timestamp() + make_interval(secs => ttl_s)
        WHERE close_date = d AND holder = who AND epoch = e RETURNING 1)
    SELECT EXISTS (SELECT FROM renewed)
$$;

CREATE FUNCTION close.release_lease(d date, who text, e bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE close.leases SET expires_at = '-infinity' WHERE close_date = d AND holder = who AND epoch = e
$$;

-- The fence: the last statement before COMMIT of every writing transaction of a closer.
CREATE FUNCTION close.fence(d date, e bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM close.leases l
    WHERE l.close_date = d AND l.epoch = e AND l.expires_at >= clock_timestamp() FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL006', format('epoch %s no longer holds the lease on %s', e, d),
            'another closer took over; stop and read close.eod_runs');
    END IF;
END $$;

-- Steps that a day goes through; each moves the state or refuses by name.
CREATE FUNCTION close.open_day(d date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE first date;
BEGIN
    IF EXISTS (SELECT FROM close.days WHERE close_date = d) THEN RETURN; END IF;
    SELECT first_day INTO first FROM close.book;
    IF first IS NULL THEN
        PERFORM close.refuse('CL008', 'this database holds no book', 'run: compline up');
    END IF;
    IF d < first - 1 OR (d > first - 1 AND NOT EXISTS (SELECT FROM close.days WHERE close_date = d - 1)) THEN
        PERFORM close.refuse('CL008', format('%s cannot be opened before %s', d, d - 1), 'days open in order');
    END IF;
    INSERT INTO close.days (close_date, genesis) VALUES (d, d = first - 1) ON CONFLICT DO NOTHING;
    PERFORM ledger.ensure_partition(d);
END $$;

CREATE FUNCTION close.cut_off_day(d date, e bigint, barrier bigint, at timestamptz) RETURNS void
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
    IF day.state = 'open' OR day.state = 'reopened' THEN
        PERFORM close.open_day(d + 1);
        -- Samples, so its cost does not grow with history; the day's partition, trades and journals are read from now on.
        EXECUTE format('ANALYZE ledger.%I, ledger.journals, ledger.accounts, exchange.trades',
            'ledger_entries_' || to_char(d, 'YYYYMMDD'));
        UPDATE close.days SET state = 'cutoff', barrier_seq = barrier, cutoff_at = at, books_sha256 = NULL,
            policy_sha256 = in_force.policy_sha256, changed_at = clock_timestamp() WHERE close_date = d;
    ELSIF day.barrier_seq <> barrier OR day.cutoff_at <> at THEN
        PERFORM close.refuse('CL008', format('%s was cut off at sequence %s, not %s', d, day.barrier_seq, barrier),
            'the journal of this book differs from the one that was closed');
    END IF;
    PERFORM close.fence(d, e);
END $$;

-- An input of the books changes: the hash is void, the day goes back to cutoff, the old rows make room for new ones.
CREATE FUNCTION close.void_books_hash(d date, e bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM close.fence(d, e);
    PERFORM 1 FROM close.days WHERE close_date = d AND state IN ('cutoff', 'reconciled') FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL002', format('%s is not being closed: its rows cannot be replaced', d),
            'a sealed day changes only by reopening it');
    END IF;
    UPDATE close.days SET state = 'cutoff', books_sha256 = NULL, changed_at = clock_timestamp()
    WHERE close_date = d AND (state <> 'cutoff' OR books_sha256 IS NOT NULL);
END $$;

CREATE FUNCTION close.replace_engine_balances(d date, e bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT close.void_books_hash(d, e);
    DELETE FROM exchange.engine_balances b USING close.days y
    WHERE y.close_date = d AND b.close_date = d AND b.version = y.version
$$;

CREATE FUNCTION close.replace_mark_prices(d date, e bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT close.void_books_hash(d, e);
    DELETE FROM market.mark_prices b USING close.days y
    WHERE y.close_date = d AND b.close_date = d AND b.version = y.version
$$;

-- Captures are written only between the cut-off and the books hash, for the day's own version.
CREATE FUNCTION close.capture_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE bad record;
BEGIN
    PERFORM 1 FROM close.days WHERE close_date IN (SELECT close_date FROM n) ORDER BY close_date FOR SHARE;
    SELECT n.close_date, n.version, y.state, y.books_sha256 INTO bad
    FROM (SELECT DISTINCT close_date, version FROM n) n LEFT JOIN close.days y USING (close_date)
    WHERE y.state IS DISTINCT FROM 'cutoff' OR y.version <> n.version OR y.books_sha256 IS NOT NULL LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL009', format('%s.%s of %s v%s cannot change: the day is %s and its books hash is %s',
            TG_TABLE_SCHEMA, TG_TABLE_NAME, bad.close_date, bad.version, coalesce(bad.state, 'unknown'),
            coalesce(bad.books_sha256, 'not fixed')), 'capture again through the close: compline close run DATE --recapture');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER capture_guard AFTER INSERT ON exchange.engine_balances
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();
CREATE TRIGGER capture_guard AFTER INSERT ON market.mark_prices
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();
CREATE TRIGGER capture_guard AFTER INSERT ON custody.wallet_balances
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();
CREATE TRIGGER capture_guard AFTER INSERT ON chain.staking_totals
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();

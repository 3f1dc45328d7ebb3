-- The ledger: accounts, journals, signed legs. A positive amount is what the house owes; per journal and asset Σ is zero.

CREATE TABLE ledger.accounts (
    account_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account         text NOT NULL,
    user_id         bigint REFERENCES accounts.users,
    sub_account     text NOT NULL DEFAULT 'main' CHECK (sub_account IN ('main', 'staked', 'in_transit')),
    asset           text NOT NULL REFERENCES exchange.assets,
    liability_class text NOT NULL CHECK (liability_class IN
        ('customer', 'affiliate', 'other_liability', 'equity', 'receivable', 'asset')),
    balance         numeric(38, 18) NOT NULL DEFAULT 0,
    UNIQUE (account, asset),
    CONSTRAINT accounts_customer_not_negative CHECK (balance >= 0 OR liability_class NOT IN ('customer', 'affiliate')),
    CONSTRAINT accounts_class_matches_owner CHECK (
        (liability_class IN ('customer', 'affiliate')) = (user_id IS NOT NULL AND NOT starts_with(account, 'customer_receivable:')))
) WITH (fillfactor = 45);
COMMENT ON TABLE ledger.accounts IS 'One row per user or house account (with sub-account) and asset; balance is kept by the guard, never written by hand.';

CREATE SEQUENCE ledger.posting_numbers;

CREATE TABLE ledger.journals (
    posting_no     bigint PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('trade', 'deposit', 'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed',
        'stake', 'unstake', 'reward', 'adjust', 'opening_balance', 'fee_accrual', 'reward_accrual', 'pot_funding', 'correction')),
    -- Not {1,200}: a bounded repetition costs 9 us a row, half of what a journal cost.
    reference_type text NOT NULL CHECK (reference_type ~ '^[!-~]+$' AND length(reference_type) <= 64),
    reference_id   text NOT NULL CHECK (reference_id ~ '^[!-~]+$' AND length(reference_id) <= 200),
    engine_seq     bigint,
    effective_at   timestamptz NOT NULL,
    close_date     date NOT NULL,
    origin         text NOT NULL CHECK (origin IN ('engine', 'close', 'genesis', 'correction')),
    epoch          bigint,
    actor          text NOT NULL CHECK (actor <> ''),
    reason         text NOT NULL CHECK (reason <> ''),
    row_hash       bytea NOT NULL CHECK (octet_length(row_hash) = 32),
    posted_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT journals_engine_has_seq CHECK ((origin IN ('engine', 'genesis')) = (engine_seq IS NOT NULL)),
    CONSTRAINT journals_close_has_epoch CHECK ((origin = 'close') = (epoch IS NOT NULL)),
    CONSTRAINT journals_kind_fits_origin CHECK (CASE origin
        WHEN 'engine' THEN kind IN ('trade', 'deposit', 'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed', 'stake', 'unstake', 'reward', 'adjust')
        WHEN 'genesis' THEN kind = 'opening_balance'
        WHEN 'close' THEN kind IN ('fee_accrual', 'reward_accrual', 'pot_funding')
        ELSE kind = 'correction' END)
);
COMMENT ON TABLE ledger.journals IS 'One row per balanced event. posting_no is monotone; row_hash is over the journal and its legs.';
CREATE UNIQUE INDEX journals_reference ON ledger.journals (reference_type, reference_id) WHERE kind <> 'trade';
CREATE INDEX journals_close_date ON ledger.journals USING brin (close_date) WITH (pages_per_range = 16);

CREATE TABLE ledger.ledger_entries (
    posting_no bigint NOT NULL,
    close_date date NOT NULL,
    account_id bigint NOT NULL,
    asset      text NOT NULL,
    amount     numeric(38, 18) NOT NULL CHECK (amount <> 0)
) PARTITION BY LIST (close_date);
COMMENT ON TABLE ledger.ledger_entries IS 'One row per signed leg of a journal; partitioned by close date, append-only.';

CREATE TABLE ledger.settlement_cursor (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    last_seq bigint NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ledger.settlement_cursor IS 'How far the one settlement consumer has come in the engine''s journal.';
INSERT INTO ledger.settlement_cursor (last_seq) VALUES (0);

CREATE TABLE ledger.daily_balances (
    close_date date NOT NULL,
    version    integer NOT NULL,
    account_id bigint NOT NULL REFERENCES ledger.accounts,
    balance    numeric(38, 18) NOT NULL CHECK (balance <> 0),
    PRIMARY KEY (close_date, version, account_id)
);
COMMENT ON TABLE ledger.daily_balances IS 'One row per account, asset and close date with a balance at the cut-off: yesterday''s plus today''s legs.';

CREATE TABLE ledger.control_totals (
    close_date      date NOT NULL,
    version         integer NOT NULL,
    asset           text NOT NULL,
    liability_class text NOT NULL,
    opening         numeric(38, 18) NOT NULL,
    debits          numeric(38, 18) NOT NULL,
    credits         numeric(38, 18) NOT NULL,
    closing         numeric(38, 18) NOT NULL,
    accounts        bigint NOT NULL,
    PRIMARY KEY (close_date, version, asset, liability_class),
    CONSTRAINT control_totals_roll_forward CHECK (opening + credits - debits = closing)
);
COMMENT ON TABLE ledger.control_totals IS 'One row per asset, liability class and close date: the trial balance.';

CREATE TABLE ledger.fee_accruals (
    close_date date NOT NULL,
    version    integer NOT NULL,
    user_id    bigint NOT NULL,
    asset      text NOT NULL,
    role       text NOT NULL CHECK (role IN ('maker', 'taker')),
    amount     numeric(38, 18) NOT NULL,
    trades     bigint NOT NULL,
    PRIMARY KEY (close_date, version, user_id, asset, role)
);
COMMENT ON TABLE ledger.fee_accruals IS 'One row per user, asset, role and close date: the fees swept from clearing into income.';

CREATE FUNCTION ledger.ensure_partition(d date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS ledger.%I PARTITION OF ledger.ledger_entries FOR VALUES IN (%L)',
        'ledger_entries_' || to_char(d, 'YYYYMMDD'), d);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ledger.%I USING brin (posting_no)',
        'ledger_entries_' || to_char(d, 'YYYYMMDD') || '_posting', 'ledger_entries_' || to_char(d, 'YYYYMMDD'));
END $$;

-- A block of consecutive posting numbers; returns the first.
CREATE FUNCTION ledger.reserve_postings(how_many bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE first bigint;
BEGIN
    IF how_many < 1 THEN PERFORM close.refuse('CL005', 'a block of postings holds at least one'); END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ledger.posting_numbers'));
    first := nextval('ledger.posting_numbers');
    PERFORM setval('ledger.posting_numbers', first + how_many - 1);
    RETURN first;
END $$;

-- Accounts that a batch needs, made where they are missing. Names decide the class; the application cannot choose one.
CREATE FUNCTION ledger.ensure_accounts(names text[], assets text[])
RETURNS TABLE (account text, asset text, account_id bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO ledger.accounts (account, user_id, sub_account, asset, liability_class)
    SELECT w.account, u.user_id,
        CASE WHEN w.account LIKE '%:staked' THEN 'staked' WHEN w.account LIKE '%:in_transit' THEN 'in_transit' ELSE 'main' END,
        w.asset,
        CASE WHEN w.account LIKE 'customer_receivable:%' THEN 'receivable'
             WHEN w.account IN (u.account, u.account || ':staked', u.account || ':in_transit') THEN 'customer'
             WHEN w.account LIKE 'custody:%' OR w.account = 'internal_transfer_in_transit' THEN 'asset'
             WHEN w.account IN ('deposits_unallocated', 'rewards_payable', 'insurance_fund', 'suspense') THEN 'other_liability'
             WHEN w.account IN ('revenue_router', 'network_fee_expense', 'fee_clearing', 'fee_income', 'rewards_pot',
                                'rounding', 'opening_equity') THEN 'equity' END
    FROM (SELECT DISTINCT n.account, n.asset FROM unnest(names, assets) AS n (account, asset)) w
    LEFT JOIN accounts.users u ON u.account = CASE
        WHEN w.account LIKE 'customer_receivable:%' THEN substr(w.account, 21) ELSE split_part(w.account, ':', 1) END
    WHERE NOT EXISTS (SELECT FROM ledger.accounts a WHERE a.account = w.account AND a.asset = w.asset)
    ORDER BY w.account, w.asset
    ON CONFLICT (account, asset) DO NOTHING;
    RETURN QUERY SELECT a.account, a.asset, a.account_id FROM ledger.accounts a
        JOIN (SELECT DISTINCT n.account, n.asset FROM unnest(names, assets) AS n (account, asset)) w
        ON a.account = w.account AND a.asset = w.asset;
END $$;

-- The guard on journals: the day takes postings of this origin, and a trade's journal is the one its trade names.
CREATE FUNCTION ledger.guard_journals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' SET enable_nestloop = on AS $$
DECLARE
    bad record;
    how_many bigint;
    low bigint;
    high bigint;
BEGIN
    PERFORM 1 FROM close.days WHERE close_date IN (SELECT close_date FROM n) ORDER BY close_date FOR SHARE;
    SELECT g.close_date, g.origin, g.epoch, y.state, y.books_sha256 INTO bad
    FROM (SELECT DISTINCT close_date, origin, epoch FROM n) g LEFT JOIN close.days y USING (close_date)
    WHERE NOT CASE
        WHEN y.state IS NULL THEN false
        WHEN g.origin = 'genesis' THEN y.genesis AND y.state = 'open'
        WHEN y.genesis THEN false
        -- Corrections join with the constraint that ties each to a break, its amount and two people.
        WHEN g.origin = 'correction' THEN false
        WHEN g.origin = 'close' THEN y.state = 'cutoff' AND y.books_sha256 IS NULL AND EXISTS (
            SELECT FROM close.leases l WHERE l.close_date = g.close_date AND l.epoch = g.epoch AND l.expires_at >= clock_timestamp())
        ELSE y.state = 'open' END
    LIMIT 1;
    IF FOUND AND bad.origin = 'close' AND bad.state = 'cutoff' AND bad.books_sha256 IS NULL THEN
        PERFORM close.refuse('CL006', format('epoch %s no longer holds the lease on %s', bad.epoch, bad.close_date),
            'another closer took over; stop and read close.eod_runs');
    ELSIF FOUND THEN
        PERFORM close.refuse('CL002', format('%s takes no journal of origin %s: the day is %s',
            bad.close_date, bad.origin, coalesce(bad.state, 'unknown')),
            'late events settle into the open day; a sealed day changes only by reopening it');
    END IF;
    -- Dynamic and without nested loops where large, as in guard_entries; the range lets a hash read this batch's trades only.
    SELECT count(*), min(reference_id::bigint), max(reference_id::bigint) INTO how_many, low, high FROM n WHERE kind = 'trade';
    IF how_many > 2000 THEN PERFORM set_config('enable_nestloop', 'off', true); END IF;
    IF how_many > 0 THEN
        EXECUTE 'SELECT n.posting_no, n.reference_id FROM n
            LEFT JOIN (SELECT * FROM exchange.trades WHERE trade_id BETWEEN $1 AND $2) t ON t.trade_id = n.reference_id::bigint
            WHERE n.kind = ''trade'' AND (t.posting_no IS DISTINCT FROM n.posting_no OR t.close_date <> n.close_date
                OR t.engine_seq <> n.engine_seq OR n.reference_type <> ''trade'') LIMIT 1' INTO bad USING low, high;
        IF bad.posting_no IS NOT NULL THEN
            PERFORM close.refuse('CL005', format('posting %s is not the journal of trade %s', bad.posting_no, bad.reference_id),
                'a trade is settled once, with its row in exchange.trades');
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER INSERT ON ledger.journals
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION ledger.guard_journals();

-- The guard on legs: their journal is of this transaction, sums are zero, classes fit, balances follow.
-- What joins is dynamic: planned for each batch's own number of legs, which Postgres knows of a transition table; the
-- groups of one it guesses to be 200, so a large batch forbids nested loops (800,000 legs: 105 s with, 4 s without).
CREATE FUNCTION ledger.guard_entries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' SET enable_nestloop = on SET enable_hashagg = on AS $$
DECLARE
    bad record;
    low bigint;
    high bigint;
    legs bigint;
    stray bigint;
    of_close boolean;
    held bigint;
    moved bigint;
    misfit CONSTANT text := 'SELECT n.posting_no, n.account_id, n.asset, n.amount FROM n
        LEFT JOIN ledger.accounts a ON a.account_id = n.account_id AND a.asset = n.asset
        LEFT JOIN exchange.assets s ON s.asset = n.asset
        WHERE a.account_id IS NULL OR n.amount <> trunc(n.amount, s.decimals) LIMIT 1';
BEGIN
    SELECT min(posting_no), max(posting_no), count(*) INTO low, high, legs FROM n;
    IF legs > 2000 THEN PERFORM set_config('enable_nestloop', 'off', true); END IF;

    EXECUTE 'SELECT min(g.posting_no) FILTER (WHERE j.posting_no IS NULL), coalesce(bool_or(j.origin = ''close''), false)
        FROM (SELECT DISTINCT posting_no, close_date FROM n) g
        LEFT JOIN (SELECT posting_no, close_date, origin FROM ledger.journals
            WHERE posting_no BETWEEN $1 AND $2 AND xmin = pg_current_xact_id()::xid) j USING (posting_no, close_date)'
    INTO stray, of_close USING low, high;
    IF stray IS NOT NULL THEN
        PERFORM close.refuse('CL005', format('posting %s has no journal of that date in this transaction', stray),
            'post a journal and all of its legs together');
    END IF;

    -- Legs come journal by journal: sorting what is nearly sorted and adding up is faster than 200,000 hashed sums.
    SET LOCAL enable_hashagg = off;
    EXECUTE 'SELECT posting_no, asset, sum(amount) AS off FROM n GROUP BY posting_no, asset HAVING sum(amount) <> 0 LIMIT 1'
    INTO bad;
    SET LOCAL enable_hashagg = on;
    IF bad.posting_no IS NOT NULL THEN
        PERFORM close.refuse('CL001', format('posting %s is off by %s %s', bad.posting_no, trim_scale(bad.off), bad.asset),
            'every journal sums to zero per asset');
    END IF;

    -- Only the close needs this look; settlement's batches skip two joins over all of their legs.
    IF of_close THEN
        EXECUTE misfit INTO bad;
        IF bad.posting_no IS NULL THEN
            EXECUTE 'SELECT j.posting_no, a.account FROM ledger.journals j
                JOIN n ON n.posting_no = j.posting_no
                JOIN ledger.accounts a ON a.account_id = n.account_id
                WHERE j.posting_no BETWEEN $1 AND $2 AND j.origin = ''close'' AND a.user_id IS NOT NULL LIMIT 1'
            INTO bad USING low, high;
            IF bad.posting_no IS NOT NULL THEN
                PERFORM close.refuse('CL004', format('posting %s of the close touches customer account %s',
                    bad.posting_no, bad.account), 'the close posts to house accounts only; users are moved by engine commands');
            END IF;
        END IF;
    END IF;

    -- An account holds one asset in whole smallest units: who fits is moved, and all must have been. Which leg did not fit
    -- is asked afterwards, before any refusal that moving it caused. In the order of accounts, which is that of their
    -- pages: a third faster, and two batches at once cannot lock each other out.
    BEGIN
        EXECUTE 'WITH g AS MATERIALIZED (
                SELECT account_id, asset, sum(amount) AS net, max(min_scale(amount)) AS finest FROM n GROUP BY account_id, asset
                ORDER BY account_id),
            u AS (UPDATE ledger.accounts a SET balance = a.balance + g.net FROM g JOIN exchange.assets s ON s.asset = g.asset
                WHERE a.account_id = g.account_id AND a.asset = g.asset AND g.finest <= s.decimals RETURNING 1)
            SELECT (SELECT count(*) FROM g), (SELECT count(*) FROM u)' INTO held, moved;
    EXCEPTION WHEN check_violation OR numeric_value_out_of_range THEN
        EXECUTE misfit INTO bad;
        IF bad.posting_no IS NULL THEN RAISE; END IF;
    END;
    IF held IS NULL OR held <> moved THEN
        EXECUTE misfit INTO bad;
        PERFORM close.refuse('CL005', format('posting %s: account %s does not hold %s %s', bad.posting_no, bad.account_id,
            trim_scale(bad.amount), bad.asset), 'an account has one asset, and amounts are whole smallest units');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER INSERT ON ledger.ledger_entries
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION ledger.guard_entries();

-- A trade belongs to an open day: a sealed day's registry of trades says what its journals say, for good.
CREATE FUNCTION exchange.guard_trades() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE bad record;
BEGIN
    PERFORM 1 FROM close.days WHERE close_date IN (SELECT close_date FROM n) ORDER BY close_date FOR SHARE;
    SELECT g.close_date, y.state INTO bad FROM (SELECT DISTINCT close_date FROM n) g LEFT JOIN close.days y USING (close_date)
    WHERE y.state IS DISTINCT FROM 'open' OR y.genesis LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL002', format('%s takes no trade: the day is %s', bad.close_date, coalesce(bad.state, 'unknown')),
            'late events settle into the open day; a sealed day changes only by reopening it');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER INSERT ON exchange.trades
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION exchange.guard_trades();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.journals
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- A journal's canonical hash from its rows: what settlement stored must equal this.
CREATE FUNCTION ledger.journal_hashes(d date) RETURNS TABLE (posting_no bigint, stored bytea, computed bytea, legs bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT j.posting_no, j.row_hash,
        sha256(convert_to(concat_ws(E'\t', j.kind, j.reference_type, j.reference_id, coalesce(j.engine_seq::text, ''),
            to_char(j.effective_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), j.origin, l.legs) || E'\n', 'UTF8')),
        coalesce(l.how_many, 0)
    FROM ledger.journals j
    LEFT JOIN (
        SELECT e.posting_no, count(*) AS how_many,
            string_agg(a.account || E'\t' || e.asset || E'\t' || trunc(e.amount * s.scale)::text, E'\t'
                ORDER BY (a.account || E'\t' || e.asset || E'\t' || trunc(e.amount * s.scale)::text) COLLATE "C") AS legs
        FROM ledger.ledger_entries e
        JOIN ledger.accounts a USING (account_id)
        JOIN exchange.assets s ON s.asset = e.asset
        WHERE e.close_date = d GROUP BY e.posting_no) l USING (posting_no)
    WHERE j.close_date = d
$$;

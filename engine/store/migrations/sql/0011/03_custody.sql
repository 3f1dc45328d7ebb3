-- Custody and chain: what readings say, what the close books from them, and what must agree.

ALTER TABLE ledger.journals DROP CONSTRAINT journals_kind_check;
ALTER TABLE ledger.journals ADD CONSTRAINT journals_kind_check CHECK (kind IN ('trade', 'deposit', 'deposit_reversed',
    'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed', 'stake', 'unstake', 'reward', 'adjust', 'opening_balance',
    'fee_accrual', 'reward_accrual', 'pot_funding', 'network_fee', 'custody_transfer', 'correction'));
ALTER TABLE ledger.journals DROP CONSTRAINT journals_kind_fits_origin;
ALTER TABLE ledger.journals ADD CONSTRAINT journals_kind_fits_origin CHECK (CASE origin
    WHEN 'engine' THEN kind IN ('trade', 'deposit', 'deposit_reversed', 'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed',
        'stake', 'unstake', 'reward', 'adjust')
    WHEN 'genesis' THEN kind = 'opening_balance'
    WHEN 'close' THEN kind IN ('fee_accrual', 'reward_accrual', 'pot_funding', 'network_fee', 'custody_transfer')
    ELSE kind = 'correction' END);

-- A wallet whose reading cannot be used has a row that says why: not zero, and not nothing.
CREATE TABLE custody.unread (
    close_date date NOT NULL,
    version    integer NOT NULL,
    source     text NOT NULL CHECK (source IN ('custody', 'chain')),
    subject    text NOT NULL,
    why        text NOT NULL CHECK (why <> ''),
    PRIMARY KEY (close_date, version, source, subject)
);
COMMENT ON TABLE custody.unread IS 'One row per wallet or contract and close date that could not be read, and why: its gates are unknown.';

CREATE TABLE custody.transfers (
    close_date   date NOT NULL,
    version      integer NOT NULL,
    wallet       text NOT NULL,
    asset        text NOT NULL REFERENCES exchange.assets,
    transfer     text NOT NULL CHECK (transfer <> ''),
    reference    text NOT NULL CHECK (reference <> ''),
    amount       numeric(38, 18) NOT NULL CHECK (amount < 'NaN'),
    fee          numeric(38, 18) NOT NULL CHECK (fee < 'NaN'),
    confirmed    boolean NOT NULL,
    at           timestamptz NOT NULL,
    reading_id   bigint NOT NULL REFERENCES capture.readings,
    PRIMARY KEY (close_date, version, wallet, asset, transfer)
);
COMMENT ON TABLE custody.transfers IS 'One row per line of a wallet''s transfer list that moved it on a close date, or was pending at its end; amount is the effect on the wallet without the fee. A line that was taken back comes again with the opposite signs.';

CREATE TABLE custody.in_transit (
    close_date     date NOT NULL,
    version        integer NOT NULL,
    asset          text NOT NULL REFERENCES exchange.assets,
    reference      text NOT NULL,
    custody_amount numeric(38, 18) NOT NULL,
    ledger_amount  numeric(38, 18) NOT NULL,
    since          date NOT NULL,
    pending        boolean NOT NULL,
    ordered        boolean NOT NULL,
    PRIMARY KEY (close_date, version, asset, reference),
    CONSTRAINT in_transit_differs CHECK (custody_amount <> ledger_amount)
);
COMMENT ON TABLE custody.in_transit IS 'One row per deposit or withdrawal that custody and the ledger do not agree on at the cut-off: listed, never netted. pending: the list has an unconfirmed line; ordered: the ledger has the withdrawal.';

CREATE FUNCTION close.replace_readings(d date, e bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT close.void_books_hash(d, e);
    DELETE FROM custody.wallet_balances b USING close.days y WHERE y.close_date = d AND b.close_date = d AND b.version = y.version;
    DELETE FROM custody.transfers b USING close.days y WHERE y.close_date = d AND b.close_date = d AND b.version = y.version;
    DELETE FROM custody.unread b USING close.days y
    WHERE y.close_date = d AND b.close_date = d AND b.version = y.version AND b.source = 'custody'
$$;
CREATE FUNCTION chain.replace_totals(d date, e bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT close.void_books_hash(d, e);
    DELETE FROM chain.staking_totals b USING close.days y WHERE y.close_date = d AND b.close_date = d AND b.version = y.version;
    DELETE FROM custody.unread b USING close.days y
    WHERE y.close_date = d AND b.close_date = d AND b.version = y.version AND b.source = 'chain'
$$;
CREATE TRIGGER capture_guard AFTER INSERT ON custody.unread
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();
CREATE TRIGGER capture_guard AFTER INSERT ON custody.transfers
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();

-- The configured wallets and contracts of a date, as the policy in force has them.
CREATE FUNCTION custody.wallets_on(d date) RETURNS TABLE (wallet text, asset text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT w ->> 0, w ->> 1 FROM close.policy_on(d) p, jsonb_array_elements(coalesce(p.policy -> 'custody_wallets', '[]')) w
$$;
CREATE FUNCTION chain.contracts_on(d date) RETURNS TABLE (contract text, asset text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c ->> 0, c ->> 1 FROM close.policy_on(d) p, jsonb_array_elements(coalesce(p.policy -> 'staking_contracts', '[]')) c
$$;

-- What the day's confirmed lines should have moved between house accounts: fees out of the wallet, and what other wallets
-- than the one that deposits are booked to received or sent. (key, house account, amount on the wallet's account)
CREATE FUNCTION custody.movements_due(d date, v integer)
RETURNS TABLE (kind text, key text, wallet text, asset text, amount numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'network_fee', t.wallet || ':' || t.transfer, t.wallet, t.asset, t.fee FROM custody.transfers t
    WHERE t.close_date = d AND t.version = v AND t.confirmed AND t.fee <> 0
    UNION ALL
    SELECT 'custody_transfer', t.wallet || ':' || t.transfer, t.wallet, t.asset, -t.amount FROM custody.transfers t
    WHERE t.close_date = d AND t.version = v AND t.confirmed AND t.wallet <> 'main' AND t.amount <> 0
$$;

-- What was booked of them before: the legs on wallets' accounts, by the key in their reference.
CREATE FUNCTION custody.movements_booked(d date)
RETURNS TABLE (kind text, key text, wallet text, asset text, amount numeric, k integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT j.kind, x.key, split_part(x.key, ':', 1), e.asset, sum(e.amount), max(x.k)
    FROM (SELECT posting_no, kind, reference_id FROM ledger.journals WHERE close_date = d AND kind IN ('network_fee', 'custody_transfer')) j
    CROSS JOIN LATERAL (SELECT regexp_replace(substr(j.reference_id, 12), ':[0-9]+$', '') AS key,
        split_part(j.reference_id, ':', -1)::integer AS k) x
    JOIN (SELECT posting_no, account_id, asset, amount FROM ledger.ledger_entries WHERE close_date = d) e USING (posting_no)
    JOIN ledger.accounts a ON a.account_id = e.account_id AND a.account = 'custody:' || split_part(x.key, ':', 1)
    GROUP BY 1, 2, 3, 4
$$;

-- What the ledger's deposits and withdrawals of a date moved in custody, by reference: the wallet's side of their legs.
CREATE FUNCTION custody.ledger_effects(d date)
RETURNS TABLE (asset text, reference text, amount numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT e.asset, j.reference_id, -sum(e.amount)
    FROM (SELECT posting_no, reference_id FROM ledger.journals
          WHERE close_date = d AND kind IN ('deposit', 'deposit_reversed', 'withdrawal_confirmed')) j
    JOIN (SELECT posting_no, account_id, asset, amount FROM ledger.ledger_entries WHERE close_date = d) e USING (posting_no)
    JOIN ledger.accounts a USING (account_id)
    WHERE a.account = 'custody:main' GROUP BY 1, 2
$$;

-- What is in transit at the cut-off: what was in transit before, the day's confirmed lines, and the day's journals, by reference.
CREATE FUNCTION custody.expected_in_transit(d date, v integer) RETURNS SETOF custody.in_transit
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT d, v, x.asset, x.reference, sum(x.custody), sum(x.ledger), min(x.since),
        EXISTS (SELECT FROM custody.transfers t WHERE t.close_date = d AND t.version = v AND NOT t.confirmed
            AND t.asset = x.asset AND t.reference = x.reference),
        EXISTS (SELECT FROM ledger.journals j WHERE j.kind <> 'trade' AND j.reference_type = 'withdrawal' AND j.reference_id = x.reference
            AND j.close_date <= d)
    FROM (
        SELECT i.asset, i.reference, i.custody_amount AS custody, i.ledger_amount AS ledger, i.since
        FROM custody.in_transit i JOIN close.days y USING (close_date, version) WHERE i.close_date = d - 1
        UNION ALL
        SELECT t.asset, t.reference, t.amount, 0, d FROM custody.transfers t WHERE t.close_date = d AND t.version = v AND t.confirmed
        UNION ALL
        SELECT l.asset, l.reference, 0, l.amount, d FROM custody.ledger_effects(d) l
            WHERE l.asset IN (SELECT w.asset FROM custody.wallets_on(d) w)) x
    GROUP BY x.asset, x.reference HAVING sum(x.custody) <> sum(x.ledger)
$$;

CREATE FUNCTION custody.write_in_transit(d date, e bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day close.days;
    written bigint;
BEGIN
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') OR day.books_sha256 IS NULL THEN
        PERFORM close.refuse('CL009', format('%s has no fixed books hash: there is nothing to list', d),
            'run the close from ledger/control_totals on');
    END IF;
    DELETE FROM custody.in_transit WHERE close_date = d AND version = day.version;
    INSERT INTO custody.in_transit SELECT * FROM custody.expected_in_transit(d, day.version);
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;

-- How far two outside figures may differ: a row in force, absolute or in basis points of the larger, else nothing.
CREATE FUNCTION recon.tolerance(g text, a text, size numeric) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT greatest(t.absolute, trunc(abs(size) * t.bps / 10000, 18)) FROM recon.tolerances t
        WHERE t.gate = g AND t.asset = a AND t.expires_at >= clock_timestamp()), 0)
$$;

-- Ledger against custody, per wallet; and every reference that is in transit without a good reason.
CREATE FUNCTION recon.breaks_of_ledger_vs_custody(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM (
        SELECT 'custody:' || b.wallet, b.asset,
            coalesce((SELECT -x.balance FROM ledger.daily_balances x JOIN ledger.accounts a USING (account_id)
                WHERE x.close_date = d AND x.version = v AND a.account = 'custody:' || b.wallet AND a.asset = b.asset), 0)
            + CASE WHEN b.wallet = 'main' THEN coalesce((SELECT sum(i.custody_amount - i.ledger_amount) FROM custody.in_transit i
                WHERE i.close_date = d AND i.version = v AND i.asset = b.asset), 0) ELSE 0 END AS expected,
            b.balance AS actual
        FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v) w (subject, asset, expected, actual)
    WHERE abs(w.expected - w.actual) > recon.tolerance('ledger_vs_custody', w.asset, w.actual)
    UNION ALL
    SELECT 'transit:' || i.reference, i.asset, i.ledger_amount, i.custody_amount
    FROM custody.in_transit i
    CROSS JOIN LATERAL (SELECT coalesce((SELECT (p.policy ->> 'in_transit_max_days')::integer FROM close.policy_on(d) p), 2) AS days) m
    WHERE i.close_date = d AND i.version = v AND NOT (d - i.since < m.days AND CASE
        -- Came in and is not credited yet; or left on an order that the ledger has not confirmed yet.
        WHEN i.ledger_amount = 0 THEN i.custody_amount > 0 OR i.ordered
        -- Credited or confirmed before custody did: only while its list has the line, unconfirmed.
        WHEN i.custody_amount = 0 THEN i.pending
        ELSE false END)
      AND abs(i.custody_amount - i.ledger_amount) > recon.tolerance('ledger_vs_custody', i.asset, 0)
$$;

CREATE FUNCTION recon.unread(d date, v integer, which text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(jsonb_build_object('subject', u.subject, 'why', u.why) ORDER BY u.subject)
    FROM custody.unread u WHERE u.close_date = d AND u.version = v AND u.source = which
$$;

-- What a gate of breaks comes to.
CREATE FUNCTION recon.judgement_of(unread jsonb, missing jsonb, compared bigint, shown jsonb, how_many bigint, extra jsonb) RETURNS recon.judgement
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN unread IS NOT NULL OR missing IS NOT NULL THEN ('unknown', extra || jsonb_strip_nulls(jsonb_build_object(
            'what', 'not every source could be read', 'unread', unread, 'not_captured', missing)))::recon.judgement
        WHEN compared = 0 THEN ('unknown', extra || '{"what": "nothing is configured to compare"}')::recon.judgement
        WHEN how_many = 0 THEN ('pass', extra || jsonb_build_object('compared', compared))::recon.judgement
        ELSE ('fail', extra || jsonb_build_object('compared', compared, 'breaks', how_many, 'shown', shown))::recon.judgement END
$$;

CREATE FUNCTION recon.gate_ledger_vs_custody(d date, v integer) RETURNS recon.judgement
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH wrong AS (SELECT * FROM recon.breaks_of_ledger_vs_custody(d, v) ORDER BY subject, asset),
    changed AS (SELECT count(*) AS off FROM (
        (SELECT * FROM custody.expected_in_transit(d, v) EXCEPT ALL SELECT * FROM custody.in_transit WHERE close_date = d AND version = v)
        UNION ALL
        (SELECT * FROM custody.in_transit WHERE close_date = d AND version = v EXCEPT ALL SELECT * FROM custody.expected_in_transit(d, v))) x),
    listed AS (SELECT jsonb_build_object('in_transit', coalesce(jsonb_agg(jsonb_build_object('asset', i.asset, 'reference', i.reference,
            'custody', trim_scale(i.custody_amount)::text, 'ledger', trim_scale(i.ledger_amount)::text, 'since', i.since)
            ORDER BY i.asset, i.reference) FILTER (WHERE i.n <= 50), '[]'), 'in_transit_count', count(i.n)) AS items
        FROM (SELECT t.*, row_number() OVER (ORDER BY t.asset, t.reference) AS n FROM custody.in_transit t
              WHERE t.close_date = d AND t.version = v) i)
    SELECT recon.judgement_of(recon.unread(d, v, 'custody'),
        (SELECT jsonb_agg(w.wallet || '/' || w.asset ORDER BY w.wallet, w.asset) FROM custody.wallets_on(d) w
         WHERE NOT EXISTS (SELECT FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v AND b.wallet = w.wallet AND b.asset = w.asset)
           AND NOT EXISTS (SELECT FROM custody.unread u WHERE u.close_date = d AND u.version = v AND u.subject = w.wallet || '/' || w.asset)),
        (SELECT count(*) FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v),
        (SELECT jsonb_agg(jsonb_build_object('subject', x.subject, 'asset', x.asset, 'ledger', trim_scale(x.expected)::text,
            'custody', trim_scale(x.actual)::text, 'difference', trim_scale(x.actual - x.expected)::text)) FROM (SELECT * FROM wrong LIMIT 50) x),
        (SELECT count(*) FROM wrong) + (SELECT off FROM changed),
        (SELECT items FROM listed) || (SELECT jsonb_build_object('listed_rows_not_of_books', off) FROM changed))
$$;

-- What custody holds beside what is in transit, against what customers and others are owed, per asset.
CREATE FUNCTION recon.breaks_of_custody_covers_liabilities(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM (
        SELECT 'liabilities', o.asset, o.owed,
            coalesce((SELECT sum(b.balance) FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v AND b.asset = o.asset), 0)
            - coalesce((SELECT sum(i.custody_amount - i.ledger_amount) FROM custody.in_transit i
                WHERE i.close_date = d AND i.version = v AND i.asset = o.asset), 0)
        FROM (SELECT c.asset, sum(c.closing) AS owed FROM ledger.control_totals c WHERE c.close_date = d AND c.version = v
              AND c.liability_class IN ('customer', 'other_liability') GROUP BY c.asset) o) x (subject, asset, owed, held)
    WHERE x.owed - x.held > recon.tolerance('custody_covers_liabilities', x.asset, x.owed)
$$;

CREATE FUNCTION recon.gate_custody_covers_liabilities(d date, v integer) RETURNS recon.judgement
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH wrong AS (SELECT * FROM recon.breaks_of_custody_covers_liabilities(d, v) ORDER BY asset)
    SELECT recon.judgement_of(recon.unread(d, v, 'custody'), NULL,
        (SELECT count(*) FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v),
        (SELECT jsonb_agg(jsonb_build_object('asset', x.asset, 'owed', trim_scale(x.expected)::text, 'held', trim_scale(x.actual)::text,
            'difference', trim_scale(x.actual - x.expected)::text)) FROM wrong x),
        (SELECT count(*) FROM wrong), '{}')
$$;

-- What the contract says is staked against what the ledger has on users' staked accounts, per asset.
CREATE FUNCTION recon.breaks_of_staking_vs_chain(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM (
        SELECT 'staking', t.asset,
            coalesce((SELECT sum(b.balance) FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
                WHERE b.close_date = d AND b.version = v AND a.asset = t.asset AND a.sub_account = 'staked'), 0), sum(t.total)
        FROM chain.staking_totals t WHERE t.close_date = d AND t.version = v GROUP BY t.asset) x (subject, asset, expected, actual)
    WHERE abs(x.expected - x.actual) > recon.tolerance('staking_vs_chain', x.asset, x.actual)
$$;

CREATE FUNCTION recon.gate_staking_vs_chain(d date, v integer) RETURNS recon.judgement
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH wrong AS (SELECT * FROM recon.breaks_of_staking_vs_chain(d, v) ORDER BY asset)
    SELECT recon.judgement_of(recon.unread(d, v, 'chain'),
        (SELECT jsonb_agg(c.contract ORDER BY c.contract) FROM chain.contracts_on(d) c
         WHERE NOT EXISTS (SELECT FROM chain.staking_totals t WHERE t.close_date = d AND t.version = v AND t.contract = c.contract)
           AND NOT EXISTS (SELECT FROM custody.unread u WHERE u.close_date = d AND u.version = v AND u.source = 'chain' AND u.subject = c.contract)),
        (SELECT count(*) FROM chain.staking_totals t WHERE t.close_date = d AND t.version = v),
        (SELECT jsonb_agg(jsonb_build_object('asset', x.asset, 'ledger', trim_scale(x.expected)::text, 'chain', trim_scale(x.actual)::text,
            'difference', trim_scale(x.actual - x.expected)::text)) FROM wrong x),
        (SELECT count(*) FROM wrong),
        coalesce((SELECT jsonb_build_object('blocks', jsonb_agg(jsonb_build_object('contract', t.contract, 'height', t.block_height,
            'hash', t.block_hash) ORDER BY t.contract)) FROM chain.staking_totals t WHERE t.close_date = d AND t.version = v), '{}'))
$$;

ALTER TABLE recon.known_gates ADD COLUMN breaks boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN recon.known_gates.breaks IS 'Whether recon.breaks_of_<gate>(date, version) names its differences.';
INSERT INTO recon.known_gates (gate, late, breaks) VALUES
    ('ledger_vs_custody', false, true), ('custody_covers_liabilities', false, true), ('staking_vs_chain', false, true);

-- Breaks of a gate: differences age or open, and those that are gone are marked re-read. Only users' breaks freeze anybody.
CREATE FUNCTION recon.write_breaks(g text, d date, v integer, hash text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('UPDATE recon.breaks b SET state = ''corrected'', reason_code = ''capture_re_read'', last_seen = clock_timestamp()
        WHERE b.gate = $3 AND b.last_date = $1 AND b.version = $2 AND b.state NOT IN (''corrected'', ''closed'')
          AND NOT EXISTS (SELECT FROM recon.%I($1, $2) x WHERE x.subject = b.subject AND x.asset = b.asset)', 'breaks_of_' || g)
    USING d, v, g;
    EXECUTE format('INSERT INTO recon.breaks AS b (gate, subject, asset, first_date, last_date, version, books_sha256, expected, actual, difference)
        SELECT $3, x.subject, x.asset, $1, $1, $2, $4, x.expected, x.actual, x.actual - x.expected FROM recon.%I($1, $2) x
        ON CONFLICT (gate, subject, asset) WHERE state NOT IN (''corrected'', ''closed'') DO UPDATE
            SET last_date = excluded.last_date, version = excluded.version, books_sha256 = excluded.books_sha256,
                expected = excluded.expected, actual = excluded.actual, difference = excluded.difference,
                last_seen = clock_timestamp()', 'breaks_of_' || g)
    USING d, v, g, hash;
END $$;

-- Judge one gate for the books hash in force, write the verdict, its breaks and freezes, and move the day.
CREATE OR REPLACE FUNCTION recon.judge(d date, g text, e bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day close.days;
    j recon.judgement;
    late_or_open boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('close.day ' || d));
    PERFORM close.fence(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d FOR UPDATE;
    IF day.state IS NULL OR day.state NOT IN ('cutoff', 'reconciled') OR day.books_sha256 IS NULL THEN
        PERFORM close.refuse('CL009', format('%s has no books hash to judge %s for', d, g), 'run the close from its cut-off on');
    END IF;
    j := recon.gate(d, day.version, g);
    IF j IS NULL OR j.verdict IS NULL THEN
        PERFORM close.refuse('CL007', format('there is no gate %s', g), 'see docs/runbooks');
    END IF;
    INSERT INTO recon.verdicts AS v (close_date, version, books_sha256, gate, verdict, detail)
    VALUES (d, day.version, day.books_sha256, g, j.verdict, j.detail)
    ON CONFLICT (close_date, version, books_sha256, gate, scope) DO UPDATE
        SET verdict = excluded.verdict, detail = excluded.detail, judged_at = excluded.judged_at
        WHERE (v.verdict, v.detail) IS DISTINCT FROM (excluded.verdict, excluded.detail);
    IF j.verdict <> 'unknown' THEN
        IF g = 'engine_vs_ledger' THEN
            PERFORM recon.write_engine_breaks(d, day.version, day.books_sha256);
        ELSIF (SELECT k.breaks FROM recon.known_gates k WHERE k.gate = g) THEN
            PERFORM recon.write_breaks(g, d, day.version, day.books_sha256);
        END IF;
    END IF;
    SELECT bool_or(NOT s.stands) INTO late_or_open FROM recon.gates(d) s WHERE NOT recon.is_late_gate(s.gate);
    UPDATE close.days SET state = CASE WHEN late_or_open THEN 'cutoff' ELSE 'reconciled' END, changed_at = clock_timestamp()
    WHERE close_date = d AND state <> CASE WHEN late_or_open THEN 'cutoff' ELSE 'reconciled' END;
    RETURN j.verdict;
END $$;

-- A policy that names wallets or contracts wants their gates; one that names none cannot have them pass.
ALTER TABLE close.policies ADD CONSTRAINT policies_outside_gates CHECK (
    (coalesce(jsonb_array_length(policy -> 'custody_wallets'), 0) = 0
        OR policy -> 'required_gates' ?& ARRAY['ledger_vs_custody', 'custody_covers_liabilities'])
    AND (coalesce(jsonb_array_length(policy -> 'staking_contracts'), 0) = 0 OR policy -> 'required_gates' ? 'staking_vs_chain'));

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA custody, chain FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION recon.write_breaks(text, date, integer, text), recon.unread(date, integer, text),
    recon.tolerance(text, text, numeric), recon.judgement_of(jsonb, jsonb, bigint, jsonb, bigint, jsonb),
    recon.breaks_of_ledger_vs_custody(date, integer), recon.breaks_of_custody_covers_liabilities(date, integer),
    recon.breaks_of_staking_vs_chain(date, integer), recon.gate_ledger_vs_custody(date, integer),
    recon.gate_custody_covers_liabilities(date, integer), recon.gate_staking_vs_chain(date, integer),
    close.replace_readings(date, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION close.replace_readings(date, bigint), chain.replace_totals(date, bigint), custody.write_in_transit(date, bigint),
    custody.movements_due(date, integer), custody.movements_booked(date), recon.breaks_of_ledger_vs_custody(date, integer)
    TO compline_app;
GRANT INSERT ON custody.wallet_balances, custody.transfers, custody.unread, chain.staking_totals TO compline_app;
GRANT SELECT ON custody.wallet_balances, custody.transfers, custody.unread, custody.in_transit, chain.staking_totals,
    capture.readings TO compline_app;

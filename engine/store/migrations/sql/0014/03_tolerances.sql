-- Tolerances: set and ended by two people, kept for ever, and shown wherever one was used.

ALTER TABLE recon.tolerances ADD COLUMN maker text, ADD COLUMN reason text, ADD COLUMN set_at timestamptz DEFAULT clock_timestamp(),
    ADD CONSTRAINT tolerances_two_people CHECK (maker IS NULL OR NOT accounts.same_person(maker, approver)),
    ADD CONSTRAINT tolerances_bps CHECK (bps <= 10000);

CREATE TABLE recon.tolerance_events (
    event_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gate       text NOT NULL,
    asset      text NOT NULL,
    what       text NOT NULL CHECK (what IN ('set', 'expired')),
    absolute   numeric(38, 18) NOT NULL,
    bps        integer NOT NULL,
    expires_at timestamptz NOT NULL,
    maker      text NOT NULL,
    approver   text NOT NULL,
    reason     text NOT NULL CHECK (reason ~ '[^[:space:]]'),
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT tolerance_events_two_people CHECK (NOT accounts.same_person(maker, approver))
);
COMMENT ON TABLE recon.tolerance_events IS 'One row per time that a tolerance was set or ended: how much, until when, why, and the two people; append-only.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recon.tolerance_events
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE FUNCTION recon.two_people(what text, who text, second text, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF btrim(coalesce(who, '')) = '' OR btrim(coalesce(second, '')) = '' OR accounts.same_person(who, second) THEN
        PERFORM close.refuse('CL012', format('%s needs two different people', what), 'name a maker and a checker');
    END IF;
    IF coalesce(why, '') !~ '[^[:space:]]' THEN
        PERFORM close.refuse('CL012', format('%s needs a reason', what), 'say why: --why');
    END IF;
END $$;

CREATE FUNCTION recon.set_tolerance(g text, a text, much numeric, points integer, until timestamptz, why text, who text, second text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recon.two_people(format('a tolerance of %s', g), who, second, why);
    IF NOT coalesce((SELECT k.breaks FROM recon.known_gates k WHERE k.gate = g), false) THEN
        PERFORM close.refuse('CL012', format('gate %s takes no tolerance', g), 'between engine and ledger nothing is tolerated; of the others: '
            || (SELECT string_agg(k.gate, ', ' ORDER BY k.gate) FROM recon.known_gates k WHERE k.breaks));
    END IF;
    IF NOT EXISTS (SELECT FROM exchange.assets s WHERE s.asset = a) THEN
        PERFORM close.refuse('CL012', format('there is no asset %s', a), 'name one as the books do');
    END IF;
    IF much IS NULL OR much < 0 OR much >= 'Infinity' OR points IS NULL OR points NOT BETWEEN 0 AND 10000 OR (much = 0 AND points = 0) THEN
        PERFORM close.refuse('CL012', format('a tolerance of %s %s or %s bps is none', much, a, points),
            'a positive amount, or 1 to 10000 basis points; recon tolerances expire ends one');
    END IF;
    IF until IS NULL OR until <= clock_timestamp() OR until > clock_timestamp() + interval '366 days' THEN
        PERFORM close.refuse('CL012', 'a tolerance ends within 366 days', 'give it an end that is not past, and not far');
    END IF;
    INSERT INTO recon.tolerances AS t (gate, asset, absolute, bps, approver, expires_at, maker, reason, set_at)
    VALUES (g, a, much, points, btrim(second), until, btrim(who), why, clock_timestamp())
    ON CONFLICT (gate, asset) DO UPDATE SET absolute = excluded.absolute, bps = excluded.bps, approver = excluded.approver,
        expires_at = excluded.expires_at, maker = excluded.maker, reason = excluded.reason, set_at = excluded.set_at;
    INSERT INTO recon.tolerance_events (gate, asset, what, absolute, bps, expires_at, maker, approver, reason)
    VALUES (g, a, 'set', much, points, until, btrim(who), btrim(second), why);
END $$;

CREATE FUNCTION recon.expire_tolerance(g text, a text, why text, who text, second text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE ended recon.tolerances;
BEGIN
    PERFORM recon.two_people(format('ending a tolerance of %s', g), who, second, why);
    UPDATE recon.tolerances t SET expires_at = clock_timestamp() WHERE t.gate = g AND t.asset = a AND t.expires_at > clock_timestamp()
    RETURNING * INTO ended;
    IF ended.gate IS NULL THEN
        PERFORM close.refuse('CL012', format('no tolerance of %s in %s is in force', g, a), 'compline recon tolerances list');
    END IF;
    INSERT INTO recon.tolerance_events (gate, asset, what, absolute, bps, expires_at, maker, approver, reason)
    VALUES (g, a, 'expired', ended.absolute, ended.bps, ended.expires_at, btrim(who), btrim(second), why);
END $$;

-- Every difference of a gate with what is tolerated of it; those beyond are its breaks.
CREATE FUNCTION recon.differences_of_ledger_vs_custody(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric, tolerance numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.*, recon.tolerance('ledger_vs_custody', w.asset, w.actual) FROM (
        SELECT 'custody:' || b.wallet, b.asset,
            coalesce((SELECT -x.balance FROM ledger.daily_balances x JOIN ledger.accounts a USING (account_id)
                WHERE x.close_date = d AND x.version = v AND a.account = 'custody:' || b.wallet AND a.asset = b.asset), 0)
            + CASE WHEN b.wallet = 'main' THEN coalesce((SELECT sum(i.custody_amount - i.ledger_amount) FROM custody.in_transit i
                WHERE i.close_date = d AND i.version = v AND i.asset = b.asset), 0) ELSE 0 END AS expected,
            b.balance AS actual
        FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v) w (subject, asset, expected, actual)
    WHERE w.expected <> w.actual
    UNION ALL
    SELECT 'transit:' || i.reference, i.asset, i.ledger_amount, i.custody_amount, recon.tolerance('ledger_vs_custody', i.asset, 0)
    FROM custody.in_transit i
    CROSS JOIN LATERAL (SELECT coalesce((SELECT (p.policy ->> 'in_transit_max_days')::integer FROM close.policy_on(d) p), 2) AS days) m
    WHERE i.close_date = d AND i.version = v AND NOT (d - i.since < m.days AND CASE
        -- Came in and is not credited yet; or left on an order that the ledger has not confirmed yet.
        WHEN i.ledger_amount = 0 THEN i.custody_amount > 0 OR i.ordered
        -- Credited or confirmed before custody did: only while its list has the line, unconfirmed.
        WHEN i.custody_amount = 0 THEN i.pending
        ELSE false END)
$$;
CREATE FUNCTION recon.differences_of_custody_covers_liabilities(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric, tolerance numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.*, recon.tolerance('custody_covers_liabilities', x.asset, x.owed) FROM (
        SELECT 'liabilities', o.asset, o.owed,
            coalesce((SELECT sum(b.balance) FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v AND b.asset = o.asset), 0)
            - coalesce((SELECT sum(i.custody_amount - i.ledger_amount) FROM custody.in_transit i
                WHERE i.close_date = d AND i.version = v AND i.asset = o.asset), 0)
        -- A debit balance of a house account is no debt: what suspense has lost lessens nothing that is owed.
        FROM (SELECT y.asset, sum(y.owed) AS owed FROM (
            SELECT c.asset, c.closing AS owed FROM ledger.control_totals c
            WHERE c.close_date = d AND c.version = v AND c.liability_class = 'customer'
            UNION ALL
            SELECT a.asset, b.balance FROM ledger.accounts a
            JOIN ledger.daily_balances b ON b.account_id = a.account_id AND b.close_date = d AND b.version = v
            WHERE a.liability_class = 'other_liability' AND b.balance > 0) y GROUP BY y.asset) o) x (subject, asset, owed, held)
    WHERE x.owed > x.held
$$;
CREATE FUNCTION recon.differences_of_staking_vs_chain(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric, tolerance numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.*, recon.tolerance('staking_vs_chain', x.asset, x.actual) FROM (
        SELECT 'staking', t.asset,
            coalesce((SELECT sum(b.balance) FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
                WHERE b.close_date = d AND b.version = v AND a.asset = t.asset AND a.sub_account = 'staked'), 0), sum(t.total)
        FROM chain.staking_totals t WHERE t.close_date = d AND t.version = v GROUP BY t.asset) x (subject, asset, expected, actual)
    WHERE x.expected <> x.actual
$$;
CREATE OR REPLACE FUNCTION recon.breaks_of_ledger_vs_custody(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.subject, x.asset, x.expected, x.actual FROM recon.differences_of_ledger_vs_custody(d, v) x WHERE abs(x.actual - x.expected) > x.tolerance
$$;
CREATE OR REPLACE FUNCTION recon.breaks_of_custody_covers_liabilities(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.subject, x.asset, x.expected, x.actual FROM recon.differences_of_custody_covers_liabilities(d, v) x WHERE abs(x.actual - x.expected) > x.tolerance
$$;
CREATE OR REPLACE FUNCTION recon.breaks_of_staking_vs_chain(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.subject, x.asset, x.expected, x.actual FROM recon.differences_of_staking_vs_chain(d, v) x WHERE abs(x.actual - x.expected) > x.tolerance
$$;

-- Which differences a verdict let be, by how much, under whose tolerance.
CREATE FUNCTION recon.tolerated(g text, d date, v integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE found jsonb;
BEGIN
    EXECUTE format('SELECT jsonb_agg(jsonb_build_object(''subject'', x.subject, ''asset'', x.asset,
            ''difference'', trim_scale(x.actual - x.expected)::text, ''tolerance'', trim_scale(x.tolerance)::text,
            ''maker'', t.maker, ''approver'', t.approver, ''until'', close.iso_us(t.expires_at)) ORDER BY x.subject, x.asset)
        FROM recon.%I($1, $2) x LEFT JOIN recon.tolerances t ON t.gate = $3 AND t.asset = x.asset
        WHERE abs(x.actual - x.expected) <= x.tolerance', 'differences_of_' || g) INTO found USING d, v, g;
    RETURN CASE WHEN found IS NULL THEN '{}' ELSE jsonb_build_object('tolerated', found) END;
END $$;

CREATE OR REPLACE FUNCTION recon.gate_ledger_vs_custody(d date, v integer) RETURNS recon.judgement
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
        (SELECT items FROM listed) || (SELECT jsonb_build_object('listed_rows_not_of_books', off) FROM changed)
            || recon.tolerated('ledger_vs_custody', d, v))
$$;
CREATE OR REPLACE FUNCTION recon.gate_custody_covers_liabilities(d date, v integer) RETURNS recon.judgement
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH wrong AS (SELECT * FROM recon.breaks_of_custody_covers_liabilities(d, v) ORDER BY asset)
    SELECT recon.judgement_of(recon.unread(d, v, 'custody'), NULL,
        (SELECT count(*) FROM custody.wallet_balances b WHERE b.close_date = d AND b.version = v),
        (SELECT jsonb_agg(jsonb_build_object('asset', x.asset, 'owed', trim_scale(x.expected)::text, 'held', trim_scale(x.actual)::text,
            'difference', trim_scale(x.actual - x.expected)::text)) FROM wrong x),
        (SELECT count(*) FROM wrong), recon.tolerated('custody_covers_liabilities', d, v))
$$;
CREATE OR REPLACE FUNCTION recon.gate_staking_vs_chain(d date, v integer) RETURNS recon.judgement
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
            'hash', t.block_hash) ORDER BY t.contract)) FROM chain.staking_totals t WHERE t.close_date = d AND t.version = v), '{}')
            || recon.tolerated('staking_vs_chain', d, v))
$$;

REVOKE EXECUTE ON FUNCTION recon.two_people(text, text, text, text), recon.expire_tolerance(text, text, text, text, text),
    recon.set_tolerance(text, text, numeric, integer, timestamptz, text, text, text), recon.tolerated(text, date, integer),
    recon.differences_of_ledger_vs_custody(date, integer), recon.differences_of_custody_covers_liabilities(date, integer),
    recon.differences_of_staking_vs_chain(date, integer) FROM PUBLIC;
GRANT SELECT ON recon.tolerance_events TO compline_app;

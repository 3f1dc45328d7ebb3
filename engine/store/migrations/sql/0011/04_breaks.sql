-- Breaks have a life: open -> investigating -> explained | corrected -> closed, each step with who and why.

CREATE TABLE recon.reason_codes (
    reason_code text PRIMARY KEY CHECK (reason_code ~ '^[a-z][a-z_]{0,39}$'),
    meaning     text NOT NULL
);
COMMENT ON TABLE recon.reason_codes IS 'One row per reason that a break can have.';
INSERT INTO recon.reason_codes VALUES
    ('timing', 'both sides are right at different instants; it goes by itself'),
    ('missing_entry', 'one side lacks an event that the other has'),
    ('duplicate_entry', 'one side has an event twice'),
    ('wrong_amount', 'one side has another amount for the same event'),
    ('wrong_account', 'an event is on another account than it should be'),
    ('outside_error', 'the custodian, the chain or a bank was wrong'),
    ('capture_error', 'what was read was damaged or of another instant'),
    ('capture_re_read', 'gone once it was read again'),
    ('fraud', 'somebody did it'),
    ('unknown', 'nobody found out');

CREATE TABLE recon.break_events (
    event_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    break_id   bigint NOT NULL REFERENCES recon.breaks,
    what       text NOT NULL CHECK (what IN ('assigned', 'comment', 'explained', 'corrected', 'closed', 'reopened')),
    actor      text NOT NULL CHECK (actor ~ '[^[:space:]]'),
    second     text,
    text       text NOT NULL CHECK (text ~ '[^[:space:]]'),
    evidence   text CHECK (evidence ~ '^[!-~]+$' AND length(evidence) <= 500),
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE recon.break_events IS 'One row per thing that somebody did with a break: who, what, why, with a link to evidence; append-only.';
CREATE INDEX break_events_of ON recon.break_events (break_id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recon.break_events
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE TABLE recon.corrections (
    break_id    bigint PRIMARY KEY REFERENCES recon.breaks,
    side        text NOT NULL CHECK (side IN ('ledger', 'engine')),
    amount      numeric(38, 18) NOT NULL CHECK (amount <> 0 AND amount < 'NaN'),
    counter     text,
    posting_no  bigint,
    request_key text,
    maker       text NOT NULL,
    checker     text NOT NULL,
    reason      text NOT NULL CHECK (reason ~ '[^[:space:]]'),
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT corrections_two_people CHECK (NOT accounts.same_person(maker, checker)),
    CONSTRAINT corrections_one_side CHECK (CASE side WHEN 'ledger' THEN posting_no IS NOT NULL AND counter IS NOT NULL AND request_key IS NULL
        ELSE posting_no IS NULL AND counter IS NULL AND request_key IS NOT NULL END)
);
COMMENT ON TABLE recon.corrections IS 'One row per corrected break: the side that was wrong, by the break''s own amount, and the two people. The only one-sided postings there are.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recon.corrections
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- A correction is of its break, to the unit: one row, one break, its very difference.
CREATE FUNCTION recon.guard_corrections() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b recon.breaks;
BEGIN
    SELECT * INTO b FROM recon.breaks WHERE break_id = NEW.break_id FOR UPDATE;
    IF b.gate IS DISTINCT FROM 'engine_vs_ledger' OR b.state NOT IN ('open', 'investigating', 'explained') THEN
        PERFORM close.refuse('CL012', format('break %s is %s of %s: it cannot be corrected', NEW.break_id, coalesce(b.state, 'not there'),
            coalesce(b.gate, 'no gate')), 'only living breaks of engine_vs_ledger are corrected');
    END IF;
    IF NEW.amount <> (CASE NEW.side WHEN 'ledger' THEN b.difference ELSE -b.difference END) THEN
        PERFORM close.refuse('CL012', format('break %s is %s %s, not %s', b.break_id, trim_scale(b.difference), b.asset, trim_scale(NEW.amount)),
            'a correction has its break''s own amount');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON recon.corrections FOR EACH ROW EXECUTE FUNCTION recon.guard_corrections();

-- The living break to work on, locked; refuses one that is closed.
CREATE FUNCTION recon.living_break(which bigint) RETURNS recon.breaks
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b recon.breaks;
BEGIN
    SELECT * INTO b FROM recon.breaks WHERE break_id = which FOR UPDATE;
    IF b.break_id IS NULL OR b.state = 'closed' THEN
        PERFORM close.refuse('CL012', format('break %s is %s', which, coalesce(b.state, 'not there')), 'compline recon breaks list');
    END IF;
    RETURN b;
END $$;

CREATE FUNCTION recon.assign_break(which bigint, who text, to_whom text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b recon.breaks := recon.living_break(which);
BEGIN
    IF btrim(coalesce(to_whom, '')) = '' THEN PERFORM close.refuse('CL012', format('break %s is assigned to nobody', which), 'name an owner'); END IF;
    UPDATE recon.breaks SET owner = btrim(to_whom), state = CASE state WHEN 'open' THEN 'investigating' ELSE state END WHERE break_id = which;
    INSERT INTO recon.break_events (break_id, what, actor, text) VALUES (which, 'assigned', btrim(who), 'to ' || btrim(to_whom));
END $$;

CREATE FUNCTION recon.comment_break(which bigint, who text, said text, link text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b recon.breaks := recon.living_break(which);
BEGIN
    UPDATE recon.breaks SET state = 'investigating' WHERE break_id = which AND state = 'open';
    INSERT INTO recon.break_events (break_id, what, actor, text, evidence) VALUES (which, 'comment', btrim(who), said, link);
END $$;

CREATE FUNCTION recon.explain_break(which bigint, who text, code text, said text, link text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b recon.breaks := recon.living_break(which);
BEGIN
    IF NOT EXISTS (SELECT FROM recon.reason_codes r WHERE r.reason_code = code) THEN
        PERFORM close.refuse('CL012', format('there is no reason %s', code), (SELECT string_agg(r.reason_code, ', ' ORDER BY 1) FROM recon.reason_codes r));
    END IF;
    IF b.state = 'corrected' THEN PERFORM close.refuse('CL012', format('break %s is corrected already', which), 'close it'); END IF;
    UPDATE recon.breaks SET state = 'explained', reason_code = code, maker = btrim(who) WHERE break_id = which;
    INSERT INTO recon.break_events (break_id, what, actor, text, evidence) VALUES (which, 'explained', btrim(who), code || ': ' || said, link);
END $$;

-- Correct the wrong side by the break's own amount: the ledger by a journal without a command, into the open day; the engine by
-- a command that is settled nowhere. Two people.
CREATE FUNCTION recon.correct_break(which bigint, wrong text, who text, second text, why text, other text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b recon.breaks := recon.living_break(which);
    u accounts.users;
    day date;
    no bigint;
    scale numeric;
    at timestamptz := date_trunc('microseconds', clock_timestamp());
    opened timestamptz;
    legs text[];
    key text := format('break:%s:engine', which);
BEGIN
    IF btrim(coalesce(who, '')) = '' OR btrim(coalesce(second, '')) = '' OR accounts.same_person(who, second) THEN
        PERFORM close.refuse('CL012', format('correcting break %s needs two different people', which), 'name a maker and a checker');
    END IF;
    SELECT * INTO u FROM accounts.users x WHERE x.account = split_part(b.subject, ':', 1);
    IF wrong = 'engine' THEN
        IF u.user_id IS NULL OR b.subject <> u.account THEN
            PERFORM close.refuse('CL012', format('break %s is of %s: the engine corrects what a user has available', which, b.subject),
                'correct the side that was wrong by its own means');
        END IF;
        INSERT INTO recon.corrections (break_id, side, amount, request_key, maker, checker, reason)
        VALUES (which, 'engine', -b.difference, key, btrim(who), btrim(second), why);
        PERFORM exchange.request_command(key, 'correct_engine', jsonb_build_object('user_id', u.user_id, 'asset', b.asset,
            'amount', trim_scale(-b.difference)::text, 'actor', btrim(who), 'reason', why));
        INSERT INTO recon.break_events (break_id, what, actor, second, text)
        VALUES (which, 'corrected', btrim(who), btrim(second), 'engine, asked for: ' || why);
        RETURN key;
    ELSIF wrong IS DISTINCT FROM 'ledger' THEN
        PERFORM close.refuse('CL012', format('side %s of break %s cannot be corrected by a posting', wrong, which),
            'engine or ledger; a wrong capture is read again: compline close run DATE --recapture');
    END IF;
    IF other IS NULL OR EXISTS (SELECT FROM accounts.users x WHERE x.account = split_part(other, ':', 1)) THEN
        PERFORM close.refuse('CL012', format('correcting break %s in the ledger needs a house account for the other leg', which),
            'e.g. custody:main for a deposit that was not settled');
    END IF;
    SELECT y.close_date INTO day FROM close.days y WHERE y.state = 'open' AND NOT y.genesis ORDER BY 1 LIMIT 1;
    IF day IS NULL THEN PERFORM close.refuse('CL002', 'no date is open to take a correction', 'compline close status'); END IF;
    -- Of now where the open date is today; where dates are being caught up, of the open date's first instant.
    SELECT y.cutoff_at INTO opened FROM close.days y WHERE y.close_date = day - 1;
    IF at > opened + interval '25 hours' THEN at := opened; END IF;
    SELECT s.scale INTO scale FROM exchange.assets s WHERE s.asset = b.asset;
    PERFORM ledger.ensure_accounts(ARRAY[b.subject, other], ARRAY[b.asset, b.asset]);
    no := ledger.reserve_postings(1);
    INSERT INTO recon.corrections (break_id, side, amount, counter, posting_no, maker, checker, reason)
    VALUES (which, 'ledger', b.difference, other, no, btrim(who), btrim(second), why);
    SELECT array_agg(x.leg ORDER BY x.leg COLLATE "C") INTO legs FROM (VALUES
        (b.subject || E'\t' || b.asset || E'\t' || trunc(b.difference * scale)),
        (other || E'\t' || b.asset || E'\t' || trunc(-b.difference * scale))) x (leg);
    INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, effective_at, close_date, origin, actor, reason, row_hash)
    VALUES (no, 'correction', 'break', which::text, at, day, 'correction', btrim(who) || ' and ' || btrim(second), why,
        sha256(convert_to(concat_ws(E'\t', 'correction', 'break', which::text, '', close.iso_us(at), 'correction', legs[1], legs[2]) || E'\n', 'UTF8')));
    INSERT INTO ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)
    SELECT no, day, a.account_id, b.asset, CASE a.account WHEN b.subject THEN b.difference ELSE -b.difference END
    FROM ledger.accounts a WHERE a.asset = b.asset AND a.account IN (b.subject, other);
    UPDATE recon.breaks SET state = 'corrected', reason_code = coalesce(reason_code, 'missing_entry'), maker = btrim(who) WHERE break_id = which;
    INSERT INTO recon.break_events (break_id, what, actor, second, text)
    VALUES (which, 'corrected', btrim(who), btrim(second), format('ledger, posting %s on %s against %s: %s', no, day, other, why));
    RETURN no::text;
END $$;

-- The engine has said what became of a correction: done, or refused, and then the break lives on.
CREATE FUNCTION recon.correction_answered() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE c recon.corrections;
BEGIN
    SELECT * INTO c FROM recon.corrections x WHERE x.request_key = NEW.request_key;
    IF NEW.outcome IN ('accepted', 'duplicate_reference') THEN
        UPDATE recon.breaks SET state = 'corrected', reason_code = coalesce(reason_code, 'wrong_amount'), maker = c.maker
        WHERE break_id = c.break_id AND state NOT IN ('corrected', 'closed');
    ELSE
        INSERT INTO recon.break_events (break_id, what, actor, text) VALUES (c.break_id, 'reopened', 'exchange', 'the engine refused: ' || NEW.outcome);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER break_correction_answered AFTER UPDATE OF outcome ON exchange.command_requests
    FOR EACH ROW WHEN (OLD.outcome IS NULL AND NEW.outcome IS NOT NULL AND NEW.kind = 'correct_engine')
    EXECUTE FUNCTION recon.correction_answered();

-- Close: by another person than the one who explained or corrected it. The user's hold goes with it.
CREATE OR REPLACE FUNCTION recon.close_break(which bigint, who text, second text, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE b recon.breaks := recon.living_break(which);
BEGIN
    IF btrim(coalesce(who, '')) = '' OR btrim(coalesce(second, '')) = '' OR accounts.same_person(who, second) THEN
        PERFORM close.refuse('CL012', format('break %s needs two different people', which), 'name a maker and a checker');
    END IF;
    IF b.state NOT IN ('explained', 'corrected') THEN
        PERFORM close.refuse('CL012', format('break %s is %s, not explained or corrected', which, b.state), 'explain, recapture or correct it first');
    END IF;
    IF b.maker IS NOT NULL AND accounts.same_person(b.maker, second) THEN
        PERFORM close.refuse('CL012', format('break %s was %s by %s, who cannot be the second to close it', which, b.state, b.maker),
            'name another person');
    END IF;
    UPDATE recon.breaks SET state = 'closed', maker = btrim(who), checker = btrim(second), reason_code = coalesce(reason_code, 'unknown')
    WHERE break_id = which;
    INSERT INTO recon.break_events (break_id, what, actor, second, text) VALUES (which, 'closed', btrim(who), btrim(second), why);
    PERFORM accounts.release_hold(h.hold_id, btrim(who), btrim(second), why) FROM accounts.holds h
    WHERE h.kind = 'break' AND h.reference = 'break-' || which AND h.released_at IS NULL;
END $$;

-- A waiver: two people, a reason, an end not too far away. It turns no verdict; the seal shows it.
CREATE FUNCTION recon.waive(g text, scoped text, d date, a text, cap numeric, why text, who text, second text, until timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE made bigint;
BEGIN
    IF btrim(coalesce(who, '')) = '' OR btrim(coalesce(second, '')) = '' OR accounts.same_person(who, second) THEN
        PERFORM close.refuse('CL012', 'a waiver needs two different people', 'name a maker and a checker');
    END IF;
    IF until <= clock_timestamp() OR until > clock_timestamp() + interval '31 days' THEN
        PERFORM close.refuse('CL012', 'a waiver ends within 31 days', 'give it an end that is not past, and not far');
    END IF;
    INSERT INTO recon.waivers (gate, scope, close_date, asset, amount_cap, reason, maker, checker, expires_at)
    VALUES (g, scoped, d, a, cap, why, btrim(who), btrim(second), until) RETURNING waiver_id INTO made;
    RETURN made;
END $$;

-- What a day's snapshot is: the engine's balances at the barrier at the closing marks. Where engine and ledger differ on a user, the
-- ledger is what the user is owed until the break is closed: the tree's total is the ledger's, and the gate shows the break.
CREATE OR REPLACE FUNCTION close.expected_snapshots(d date, v integer) RETURNS SETOF close.user_balance_snapshots
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    WITH differing AS MATERIALIZED (
        SELECT DISTINCT split_part(x.subject, ':', 1) AS account, x.asset FROM recon.engine_ledger_differences(d, v) x
        WHERE NOT starts_with(x.subject, 'house:')),
    held AS (
        SELECT b.account, b.asset, b.available, b.locked, b.staked, b.in_transit FROM exchange.engine_balances b
        WHERE b.close_date = d AND b.version = v
          AND NOT EXISTS (SELECT FROM differing x WHERE x.account = b.account AND x.asset = b.asset)
        UNION ALL
        SELECT x.account, x.asset, l.main - least(l.main, coalesce(e.locked, 0)), least(l.main, coalesce(e.locked, 0)), l.staked, l.in_transit
        FROM differing x
        LEFT JOIN exchange.engine_balances e ON e.close_date = d AND e.version = v AND e.account = x.account AND e.asset = x.asset
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(b.balance) FILTER (WHERE a.sub_account = 'main'), 0) AS main,
                coalesce(sum(b.balance) FILTER (WHERE a.sub_account = 'staked'), 0) AS staked,
                coalesce(sum(b.balance) FILTER (WHERE a.sub_account = 'in_transit'), 0) AS in_transit
            FROM ledger.accounts a JOIN ledger.daily_balances b ON b.account_id = a.account_id AND b.close_date = d AND b.version = v
            WHERE a.account IN (x.account, x.account || ':staked', x.account || ':in_transit') AND a.asset = x.asset) l
        WHERE l.main + l.staked + l.in_transit <> 0)
    SELECT d, v, b.account, b.asset, b.available, b.locked, b.staked, b.in_transit, t.total, m.price, t.value,
        close.row_hash(b.account, b.asset, trunc(b.available * s.scale)::text, trunc(b.locked * s.scale)::text,
            trunc(b.staked * s.scale)::text, trunc(b.in_transit * s.scale)::text, trim_scale(m.price)::text,
            trim_scale(t.value)::text)
    FROM held b
    JOIN accounts.users u ON u.account = b.account
    JOIN exchange.assets s ON s.asset = b.asset
    JOIN market.mark_prices m ON m.close_date = d AND m.version = v AND m.asset = b.asset
    CROSS JOIN close.policy_on(d) p
    JOIN exchange.assets c ON c.asset = p.policy ->> 'reporting_currency'
    CROSS JOIN LATERAL (SELECT x.total, round(x.total * m.price, c.decimals)::numeric(38, 18) AS value
        FROM (SELECT b.available + b.locked + b.staked + b.in_transit AS total) x) t
$$;

-- The guard on journals, as before; a correction enters the open day with its row in recon.corrections.
CREATE OR REPLACE FUNCTION ledger.guard_journals() RETURNS trigger
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
        WHEN g.origin = 'correction' THEN y.state = 'open' AND NOT EXISTS (SELECT FROM n WHERE n.origin = 'correction'
            AND NOT EXISTS (SELECT FROM recon.corrections c WHERE c.posting_no = n.posting_no AND c.break_id::text = n.reference_id
                AND n.reference_type = 'break' AND c.xmin = pg_current_xact_id()::xid))
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

INSERT INTO exchange.command_kinds (kind, required, optional, key) VALUES ('correct_engine', '{user_id,asset,amount}', '{actor,reason}', NULL);

REVOKE EXECUTE ON FUNCTION recon.guard_corrections(), recon.living_break(bigint), recon.assign_break(bigint, text, text),
    recon.comment_break(bigint, text, text, text), recon.explain_break(bigint, text, text, text, text),
    recon.correct_break(bigint, text, text, text, text, text), recon.correction_answered(),
    recon.waive(text, text, date, text, numeric, text, text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION recon.assign_break(bigint, text, text), recon.comment_break(bigint, text, text, text),
    recon.explain_break(bigint, text, text, text, text) TO compline_app;
GRANT SELECT ON recon.reason_codes, recon.break_events, recon.corrections TO compline_app;

-- As before; a correction has no sequence of its own and stands at the opening of its date, after everything of the date before.
CREATE OR REPLACE FUNCTION positions.transfer_flows(d date)
RETURNS TABLE (user_id bigint, asset text, engine_seq bigint, posting_no bigint, effective_at timestamptz, term text, quantity numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT a.user_id, a.asset, coalesce(max(j.engine_seq), (SELECT y.barrier_seq FROM close.days y WHERE y.close_date = d - 1)),
        j.posting_no, max(j.effective_at),
        CASE WHEN j.kind LIKE 'deposit%' THEN 'deposit' WHEN j.kind LIKE 'withdrawal%' THEN 'withdrawal'
             WHEN j.kind = 'reward' THEN 'reward' ELSE 'adjustment' END, sum(e.amount)
    FROM ledger.journals j
    JOIN ledger.ledger_entries e ON e.posting_no = j.posting_no AND e.close_date = d
    JOIN ledger.accounts a ON a.account_id = e.account_id AND a.liability_class IN ('customer', 'affiliate')
    WHERE j.close_date = d AND j.kind NOT IN ('trade', 'opening_balance') AND j.origin <> 'close'
    GROUP BY a.user_id, a.asset, j.posting_no, j.kind HAVING sum(e.amount) <> 0
$$;

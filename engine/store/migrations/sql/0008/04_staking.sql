-- Staking: positions derived from stake and unstake journals, rewards pro rata over stake-time, and what users are owed.

CREATE TABLE positions.staking_positions (
    close_date    date NOT NULL,
    version       integer NOT NULL,
    user_id       bigint NOT NULL REFERENCES accounts.users,
    asset         text NOT NULL REFERENCES exchange.assets,
    opening       numeric(38, 18) NOT NULL CHECK (opening >= 0),
    closing       numeric(38, 18) NOT NULL CHECK (closing >= 0),
    stake_unit_us numeric(60, 0) NOT NULL CHECK (stake_unit_us >= 0),
    PRIMARY KEY (close_date, version, user_id, asset)
);
COMMENT ON TABLE positions.staking_positions IS 'One row per user, asset and close date with a stake in the day: at its beginning, at its end, and stake-time in smallest units x microseconds.';

CREATE TABLE ledger.reward_accruals (
    close_date date NOT NULL,
    version    integer NOT NULL,
    user_id    bigint NOT NULL REFERENCES accounts.users,
    asset      text NOT NULL REFERENCES exchange.assets,
    amount     numeric(38, 18) NOT NULL CHECK (amount > 0),
    PRIMARY KEY (close_date, version, user_id, asset)
);
COMMENT ON TABLE ledger.reward_accruals IS 'One row per user, asset and close date: the staking reward that the day owes; it is credited by a reward command after the seal.';

CREATE TABLE ledger.rewards_pots (
    close_date    date NOT NULL,
    version       integer NOT NULL,
    asset         text NOT NULL REFERENCES exchange.assets,
    opening       numeric(38, 18) NOT NULL,
    income_value  numeric(38, 18) NOT NULL,
    funded        numeric(38, 18) NOT NULL CHECK (funded >= 0),
    allowed       numeric(38, 18) NOT NULL CHECK (allowed >= 0),
    paid          numeric(38, 18) NOT NULL CHECK (paid >= 0),
    closing       numeric(38, 18) NOT NULL CHECK (closing >= 0),
    stakers       bigint NOT NULL,
    stake_unit_us numeric(60, 0) NOT NULL,
    PRIMARY KEY (close_date, version, asset),
    CONSTRAINT rewards_pots_pay_what_is_there CHECK (paid <= opening + funded AND paid <= allowed AND closing = opening + funded - paid),
    CONSTRAINT rewards_pots_pay_stakers CHECK (stake_unit_us > 0 OR paid = 0)
);
COMMENT ON TABLE ledger.rewards_pots IS 'One row per staking asset and close date: the pot before, what the day''s fee income put in, what policy allowed and what was paid.';

-- A payout cannot exceed the pot, whoever posts it. While earlier days are closed again the later ones stand in the balance
-- with what they paid before; then each day's pot (above) and its gate say whether it held.
CREATE FUNCTION ledger.guard_pot() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM close.days a JOIN close.days b ON b.close_date > a.close_date
                   WHERE a.state = 'cutoff' AND b.state IN ('cutoff', 'reconciled', 'reopened')) THEN
        PERFORM close.refuse('CL036', format('the rewards pot would hold %s %s', trim_scale(NEW.balance), NEW.asset),
            'a pot pays what is in it: fund it first, or lower the payout');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard_pot AFTER UPDATE OF balance ON ledger.accounts FOR EACH ROW
    WHEN (NEW.balance < 0 AND NEW.account = 'rewards_pot') EXECUTE FUNCTION ledger.guard_pot();
CREATE INDEX accounts_staked ON ledger.accounts (asset, account_id) WHERE sub_account = 'staked';

-- Σ of the shares is the pot: what rounding down leaves goes, a unit each, to the largest remainders; ties by id.
CREATE FUNCTION positions.pro_rata(pot numeric, ids bigint[], weights numeric[]) RETURNS TABLE (id bigint, share numeric)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH parts AS MATERIALIZED (
        SELECT p.id, div(pot * p.weight, t.total) AS whole, mod(pot * p.weight, t.total) AS rest
        FROM unnest(ids, weights) AS p (id, weight), (SELECT sum(w) AS total FROM unnest(weights) w) t
        WHERE p.weight > 0),
    ranked AS (
        SELECT p.id, p.whole, row_number() OVER (ORDER BY p.rest DESC, p.id) AS nth FROM parts p)
    SELECT r.id, r.whole + CASE WHEN r.nth <= pot - (SELECT sum(whole) FROM parts) THEN 1 ELSE 0 END FROM ranked r
$$;

-- The day's staking positions: the ledger's staked balances at its beginning, and each stake and unstake from when it took
-- effect. That time is held within the day and never runs backwards along the sequence.
CREATE FUNCTION positions.stakes_of(d date)
RETURNS TABLE (user_id bigint, asset text, opening numeric, closing numeric, stake_unit_us numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    WITH span AS (
        SELECT y.cutoff_at AS ends, b.cutoff_at AS begins, b.version AS before
        FROM close.days y JOIN close.days b ON b.close_date = d - 1 WHERE y.close_date = d),
    opening AS (
        SELECT a.user_id, a.asset, b.balance FROM ledger.accounts a
        JOIN ledger.daily_balances b USING (account_id)
        WHERE a.sub_account = 'staked' AND b.close_date = d - 1 AND b.version = (SELECT before FROM span)),
    events AS (
        SELECT a.user_id, a.asset, e.amount, max(least(greatest(j.effective_at, s.begins), s.ends))
            OVER (PARTITION BY a.user_id, a.asset ORDER BY j.engine_seq) AS at
        FROM span s
        CROSS JOIN (SELECT posting_no, engine_seq, effective_at FROM ledger.journals
                    WHERE close_date = d AND kind IN ('stake', 'unstake')) j
        JOIN (SELECT posting_no, account_id, amount FROM ledger.ledger_entries WHERE close_date = d) e USING (posting_no)
        JOIN ledger.accounts a ON a.account_id = e.account_id AND a.sub_account = 'staked'),
    parts AS (
        SELECT o.user_id, o.asset, o.balance AS opening, o.balance AS closing, o.balance * extract(epoch FROM s.ends - s.begins) AS seconds
        FROM opening o, span s
        UNION ALL
        SELECT v.user_id, v.asset, 0, v.amount, v.amount * extract(epoch FROM s.ends - v.at) FROM events v, span s)
    SELECT p.user_id, p.asset, sum(p.opening), sum(p.closing), trunc(sum(p.seconds) * a.scale * 1000000)
    FROM parts p JOIN exchange.assets a USING (asset) GROUP BY p.user_id, p.asset, a.scale
$$;

-- What the close's own journals of a kind have moved on an account for a close date.
CREATE FUNCTION ledger.booked_by_close(d date, k text, name text, coin text) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(sum(e.amount), 0) FROM (SELECT posting_no FROM ledger.journals WHERE close_date = d AND kind = k) j
    JOIN (SELECT posting_no, account_id, amount FROM ledger.ledger_entries WHERE close_date = d) e USING (posting_no)
    JOIN ledger.accounts a USING (account_id) WHERE a.account = name AND a.asset = coin
$$;

-- The day's positions, the pot, every user's reward, and the journals by which they differ from what was booked before.
CREATE FUNCTION ledger.write_reward_accruals(d date, e bigint, who text) RETURNS TABLE (rows bigint, journals bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    day close.days;
    rule jsonb;
    coin text;
    units numeric;
    price numeric;
    pot ledger.rewards_pots;
    ids bigint[];
    weights numeric[];
    staked numeric;
    written bigint := 0;
    due_funding numeric;
    due_accrual numeric;
    first bigint;
    nth integer;
BEGIN
    PERFORM close.void_books_hash(d, e);
    SELECT * INTO day FROM close.days WHERE close_date = d;
    DELETE FROM positions.staking_positions WHERE close_date = d AND version = day.version;
    DELETE FROM ledger.reward_accruals WHERE close_date = d AND version = day.version;
    DELETE FROM ledger.rewards_pots WHERE close_date = d AND version = day.version;
    INSERT INTO positions.staking_positions (close_date, version, user_id, asset, opening, closing, stake_unit_us)
    SELECT d, day.version, s.user_id, s.asset, s.opening, s.closing, s.stake_unit_us FROM positions.stakes_of(d) s;
    SELECT p.policy INTO rule FROM close.policy_on(d) p;
    SELECT a.asset, a.scale INTO coin, units FROM exchange.assets a WHERE a.asset = rule ->> 'staking_asset';
    IF coin IS NULL THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;

    pot.close_date := d; pot.version := day.version; pot.asset := coin;
    SELECT coalesce(sum(b.balance), 0) INTO pot.opening FROM ledger.daily_balances b JOIN close.days y USING (close_date, version)
        JOIN ledger.accounts a USING (account_id) WHERE b.close_date = d - 1 AND a.account = 'rewards_pot' AND a.asset = coin;
    -- Income is what the fee sweep of this day booked, at the closing marks; where nobody holds the coin it has no mark and
    -- the pot is not funded.
    SELECT coalesce(sum(round(f.amount * m.price, 18)), 0) INTO pot.income_value FROM (
            SELECT asset, sum(amount) AS amount FROM ledger.fee_accruals WHERE close_date = d AND version = day.version GROUP BY asset) f
        JOIN market.mark_prices m ON m.close_date = d AND m.version = day.version AND m.asset = f.asset;
    SELECT m.price INTO price FROM market.mark_prices m WHERE m.close_date = d AND m.version = day.version AND m.asset = coin;
    pot.funded := coalesce(div(greatest(pot.income_value, 0) * (rule ->> 'staking_funding_ppm')::integer * units, 1000000 * price), 0) / units;

    SELECT array_agg(s.user_id ORDER BY s.user_id), array_agg(s.stake_unit_us ORDER BY s.user_id), count(*), coalesce(sum(s.stake_unit_us), 0)
    INTO ids, weights, pot.stakers, pot.stake_unit_us
    FROM positions.staking_positions s WHERE s.close_date = d AND s.version = day.version AND s.asset = coin AND s.stake_unit_us > 0;
    SELECT coalesce(sum(s.closing), 0) INTO staked FROM positions.staking_positions s
    WHERE s.close_date = d AND s.version = day.version AND s.asset = coin;
    pot.allowed := least(
        div((pot.opening + pot.funded) * units * (rule ->> 'staking_payout_ppm')::integer, 1000000),
        trunc(nullif(rule ->> 'reward_cap', '')::numeric * units),
        div(staked * units * (rule ->> 'reward_cap_ppm')::integer, 1000000)) / units;
    pot.paid := CASE WHEN pot.stakers > 0 THEN pot.allowed ELSE 0 END;
    pot.closing := pot.opening + pot.funded - pot.paid;
    INSERT INTO ledger.rewards_pots SELECT pot.*;
    IF pot.paid > 0 THEN
        INSERT INTO ledger.reward_accruals (close_date, version, user_id, asset, amount)
        SELECT d, day.version, r.id, coin, r.share / units FROM positions.pro_rata(pot.paid * units, ids, weights) r WHERE r.share > 0;
        GET DIAGNOSTICS written = ROW_COUNT;
    END IF;

    due_funding := pot.funded - ledger.booked_by_close(d, 'pot_funding', 'rewards_pot', coin);
    due_accrual := pot.paid - ledger.booked_by_close(d, 'reward_accrual', 'rewards_payable', coin);
    IF due_funding <> 0 OR due_accrual <> 0 THEN
        PERFORM ledger.ensure_accounts(ARRAY['revenue_router', 'rewards_pot', 'rewards_payable'], ARRAY[coin, coin, coin]);
        SELECT coalesce(max(split_part(j.reference_id, ':', -1)::integer), 0) + 1 INTO nth FROM ledger.journals j
        WHERE j.close_date = d AND j.kind IN ('pot_funding', 'reward_accrual');
        first := ledger.reserve_postings(2);
        INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, effective_at, close_date, origin, epoch,
            actor, reason, row_hash)
        SELECT first + x.n, x.kind, x.kind, r.id, r.at, d, 'close', e, who, x.reason,
            ledger.pair_hash(x.kind, r.id, r.at, least(r.gives, r.takes), greatest(r.gives, r.takes))
        FROM (VALUES (0, 'pot_funding', 'revenue_router', 'rewards_pot', due_funding, 'share of fee income for stakers'),
                     (1, 'reward_accrual', 'rewards_pot', 'rewards_payable', due_accrual, 'staking rewards owed'))
            x (n, kind, giver, taker, amount, reason)
        CROSS JOIN LATERAL (SELECT concat_ws(':', to_char(d, 'YYYY-MM-DD'), coin, nth) AS id,
            day.cutoff_at - interval '1 microsecond' AS at,
            (x.giver || E'\t' || coin || E'\t' || trunc(x.amount * units) * -1) COLLATE "C" AS gives,
            (x.taker || E'\t' || coin || E'\t' || trunc(x.amount * units)) COLLATE "C" AS takes) r
        WHERE x.amount <> 0;
        -- Both in one statement: the pot is funded and paid out of at once.
        INSERT INTO ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)
        SELECT first + x.n, d, a.account_id, coin, x.amount
        FROM (VALUES (0, 'revenue_router', -due_funding), (0, 'rewards_pot', due_funding),
                     (1, 'rewards_pot', -due_accrual), (1, 'rewards_payable', due_accrual)) x (n, account, amount)
        JOIN ledger.accounts a ON a.account = x.account AND a.asset = coin
        WHERE x.amount <> 0 ORDER BY 1;
    END IF;
    PERFORM close.fence(d, e);
    RETURN QUERY SELECT written, ((due_funding <> 0)::integer + (due_accrual <> 0)::integer)::bigint;
END $$;

-- What a sealed day owes is asked of the engine, in the transaction that seals it: until then it could still change. A later
-- version of the day asks for what it owes beyond what was asked before; less is a matter for an adjustment.
CREATE FUNCTION positions.ask_for_rewards() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE asked bigint;
BEGIN
    IF NEW.kind <> 'day' THEN RETURN NULL; END IF;
    -- By the set, as exchange.request_command does one by one: its payloads are made here and fit by construction.
    INSERT INTO exchange.command_requests (request_key, kind, reference, payload)
    SELECT x.key, 'reward', x.key, jsonb_build_object('user_id', x.user_id, 'asset', x.asset, 'amount', trim_scale(x.due)::text,
        'actor', 'close', 'reason', 'staking reward of ' || to_char(NEW.close_date, 'YYYY-MM-DD'))
    FROM (
        SELECT a.user_id, a.asset, concat_ws(':', 'reward', to_char(NEW.close_date, 'YYYY-MM-DD'), a.user_id, NEW.version) AS key,
            a.amount - coalesce((SELECT sum((r.payload ->> 'amount')::numeric) FROM generate_series(1, NEW.version - 1) g
                JOIN exchange.command_requests r ON r.request_key = concat_ws(':', 'reward', to_char(NEW.close_date, 'YYYY-MM-DD'), a.user_id, g)
                WHERE r.payload ->> 'asset' = a.asset AND coalesce(r.outcome, 'accepted') = 'accepted'), 0) AS due
        FROM ledger.reward_accruals a WHERE a.close_date = NEW.close_date AND a.version = NEW.version) x
    WHERE x.due > 0 ORDER BY x.user_id;
    GET DIAGNOSTICS asked = ROW_COUNT;
    IF asked > 0 THEN PERFORM pg_notify('command_requests', ''); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ask_for_rewards AFTER INSERT ON close.seals FOR EACH ROW EXECUTE FUNCTION positions.ask_for_rewards();

-- The gate: every share is its stake-time's, their sum is what the journals moved, the pot rolls forward, and every reward
-- that was credited is one that a sealed day asked for.
CREATE FUNCTION recon.gate_rewards_as_accrued(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    shares_off bigint;
    stakes_off bigint;
    pots_off jsonb;
    unasked bigint;
    shown jsonb;
    overdrawn jsonb;
BEGIN
    SELECT count(*) INTO stakes_off FROM (
        (SELECT user_id, asset, opening, closing, stake_unit_us FROM positions.stakes_of(d)
         EXCEPT ALL SELECT user_id, asset, opening, closing, stake_unit_us FROM positions.staking_positions WHERE close_date = d AND version = v)
        UNION ALL
        (SELECT user_id, asset, opening, closing, stake_unit_us FROM positions.staking_positions WHERE close_date = d AND version = v
         EXCEPT ALL SELECT user_id, asset, opening, closing, stake_unit_us FROM positions.stakes_of(d))) x;
    -- Within a unit of the exact share, which with the sum below is what largest remainders may differ by.
    SELECT count(*) INTO shares_off FROM ledger.rewards_pots p JOIN exchange.assets s USING (asset)
    JOIN (SELECT * FROM positions.staking_positions WHERE close_date = d AND version = v) w USING (asset)
    LEFT JOIN (SELECT * FROM ledger.reward_accruals WHERE close_date = d AND version = v) a USING (asset, user_id)
    WHERE p.close_date = d AND p.version = v
      AND CASE WHEN p.stake_unit_us = 0 THEN a.amount IS NOT NULL
          ELSE abs(coalesce(a.amount, 0) * s.scale * p.stake_unit_us - p.paid * s.scale * w.stake_unit_us) >= p.stake_unit_us END;
    SELECT jsonb_agg(jsonb_build_object('asset', x.asset, 'paid', trim_scale(x.paid)::text, 'accrued', trim_scale(x.accrued)::text,
        'booked', trim_scale(x.booked)::text, 'funded', trim_scale(x.funded)::text, 'booked_funding', trim_scale(x.booked_funding)::text,
        'pot', trim_scale(x.closing)::text, 'pot_in_ledger', trim_scale(x.in_ledger)::text)) INTO pots_off
    FROM (SELECT c.asset, coalesce(p.paid, 0) AS paid, coalesce(p.funded, 0) AS funded,
            coalesce((SELECT sum(a.amount) FROM ledger.reward_accruals a WHERE a.close_date = d AND a.version = v AND a.asset = c.asset), 0) AS accrued,
            ledger.booked_by_close(d, 'reward_accrual', 'rewards_payable', c.asset) AS booked,
            ledger.booked_by_close(d, 'pot_funding', 'rewards_pot', c.asset) AS booked_funding,
            coalesce(b.balance, 0) AS in_ledger, coalesce(p.closing, coalesce(b.balance, 0)) AS closing
          FROM (SELECT asset FROM ledger.rewards_pots WHERE close_date = d AND version = v
                UNION SELECT asset FROM ledger.reward_accruals WHERE close_date = d AND version = v
                UNION SELECT asset FROM ledger.accounts WHERE account = 'rewards_pot') c
          LEFT JOIN ledger.rewards_pots p ON p.close_date = d AND p.version = v AND p.asset = c.asset
          LEFT JOIN ledger.accounts l ON l.account = 'rewards_pot' AND l.asset = c.asset
          LEFT JOIN ledger.daily_balances b ON b.close_date = d AND b.version = v AND b.account_id = l.account_id) x
    WHERE x.paid <> x.accrued OR x.paid <> x.booked OR x.funded <> x.booked_funding OR x.closing <> x.in_ledger;
    SELECT count(*), jsonb_agg(jsonb_build_object('reference', x.reference_id, 'account', x.account, 'amount', trim_scale(x.amount)::text))
        FILTER (WHERE x.nth <= 20) INTO unasked, shown
    FROM (SELECT j.reference_id, a.account, e.amount, row_number() OVER (ORDER BY j.posting_no) AS nth
          FROM (SELECT posting_no, reference_id FROM ledger.journals WHERE close_date = d AND kind = 'reward') j
          JOIN (SELECT posting_no, account_id, amount FROM ledger.ledger_entries WHERE close_date = d AND amount > 0) e USING (posting_no)
          JOIN ledger.accounts a USING (account_id)
          LEFT JOIN exchange.command_requests r ON r.kind = 'reward' AND r.reference = j.reference_id
          WHERE (r.payload ->> 'user_id')::bigint IS DISTINCT FROM a.user_id OR r.payload ->> 'asset' IS DISTINCT FROM a.asset
             OR (r.payload ->> 'amount')::numeric IS DISTINCT FROM e.amount) x;
    SELECT jsonb_agg(jsonb_build_object('asset', a.asset, 'balance', trim_scale(b.balance)::text)) INTO overdrawn
    FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
    WHERE b.close_date = d AND b.version = v AND a.account = 'rewards_payable' AND b.balance < 0;
    RETURN (CASE WHEN shares_off = 0 AND stakes_off = 0 AND pots_off IS NULL AND unasked = 0 AND overdrawn IS NULL
                 THEN 'pass' ELSE 'fail' END,
        jsonb_build_object('shares_not_of_stake_time', shares_off, 'stakes_not_of_journals', stakes_off,
            'pots_off', coalesce(pots_off, '[]'), 'credited_unasked', unasked, 'shown', coalesce(shown, '[]'),
            'payable_overdrawn', coalesce(overdrawn, '[]')))::recon.judgement;
END $$;
INSERT INTO recon.known_gates (gate, late) VALUES ('rewards_as_accrued', false);

REVOKE EXECUTE ON FUNCTION positions.pro_rata(numeric, bigint[], numeric[]), positions.stakes_of(date), positions.ask_for_rewards(),
    ledger.booked_by_close(date, text, text, text), ledger.guard_pot(), ledger.write_reward_accruals(date, bigint, text),
    recon.gate_rewards_as_accrued(date, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.write_reward_accruals(date, bigint, text) TO compline_app;
GRANT SELECT ON positions.staking_positions, ledger.reward_accruals, ledger.rewards_pots TO compline_app, compline_dbt;

-- A reward that nobody accrued stands in the journal for good: two people may let the day seal over it, shown, never passed.
ALTER TABLE recon.waivers DROP CONSTRAINT waivers_gate_check;
ALTER TABLE recon.waivers ADD CONSTRAINT waivers_gate_check CHECK (gate IN ('engine_vs_ledger', 'ledger_vs_custody',
    'custody_covers_liabilities', 'staking_vs_chain', 'rewards_as_accrued'));

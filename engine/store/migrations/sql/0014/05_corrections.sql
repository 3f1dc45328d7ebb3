-- A correction that the engine refused is tried again, on either side; one that is asked for or done is the only one.

ALTER TABLE recon.corrections DROP CONSTRAINT corrections_pkey;
ALTER TABLE recon.corrections ADD COLUMN attempt integer NOT NULL DEFAULT 1 CHECK (attempt > 0), ADD PRIMARY KEY (break_id, attempt),
    ADD COLUMN reference text CHECK (reference ~ '^[!-~]{1,200}$');
COMMENT ON COLUMN recon.corrections.reference IS 'The deposit or withdrawal in custody that the correction undoes or stands for.';

CREATE OR REPLACE FUNCTION recon.guard_corrections() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b recon.breaks;
    before recon.corrections;
BEGIN
    SELECT * INTO b FROM recon.breaks WHERE break_id = NEW.break_id FOR UPDATE;
    IF b.state IS NULL OR b.state NOT IN ('open', 'investigating', 'explained')
        OR NOT (b.gate = 'engine_vs_ledger' OR (b.gate = 'ledger_vs_custody' AND NEW.side = 'ledger')) THEN
        PERFORM close.refuse('CL012', format('break %s is %s of %s: its %s side cannot be corrected', NEW.break_id, coalesce(b.state, 'not there'),
            coalesce(b.gate, 'no gate'), NEW.side), 'living breaks of engine_vs_ledger, and of ledger_vs_custody in the ledger, are corrected');
    END IF;
    IF NEW.amount <> (CASE NEW.side WHEN 'ledger' THEN b.difference ELSE -b.difference END) THEN
        PERFORM close.refuse('CL012', format('break %s is %s %s, not %s', b.break_id, trim_scale(b.difference), b.asset, trim_scale(NEW.amount)),
            'a correction has its break''s own amount');
    END IF;
    SELECT c.* INTO before FROM recon.corrections c LEFT JOIN exchange.command_requests q ON q.request_key = c.request_key
    WHERE c.break_id = NEW.break_id AND coalesce(q.outcome IN ('accepted', 'duplicate_reference'), true) LIMIT 1;
    IF before.break_id IS NOT NULL THEN
        PERFORM close.refuse('CL012', format('the %s side of break %s is being corrected already', before.side, NEW.break_id),
            'wait for the engine''s answer: compline recon breaks show ' || NEW.break_id);
    END IF;
    NEW.attempt := 1 + coalesce((SELECT max(c.attempt) FROM recon.corrections c WHERE c.break_id = NEW.break_id), 0);
    RETURN NEW;
END $$;

-- As before; an attempt after a refused one asks the engine under a key of its own.
DROP FUNCTION recon.correct_break(bigint, text, text, text, text, text);
CREATE FUNCTION recon.correct_break(which bigint, wrong text, who text, second text, why text, other text DEFAULT NULL, ref text DEFAULT NULL)
RETURNS text
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
    mine text;
    signed numeric;
    key text := format('break:%s:engine', which) || coalesce((SELECT ':' || max(c.attempt) + 1 FROM recon.corrections c WHERE c.break_id = which
        HAVING count(*) > 0), '');
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
            'e.g. custody:main for a deposit that was not settled, suspense for coins that are gone');
    END IF;
    IF b.gate = 'ledger_vs_custody' THEN
        -- The ledger follows custody: what a reference moved there, or what a wallet holds, is booked on the wallet's account.
        IF starts_with(other, 'custody:') THEN
            PERFORM close.refuse('CL012', format('break %s is of custody: its other leg is no wallet', which), 'e.g. suspense, which has an owner');
        END IF;
        IF starts_with(b.subject, 'transit:') THEN
            ref := substr(b.subject, 9);
            mine := 'custody:main';
        ELSE
            ref := NULL;
            mine := b.subject;
        END IF;
        signed := -b.difference;
    ELSE
        mine := b.subject;
        signed := b.difference;
        IF ref IS NULL AND starts_with(other, 'custody:') AND EXISTS (SELECT FROM close.days y CROSS JOIN LATERAL custody.wallets_on(y.close_date) w
            WHERE y.state = 'open' AND NOT y.genesis AND w.asset = b.asset) THEN
            PERFORM close.refuse('CL012', format('correcting break %s against %s needs the reference that it undoes', which, other),
                '--reference: the deposit or withdrawal whose coins custody has, or has not');
        END IF;
    END IF;
    SELECT y.close_date INTO day FROM close.days y WHERE y.state = 'open' AND NOT y.genesis ORDER BY 1 LIMIT 1;
    IF day IS NULL THEN PERFORM close.refuse('CL002', 'no date is open to take a correction', 'compline close status'); END IF;
    -- Of now where the open date is today; where dates are being caught up, of the open date's first instant.
    SELECT y.cutoff_at INTO opened FROM close.days y WHERE y.close_date = day - 1;
    IF at > opened + interval '25 hours' THEN at := opened; END IF;
    SELECT s.scale INTO scale FROM exchange.assets s WHERE s.asset = b.asset;
    PERFORM ledger.ensure_accounts(ARRAY[mine, other], ARRAY[b.asset, b.asset]);
    no := ledger.reserve_postings(1);
    INSERT INTO recon.corrections (break_id, side, amount, counter, posting_no, maker, checker, reason, reference)
    VALUES (which, 'ledger', b.difference, other, no, btrim(who), btrim(second), why, ref);
    SELECT array_agg(x.leg ORDER BY x.leg COLLATE "C") INTO legs FROM (VALUES
        (mine || E'\t' || b.asset || E'\t' || trunc(signed * scale)),
        (other || E'\t' || b.asset || E'\t' || trunc(-signed * scale))) x (leg);
    INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, effective_at, close_date, origin, actor, reason, row_hash)
    VALUES (no, 'correction', 'break', which::text, at, day, 'correction', btrim(who) || ' and ' || btrim(second), why,
        sha256(convert_to(concat_ws(E'\t', 'correction', 'break', which::text, '', close.iso_us(at), 'correction', legs[1], legs[2]) || E'\n', 'UTF8')));
    INSERT INTO ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)
    SELECT no, day, a.account_id, b.asset, CASE a.account WHEN mine THEN signed ELSE -signed END
    FROM ledger.accounts a WHERE a.asset = b.asset AND a.account IN (mine, other);
    UPDATE recon.breaks SET state = 'corrected', reason_code = coalesce(reason_code, 'missing_entry'), maker = btrim(who) WHERE break_id = which;
    INSERT INTO recon.break_events (break_id, what, actor, second, text)
    VALUES (which, 'corrected', btrim(who), btrim(second), format('ledger, posting %s on %s against %s: %s', no, day, other, why));
    RETURN no::text;
END $$;

-- What the ledger's deposits and withdrawals of a date moved in custody, by reference, as before; and what corrections say of a reference.
CREATE OR REPLACE FUNCTION custody.ledger_effects(d date)
RETURNS TABLE (asset text, reference text, amount numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT e.asset, j.reference, -sum(e.amount)
    FROM (SELECT posting_no, reference_id AS reference FROM ledger.journals
          WHERE close_date = d AND kind IN ('deposit', 'deposit_reversed', 'withdrawal_confirmed')
          UNION ALL
          SELECT x.posting_no, c.reference FROM ledger.journals x JOIN recon.corrections c USING (posting_no)
          WHERE x.close_date = d AND x.kind = 'correction' AND c.reference IS NOT NULL) j
    JOIN (SELECT posting_no, account_id, asset, amount FROM ledger.ledger_entries WHERE close_date = d) e USING (posting_no)
    JOIN ledger.accounts a USING (account_id)
    WHERE a.account = 'custody:main' GROUP BY 1, 2
$$;

REVOKE EXECUTE ON FUNCTION recon.correct_break(bigint, text, text, text, text, text, text) FROM PUBLIC;

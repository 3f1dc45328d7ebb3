-- Adjustments: what one person asks for and another approves, within caps, becomes one command in the engine's journal.
-- Rows are only ever added. An edit is a new revision with another hash; an approval names the hash that it approves.
--   CL025 beyond a cap, or no cap    CL026 decided already, or edited since    CL027 more than there is
--   CL028 an adjustment in the ledger that nobody approved

CREATE TABLE accounts.adjustment_reasons (
    reason_code     text PRIMARY KEY CHECK (reason_code ~ '^[a-z_]{1,24}$'),
    counter_account text NOT NULL CHECK (counter_account IN ('adjustment_expense', 'insurance_fund', 'deposits_unallocated')),
    meaning         text NOT NULL
);
COMMENT ON TABLE accounts.adjustment_reasons IS 'One row per reason that an adjustment can have, and the house account that its other leg is on.';
INSERT INTO accounts.adjustment_reasons VALUES
    ('goodwill', 'adjustment_expense', 'the house pays'),
    ('error_correction', 'adjustment_expense', 'a balance was wrong: the house bears it, or gets it back'),
    ('fee_refund', 'adjustment_expense', 'fees given back; the fee income of their day stays what it was'),
    ('recovery', 'adjustment_expense', 'what the house may take back'),
    ('insurance', 'insurance_fund', 'the insurance fund pays, as far as it reaches'),
    ('dust', 'insurance_fund', 'what a closing account gave up by consent'),
    ('unallocated_deposit', 'deposits_unallocated', 'a deposit whose owner was found');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.adjustment_reasons
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Names of people are lower case without blanks, so that one person cannot be two by spelling.
CREATE DOMAIN accounts.person AS text CHECK (VALUE ~ '^[a-z0-9][a-z0-9._@-]{0,63}$');

CREATE TABLE accounts.adjustment_caps (
    cap_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset         text NOT NULL REFERENCES exchange.assets,
    effective_at  timestamptz NOT NULL,
    -- NaN is greater than every number: a lower bound alone would let it in.
    max_amount    numeric(38, 18) NOT NULL CHECK (max_amount >= 0 AND max_amount < 'NaN'),
    max_share_ppm integer NOT NULL CHECK (max_share_ppm BETWEEN 0 AND 1000000),
    max_maker_day numeric(38, 18) NOT NULL CHECK (max_maker_day >= 0 AND max_maker_day < 'NaN'),
    reason        text NOT NULL CHECK (reason ~ '[^[:space:]]'),
    maker         accounts.person NOT NULL,
    checker       accounts.person NOT NULL,
    login         text NOT NULL DEFAULT session_user,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT adjustment_caps_two_people CHECK (maker <> checker),
    CONSTRAINT adjustment_caps_never_dated_back CHECK (effective_at >= at - interval '1 minute')
);
COMMENT ON TABLE accounts.adjustment_caps IS 'One row per change of an asset''s caps on adjustments: of one, of one as a share of all customers'' holdings, of all of a maker and day.';

-- The canonical JSON (RFC 8785) of what is approved, hashed: keys in order, amounts as plain decimal text.
CREATE FUNCTION accounts.adjustment_sha256(adjustment_id bigint, revision integer, user_id bigint, asset text, amount numeric,
    reason_code text, reason text, ticket text, maker text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(convert_to(format(
        '{"adjustment":%s,"amount":"%s","asset":%s,"maker":%s,"reason":%s,"reason_code":%s,"revision":%s,"ticket":%s,"user":%s,"v":"adjustment/1"}',
        adjustment_id, trim_scale(amount), to_json(asset), to_json(maker), to_json(reason), to_json(reason_code), revision,
        to_json(ticket), user_id), 'UTF8')), 'hex')
$$;

CREATE SEQUENCE accounts.adjustment_numbers;
CREATE TABLE accounts.adjustment_revisions (
    adjustment_id  bigint NOT NULL CHECK (adjustment_id > 0),
    revision       integer NOT NULL CHECK (revision > 0),
    user_id        bigint NOT NULL REFERENCES accounts.users,
    asset          text NOT NULL REFERENCES exchange.assets,
    amount         numeric(38, 18) NOT NULL CHECK (amount <> 0 AND abs(amount) < 'NaN'),
    reason_code    text NOT NULL REFERENCES accounts.adjustment_reasons,
    reason         text NOT NULL CHECK (reason ~ '[^[:space:]]' AND reason !~ '[[:cntrl:]]' AND length(reason) <= 500),
    ticket         text NOT NULL CHECK (ticket ~ '^[!-~]+$' AND length(ticket) <= 100),
    maker          accounts.person NOT NULL,
    login          text NOT NULL DEFAULT session_user,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload_sha256 text NOT NULL,
    PRIMARY KEY (adjustment_id, revision),
    CONSTRAINT adjustment_revisions_hash_is_of_the_row CHECK (payload_sha256 = accounts.adjustment_sha256(
        adjustment_id, revision, user_id, asset, amount, reason_code, reason, ticket, maker)),
    CONSTRAINT adjustment_revisions_what_is_approved UNIQUE (adjustment_id, revision, payload_sha256, maker)
);
COMMENT ON TABLE accounts.adjustment_revisions IS 'One row per revision of an adjustment asked for: who gets or gives how much, why, asked by whom; payload_sha256 is over its canonical JSON.';
CREATE UNIQUE INDEX adjustment_revisions_one_per_ticket ON accounts.adjustment_revisions (ticket) WHERE revision = 1;

CREATE TABLE accounts.adjustment_decisions (
    adjustment_id  bigint PRIMARY KEY,
    revision       integer NOT NULL,
    payload_sha256 text NOT NULL,
    maker          accounts.person NOT NULL,
    decision       text NOT NULL CHECK (decision IN ('approved', 'rejected')),
    checker        accounts.person NOT NULL,
    reason         text NOT NULL CHECK (reason !~ '[[:cntrl:]]' AND length(reason) <= 500),
    -- What the caps were measured against: the row in force, all customers' holdings, what the maker had that day.
    cap_id         bigint REFERENCES accounts.adjustment_caps,
    holdings       numeric(38, 18),
    maker_day      numeric(38, 18),
    login          text NOT NULL DEFAULT session_user,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT adjustment_decisions_of_a_revision FOREIGN KEY (adjustment_id, revision, payload_sha256, maker)
        REFERENCES accounts.adjustment_revisions (adjustment_id, revision, payload_sha256, maker),
    -- A maker may take back what they asked for, and approve nothing of it.
    CONSTRAINT adjustment_decisions_two_people CHECK (maker <> checker OR decision = 'rejected'),
    CONSTRAINT adjustment_decisions_approved_within_a_cap CHECK ((decision = 'approved') = (cap_id IS NOT NULL)),
    CONSTRAINT adjustment_decisions_rejected_has_reason CHECK (decision = 'approved' OR reason ~ '[^[:space:]]')
);
COMMENT ON TABLE accounts.adjustment_decisions IS 'One row per adjustment decided: approved (it became a command) or rejected, by whom, on which payload.';
CREATE INDEX adjustment_decisions_at ON accounts.adjustment_decisions (at);

DO $$ DECLARE one text; BEGIN
    FOREACH one IN ARRAY ARRAY['adjustment_caps', 'adjustment_revisions', 'adjustment_decisions'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.%I
            FOR EACH STATEMENT EXECUTE FUNCTION close.append_only()', one);
    END LOOP;
END $$;

-- The reference of an adjustment in the engine's journal and in the ledger; the reason in it decides the other leg.
CREATE FUNCTION accounts.adjustment_reference(reason_code text, adjustment_id bigint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT format('adj/%s/%s', reason_code, adjustment_id) $$;

CREATE FUNCTION accounts.require_name(who text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF who IS NULL OR who !~ '^[a-z0-9][a-z0-9._@-]{0,63}$' THEN
        PERFORM close.refuse('CL012', format('%s names no person', coalesce(quote_literal(left(who, 80)), 'null')),
            'lower-case letters, digits and . _ @ -, beginning with a letter or digit');
    END IF;
END $$;

-- Where the policy says that people have logins of their own, nobody acts under another's name.
CREATE FUNCTION accounts.require_person(who text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM accounts.require_name(who);
    IF accounts.policy_text('personal_logins', 'false')::boolean
        AND session_user <> who THEN
        PERFORM close.refuse('CL012', format('login %s cannot act as %s', session_user, who),
            'the policy wants personal logins: set DATABASE_URL to your own');
    END IF;
END $$;

-- Is an adjustment within the caps in force, and is there what it takes? Returns what it was measured against.
CREATE FUNCTION accounts.measure_adjustment(r accounts.adjustment_revisions, OUT cap_id bigint, OUT holdings numeric, OUT maker_day numeric)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cap accounts.adjustment_caps;
    size numeric := abs(r.amount);
    what text := format('adjustment %s of %s %s', r.adjustment_id, trim_scale(r.amount), r.asset);
    source text;
    there numeric;
    barred text;
BEGIN
    -- A debit is no matter of state: dust leaves an account that is about to end. Locked, so that no transition comes between.
    IF r.amount > 0 THEN
        SELECT s.state INTO barred FROM accounts.users u JOIN accounts.states s USING (state)
            WHERE u.user_id = r.user_id AND NOT s.may_receive FOR SHARE OF u;
        IF FOUND THEN
            PERFORM close.refuse('CL027', format('%s is refused: user %s is %s and receives nothing', what, r.user_id, barred),
                'coins for such an account stay with the house');
        END IF;
    END IF;
    -- One measuring an asset at a time: two approvals that fit alone may not fit together.
    PERFORM pg_advisory_xact_lock(hashtext('accounts.adjustments'), hashtext(r.asset));
    SELECT * INTO cap FROM accounts.adjustment_caps c WHERE c.asset = r.asset AND c.effective_at <= clock_timestamp()
        ORDER BY c.effective_at DESC, c.cap_id DESC LIMIT 1;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL025', format('%s is refused: no cap is configured for %s', what, r.asset),
            format('two people set one: compline accounts cap %s', r.asset));
    END IF;
    cap_id := cap.cap_id;
    IF size > cap.max_amount THEN
        PERFORM close.refuse('CL025', format('%s is beyond the cap of %s %s on one adjustment', what, trim_scale(cap.max_amount), r.asset),
            'check the unit of the amount first');
    END IF;
    SELECT coalesce(sum(a.balance), 0) INTO holdings FROM ledger.accounts a
        WHERE a.asset = r.asset AND a.liability_class IN ('customer', 'affiliate');
    IF size * 1000000 > holdings * cap.max_share_ppm THEN
        PERFORM close.refuse('CL025', format('%s is beyond the cap of %s ppm of all customers'' holdings, %s %s', what,
            cap.max_share_ppm, trim_scale(holdings), r.asset), 'check the unit of the amount first');
    END IF;
    SELECT coalesce(sum(abs(o.amount)), 0) INTO maker_day
    FROM accounts.adjustment_decisions d JOIN accounts.adjustment_revisions o USING (adjustment_id, revision)
    LEFT JOIN exchange.command_requests q ON q.kind = 'adjust' AND q.reference = accounts.adjustment_reference(o.reason_code, o.adjustment_id)
    WHERE d.decision = 'approved' AND o.asset = r.asset AND d.maker = r.maker AND coalesce(q.outcome, 'accepted') = 'accepted'
        AND d.at >= date_trunc('day', clock_timestamp(), 'UTC');
    IF maker_day + size > cap.max_maker_day THEN
        PERFORM close.refuse('CL025', format('%s is beyond the cap of %s %s of one maker and day: %s has %s today', what,
            trim_scale(cap.max_maker_day), r.asset, r.maker, trim_scale(maker_day)), 'tomorrow, or by two people who change the cap');
    END IF;
    IF r.amount < 0 THEN
        SELECT a.balance INTO there FROM ledger.accounts a JOIN accounts.users u USING (user_id)
            WHERE u.user_id = r.user_id AND a.asset = r.asset AND a.account = u.account;
        IF coalesce(there, 0) < size THEN
            PERFORM close.refuse('CL027', format('%s takes more than the account''s %s %s', what, trim_scale(coalesce(there, 0)), r.asset),
                'a customer is never debited below zero');
        END IF;
        RETURN;
    END IF;
    -- A fund pays what it has, less what was approved and has not settled: no liability of the house goes below zero.
    SELECT counter_account INTO source FROM accounts.adjustment_reasons WHERE reason_code = r.reason_code AND counter_account <> 'adjustment_expense';
    IF FOUND THEN
        PERFORM pg_advisory_xact_lock(hashtext('accounts.adjustments'), hashtext(source || ' ' || r.asset));
        SELECT coalesce(sum(a.balance), 0) - (
            SELECT coalesce(sum(o.amount), 0)
            FROM accounts.adjustment_decisions d JOIN accounts.adjustment_revisions o USING (adjustment_id, revision)
            JOIN accounts.adjustment_reasons c USING (reason_code)
            LEFT JOIN exchange.command_requests q ON q.kind = 'adjust' AND q.reference = accounts.adjustment_reference(o.reason_code, o.adjustment_id)
            WHERE d.decision = 'approved' AND o.asset = r.asset AND c.counter_account = source AND o.amount > 0
                AND coalesce(q.outcome, 'accepted') = 'accepted'
                AND NOT EXISTS (SELECT FROM ledger.journals j WHERE j.kind <> 'trade' AND j.reference_type = 'admin_adjustment'
                    AND j.reference_id = accounts.adjustment_reference(o.reason_code, o.adjustment_id)))
        INTO there FROM ledger.accounts a WHERE a.account = source AND a.asset = r.asset;
        IF there < size THEN
            PERFORM close.refuse('CL027', format('%s takes more than the %s %s that %s has', what, trim_scale(there), r.asset, source),
                'fund it first, or choose another reason');
        END IF;
    END IF;
END $$;

CREATE FUNCTION accounts.put_adjustment_event(what text, r accounts.adjustment_revisions, more jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO events.outbox (event_key, subject, payload)
    VALUES (format('account.adjustment.%s:%s:%s', what, r.adjustment_id, r.revision), 'account.adjustment.' || what,
        jsonb_build_object('adjustment', r.adjustment_id, 'revision', r.revision, 'userId', r.user_id, 'asset', r.asset,
            'amount', trim_scale(r.amount)::text, 'reasonCode', r.reason_code, 'maker', r.maker, 'payloadSha256', r.payload_sha256) || more)
    ON CONFLICT DO NOTHING
$$;

CREATE FUNCTION accounts.add_adjustment_revision(id bigint, no integer, user_id bigint, asset text, amount numeric, reason_code text,
    reason text, ticket text, maker text) RETURNS accounts.adjustment_revisions
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r accounts.adjustment_revisions;
    places integer;
BEGIN
    PERFORM accounts.require_person(maker);
    IF NOT EXISTS (SELECT FROM accounts.users u WHERE u.user_id = add_adjustment_revision.user_id) THEN
        PERFORM close.refuse('CL018', format('there is no user %s', user_id), 'compline accounts show');
    END IF;
    SELECT s.decimals INTO places FROM exchange.assets s WHERE s.asset = add_adjustment_revision.asset;
    IF places IS NULL THEN
        PERFORM close.refuse('CL018', format('there is no asset %s', asset), 'compline ledger trial-balance shows what there is');
    END IF;
    IF NOT EXISTS (SELECT FROM accounts.adjustment_reasons c WHERE c.reason_code = add_adjustment_revision.reason_code) THEN
        PERFORM close.refuse('CL018', format('there is no reason %s', reason_code),
            (SELECT 'one of ' || string_agg(c.reason_code, ', ' ORDER BY c.reason_code) FROM accounts.adjustment_reasons c));
    END IF;
    IF amount IS NULL OR amount = 0 OR abs(amount) >= 'Infinity' OR amount <> trunc(amount, places) THEN
        PERFORM close.refuse('CL018', format('%s %s is no amount: not zero, and at most %s decimals', amount, asset, places), 'amounts are whole smallest units');
    END IF;
    INSERT INTO accounts.adjustment_revisions (adjustment_id, revision, user_id, asset, amount, reason_code, reason, ticket, maker, payload_sha256)
    VALUES (id, no, user_id, asset, amount, reason_code, reason, ticket, maker,
        accounts.adjustment_sha256(id, no, user_id, asset, amount, reason_code, reason, ticket, maker))
    RETURNING * INTO r;
    PERFORM accounts.measure_adjustment(r);
    PERFORM accounts.put_adjustment_event('requested', r, '{}');
    RETURN r;
END $$;

-- Ask for an adjustment. The same ticket with the same payload again gives the one that is there.
CREATE FUNCTION accounts.request_adjustment(user_id bigint, asset text, amount numeric, reason_code text, reason text, ticket text, maker text)
RETURNS accounts.adjustment_revisions
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE r accounts.adjustment_revisions;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('accounts.adjustment ticket'), hashtext(ticket));
    SELECT v.* INTO r FROM accounts.adjustment_revisions v WHERE v.ticket = request_adjustment.ticket AND v.revision = 1;
    IF FOUND THEN
        IF (r.user_id, r.asset, r.amount, r.reason_code, r.reason, r.maker::text) IS DISTINCT FROM
            (user_id, asset, amount, reason_code, reason, maker) THEN
            PERFORM close.refuse('CL026', format('ticket %s stands for adjustment %s, of another payload', ticket, r.adjustment_id),
                'revise that one, or name another ticket');
        END IF;
        RETURN r;
    END IF;
    RETURN accounts.add_adjustment_revision(nextval('accounts.adjustment_numbers'), 1, user_id, asset, amount, reason_code, reason, ticket, maker);
END $$;

-- The revision in force of an adjustment that nobody decided yet, locked until the end of the transaction.
CREATE FUNCTION accounts.open_adjustment(id bigint) RETURNS accounts.adjustment_revisions
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r accounts.adjustment_revisions;
    d accounts.adjustment_decisions;
BEGIN
    PERFORM 1 FROM accounts.adjustment_revisions v WHERE v.adjustment_id = id AND v.revision = 1 FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL018', format('there is no adjustment %s', id), 'compline accounts adjustments');
    END IF;
    SELECT * INTO d FROM accounts.adjustment_decisions x WHERE x.adjustment_id = id;
    IF FOUND THEN
        PERFORM close.refuse('CL026', format('adjustment %s was %s by %s at %s', id, d.decision, d.checker, close.iso_us(d.at)),
            format('compline accounts adjustments --id %s', id));
    END IF;
    SELECT * INTO r FROM accounts.adjustment_revisions v WHERE v.adjustment_id = id ORDER BY v.revision DESC LIMIT 1;
    RETURN r;
END $$;

-- An edit: a new revision, whose hash no earlier approval names.
CREATE FUNCTION accounts.revise_adjustment(id bigint, amount numeric, reason_code text, reason text, maker text)
RETURNS accounts.adjustment_revisions
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE r accounts.adjustment_revisions := accounts.open_adjustment(id);
BEGIN
    RETURN accounts.add_adjustment_revision(id, r.revision + 1, r.user_id, r.asset, coalesce(amount, r.amount),
        coalesce(reason_code, r.reason_code), coalesce(reason, r.reason), r.ticket, maker);
END $$;

CREATE FUNCTION accounts.same_payload(r accounts.adjustment_revisions, payload_sha256 text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF r.payload_sha256 IS DISTINCT FROM payload_sha256 THEN
        PERFORM close.refuse('CL026', format('adjustment %s stands at revision %s with payload %s, not %s', r.adjustment_id, r.revision,
            r.payload_sha256, coalesce(left(payload_sha256, 80), 'null')), 'look at what it says now, then decide on that');
    END IF;
END $$;

-- Approve an adjustment: another person than any of its makers, the payload as it stands, the caps as they stand.
CREATE FUNCTION accounts.approve_adjustment(id bigint, payload_sha256 text, checker text, reason text DEFAULT '') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r accounts.adjustment_revisions := accounts.open_adjustment(id);
    named text := accounts.adjustment_reference(r.reason_code, id);
    m record;
BEGIN
    PERFORM accounts.require_person(checker);
    PERFORM accounts.same_payload(r, payload_sha256);
    IF EXISTS (SELECT FROM accounts.adjustment_revisions v WHERE v.adjustment_id = id AND v.maker = checker) THEN
        PERFORM close.refuse('CL012', format('adjustment %s was asked for by %s: who asks does not approve', id, checker), 'another person approves it');
    END IF;
    SELECT * INTO m FROM accounts.measure_adjustment(r);
    INSERT INTO accounts.adjustment_decisions (adjustment_id, revision, payload_sha256, maker, decision, checker, reason, cap_id, holdings, maker_day)
    VALUES (id, r.revision, r.payload_sha256, r.maker, 'approved', checker, coalesce(reason, ''), m.cap_id, m.holdings, m.maker_day);
    -- Of the house's equity, so that no seal stops on it: a liability below zero has no sign in the manifest.
    INSERT INTO ledger.accounts (account, asset, liability_class) VALUES ('adjustment_expense', r.asset, 'equity') ON CONFLICT DO NOTHING;
    PERFORM exchange.request_command(named, 'adjust', jsonb_build_object('user_id', r.user_id, 'asset', r.asset,
        'amount', trim_scale(r.amount)::text, 'actor', accounts.adjustment_actor(r.maker, checker), 'reason', r.reason));
    PERFORM accounts.put_adjustment_event('approved', r, jsonb_build_object('checker', checker, 'reference', named));
    RETURN named;
END $$;

-- Who a journal of the ledger names for it.
CREATE FUNCTION accounts.adjustment_actor(maker text, checker text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT format('%s, approved by %s', maker, checker) $$;

CREATE FUNCTION accounts.reject_adjustment(id bigint, payload_sha256 text, checker text, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE r accounts.adjustment_revisions := accounts.open_adjustment(id);
BEGIN
    PERFORM accounts.require_person(checker);
    PERFORM accounts.same_payload(r, payload_sha256);
    INSERT INTO accounts.adjustment_decisions (adjustment_id, revision, payload_sha256, maker, decision, checker, reason)
    VALUES (id, r.revision, r.payload_sha256, r.maker, 'rejected', checker, coalesce(reason, ''));
    PERFORM accounts.put_adjustment_event('rejected', r, jsonb_build_object('checker', checker));
END $$;

-- Two people change an asset's caps, from now or a later instant on. The owner's: the application may not widen its own.
CREATE FUNCTION accounts.set_adjustment_cap(asset text, max_amount numeric, max_share_ppm integer, max_maker_day numeric,
    effective_at timestamptz, reason text, maker text, checker text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE made bigint;
BEGIN
    IF maker IS NULL OR checker IS NULL OR maker = checker THEN
        PERFORM close.refuse('CL012', format('a cap for %s is set by two people, not by %s alone', asset, coalesce(maker, checker, 'nobody')),
            'another person agrees to it');
    END IF;
    PERFORM accounts.require_name(maker), accounts.require_name(checker);
    IF NOT EXISTS (SELECT FROM exchange.assets s WHERE s.asset = set_adjustment_cap.asset) THEN
        PERFORM close.refuse('CL018', format('there is no asset %s', asset), 'compline ledger trial-balance shows what there is');
    END IF;
    INSERT INTO accounts.adjustment_caps (asset, effective_at, max_amount, max_share_ppm, max_maker_day, reason, maker, checker)
    VALUES (asset, coalesce(effective_at, clock_timestamp()), max_amount, max_share_ppm, max_maker_day, reason, maker, checker)
    RETURNING cap_id INTO made;
    RETURN made;
END $$;

-- How an adjustment stands: asked for, decided, journalled by the engine or refused by it, in the ledger.
CREATE VIEW accounts.adjustments AS
    SELECT r.adjustment_id, r.revision, r.user_id, u.account, r.asset, r.amount, r.reason_code, r.reason, r.ticket, r.maker, r.at,
        r.payload_sha256, d.checker, d.at AS decided_at, q.reference, q.engine_seq, q.outcome, j.posting_no, j.close_date,
        CASE WHEN d.decision IS NULL THEN 'requested' WHEN d.decision = 'rejected' THEN 'rejected'
             WHEN q.outcome <> 'accepted' THEN 'refused' WHEN j.posting_no IS NOT NULL THEN 'settled'
             WHEN q.outcome = 'accepted' THEN 'accepted' ELSE 'approved' END AS status
    FROM accounts.adjustment_revisions r
    JOIN accounts.users u USING (user_id)
    LEFT JOIN accounts.adjustment_decisions d ON d.adjustment_id = r.adjustment_id
    LEFT JOIN exchange.command_requests q ON d.decision = 'approved' AND q.kind = 'adjust'
        AND q.reference = accounts.adjustment_reference(r.reason_code, r.adjustment_id)
    LEFT JOIN ledger.journals j ON j.kind <> 'trade' AND j.reference_type = 'admin_adjustment' AND j.reference_id = q.reference
    WHERE r.revision = coalesce(d.revision, (SELECT max(x.revision) FROM accounts.adjustment_revisions x WHERE x.adjustment_id = r.adjustment_id));
COMMENT ON VIEW accounts.adjustments IS 'One row per adjustment, at the revision that is in force or was decided.';

-- What the engine answered is told once.
CREATE FUNCTION accounts.tell_adjustment_answered() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE r accounts.adjustment_revisions;
BEGIN
    SELECT v.* INTO r FROM accounts.adjustment_decisions d JOIN accounts.adjustment_revisions v USING (adjustment_id, revision)
    WHERE d.decision = 'approved' AND accounts.adjustment_reference(v.reason_code, v.adjustment_id) = NEW.reference
        AND d.adjustment_id::text = split_part(NEW.reference, '/', 3);
    IF FOUND THEN
        PERFORM accounts.put_adjustment_event(CASE NEW.outcome WHEN 'accepted' THEN 'applied' ELSE 'refused' END, r,
            jsonb_build_object('outcome', NEW.outcome, 'sequence', NEW.engine_seq));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER tell_adjustment_answered AFTER UPDATE OF outcome ON exchange.command_requests
    FOR EACH ROW WHEN (NEW.kind = 'adjust' AND NEW.outcome IS NOT NULL) EXECUTE FUNCTION accounts.tell_adjustment_answered();

-- No adjustment is in the ledger that two people did not approve: looked at when the transaction commits, legs and all.
CREATE FUNCTION ledger.guard_adjustment() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
    found_legs text;
    wanted_legs text;
BEGIN
    SELECT v.user_id, u.account, v.asset, v.amount, v.reason, c.counter_account, accounts.adjustment_actor(d.maker, d.checker) AS actor INTO r
    FROM accounts.adjustment_decisions d JOIN accounts.adjustment_revisions v USING (adjustment_id, revision)
    JOIN accounts.users u USING (user_id) JOIN accounts.adjustment_reasons c USING (reason_code)
    WHERE d.decision = 'approved' AND d.adjustment_id::text = split_part(NEW.reference_id, '/', 3)
        AND accounts.adjustment_reference(v.reason_code, v.adjustment_id) = NEW.reference_id;
    IF NOT FOUND OR NEW.reference_type <> 'admin_adjustment' THEN
        PERFORM close.refuse('CL028', format('posting %s is adjustment %s, which nobody approved', NEW.posting_no, NEW.reference_id),
            'find out how it came into the engine''s journal; settlement stands until then');
    END IF;
    IF (NEW.actor, NEW.reason) IS DISTINCT FROM (r.actor, r.reason) THEN
        PERFORM close.refuse('CL028', format('posting %s names another actor or reason than adjustment %s', NEW.posting_no, NEW.reference_id),
            'a journal says who asked, who approved, and why');
    END IF;
    SELECT string_agg(concat_ws(' ', a.account, e.asset, trim_scale(e.amount)), '; ' ORDER BY a.account) INTO found_legs
    FROM ledger.ledger_entries e JOIN ledger.accounts a USING (account_id) WHERE e.close_date = NEW.close_date AND e.posting_no = NEW.posting_no;
    SELECT string_agg(concat_ws(' ', l.account, r.asset, trim_scale(l.amount)), '; ' ORDER BY l.account) INTO wanted_legs
    FROM (VALUES (r.account, r.amount), (r.counter_account, -r.amount)) AS l (account, amount);
    IF found_legs IS DISTINCT FROM wanted_legs THEN
        PERFORM close.refuse('CL028', format('posting %s of adjustment %s moves %s; approved was %s', NEW.posting_no, NEW.reference_id,
            coalesce(found_legs, 'nothing'), wanted_legs), 'the engine''s journal is not the one that was approved');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER guard_adjustment AFTER INSERT ON ledger.journals DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.kind = 'adjust' OR NEW.reference_type = 'admin_adjustment') EXECUTE FUNCTION ledger.guard_adjustment();

REVOKE EXECUTE ON FUNCTION
    accounts.adjustment_sha256(bigint, integer, bigint, text, numeric, text, text, text, text), accounts.adjustment_reference(text, bigint),
    accounts.require_name(text), accounts.require_person(text), accounts.measure_adjustment(accounts.adjustment_revisions),
    accounts.put_adjustment_event(text, accounts.adjustment_revisions, jsonb), accounts.adjustment_actor(text, text),
    accounts.add_adjustment_revision(bigint, integer, bigint, text, numeric, text, text, text, text),
    accounts.request_adjustment(bigint, text, numeric, text, text, text, text), accounts.open_adjustment(bigint),
    accounts.revise_adjustment(bigint, numeric, text, text, text), accounts.same_payload(accounts.adjustment_revisions, text),
    accounts.approve_adjustment(bigint, text, text, text), accounts.reject_adjustment(bigint, text, text, text),
    accounts.set_adjustment_cap(text, numeric, integer, numeric, timestamptz, text, text, text),
    accounts.tell_adjustment_answered(), ledger.guard_adjustment() FROM PUBLIC;
GRANT SELECT ON accounts.adjustment_reasons, accounts.adjustment_caps, accounts.adjustment_revisions, accounts.adjustment_decisions,
    accounts.adjustments TO compline_app;
GRANT EXECUTE ON FUNCTION
    accounts.adjustment_sha256(bigint, integer, bigint, text, numeric, text, text, text, text), accounts.adjustment_reference(text, bigint),
    accounts.adjustment_actor(text, text),
    accounts.request_adjustment(bigint, text, numeric, text, text, text, text),
    accounts.revise_adjustment(bigint, numeric, text, text, text),
    accounts.approve_adjustment(bigint, text, text, text), accounts.reject_adjustment(bigint, text, text, text) TO compline_app;

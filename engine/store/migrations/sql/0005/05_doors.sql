-- The doors: what the product calls. Each is one statement, and the triggers hold whoever comes another way.

CREATE FUNCTION accounts.transition(user_id bigint, to_state text, authority text, actor text, reason text,
    second_approver text DEFAULT NULL, expected_version bigint DEFAULT NULL) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO accounts.account_state_transitions (user_id, to_state, authority, actor, reason, second_approver, version)
    VALUES (transition.user_id, transition.to_state, transition.authority, transition.actor, transition.reason, transition.second_approver,
        transition.expected_version + 1)
    RETURNING version
$$;

CREATE FUNCTION accounts.may_trade(who bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT s.may_trade FROM accounts.users u JOIN accounts.states s USING (state) WHERE u.user_id = who), false)
$$;

CREATE FUNCTION accounts.may_withdraw(who bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT s.may_withdraw AND NOT EXISTS (SELECT FROM accounts.holds h WHERE h.user_id = who AND h.released_at IS NULL)
        FROM accounts.users u JOIN accounts.states s USING (state) WHERE u.user_id = who), false)
$$;

-- The last look before coins leave: in the transaction that broadcasts. It keeps state and holds as they are until that
-- transaction ends, so a withdrawal is either before a transition or refused by it.
CREATE FUNCTION accounts.require_may_withdraw(who bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    u accounts.users;
    held text;
BEGIN
    SELECT * INTO u FROM accounts.users x WHERE x.user_id = who FOR SHARE;
    SELECT string_agg(DISTINCT h.kind, ', ') INTO held FROM accounts.holds h WHERE h.user_id = who AND h.released_at IS NULL;
    IF NOT coalesce((SELECT s.may_withdraw FROM accounts.states s WHERE s.state = u.state), false) OR held IS NOT NULL THEN
        PERFORM close.refuse('CL022', format('user %s may not withdraw: %s%s', who, coalesce(u.state, 'unknown'),
            coalesce(', held for ' || held, '')), 'fail the withdrawal: the engine gives the coins back');
    END IF;
END $$;

-- A user asks to close: a hold for the days of the policy, during which the request can be taken back.
CREATE FUNCTION accounts.request_closure(who bigint, actor text, consent boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    u accounts.users;
    left_over text;
    hold bigint;
    made bigint;
    number bigint;
BEGIN
    SELECT * INTO u FROM accounts.users x WHERE x.user_id = who FOR NO KEY UPDATE;
    IF u.user_id IS NULL OR NOT EXISTS (SELECT FROM accounts.allowed_transitions a
            WHERE a.from_state = u.state AND a.to_state = 'closed' AND a.authority = 'user_request') THEN
        PERFORM close.refuse('CL024', format('user %s is %s: a request cannot close the account', who, coalesce(u.state, 'unknown')),
            'see the matrix of transitions');
    END IF;
    IF EXISTS (SELECT FROM accounts.closures c WHERE c.user_id = who AND c.ended_at IS NULL) THEN
        PERFORM close.refuse('CL024', format('user %s has asked for closure already', who), 'compline accounts show');
    END IF;
    SELECT string_agg(format('%s %s in %s', trim_scale(d.balance), d.asset, d.account), ', ' ORDER BY d.account, d.asset) INTO left_over
        FROM accounts.left_over(who) d WHERE NOT (d.is_dust AND coalesce(consent, false));
    IF left_over IS NOT NULL THEN
        PERFORM close.refuse('CL024', format('user %s still has %s', who, left_over),
            'withdraw it first: the closing hold keeps withdrawals back; dust can be given up by consent');
    END IF;
    SELECT count(*) + 1 INTO number FROM accounts.closures c WHERE c.user_id = who;
    hold := accounts.open_hold(who, 'closure', format('closure-%s', number), 'the user asked to close the account', actor);
    INSERT INTO accounts.closures (user_id, hold_id, requested_by, ends_at, dust_consent)
    VALUES (who, hold, btrim(actor), clock_timestamp() + make_interval(days => accounts.policy_text('closure_days', '30')::integer),
        coalesce(consent, false)) RETURNING closure_id INTO made;
    RETURN made;
END $$;

CREATE FUNCTION accounts.reverse_closure(who bigint, actor text, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE c accounts.closures;
BEGIN
    PERFORM 1 FROM accounts.users x WHERE x.user_id = who FOR NO KEY UPDATE;
    SELECT * INTO c FROM accounts.closures x WHERE x.user_id = who AND x.ended_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL024', format('user %s has no closure request to take back', who), 'compline accounts show');
    END IF;
    UPDATE accounts.closures SET outcome = 'reversed', ended_by = btrim(actor), ended_at = clock_timestamp() WHERE closure_id = c.closure_id;
    PERFORM accounts.release_hold(c.hold_id, actor, NULL, why);
END $$;

-- What a user still has, and whether it is less than the policy calls worth keeping, at the last closing mark.
CREATE FUNCTION accounts.left_over(who bigint) RETURNS TABLE (account text, asset text, balance numeric, is_dust boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.account, a.asset, a.balance, a.sub_account = 'main' AND coalesce(a.balance * CASE
            WHEN a.asset = accounts.policy_text('reporting_currency', '') THEN 1
            ELSE (SELECT m.price FROM market.mark_prices m WHERE m.asset = a.asset ORDER BY m.close_date DESC, m.version DESC LIMIT 1) END
        <= accounts.policy_text('dust_value', '0')::numeric, false)
    FROM ledger.accounts a WHERE a.user_id = who AND a.balance <> 0
$$;

-- Closures whose days are over end: those with nothing left are closed, the others say why not.
CREATE FUNCTION accounts.finish_closures(actor text) RETURNS TABLE (user_id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    c record;
    d record;
    asked integer;
    refused text;
BEGIN
    FOR c IN SELECT x.closure_id, x.user_id, x.hold_id, x.dust_consent FROM accounts.closures x
        WHERE x.ended_at IS NULL AND x.ends_at <= clock_timestamp() ORDER BY x.user_id
    LOOP
        BEGIN
            -- Dust given up is an adjustment like any other: asked for here, approved by a person, moved by the engine.
            asked := 0;
            IF c.dust_consent THEN
                FOR d IN SELECT * FROM accounts.left_over(c.user_id) l WHERE l.is_dust LOOP
                    PERFORM accounts.request_adjustment(c.user_id, d.asset, -d.balance, 'dust',
                        'given up by consent when the account closes', format('dust-%s-%s', c.closure_id, d.asset), actor);
                    asked := asked + 1;
                END LOOP;
            END IF;
            IF asked > 0 THEN
                RETURN QUERY SELECT c.user_id, format('dust in %s assets awaits its approval', asked);
                CONTINUE;
            END IF;
            PERFORM accounts.transition(c.user_id, 'closed', 'user_request', actor, 'the days of the closing hold are over');
            RETURN QUERY SELECT c.user_id, 'closed'::text;
        EXCEPTION WHEN SQLSTATE 'CL012' OR SQLSTATE 'CL019' OR SQLSTATE 'CL022' OR SQLSTATE 'CL025' OR SQLSTATE 'CL026' OR SQLSTATE 'CL027' THEN
            GET STACKED DIAGNOSTICS refused = MESSAGE_TEXT;
            RETURN QUERY SELECT c.user_id, refused;
        END;
    END LOOP;
END $$;

-- A new user: an account for every configured asset, and no entries. The same event again changes nothing.
CREATE FUNCTION accounts.onboard(name text, number bigint DEFAULT NULL) RETURNS TABLE (user_id bigint, made boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    there accounts.users;
    chosen bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('accounts.onboard'));
    SELECT * INTO there FROM accounts.users u WHERE u.account = name OR u.user_id = number ORDER BY u.account = name DESC LIMIT 1;
    IF FOUND THEN
        IF there.account <> name OR there.user_id <> coalesce(number, there.user_id) THEN
            PERFORM close.refuse('CL021', format('user %s is %s, not user %s, %s', there.user_id, there.account, number, name), 'a number and a name belong together');
        END IF;
        RETURN QUERY SELECT there.user_id, false;
        RETURN;
    END IF;
    chosen := coalesce(number, (SELECT coalesce(max(u.user_id), 0) + 1 FROM accounts.users u));
    -- Asked for before the row of the user, whose opening asks for its rights.
    PERFORM exchange.request_command(format('open:%s', chosen), 'open_account', jsonb_build_object('user_id', chosen, 'account', name));
    INSERT INTO accounts.users (user_id, account, state) VALUES (chosen, name, 'pending_kyc');
    PERFORM ledger.ensure_accounts(array_agg(name), array_agg(a.asset)) FROM exchange.assets a HAVING count(*) > 0;
    RETURN QUERY SELECT chosen, true;
END $$;

-- Bring users over from a table of the old three values; each keeps its meaning, and anything else stops the import.
CREATE FUNCTION accounts.import_users(numbers bigint[], names text[], statuses text[], source text, actor text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad record;
    made bigint;
BEGIN
    SELECT n.user_id, n.account, n.status INTO bad FROM unnest(numbers, names, statuses) AS n (user_id, account, status)
    WHERE n.status IS NULL OR n.status NOT IN ('active', 'suspended', 'banned') OR n.account IS NULL OR n.user_id IS NULL LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL021', format('user %s (%s) has status %s', bad.user_id, bad.account, coalesce(quote_literal(bad.status), 'null')),
            'the old values are active, suspended and banned; nothing was imported');
    END IF;
    SELECT n.user_id, n.account, n.status, u.account AS known, i.old_status INTO bad
    FROM unnest(numbers, names, statuses) AS n (user_id, account, status)
    JOIN accounts.users u ON u.user_id = n.user_id OR u.account = n.account
    LEFT JOIN accounts.imported_users i ON i.user_id = n.user_id
    WHERE (i.old_status, i.account) IS DISTINCT FROM (n.status, n.account) LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL021', format('user %s (%s, %s) is here as %s, %s', bad.user_id, bad.account, bad.status, bad.known,
            coalesce('imported as ' || bad.old_status, 'not imported')), 'nothing was imported; move such a user by a transition');
    END IF;
    INSERT INTO accounts.imported_users (user_id, account, old_status, source, actor)
    SELECT n.user_id, n.account, n.status, import_users.source, import_users.actor
    FROM unnest(numbers, names, statuses) AS n (user_id, account, status) ON CONFLICT (user_id) DO NOTHING;
    PERFORM exchange.request_command(format('open:%s', n.user_id), 'open_account', jsonb_build_object('user_id', n.user_id, 'account', n.account))
    FROM unnest(numbers, names) AS n (user_id, account)
    WHERE NOT EXISTS (SELECT FROM accounts.users u WHERE u.user_id = n.user_id) ORDER BY n.user_id;
    INSERT INTO accounts.users (user_id, account, state)
    SELECT n.user_id, n.account, n.status FROM unnest(numbers, names, statuses) AS n (user_id, account, status)
    WHERE NOT EXISTS (SELECT FROM accounts.users u WHERE u.user_id = n.user_id);
    GET DIAGNOSTICS made = ROW_COUNT;
    RETURN made;
END $$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA accounts FROM PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA accounts TO compline_app;
-- A transition in raw SQL is a row of history, under the same guard; its hash, times and number are not the writer's.
GRANT INSERT (user_id, from_state, to_state, authority, actor, reason, second_approver, at, version)
    ON accounts.account_state_transitions TO compline_app;
GRANT EXECUTE ON FUNCTION
    accounts.transition(bigint, text, text, text, text, text, bigint), accounts.may_trade(bigint), accounts.may_withdraw(bigint),
    accounts.require_may_withdraw(bigint), accounts.open_hold(bigint, text, text, text, text, text),
    accounts.release_hold(bigint, text, text, text), accounts.sweep_obligations(), accounts.acknowledge(text, text),
    accounts.take_kyc_event(text, text, bigint, text, timestamptz, text, text), accounts.reactivate_cleared(text),
    accounts.first_deposits(bigint[]), accounts.note_unallocated(text[], bigint[], text[], numeric[], bigint[]),
    accounts.request_closure(bigint, text, boolean), accounts.reverse_closure(bigint, text, text),
    accounts.left_over(bigint), accounts.finish_closures(text), accounts.onboard(text, bigint), accounts.opening_state(),
    accounts.policy_text(text, text)
    TO compline_app;

-- What stood before: an engine that was never told of a state or a hold is told now.
SELECT accounts.tell_engine(u.user_id, format('state:%s:1', u.user_id)) FROM accounts.users u
WHERE u.state <> 'active' OR EXISTS (SELECT FROM accounts.holds h WHERE h.user_id = u.user_id AND h.released_at IS NULL)
ORDER BY u.user_id;

-- What the identity provider says, as it came; and closing an account.

CREATE TABLE accounts.kyc_events (
    event_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider       text NOT NULL CHECK (provider ~ '^[a-z0-9_-]{1,32}$'),
    delivery_id    text NOT NULL CHECK (delivery_id ~ '^[!-~]+$' AND length(delivery_id) <= 200),
    user_id        bigint NOT NULL REFERENCES accounts.users,
    outcome        text NOT NULL CHECK (outcome IN ('approved', 'rejected', 'pending')),
    event_at       timestamptz NOT NULL,
    received_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload_sha256 text NOT NULL CHECK (payload_sha256 ~ '^[0-9a-f]{64}$'),
    source         text NOT NULL CHECK (source IN ('webhook', 'nats', 'cli')),
    effect         text NOT NULL,
    CONSTRAINT kyc_events_one_a_delivery UNIQUE (provider, delivery_id)
);
COMMENT ON TABLE accounts.kyc_events IS 'One row per event of an identity provider and what it did; append-only.';
CREATE INDEX kyc_events_of_user ON accounts.kyc_events (user_id, event_at);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.kyc_events
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Take an event: the first delivery has an effect, every other says `duplicate`. An event older than one known changes nothing.
CREATE FUNCTION accounts.take_kyc_event(provider text, delivery_id text, user_id bigint, outcome text, event_at timestamptz,
    payload_sha256 text, source text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    u accounts.users;
    there accounts.kyc_events;
    next_state text;
    done text := 'recorded';
BEGIN
    SELECT * INTO u FROM accounts.users x WHERE x.user_id = take_kyc_event.user_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL023', format('KYC event %s is of no known user %s', delivery_id, take_kyc_event.user_id), 'onboard the user first');
    END IF;
    SELECT * INTO there FROM accounts.kyc_events k WHERE k.provider = take_kyc_event.provider AND k.delivery_id = take_kyc_event.delivery_id;
    IF FOUND THEN
        IF (there.user_id, there.outcome, there.event_at) IS DISTINCT FROM (u.user_id, take_kyc_event.outcome, take_kyc_event.event_at) THEN
            PERFORM close.refuse('CL023', format('delivery %s of %s was %s of user %s at %s and is now another', delivery_id, there.provider,
                there.outcome, there.user_id, close.iso_us(there.event_at)), 'a delivery has one payload; ask the provider');
        END IF;
        RETURN 'duplicate';
    END IF;
    IF take_kyc_event.outcome IS NULL OR take_kyc_event.outcome NOT IN ('approved', 'rejected', 'pending') THEN
        PERFORM close.refuse('CL023', format('KYC event %s says %s', delivery_id, coalesce(take_kyc_event.outcome, 'nothing')),
            'an event approves, rejects or says that a review is pending');
    END IF;
    IF take_kyc_event.event_at IS NULL OR take_kyc_event.event_at > clock_timestamp() + interval '5 minutes' THEN
        PERFORM close.refuse('CL023', format('KYC event %s is dated %s, in the future', delivery_id, close.iso_us(take_kyc_event.event_at)),
            'compare the clocks');
    END IF;
    IF EXISTS (SELECT FROM accounts.kyc_events k WHERE k.user_id = u.user_id AND k.event_at > take_kyc_event.event_at) THEN
        done := 'older than one known: recorded';
    ELSE
        next_state := CASE
            WHEN u.state = 'pending_kyc' AND take_kyc_event.outcome = 'approved' THEN 'kyc_approved'
            WHEN u.state = 'pending_kyc' AND take_kyc_event.outcome = 'rejected' THEN 'kyc_rejected'
            WHEN u.state = 'kyc_rejected' AND take_kyc_event.outcome = 'pending' THEN 'pending_kyc' END;
        done := coalesce(next_state, CASE WHEN u.state = 'suspended' AND take_kyc_event.outcome = 'approved' THEN 'recorded: the next close reactivates'
            WHEN u.state = 'kyc_rejected' AND take_kyc_event.outcome = 'approved' THEN 'recorded: a resubmission comes first' ELSE 'recorded' END);
    END IF;
    INSERT INTO accounts.kyc_events (provider, delivery_id, user_id, outcome, event_at, payload_sha256, source, effect)
    VALUES (take_kyc_event.provider, take_kyc_event.delivery_id, u.user_id, take_kyc_event.outcome, take_kyc_event.event_at,
        take_kyc_event.payload_sha256, take_kyc_event.source, done);
    IF next_state IS NOT NULL THEN
        PERFORM accounts.transition(u.user_id, next_state, 'kyc_provider', take_kyc_event.provider,
            format('event %s', take_kyc_event.delivery_id), NULL, u.version);
    END IF;
    RETURN done;
END $$;

-- Suspended users whose new review allows it become active again; the others stay. Returns who did.
CREATE FUNCTION accounts.reactivate_cleared(actor text) RETURNS TABLE (user_id bigint, version bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    u record;
    made bigint;
BEGIN
    FOR u IN SELECT x.user_id, x.version FROM accounts.users x
        CROSS JOIN LATERAL (SELECT t.recorded_at, t.authority FROM accounts.account_state_transitions t
            WHERE t.user_id = x.user_id AND t.version = x.version) s
        WHERE x.state = 'suspended' AND s.authority NOT IN ('screening', 'legal')
          AND (SELECT k.outcome = 'approved' AND k.event_at > s.recorded_at FROM accounts.kyc_events k
               WHERE k.user_id = x.user_id AND k.outcome IN ('approved', 'rejected') ORDER BY k.event_at DESC, k.event_id DESC LIMIT 1)
          AND NOT EXISTS (SELECT FROM accounts.holds h WHERE h.user_id = x.user_id AND h.released_at IS NULL)
        ORDER BY x.user_id
    LOOP
        BEGIN
            made := accounts.transition(u.user_id, 'active', 'kyc_provider', actor, 'reviewed again since the suspension', NULL, u.version);
        EXCEPTION WHEN SQLSTATE 'CL020' OR SQLSTATE 'CL022' OR SQLSTATE 'CL019' THEN
            CONTINUE; -- something came between: the next close looks again
        END;
        RETURN QUERY SELECT u.user_id, made;
    END LOOP;
END $$;

-- A user's first deposit makes an approved account active; called with those whose deposits have just been posted.
CREATE FUNCTION accounts.first_deposits(who bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    u record;
    done bigint := 0;
BEGIN
    FOR u IN SELECT x.user_id, x.version FROM accounts.users x WHERE x.state = 'kyc_approved' AND x.user_id = ANY (who)
        ORDER BY x.user_id FOR NO KEY UPDATE
    LOOP
        PERFORM accounts.transition(u.user_id, 'active', 'first_deposit', 'settlement', 'the first deposit settled', NULL, u.version);
        done := done + 1;
    END LOOP;
    RETURN done;
END $$;

-- Coins that came for an account whose state receives nothing. They are the house's to keep for their owner; when the owner
-- is found, an approved adjustment with the reference as its ticket gives them to an account.
CREATE TABLE accounts.unallocated_deposits (
    reference  text PRIMARY KEY,
    user_id    bigint NOT NULL REFERENCES accounts.users,
    asset      text NOT NULL REFERENCES exchange.assets,
    amount     numeric(38, 18) NOT NULL CHECK (amount > 0 AND amount < 'NaN'),
    engine_seq bigint NOT NULL,
    state      text NOT NULL REFERENCES accounts.states,
    noted_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE accounts.unallocated_deposits IS 'One row per deposit to an account whose state receives nothing: whom it was for; state is the account''s when it settled.';
CREATE INDEX unallocated_deposits_of ON accounts.unallocated_deposits (user_id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.unallocated_deposits
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE FUNCTION accounts.note_unallocated(refs text[], who bigint[], assets text[], amounts numeric[], seqs bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad text;
    done bigint;
BEGIN
    SELECT n.ref INTO bad FROM unnest(refs, assets, amounts, seqs) AS n (ref, asset, amount, seq)
    WHERE NOT EXISTS (SELECT FROM ledger.journals j JOIN ledger.ledger_entries e USING (posting_no, close_date)
        JOIN ledger.accounts a USING (account_id)
        WHERE j.kind = 'deposit' AND j.reference_type = 'deposit' AND j.reference_id = n.ref AND j.engine_seq = n.seq
            AND a.account = 'deposits_unallocated' AND e.asset = n.asset AND e.amount = n.amount) LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL005', format('deposit %s has no journal to deposits_unallocated', bad), 'settlement notes what it posts');
    END IF;
    INSERT INTO accounts.unallocated_deposits (reference, user_id, asset, amount, engine_seq, state)
    SELECT n.ref, n.who, n.asset, n.amount, n.seq, u.state FROM unnest(refs, who, assets, amounts, seqs) AS n (ref, who, asset, amount, seq)
    JOIN accounts.users u ON u.user_id = n.who ON CONFLICT (reference) DO NOTHING;
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END $$;

CREATE TABLE accounts.closures (
    closure_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      bigint NOT NULL REFERENCES accounts.users,
    hold_id      bigint NOT NULL UNIQUE REFERENCES accounts.holds,
    requested_by text NOT NULL CHECK (requested_by <> ''),
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ends_at      timestamptz NOT NULL,
    dust_consent boolean NOT NULL,
    outcome      text CHECK (outcome IN ('reversed', 'closed')),
    ended_by     text,
    ended_at     timestamptz,
    CONSTRAINT closures_end_is_whole CHECK ((outcome IS NULL) = (ended_at IS NULL) AND (outcome IS NULL) = (ended_by IS NULL))
);
COMMENT ON TABLE accounts.closures IS 'One row per request of a user to close the account: a hold for the days of the policy, reversible while they last.';
CREATE UNIQUE INDEX closures_one_alive ON accounts.closures (user_id) WHERE ended_at IS NULL;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON accounts.closures
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

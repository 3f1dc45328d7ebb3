-- Holds: several at once, each with its reason, opener and closer; and what is owed after a change.

ALTER TABLE accounts.holds
    ADD COLUMN opened_second text,
    ADD COLUMN released_second text,
    ADD COLUMN release_reason text,
    ADD CONSTRAINT holds_plain_text CHECK (reference || reason || opened_by !~ '[[:cntrl:]]' AND reason <> '' AND opened_by <> '');

-- Whether a kind of hold is on a list of the policy.
CREATE FUNCTION accounts.policy_lists(field text, kind text, otherwise jsonb) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT accounts.policy_text(field, otherwise::text)::jsonb ? kind
$$;

-- A hold is opened and released once, by those whom the policy wants; what else it says stays.
CREATE FUNCTION accounts.guard_hold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE first text;
BEGIN
    -- Before anything is read of it: holds and states of one user happen one after another, and are told in that order.
    PERFORM 1 FROM accounts.users WHERE user_id = NEW.user_id FOR NO KEY UPDATE;
    IF TG_OP = 'INSERT' THEN
        IF NEW.released_at IS NOT NULL OR NEW.opened_at > clock_timestamp() THEN
            PERFORM close.refuse('CL024', format('hold %s of user %s opens now, and open', NEW.kind, NEW.user_id), 'release it afterwards');
        END IF;
        IF accounts.policy_lists('holds_opened_by_two', NEW.kind, '[]')
            AND (nullif(btrim(NEW.opened_second), '') IS NULL OR accounts.same_person(NEW.opened_by, NEW.opened_second)) THEN
            PERFORM close.refuse('CL012', format('a %s hold on user %s needs two different people to open it', NEW.kind, NEW.user_id),
                'name a second person');
        END IF;
        RETURN NEW;
    END IF;
    IF (OLD.user_id, OLD.kind, OLD.reference, OLD.reason, OLD.opened_by, OLD.opened_second, OLD.opened_at)
        IS DISTINCT FROM (NEW.user_id, NEW.kind, NEW.reference, NEW.reason, NEW.opened_by, NEW.opened_second, NEW.opened_at)
        OR OLD.released_at IS NOT NULL OR NEW.released_at IS NULL THEN
        PERFORM close.refuse('CL024', format('hold %s of user %s is %s: it can be released once and is never changed', OLD.hold_id,
            OLD.user_id, CASE WHEN OLD.released_at IS NULL THEN 'open' ELSE 'released' END), 'open another one');
    END IF;
    NEW.released_second := nullif(btrim(NEW.released_second), '');
    first := NEW.released_by;
    IF NEW.released_second IS NULL AND NEW.released_by LIKE '% and %' THEN
        -- As recon.close_break writes two people.
        first := split_part(NEW.released_by, ' and ', 1);
        NEW.released_second := split_part(NEW.released_by, ' and ', 2);
    END IF;
    NEW.released_at := clock_timestamp();
    IF btrim(NEW.released_by) = '' THEN
        PERFORM close.refuse('CL024', format('hold %s of user %s is released by nobody', OLD.hold_id, OLD.user_id), 'say who releases it');
    END IF;
    IF first <> session_user AND OLD.kind <> 'closure' AND accounts.policy_text('personal_logins', 'false')::boolean THEN
        PERFORM close.refuse('CL012', format('login %s cannot act as %s', session_user, first),
            'the policy wants personal logins: set DATABASE_URL to your own');
    END IF;
    IF NEW.released_second IS NOT NULL AND accounts.same_person(first, NEW.released_second)
        OR accounts.policy_lists('holds_released_by_two', NEW.kind, '["break", "sanctions", "legal"]')
        AND (NEW.released_second IS NULL OR accounts.same_person(first, OLD.opened_by)) THEN
        PERFORM close.refuse('CL012', format('hold %s (%s) of user %s was opened by %s: releasing it needs two people, the first another than that one',
            OLD.hold_id, OLD.kind, OLD.user_id, OLD.opened_by), 'name who releases it and a second person');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON accounts.holds FOR EACH ROW EXECUTE FUNCTION accounts.guard_hold();

-- The engine is told of every hold, whoever opened or released it, and has to say that it knows.
CREATE FUNCTION accounts.apply_hold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done text := CASE WHEN TG_OP = 'INSERT' THEN 'opened' ELSE 'released' END;
    key text := format('hold:%s:%s', NEW.hold_id, done);
    due timestamptz := clock_timestamp() + make_interval(secs => accounts.policy_text('obligation_deadline_s', '60')::integer);
BEGIN
    PERFORM accounts.tell_engine(NEW.user_id, key);
    IF TG_OP = 'INSERT' THEN
        INSERT INTO accounts.obligations (user_id, kind, cause, due_at, request_key)
        VALUES (NEW.user_id, 'freeze_withdrawals', 'hold ' || NEW.hold_id, due, key);
    END IF;
    INSERT INTO events.outbox (event_key, subject, payload)
    SELECT 'account.' || key, 'account.hold.' || done, jsonb_build_object('user_id', u.user_id, 'account', u.account, 'hold_id', NEW.hold_id,
        'kind', NEW.kind, 'reference', NEW.reference, 'reason', CASE TG_OP WHEN 'INSERT' THEN NEW.reason ELSE NEW.release_reason END,
        'by', CASE TG_OP WHEN 'INSERT' THEN NEW.opened_by ELSE NEW.released_by END)
    FROM accounts.users u WHERE u.user_id = NEW.user_id;
    RETURN NULL;
END $$;
CREATE TRIGGER apply AFTER INSERT OR UPDATE ON accounts.holds FOR EACH ROW EXECUTE FUNCTION accounts.apply_hold();

CREATE FUNCTION accounts.open_hold(user_id bigint, kind text, reference text, reason text, opener text, second text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    there accounts.holds;
    made bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM accounts.users u WHERE u.user_id = open_hold.user_id) THEN
        PERFORM close.refuse('CL024', format('there is no user %s to hold', open_hold.user_id), 'compline accounts show lists users');
    END IF;
    INSERT INTO accounts.holds AS h (user_id, kind, reference, reason, opened_by, opened_second)
    VALUES (open_hold.user_id, open_hold.kind, open_hold.reference, btrim(open_hold.reason), btrim(opener), nullif(btrim(second), ''))
    ON CONFLICT ON CONSTRAINT holds_one_effect DO NOTHING RETURNING h.hold_id INTO made;
    IF made IS NULL THEN
        SELECT * INTO there FROM accounts.holds h WHERE h.user_id = open_hold.user_id AND h.kind = open_hold.kind AND h.reference = open_hold.reference;
        IF there.released_at IS NOT NULL OR there.reason <> btrim(open_hold.reason) THEN
            PERFORM close.refuse('CL024', format('hold %s of user %s has this reference and is %s', there.hold_id, there.user_id,
                CASE WHEN there.released_at IS NULL THEN 'open for another reason' ELSE 'released' END), 'give the new one a reference of its own');
        END IF;
        made := there.hold_id;
    END IF;
    RETURN made;
END $$;

CREATE FUNCTION accounts.release_hold(which bigint, who text, second text, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE there accounts.holds;
BEGIN
    -- The user's row first, as everywhere; the other way round two of them would wait for each other.
    PERFORM 1 FROM accounts.users u WHERE u.user_id = (SELECT h.user_id FROM accounts.holds h WHERE h.hold_id = which) FOR NO KEY UPDATE;
    SELECT * INTO there FROM accounts.holds h WHERE h.hold_id = which FOR UPDATE;
    IF NOT FOUND OR there.released_at IS NOT NULL THEN
        PERFORM close.refuse('CL024', format('there is no open hold %s', which), 'compline accounts show USER lists holds');
    END IF;
    IF there.kind = 'closure' AND EXISTS (SELECT FROM accounts.closures c WHERE c.hold_id = which AND c.ended_at IS NULL) THEN
        PERFORM close.refuse('CL024', format('hold %s belongs to a closure request', which), 'compline accounts closure reverse');
    END IF;
    IF btrim(coalesce(who, '')) = '' OR btrim(coalesce(why, '')) = '' THEN
        PERFORM close.refuse('CL024', format('hold %s is released by somebody, for a reason', which), 'say who and why');
    END IF;
    UPDATE accounts.holds SET released_by = btrim(who), released_second = second, release_reason = btrim(why), released_at = clock_timestamp()
    WHERE hold_id = which;
END $$;

-- Obligations: acknowledged by the answer that they wait for.
CREATE FUNCTION accounts.acknowledge(key text, who text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE done bigint;
BEGIN
    UPDATE accounts.obligations SET acknowledged_at = clock_timestamp(), acknowledged_by = who
    WHERE request_key = key AND acknowledged_at IS NULL;
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END $$;

-- An obligation changes by being acknowledged or told late, each once.
CREATE FUNCTION accounts.guard_obligation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (OLD.obligation_id, OLD.user_id, OLD.kind, OLD.cause, OLD.due_at, OLD.request_key) IS DISTINCT FROM
        (NEW.obligation_id, NEW.user_id, NEW.kind, NEW.cause, NEW.due_at, NEW.request_key)
        OR OLD.acknowledged_at IS NOT NULL AND OLD.acknowledged_at IS DISTINCT FROM NEW.acknowledged_at
        OR OLD.told_late_at IS NOT NULL AND OLD.told_late_at IS DISTINCT FROM NEW.told_late_at THEN
        PERFORM close.refuse('CL003', format('obligation %s is not changed, only acknowledged', OLD.obligation_id), 'corrections are new rows');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON accounts.obligations FOR EACH ROW EXECUTE FUNCTION accounts.guard_obligation();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON accounts.obligations
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- A freeze or a cancelling is done when the engine has journalled it and the ledger has come that far.
CREATE FUNCTION accounts.request_answered() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM accounts.acknowledge(NEW.request_key, format('exchange at sequence %s', NEW.engine_seq));
    RETURN NULL;
END $$;
CREATE TRIGGER account_request_answered AFTER UPDATE OF outcome ON exchange.command_requests
    FOR EACH ROW WHEN (OLD.outcome IS NULL AND NEW.outcome IN ('accepted', 'duplicate_reference') AND NEW.kind IN ('set_account', 'cancel_all'))
    EXECUTE FUNCTION accounts.request_answered();

-- `notify` is done when the event has left for NATS.
CREATE FUNCTION accounts.event_left() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM accounts.acknowledge(NEW.event_key, 'outbox relay');
    RETURN NULL;
END $$;
CREATE TRIGGER account_event_left AFTER UPDATE OF published_at ON events.outbox
    FOR EACH ROW WHEN (OLD.published_at IS NULL AND NEW.published_at IS NOT NULL AND starts_with(NEW.subject, 'account.'))
    EXECUTE FUNCTION accounts.event_left();

-- What is late is told once; returns every obligation that is owed and past its deadline.
CREATE FUNCTION accounts.sweep_obligations() RETURNS SETOF accounts.obligations
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH late AS (
        UPDATE accounts.obligations o SET told_late_at = clock_timestamp()
        WHERE o.acknowledged_at IS NULL AND o.told_late_at IS NULL AND o.due_at < clock_timestamp() RETURNING o.*)
    INSERT INTO events.outbox (event_key, subject, payload)
    SELECT 'account.obligation.overdue:' || l.obligation_id, 'account.obligation.overdue', jsonb_build_object('obligation_id', l.obligation_id,
        'user_id', l.user_id, 'account', u.account, 'kind', l.kind, 'cause', l.cause, 'due_at', close.iso_us(l.due_at))
    FROM late l JOIN accounts.users u USING (user_id) ON CONFLICT (event_key) DO NOTHING;
    RETURN QUERY SELECT * FROM accounts.obligations o WHERE o.acknowledged_at IS NULL AND o.due_at < clock_timestamp() ORDER BY o.due_at;
END $$;

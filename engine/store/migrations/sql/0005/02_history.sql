-- A state changes by one row of history: inserting it is the transition. What it says is checked before, and what follows
-- from it (state, event, obligations, requests to the engine) is written after, in the same transaction.

ALTER TABLE accounts.users ADD COLUMN version bigint NOT NULL DEFAULT 1 CHECK (version >= 1);
COMMENT ON COLUMN accounts.users.version IS 'Number of the last row of the user''s history; a transition may name the one it expects.';

ALTER TABLE accounts.account_state_transitions
    ADD COLUMN version bigint NOT NULL CHECK (version >= 1),
    ADD COLUMN second_approver text,
    ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD CONSTRAINT transitions_one_a_version UNIQUE (user_id, version),
    ADD CONSTRAINT transitions_first_comes_from_none CHECK ((version = 1) = (from_state = 'none') AND (version = 1) = (prev_hash IS NULL)),
    ADD CONSTRAINT transitions_hash_is_sha256 CHECK (octet_length(row_hash) = 32),
    -- A control character could forge a separator of the hash.
    ADD CONSTRAINT transitions_plain_text CHECK (actor <> '' AND length(actor) <= 200 AND length(reason) <= 2000
        AND actor || reason || coalesce(second_approver, '') !~ '[[:cntrl:]]');

-- The hash of a row: SHA-256 over its fields, TAB between them, LF at the end, UTF-8, null as nothing.
-- Neither immutable nor with settings of its own, so that bulk inserts have it inlined.
CREATE FUNCTION accounts.transition_hash(t accounts.account_state_transitions) RETURNS bytea
LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(concat_ws(E'\t', 'account-transition/1', coalesce(encode(t.prev_hash, 'hex'), ''), t.user_id::text,
        t.version::text, t.from_state, t.to_state, t.authority, t.actor, coalesce(t.second_approver, ''), t.reason,
        to_char(t.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        to_char(t.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) || E'\n', 'UTF8'))
$$;

-- A field of the policy of the open day; the given text where the policy does not speak of it.
CREATE FUNCTION accounts.policy_text(field text, otherwise text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT p.policy ->> field FROM close.policy_on(coalesce(
        (SELECT min(y.close_date) FROM close.days y WHERE y.state = 'open'),
        (SELECT max(y.close_date) FROM close.days y), current_date)) p), otherwise)
$$;

-- Whether two texts name the same person, whatever their case and spaces; nobody is not a person.
CREATE FUNCTION accounts.same_person(a text, b text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT lower(regexp_replace(coalesce(a, ''), '\s', '', 'g')) = lower(regexp_replace(coalesce(b, ''), '\s', '', 'g'))
$$;

-- Tell the engine what a user may do now: state and open holds, as they stand in this transaction.
CREATE FUNCTION accounts.tell_engine(who bigint, key text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM exchange.request_command(key, 'set_account', (SELECT jsonb_build_object('user_id', u.user_id, 'state', u.state, 'holds',
        coalesce((SELECT jsonb_agg(DISTINCT h.kind) FROM accounts.holds h WHERE h.user_id = u.user_id AND h.released_at IS NULL), '[]'))
        FROM accounts.users u WHERE u.user_id = who));
END $$;

ALTER TABLE accounts.obligations ADD COLUMN request_key text, ADD COLUMN told_late_at timestamptz,
    ADD CONSTRAINT obligations_acknowledged_by_someone CHECK ((acknowledged_at IS NULL) = (acknowledged_by IS NULL));
COMMENT ON COLUMN accounts.obligations.request_key IS 'The command request or event whose answer acknowledges it.';
CREATE INDEX obligations_owed ON accounts.obligations (due_at) WHERE acknowledged_at IS NULL;
CREATE INDEX obligations_by_request ON accounts.obligations (request_key) WHERE acknowledged_at IS NULL;
CREATE INDEX holds_open ON accounts.holds (user_id) WHERE released_at IS NULL;
CREATE INDEX users_awaiting_deposit ON accounts.users (user_id) WHERE state = 'kyc_approved';
CREATE INDEX users_suspended ON accounts.users (user_id) WHERE state = 'suspended';

-- What must be so before a transition that the matrix allows.
CREATE FUNCTION accounts.check_conditions(t accounts.account_state_transitions) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    suspended record;
    found text;
BEGIN
    IF t.to_state = 'active' AND t.from_state IN ('suspended', 'restricted') THEN
        -- Also by way of restricted: what was suspended since it was last active is reactivated, not just released.
        SELECT s.recorded_at, s.authority INTO suspended FROM accounts.account_state_transitions s
        WHERE s.user_id = t.user_id AND s.to_state = 'suspended' AND s.version > coalesce((SELECT max(a.version)
            FROM accounts.account_state_transitions a WHERE a.user_id = t.user_id AND a.to_state = 'active'), 0)
        ORDER BY s.version DESC LIMIT 1;
        IF suspended.recorded_at IS NOT NULL THEN
            IF NOT coalesce((SELECT k.outcome = 'approved' AND k.event_at > suspended.recorded_at FROM accounts.kyc_events k
                    WHERE k.user_id = t.user_id AND k.outcome IN ('approved', 'rejected') ORDER BY k.event_at DESC, k.event_id DESC LIMIT 1), false) THEN
                PERFORM close.refuse('CL022', format('user %s was suspended at %s and the last review since is no approval',
                    t.user_id, close.iso_us(suspended.recorded_at)), 'reactivation needs a KYC approval newer than the suspension');
            END IF;
            IF t.authority <> 'compliance' AND suspended.authority IN ('screening', 'legal') THEN
                PERFORM close.refuse('CL022', format('user %s was suspended by authority %s', t.user_id, suspended.authority),
                    'compliance reactivates such an account, with a second person');
            END IF;
        END IF;
        SELECT string_agg(DISTINCT h.list || ' ' || h.entry, ', ') INTO found FROM accounts.screening_hits h
            WHERE h.user_id = t.user_id AND h.transition_version IS NOT NULL AND NOT EXISTS (SELECT FROM accounts.screening_clearances c
                WHERE c.user_id = h.user_id AND c.list = h.list AND c.entry_sha256 = h.entry_sha256);
        IF found IS NOT NULL THEN
            PERFORM close.refuse('CL022', format('user %s stands on %s', t.user_id, found), 'two people clear a hit that is somebody else''s');
        END IF;
        SELECT string_agg(DISTINCT h.kind, ', ') INTO found FROM accounts.holds h
            WHERE h.user_id = t.user_id AND h.released_at IS NULL;
        IF found IS NOT NULL THEN
            PERFORM close.refuse('CL022', format('user %s has open holds: %s', t.user_id, found), 'release them first: compline accounts hold release');
        END IF;
    ELSIF t.to_state = 'closed' THEN
        SELECT string_agg(format('%s %s in %s', trim_scale(a.balance), a.asset, a.account), ', ' ORDER BY a.account, a.asset) INTO found
            FROM ledger.accounts a WHERE a.user_id = t.user_id AND a.balance <> 0;
        IF found IS NOT NULL THEN
            PERFORM close.refuse('CL022', format('user %s cannot be closed: %s', t.user_id, found), 'balances are zero before an account ends');
        END IF;
        -- What was approved arrives although the account is empty now.
        SELECT string_agg(q.kind || ' ' || q.reference, ', ' ORDER BY q.request_no) INTO found FROM exchange.command_requests q
            WHERE q.outcome IS NULL AND q.kind IN ('adjust', 'reward') AND (q.payload ->> 'user_id')::bigint = t.user_id;
        IF found IS NOT NULL THEN
            PERFORM close.refuse('CL022', format('user %s cannot be closed: %s awaits the engine''s answer', t.user_id, found),
                'coins that are on their way arrive first');
        END IF;
        IF t.authority = 'user_request' AND NOT EXISTS (SELECT FROM accounts.closures c
                WHERE c.user_id = t.user_id AND c.ended_at IS NULL AND c.ends_at <= clock_timestamp()) THEN
            PERFORM close.refuse('CL022', format('user %s has no closure request whose days are over', t.user_id),
                'compline accounts closure request, and wait');
        END IF;
        SELECT string_agg(DISTINCT h.kind, ', ') INTO found FROM accounts.holds h
            WHERE h.user_id = t.user_id AND h.released_at IS NULL AND h.kind <> 'closure';
        IF found IS NOT NULL AND t.authority <> 'legal' THEN
            PERFORM close.refuse('CL022', format('user %s cannot be closed under open holds: %s', t.user_id, found), 'release them first');
        END IF;
    END IF;
END $$;

CREATE FUNCTION accounts.guard_transition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    u accounts.users;
    rule accounts.allowed_transitions;
    others text;
    before accounts.account_state_transitions;
BEGIN
    SELECT * INTO u FROM accounts.users WHERE user_id = NEW.user_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL019', format('there is no user %s', NEW.user_id), 'compline accounts show lists users');
    END IF;
    IF NEW.to_state IS NULL OR NOT EXISTS (SELECT FROM accounts.states s WHERE s.state = NEW.to_state) THEN
        PERFORM close.refuse('CL019', format('user %s: %s is not a state of an account', u.user_id, coalesce(quote_literal(NEW.to_state), 'nothing')),
            'the eight states are rows of accounts.states');
    END IF;
    IF coalesce(NEW.version, u.version + 1) <> u.version + 1 OR coalesce(NEW.from_state, u.state) <> u.state THEN
        PERFORM close.refuse('CL020', format('user %s is %s at version %s, not %s at version %s', u.user_id, u.state, u.version,
            coalesce(NEW.from_state, u.state), coalesce(NEW.version - 1, u.version)), 'read the account again and decide anew');
    END IF;
    SELECT * INTO rule FROM accounts.allowed_transitions a
        WHERE a.from_state = u.state AND a.to_state = NEW.to_state AND a.authority = NEW.authority;
    IF NOT FOUND THEN
        SELECT string_agg(a.authority, ', ' ORDER BY a.authority) INTO others FROM accounts.allowed_transitions a
            WHERE a.from_state = u.state AND a.to_state = NEW.to_state;
        PERFORM close.refuse('CL019', format('user %s: %s -> %s by authority %s is not a transition', u.user_id, u.state, NEW.to_state,
            coalesce(NEW.authority, 'nothing')), coalesce('it takes one of: ' || others, 'no authority allows it'));
    END IF;
    NEW.reason := coalesce(btrim(NEW.reason), '');
    NEW.second_approver := nullif(btrim(NEW.second_approver), '');
    IF btrim(coalesce(NEW.actor, '')) = '' OR (rule.needs_reason AND NEW.reason = '') THEN
        PERFORM close.refuse('CL021', format('user %s: %s -> %s by authority %s needs an actor%s', u.user_id, u.state, NEW.to_state,
            NEW.authority, CASE WHEN rule.needs_reason THEN ' and a reason' ELSE '' END), 'say who decides, and why');
    END IF;
    IF rule.authority IN ('compliance', 'operator', 'legal', 'admin_override') AND NEW.actor <> session_user
        AND accounts.policy_text('personal_logins', 'false')::boolean THEN
        PERFORM close.refuse('CL012', format('login %s cannot act as %s', session_user, NEW.actor),
            'the policy wants personal logins: set DATABASE_URL to your own');
    END IF;
    IF rule.needs_second_approver AND NEW.second_approver IS NULL
        OR NEW.second_approver IS NOT NULL AND accounts.same_person(NEW.actor, NEW.second_approver) THEN
        PERFORM close.refuse('CL012', format('user %s: %s -> %s by authority %s needs two different people, not %s and %s', u.user_id,
            u.state, NEW.to_state, NEW.authority, NEW.actor, coalesce(NEW.second_approver, 'nobody')), 'name a second approver');
    END IF;
    SELECT * INTO before FROM accounts.account_state_transitions t WHERE t.user_id = u.user_id AND t.version = u.version;
    IF before.row_hash IS NULL OR before.to_state <> u.state THEN
        PERFORM close.refuse('CL019', format('user %s has no history row %s that ends in %s', u.user_id, u.version, u.state),
            'compline accounts verify-history');
    END IF;
    NEW.recorded_at := greatest(clock_timestamp(), before.recorded_at);
    NEW.at := coalesce(NEW.at, NEW.recorded_at);
    IF NEW.at > NEW.recorded_at OR NEW.at < before.at THEN
        PERFORM close.refuse('CL021', format('user %s: a transition at %s is %s', u.user_id, close.iso_us(NEW.at),
            CASE WHEN NEW.at > NEW.recorded_at THEN 'in the future' ELSE 'before the one that it follows' END),
            'leave the time out: the database sets it');
    END IF;
    NEW.from_state := u.state;
    NEW.version := u.version + 1;
    NEW.prev_hash := before.row_hash;
    PERFORM accounts.check_conditions(NEW);
    NEW.row_hash := accounts.transition_hash(NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON accounts.account_state_transitions
    FOR EACH ROW WHEN (NEW.from_state IS DISTINCT FROM 'none') EXECUTE FUNCTION accounts.guard_transition();

-- The default would hide that nobody gave a time.
ALTER TABLE accounts.account_state_transitions ALTER COLUMN at DROP DEFAULT;

CREATE FUNCTION accounts.apply_transition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subject text := CASE WHEN NEW.from_state = 'suspended' AND NEW.to_state = 'active' THEN 'account.restored' ELSE 'account.' || NEW.to_state END;
    cause text := format('%s:%s', NEW.user_id, NEW.version);
    due timestamptz := clock_timestamp() + make_interval(secs => accounts.policy_text('obligation_deadline_s', '60')::integer);
BEGIN
    UPDATE accounts.users SET state = NEW.to_state, version = NEW.version WHERE user_id = NEW.user_id;
    IF NEW.to_state = 'closed' THEN
        UPDATE accounts.closures SET outcome = 'closed', ended_at = clock_timestamp(), ended_by = NEW.actor
            WHERE user_id = NEW.user_id AND ended_at IS NULL;
    END IF;
    INSERT INTO events.outbox (event_key, subject, payload)
    SELECT subject || ':' || cause, subject, jsonb_build_object('user_id', u.user_id, 'account', u.account, 'version', NEW.version,
        'from', NEW.from_state, 'to', NEW.to_state, 'authority', NEW.authority, 'actor', NEW.actor, 'second_approver', NEW.second_approver,
        'reason', NEW.reason, 'at', close.iso_us(NEW.at), 'row_hash', encode(NEW.row_hash, 'hex'))
    FROM accounts.users u WHERE u.user_id = NEW.user_id;
    -- Rights go before orders, so that nothing new rests between the two.
    PERFORM accounts.tell_engine(NEW.user_id, 'state:' || cause);
    IF EXISTS (SELECT FROM accounts.duties d WHERE d.state = NEW.to_state AND d.kind = 'cancel_open_orders') THEN
        PERFORM exchange.request_command('cancel:' || cause, 'cancel_all', jsonb_build_object('user_id', NEW.user_id));
    END IF;
    INSERT INTO accounts.obligations (user_id, kind, cause, due_at, request_key)
    SELECT NEW.user_id, d.kind, 'transition ' || cause, due, CASE d.kind WHEN 'freeze_withdrawals' THEN 'state:' || cause
        WHEN 'cancel_open_orders' THEN 'cancel:' || cause ELSE subject || ':' || cause END
    FROM accounts.duties d WHERE d.state = NEW.to_state;
    RETURN NULL;
END $$;
CREATE TRIGGER apply AFTER INSERT ON accounts.account_state_transitions
    FOR EACH ROW WHEN (NEW.from_state <> 'none') EXECUTE FUNCTION accounts.apply_transition();

-- Whoever writes it: a state is what the newest row of history says.
CREATE FUNCTION accounts.guard_users() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (OLD.user_id, OLD.account, OLD.created_at) IS DISTINCT FROM (NEW.user_id, NEW.account, NEW.created_at) THEN
        PERFORM close.refuse('CL003', format('user %s keeps number, name and date', OLD.user_id), 'open another account');
    END IF;
    IF (OLD.state, OLD.version) IS DISTINCT FROM (NEW.state, NEW.version) AND (NEW.version <> OLD.version + 1 OR NOT EXISTS (
        SELECT FROM accounts.account_state_transitions t WHERE t.user_id = NEW.user_id AND t.version = NEW.version
            AND t.from_state = OLD.state AND t.to_state = NEW.state AND t.row_hash = accounts.transition_hash(t))) THEN
        PERFORM close.refuse('CL019', format('user %s: %s -> %s has no row of history', OLD.user_id, OLD.state, NEW.state),
            'a state changes by accounts.transition');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON accounts.users FOR EACH ROW EXECUTE FUNCTION accounts.guard_users();

-- The state that an account opens in where nobody says another: `active`, or by policy `pending_kyc`.
CREATE FUNCTION accounts.opening_state() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN accounts.policy_text('kyc_required', 'false')::boolean THEN 'pending_kyc' ELSE 'active' END
$$;

-- Not a definer: who is not the owner opens accounts in `pending_kyc`, or as the policy says.
CREATE FUNCTION accounts.check_openings() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad record;
    opens text := accounts.opening_state();
BEGIN
    SELECT n.user_id, n.state INTO bad FROM n WHERE n.version <> 1 OR n.created_at > clock_timestamp() OR n.state NOT IN ('pending_kyc', opens)
        AND current_user <> (SELECT c.relowner::regrole::text FROM pg_class c WHERE c.oid = TG_RELID) LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL019', format('user %s cannot open as %s', bad.user_id, bad.state),
            format('accounts open now, at version 1, as pending_kyc or %s', opens));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_openings AFTER INSERT ON accounts.users
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION accounts.check_openings();

-- What an account was in a table of the old three values; written before the account itself.
CREATE TABLE accounts.imported_users (
    user_id    bigint PRIMARY KEY,
    account    text NOT NULL UNIQUE,
    old_status text NOT NULL CHECK (old_status IN ('active', 'suspended', 'banned')),
    source     text NOT NULL CHECK (source <> '' AND source !~ '[[:cntrl:]]'),
    actor      text NOT NULL CHECK (actor <> ''),
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE accounts.imported_users IS 'One row per account brought over from a table with the old three values, each of which keeps its meaning.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.imported_users
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Every account begins its history; in bulk, since a journal may open 100,000 at once.
CREATE FUNCTION accounts.write_openings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO accounts.account_state_transitions (user_id, version, from_state, to_state, authority, actor, reason, at, recorded_at, row_hash)
    SELECT t.user_id, t.version, t.from_state, t.to_state, t.authority, t.actor, t.reason, t.at, t.recorded_at, accounts.transition_hash(t)
    FROM (SELECT n.user_id, n.state, n.version, n.created_at, clock_timestamp() AS recorded_at, m.actor, m.old_status, m.source
          FROM n LEFT JOIN accounts.imported_users m USING (user_id)) x
    CROSS JOIN LATERAL (SELECT (ROW(NULL::bigint, x.user_id, 'none'::text, x.state, coalesce(x.actor, session_user)::text,
            CASE WHEN x.old_status IS NULL THEN 'opening' ELSE 'migration' END,
            coalesce(CASE WHEN x.old_status IS NOT NULL THEN format('was %s in %s', x.old_status, x.source) END, 'the account was opened'), x.created_at, NULL::bytea, NULL::bytea,
            x.version, NULL::text, x.recorded_at)::accounts.account_state_transitions).*) t;
    PERFORM accounts.tell_engine(n.user_id, format('state:%s:1', n.user_id)) FROM n WHERE n.state <> 'active';
    RETURN NULL;
END $$;
CREATE TRIGGER write_openings AFTER INSERT ON accounts.users
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION accounts.write_openings();

-- Accounts of books from before: they open with the state that they have.
INSERT INTO accounts.account_state_transitions (user_id, version, from_state, to_state, authority, actor, reason, at, recorded_at, row_hash)
SELECT t.user_id, t.version, t.from_state, t.to_state, t.authority, t.actor, t.reason, t.at, t.recorded_at, accounts.transition_hash(t)
FROM accounts.users u
CROSS JOIN LATERAL (SELECT (ROW(NULL::bigint, u.user_id, 'none'::text, u.state, 'schema 0005'::text, 'migration'::text,
    format('was %s before accounts had a history', u.state), least(u.created_at, clock_timestamp()), NULL::bytea, NULL::bytea,
    u.version, NULL::text, clock_timestamp())::accounts.account_state_transitions).*) t;

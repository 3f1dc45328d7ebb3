-- Screening: who users are, which lists they were compared with, what was found, and what two people found to be nobody.
-- Names and addresses are personal data: nobody reads the tables, and the closer gets them by one function.

CREATE TABLE accounts.identities (
    identity_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     bigint NOT NULL REFERENCES accounts.users,
    full_name   text NOT NULL CHECK (full_name ~ '[[:alnum:]]' AND full_name !~ '[[:cntrl:]]' AND length(full_name) <= 200),
    recorded_by text NOT NULL CHECK (recorded_by <> ''),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Who was screened is told by transactions: numbers are given before they commit, and one may commit late.
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT identities_once UNIQUE (user_id, full_name)
);
COMMENT ON TABLE accounts.identities IS 'One row per name that a user has gone by; append-only, and all of them are screened.';
CREATE INDEX identities_new ON accounts.identities (xid);

-- An address as it is compared: hexadecimal and bech32 have one writing for their two cases, and Bitcoin Cash an optional prefix.
CREATE FUNCTION accounts.normal_address(address text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN a ~ '^0[xX][0-9a-fA-F]{40}$' THEN lower(a)
        WHEN (a = lower(a) OR a = upper(a)) AND lower(a) ~ '^[a-z]{1,20}1[02-9ac-hj-np-z]{6,}$' AND length(a) <= 128 THEN lower(a)
        WHEN (a = lower(a) OR a = upper(a)) AND lower(a) ~ '^(bitcoincash:)?[qp][02-9ac-hj-np-z]{41,}$' THEN regexp_replace(lower(a), '^bitcoincash:', '')
        ELSE a END
    FROM (SELECT btrim(address) AS a) x
$$;

CREATE TABLE accounts.addresses (
    address_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     bigint NOT NULL REFERENCES accounts.users,
    chain       text NOT NULL CHECK (chain ~ '^[a-z0-9-]{1,32}$'),
    address     text NOT NULL CHECK (address ~ '^[!-~]+$' AND length(address) <= 128),
    normal      text GENERATED ALWAYS AS (accounts.normal_address(address)) STORED,
    recorded_by text NOT NULL CHECK (recorded_by <> ''),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT addresses_once UNIQUE (user_id, chain, address)
);
COMMENT ON TABLE accounts.addresses IS 'One row per address that a user pays from or to; append-only.';
CREATE INDEX addresses_normal ON accounts.addresses (normal);
CREATE INDEX addresses_new ON accounts.addresses (xid);

CREATE TABLE accounts.screening_runs (
    run_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    list         text NOT NULL CHECK (list ~ '^[a-z0-9_-]{1,32}$'),
    format       text NOT NULL,
    list_version text NOT NULL,
    list_sha256  text NOT NULL CHECK (list_sha256 ~ '^[0-9a-f]{64}$'),
    reading_id   bigint NOT NULL REFERENCES capture.readings,
    threshold    integer NOT NULL CHECK (threshold BETWEEN 70 AND 100),
    matcher      text NOT NULL,
    -- Whoever was written by a transaction below this one was compared with every entry of the list.
    screened_below xid8 NOT NULL,
    entries      integer NOT NULL,
    names        bigint NOT NULL,
    new_hits     integer NOT NULL,
    close_date   date,
    at           timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE accounts.screening_runs IS 'One row per list and run after which every user has been compared with every entry of that version.';
CREATE INDEX screening_runs_last ON accounts.screening_runs (list, run_id);

ALTER TABLE accounts.screening_hits
    ALTER COLUMN hold_id DROP NOT NULL,
    ALTER COLUMN close_date DROP NOT NULL,
    ADD COLUMN list text NOT NULL DEFAULT 'accounts',
    ADD COLUMN list_sha256 text,
    ADD COLUMN entry_sha256 text CHECK (entry_sha256 ~ '^[0-9a-f]{64}$'),
    ADD COLUMN matched text NOT NULL DEFAULT 'account' CHECK (matched IN ('account', 'name', 'address')),
    ADD COLUMN subject_no bigint,
    ADD COLUMN score integer CHECK (score BETWEEN 0 AND 100),
    ADD COLUMN transition_version bigint,
    ADD CONSTRAINT screening_hits_were_acted_on CHECK (num_nonnulls(hold_id, transition_version) = 1),
    ADD CONSTRAINT screening_hits_of_a_list CHECK (matched = 'account' OR num_nulls(list_sha256, entry_sha256, subject_no, score) = 0);
COMMENT ON COLUMN accounts.screening_hits.subject_no IS 'The row of accounts.identities or accounts.addresses that matched: hits show numbers, not names.';
COMMENT ON COLUMN accounts.screening_hits.entry_sha256 IS 'The entry''s version: what the list said of it.';
CREATE UNIQUE INDEX screening_hits_once_an_entry ON accounts.screening_hits (user_id, list, entry_sha256) WHERE entry_sha256 IS NOT NULL;

CREATE TABLE accounts.screening_clearances (
    user_id      bigint NOT NULL REFERENCES accounts.users,
    list         text NOT NULL,
    entry        text NOT NULL,
    entry_sha256 text NOT NULL,
    cleared_by   accounts.person NOT NULL,
    second       accounts.person NOT NULL,
    reason       text NOT NULL CHECK (reason ~ '[^[:space:]]' AND reason !~ '[[:cntrl:]]' AND length(reason) <= 500),
    login        text NOT NULL DEFAULT session_user,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, list, entry_sha256),
    CONSTRAINT screening_clearances_two_people CHECK (cleared_by <> second)
);
COMMENT ON TABLE accounts.screening_clearances IS 'One row per user and entry version that two people found to be somebody else: that version hits the user no more.';

DO $$ DECLARE one text; BEGIN
    FOREACH one IN ARRAY ARRAY['identities', 'addresses', 'screening_runs', 'screening_clearances'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.%I
            FOR EACH STATEMENT EXECUTE FUNCTION close.append_only()', one);
    END LOOP;
END $$;

CREATE FUNCTION accounts.record_identity(user_id bigint, full_name text, recorded_by text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH made AS (
        INSERT INTO accounts.identities AS i (user_id, full_name, recorded_by)
        VALUES (record_identity.user_id, btrim(record_identity.full_name), record_identity.recorded_by)
        ON CONFLICT ON CONSTRAINT identities_once DO NOTHING RETURNING i.identity_no)
    SELECT identity_no FROM made UNION ALL SELECT i.identity_no FROM accounts.identities i
    WHERE i.user_id = record_identity.user_id AND i.full_name = btrim(record_identity.full_name) LIMIT 1
$$;

CREATE FUNCTION accounts.record_address(user_id bigint, chain text, address text, recorded_by text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH made AS (
        INSERT INTO accounts.addresses AS a (user_id, chain, address, recorded_by)
        VALUES (record_address.user_id, record_address.chain, btrim(record_address.address), record_address.recorded_by)
        ON CONFLICT ON CONSTRAINT addresses_once DO NOTHING RETURNING a.address_no)
    SELECT address_no FROM made UNION ALL SELECT a.address_no FROM accounts.addresses a
    WHERE a.user_id = record_address.user_id AND a.chain = record_address.chain AND a.address = btrim(record_address.address) LIMIT 1
$$;

-- Names to compare: all, those written by transactions from `since` on, or one user's.
CREATE FUNCTION accounts.names_to_screen(since xid8, who bigint) RETURNS TABLE (identity_no bigint, user_id bigint, full_name text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF since IS NULL AND who IS NULL THEN
        RETURN QUERY SELECT i.identity_no, i.user_id, i.full_name FROM accounts.identities i;
    ELSE
        RETURN QUERY SELECT i.identity_no, i.user_id, i.full_name FROM accounts.identities i
            WHERE (since IS NULL OR i.xid >= since) AND (who IS NULL OR i.user_id = who);
    END IF;
END $$;

-- Addresses of users that are addresses of a list's; of all users, of those written from `since` on, or of one.
CREATE FUNCTION accounts.addresses_on(listed text[], since xid8, who bigint) RETURNS TABLE (address_no bigint, user_id bigint, nth integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.address_no, a.user_id, l.nth::integer FROM unnest(listed) WITH ORDINALITY AS l (address, nth)
    JOIN accounts.addresses a ON a.normal = accounts.normal_address(l.address)
    WHERE (since IS NULL OR a.xid >= since) AND (who IS NULL OR a.user_id = who)
$$;

-- How many names and addresses there are and the last of each: whether a screening has anything new to look at.
CREATE FUNCTION accounts.screening_subjects() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%s %s', (SELECT coalesce(max(i.identity_no), 0) FROM accounts.identities i),
        (SELECT coalesce(max(a.address_no), 0) FROM accounts.addresses a))
$$;

CREATE FUNCTION accounts.users_without_name() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM accounts.users u WHERE NOT EXISTS (SELECT FROM accounts.identities i WHERE i.user_id = u.user_id)
$$;

-- Act on what was found: a hit that is new and not cleared suspends or restricts the user, as the policy says; where the
-- matrix has no way there, it opens a sanctions hold. Returns each new hit and what came of it.
CREATE FUNCTION accounts.take_hits(d date, list text, version text, sha256 text, users bigint[], entries text[], entry_hashes text[],
    kinds text[], subjects bigint[], scores integer[]) RETURNS TABLE (user_id bigint, entry text, came_of_it text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    wanted CONSTANT text := CASE accounts.policy_text('screening_action', 'suspend') WHEN 'restrict' THEN 'restricted' ELSE 'suspended' END;
    one record;
    u accounts.users;
    hold bigint;
    moved bigint;
BEGIN
    FOR one IN
        SELECT f.who, array_agg(f.entry ORDER BY f.entry) AS entries, array_agg(f.entry_sha256 ORDER BY f.entry) AS hashes,
            array_agg(f.kind ORDER BY f.entry) AS kinds, array_agg(f.subject ORDER BY f.entry) AS subjects, array_agg(f.score ORDER BY f.entry) AS scores
        FROM (SELECT DISTINCT ON (x.who, x.entry) x.* FROM unnest(users, entries, entry_hashes, kinds, subjects, scores)
                AS x (who, entry, entry_sha256, kind, subject, score)
              WHERE NOT EXISTS (SELECT FROM accounts.screening_clearances c
                  WHERE c.user_id = x.who AND c.list = take_hits.list AND c.entry_sha256 = x.entry_sha256)
                AND NOT EXISTS (SELECT FROM accounts.screening_hits h
                  WHERE h.user_id = x.who AND h.list = take_hits.list AND h.entry_sha256 = x.entry_sha256)
              ORDER BY x.who, x.entry, x.score DESC, x.kind, x.subject) f
        GROUP BY f.who ORDER BY f.who
    LOOP
        SELECT * INTO u FROM accounts.users a WHERE a.user_id = one.who FOR NO KEY UPDATE;
        -- Again under the user's lock: another run may have acted in between.
        CONTINUE WHEN NOT EXISTS (SELECT FROM unnest(one.hashes) AS x (hash) WHERE NOT EXISTS (SELECT FROM accounts.screening_hits h
            WHERE h.user_id = one.who AND h.list = take_hits.list AND h.entry_sha256 = x.hash));
        hold := NULL;
        moved := NULL;
        IF EXISTS (SELECT FROM accounts.allowed_transitions t WHERE t.from_state = u.state AND t.to_state = wanted AND t.authority = 'screening') THEN
            moved := accounts.transition(u.user_id, wanted, 'screening', 'screening',
                format('list %s version %s (%s), entry %s', list, version, left(sha256, 16), array_to_string(one.entries[:5], ', ')), NULL, u.version);
        ELSE
            hold := accounts.open_hold(u.user_id, 'sanctions', format('%s:%s:%s', list, one.entries[1], left(one.hashes[1], 16)),
                format('list %s version %s (%s), entry %s', list, version, left(sha256, 16), array_to_string(one.entries[:5], ', ')),
                'screening', format('list %s %s', list, left(sha256, 16)));
        END IF;
        RETURN QUERY INSERT INTO accounts.screening_hits AS h (close_date, user_id, list_version, entry, hold_id, list, list_sha256, entry_sha256,
                matched, subject_no, score, transition_version)
            SELECT d, one.who, version, x.entry, hold, list, sha256, x.hash, x.kind, x.subject, x.score, moved
            FROM unnest(one.entries, one.hashes, one.kinds, one.subjects, one.scores) AS x (entry, hash, kind, subject, score)
            ON CONFLICT DO NOTHING
            RETURNING h.user_id, h.entry, CASE WHEN moved IS NULL THEN 'hold ' || hold ELSE wanted END;
    END LOOP;
END $$;

-- A run is over: after it, everybody has been compared with every entry of this version.
CREATE FUNCTION accounts.write_screening_run(d date, list text, format text, version text, sha256 text, reading bigint, threshold integer,
    matcher text, below xid8, entries integer, names bigint, new_hits integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE made bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM capture.readings r WHERE r.reading_id = reading AND r.source = 'list' AND r.subject = list AND r.sha256 = write_screening_run.sha256) THEN
        PERFORM close.refuse('CL029', format('list %s was not read from reading %s', list, reading), 'capture the list, then screen');
    END IF;
    IF below > pg_snapshot_xmin(pg_current_snapshot()) THEN
        PERFORM close.refuse('CL029', format('transactions up to %s are still open', below), 'screen again');
    END IF;
    INSERT INTO accounts.screening_runs (list, format, list_version, list_sha256, reading_id, threshold, matcher, screened_below, entries, names, new_hits, close_date)
    VALUES (list, format, version, sha256, reading, threshold, matcher, below, entries, names, new_hits, d) RETURNING run_id INTO made;
    RETURN made;
END $$;

-- Two people found a hit to be somebody else: that entry version hits this user no more, and the hit's hold is released.
-- A suspension is not undone by it: the way back to active is the one of every suspension.
CREATE FUNCTION accounts.clear_hit(who bigint, list text, entry text, cleared_by text, second text, reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    h accounts.screening_hits;
    still bigint;
BEGIN
    PERFORM accounts.require_person(cleared_by);
    PERFORM accounts.require_name(second);
    IF cleared_by = second THEN
        PERFORM close.refuse('CL012', format('a hit of user %s is cleared by two people, not by %s alone', who, cleared_by), 'another person agrees');
    END IF;
    PERFORM 1 FROM accounts.users u WHERE u.user_id = who FOR NO KEY UPDATE;
    SELECT x.* INTO h FROM accounts.screening_hits x WHERE x.user_id = who AND x.list = clear_hit.list AND x.entry = clear_hit.entry
        AND x.entry_sha256 IS NOT NULL AND NOT EXISTS (SELECT FROM accounts.screening_clearances c
            WHERE c.user_id = who AND c.list = clear_hit.list AND c.entry_sha256 = x.entry_sha256)
        ORDER BY x.at DESC LIMIT 1;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL026', format('user %s has no open hit on entry %s of list %s', who, entry, list), 'compline accounts hits shows them');
    END IF;
    INSERT INTO accounts.screening_clearances (user_id, list, entry, entry_sha256, cleared_by, second, reason)
    VALUES (who, list, entry, h.entry_sha256, cleared_by, second, reason);
    INSERT INTO events.outbox (event_key, subject, payload)
    VALUES (format('account.screening.cleared:%s:%s:%s', who, list, h.entry_sha256), 'account.screening.cleared', jsonb_build_object(
        'user_id', who, 'list', list, 'entry', entry, 'by', cleared_by, 'second', second));
    IF h.hold_id IS NULL THEN RETURN 'cleared'; END IF;
    SELECT count(*) INTO still FROM accounts.screening_hits x WHERE x.hold_id = h.hold_id AND NOT EXISTS (
        SELECT FROM accounts.screening_clearances c WHERE c.user_id = x.user_id AND c.list = x.list AND c.entry_sha256 = x.entry_sha256);
    IF still > 0 OR NOT EXISTS (SELECT FROM accounts.holds o WHERE o.hold_id = h.hold_id AND o.released_at IS NULL) THEN
        RETURN format('cleared; hold %s stays', h.hold_id);
    END IF;
    PERFORM accounts.release_hold(h.hold_id, cleared_by, second, reason);
    RETURN format('cleared; hold %s released', h.hold_id);
END $$;

REVOKE ALL ON accounts.identities, accounts.addresses FROM compline_app;
REVOKE EXECUTE ON FUNCTION accounts.normal_address(text), accounts.record_identity(bigint, text, text),
    accounts.record_address(bigint, text, text, text), accounts.names_to_screen(xid8, bigint), accounts.addresses_on(text[], xid8, bigint),
    accounts.screening_subjects(), accounts.users_without_name(),
    accounts.take_hits(date, text, text, text, bigint[], text[], text[], text[], bigint[], integer[]),
    accounts.write_screening_run(date, text, text, text, text, bigint, integer, text, xid8, integer, bigint, integer),
    accounts.clear_hit(bigint, text, text, text, text, text) FROM PUBLIC;
GRANT SELECT ON accounts.screening_runs, accounts.screening_clearances TO compline_app;
GRANT EXECUTE ON FUNCTION accounts.normal_address(text), accounts.record_identity(bigint, text, text),
    accounts.record_address(bigint, text, text, text), accounts.names_to_screen(xid8, bigint), accounts.addresses_on(text[], xid8, bigint),
    accounts.screening_subjects(), accounts.users_without_name(),
    accounts.take_hits(date, text, text, text, bigint[], text[], text[], text[], bigint[], integer[]),
    accounts.write_screening_run(date, text, text, text, text, bigint, integer, text, xid8, integer, bigint, integer),
    accounts.clear_hit(bigint, text, text, text, text, text) TO compline_app;

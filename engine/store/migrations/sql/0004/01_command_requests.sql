-- Command requests: the one way by which the database asks the engine for a journalled command.
-- A row is written inside the transaction that decides (a transition of a state, an approval, a computation of tiers). The
-- exchange journals it, and the settlement consumer answers it from the journal, in the transaction that moves its cursor:
-- so an unanswered request is in no command at or below the cursor, and a kill at any point journals it once.
--   CL017 same key, another payload    CL018 a request that can be no command

-- What a command of a kind is given. `key` names the field that is its reference in the journal; null: the request's key.
CREATE TABLE exchange.command_kinds (
    kind     text PRIMARY KEY,
    required text[] NOT NULL,
    optional text[] NOT NULL DEFAULT '{}',
    key      text
);
COMMENT ON TABLE exchange.command_kinds IS 'One row per kind of command that can be requested, with the fields of its payload.';
INSERT INTO exchange.command_kinds (kind, required, optional, key) VALUES
    ('set_account', '{user_id,state,holds}', '{may_trade,may_withdraw}', NULL),
    ('cancel_all', '{user_id}', '{market}', NULL),
    ('adjust', '{user_id,asset,amount}', '{actor,reason}', NULL),
    ('reward', '{user_id,asset,amount}', '{actor,reason}', NULL),
    ('deposit_reversed', '{user_id,asset,amount,reference}', '{actor,reason}', 'reference'),
    ('withdrawal_confirmed', '{user_id,asset,amount,reference}', '{actor,reason}', 'reference'),
    ('withdrawal_failed', '{user_id,asset,amount,reference}', '{actor,reason}', 'reference'),
    ('set_tier', '{tier,maker_rate_ppm,taker_rate_ppm}', '{}', NULL),
    ('set_tiers', '{batch,tiers,accounts,sha256}', '{}', NULL),
    ('set_account_tier', '{user_id,tier}', '{}', NULL),
    ('set_reference', '{market,price,at}', '{}', NULL),
    ('open_account', '{user_id,account}', '{}', 'account'),
    ('set_asset', '{asset,number,decimals}', '{}', 'asset'),
    ('set_market', '{market,number,base,quote,base_units_per_lot,quote_units_per_tick_lot,revision}',
        '{min_quantity_lots,max_quantity_lots,min_notional,band_ppm,slippage_ppm,reference_max_age_s}', 'market');

CREATE TABLE exchange.command_requests (
    -- In the engine's journal a reference has 64 characters.
    request_key  text PRIMARY KEY CHECK (request_key ~ '^[!-~]+$' AND length(request_key) <= 64),
    request_no   bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    kind         text NOT NULL REFERENCES exchange.command_kinds,
    reference    text NOT NULL CHECK (reference ~ '^[!-~]+$' AND length(reference) <= 64),
    payload      jsonb NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    engine_seq   bigint,
    outcome      text CHECK (outcome ~ '^[a-z_]{1,40}$'),
    detail       text,
    answered_at  timestamptz,
    CONSTRAINT command_requests_one_effect UNIQUE (kind, reference),
    CONSTRAINT command_requests_answer_is_whole CHECK ((outcome IS NULL) = (answered_at IS NULL)),
    CONSTRAINT command_requests_unjournalled_are_invalid CHECK ((engine_seq IS NULL) = (outcome IS NULL OR outcome = 'invalid_request'))
);
COMMENT ON TABLE exchange.command_requests IS 'One row per command asked of the engine: outcome is accepted, a typed reason of the engine, or invalid_request (never journalled).';
CREATE INDEX command_requests_unanswered ON exchange.command_requests (request_no) WHERE outcome IS NULL;

CREATE FUNCTION exchange.guard_command_requests() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.outcome IS NOT NULL OR (OLD.request_key, OLD.request_no, OLD.kind, OLD.reference, OLD.payload, OLD.requested_at)
        IS DISTINCT FROM (NEW.request_key, NEW.request_no, NEW.kind, NEW.reference, NEW.payload, NEW.requested_at) THEN
        PERFORM close.refuse('CL003', format('request %s of the engine is asked once and answered once', OLD.request_key),
            'ask again under another key');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON exchange.command_requests
    FOR EACH ROW EXECUTE FUNCTION exchange.guard_command_requests();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON exchange.command_requests
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Why a payload can be no command of its kind; null where it can.
CREATE FUNCTION exchange.misfit_of_request(kind text, payload jsonb) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k exchange.command_kinds;
    bad text;
BEGIN
    SELECT * INTO k FROM exchange.command_kinds c WHERE c.kind = misfit_of_request.kind;
    IF NOT FOUND THEN RETURN format('there is no kind %s', kind); END IF;
    IF jsonb_typeof(payload) IS DISTINCT FROM 'object' THEN RETURN 'a payload is an object'; END IF;
    IF octet_length(payload::text) > 8192 THEN RETURN 'its payload has more than 8192 bytes'; END IF;
    SELECT f INTO bad FROM unnest(k.required) f WHERE NOT payload ? f LIMIT 1;
    IF FOUND THEN RETURN format('field %s is missing', bad); END IF;
    SELECT f INTO bad FROM jsonb_object_keys(payload) f WHERE f <> ALL (k.required || k.optional) LIMIT 1;
    IF FOUND THEN RETURN format('field %s is unknown', bad); END IF;
    SELECT e.key INTO bad FROM jsonb_each(payload) e WHERE NOT coalesce(CASE
        WHEN e.key IN ('maker_rate_ppm', 'taker_rate_ppm') THEN jsonb_typeof(e.value) = 'number' AND e.value::text ~ '^-?[0-9]{1,9}$'
        WHEN e.key IN ('user_id', 'tier', 'batch', 'tiers', 'accounts', 'number', 'decimals', 'revision', 'quote_units_per_tick_lot', 'min_quantity_lots',
                'max_quantity_lots', 'band_ppm', 'slippage_ppm', 'reference_max_age_s') THEN
            jsonb_typeof(e.value) = 'number' AND e.value::text ~ '^[0-9]{1,18}$' AND (e.key <> 'user_id' OR e.value::bigint > 0)
                AND (e.key NOT IN ('tier', 'number') OR e.value::bigint <= 65535)
                AND (e.key NOT IN ('decimals', 'tiers', 'accounts', 'band_ppm', 'slippage_ppm', 'reference_max_age_s') OR e.value::bigint <= 1000000000)
        WHEN e.key IN ('may_trade', 'may_withdraw') THEN jsonb_typeof(e.value) = 'boolean'
        WHEN e.key = 'holds' THEN jsonb_typeof(e.value) = 'array'
            AND e.value <@ '["break", "sanctions", "dispute", "legal", "closure"]'
        WHEN jsonb_typeof(e.value) <> 'string' THEN false
        WHEN e.key = 'sha256' THEN e.value #>> '{}' ~ '^[0-9a-f]{64}$'
        WHEN e.key = 'base_units_per_lot' THEN e.value #>> '{}' ~ '^[0-9]{1,38}$'
        WHEN e.key = 'min_notional' THEN e.value #>> '{}' ~ '^[0-9]{1,20}(\.[0-9]{1,18})?$'
        WHEN e.key = 'amount' THEN e.value #>> '{}' ~ '^-?[0-9]{1,20}(\.[0-9]{1,18})?$'
        WHEN e.key = 'price' THEN e.value #>> '{}' ~ '^[0-9]{1,20}(\.[0-9]{1,18})?$'
        WHEN e.key = 'state' THEN e.value #>> '{}' IN ('pending_kyc', 'kyc_rejected', 'kyc_approved', 'active', 'suspended',
            'restricted', 'banned', 'closed')
        -- An asset's or market's name stands in 32 bytes of the journal.
        WHEN e.key IN ('asset', 'market') THEN e.value #>> '{}' ~ '^[A-Z0-9][A-Z0-9._-]{0,31}$'
        WHEN e.key = 'account' THEN e.value #>> '{}' ~ '^[a-z0-9-]{1,64}$'
        WHEN e.key = 'reference' THEN e.value #>> '{}' ~ '^[!-~]+$' AND length(e.value #>> '{}') <= 64
        WHEN e.key = 'at' THEN e.value #>> '{}' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$'
        ELSE e.value #>> '{}' <> '' END, false) LIMIT 1;
    IF FOUND THEN RETURN format('field %s holds %s', bad, left((payload -> bad)::text, 80)); END IF;
    IF kind NOT IN ('adjust') AND payload ? 'amount' AND (payload ->> 'amount')::numeric <= 0 THEN RETURN 'the amount is not positive'; END IF;
    RETURN NULL;
END $$;

-- Ask for a command, inside the transaction that decided it. The same again has no effect. The owner's: an application that
-- wants to ask calls the function that decides (of accounts, adjustments, tiers), never this one.
CREATE FUNCTION exchange.request_command(key text, kind text, payload jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    why text := exchange.misfit_of_request(kind, payload);
    there exchange.command_requests;
    named text;
BEGIN
    IF why IS NULL AND (key IS NULL OR key !~ '^[!-~]+$' OR length(key) > 64) THEN why := 'its key is not 1 to 64 printable characters'; END IF;
    IF why IS NOT NULL THEN
        PERFORM close.refuse('CL018', format('request %s for a command %s: %s', key, kind, why), 'see exchange.command_kinds');
    END IF;
    -- A market is changed by one revision after the other.
    SELECT CASE WHEN k.key IS NULL THEN request_command.key ELSE concat_ws(':', payload ->> k.key, payload ->> 'revision') END
    INTO named FROM exchange.command_kinds k WHERE k.kind = request_command.kind;
    INSERT INTO exchange.command_requests (request_key, kind, reference, payload) VALUES (key, kind, named, payload)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        -- A notification takes turns with every other at commit: only the first of what waits wakes the exchange, which reads
        -- all that is there, and looks by itself twice a second.
        IF (SELECT count(*) FROM (SELECT FROM exchange.command_requests r WHERE r.outcome IS NULL LIMIT 3) w) < 3 THEN
            PERFORM pg_notify('command_requests', '');
        END IF;
        RETURN;
    END IF;
    SELECT r.* INTO there FROM exchange.command_requests r
    WHERE r.request_key = request_command.key OR (r.kind = request_command.kind AND r.reference = named)
    ORDER BY (r.request_key = request_command.key) DESC LIMIT 1;
    IF there.request_key IS DISTINCT FROM key OR there.kind IS DISTINCT FROM kind OR there.payload IS DISTINCT FROM payload THEN
        PERFORM close.refuse('CL017', format('request %s for a command %s differs from request %s, which stands', key, kind, there.request_key),
            'same key, same payload: ask under another key, or leave it');
    END IF;
END $$;

-- Answer requests from the journal, in the transaction that moves the settlement cursor past their commands.
CREATE FUNCTION exchange.answer_requests(kinds text[], refs text[], seqs bigint[], outcomes text[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH said AS (
        SELECT DISTINCT ON (s.kind, s.ref) s.* FROM unnest(kinds, refs, seqs, outcomes) AS s (kind, ref, seq, outcome)
        ORDER BY s.kind, s.ref, s.seq),
    done AS (
        UPDATE exchange.command_requests r SET engine_seq = s.seq, outcome = s.outcome, answered_at = clock_timestamp()
        FROM said s WHERE r.kind = s.kind AND r.reference = s.ref AND r.outcome IS NULL RETURNING 1)
    SELECT count(*) FROM done
$$;

-- Answer a request that can be no command after all (an asset's decimals, a tick): it was never journalled.
CREATE FUNCTION exchange.answer_invalid_request(key text, why text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE exchange.command_requests SET outcome = 'invalid_request', detail = why, answered_at = clock_timestamp()
    WHERE request_key = key AND outcome IS NULL
$$;

-- Fee tiers as the journal set them: in force from a sequence on.
CREATE TABLE exchange.fee_tiers (
    engine_seq     bigint NOT NULL,
    close_date     date NOT NULL,
    sequenced_at   timestamptz NOT NULL,
    tier           integer NOT NULL,
    maker_rate_ppm integer NOT NULL,
    taker_rate_ppm integer NOT NULL,
    PRIMARY KEY (engine_seq, tier)
);
COMMENT ON TABLE exchange.fee_tiers IS 'One row per change of a tier''s rates, in force from its sequence on; settled from the journal.';
CREATE INDEX fee_tiers_of ON exchange.fee_tiers (tier, engine_seq);

CREATE TABLE exchange.user_tiers (
    engine_seq   bigint NOT NULL,
    close_date   date NOT NULL,
    sequenced_at timestamptz NOT NULL,
    user_id      bigint NOT NULL REFERENCES accounts.users,
    tier         integer NOT NULL,
    PRIMARY KEY (engine_seq, user_id)
);
COMMENT ON TABLE exchange.user_tiers IS 'One row per change of a user''s fee tier, in force from its sequence on; a user without a row is in tier 0.';
CREATE INDEX user_tiers_of ON exchange.user_tiers (user_id, engine_seq);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON exchange.fee_tiers
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON exchange.user_tiers
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- A batch of tiers that one command `set_tiers` puts in force: a million users have no place in a payload, so the request names
-- the batch and its digest, and the rows lie here. The exchange journals them before the command, without effect.
CREATE TABLE exchange.tier_batches (
    batch       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_key text NOT NULL UNIQUE
);
COMMENT ON TABLE exchange.tier_batches IS 'One row per batch of tiers, with the request that puts all of it in force or nothing.';
CREATE TABLE exchange.tier_batch_rates (
    batch          bigint NOT NULL REFERENCES exchange.tier_batches,
    tier           integer NOT NULL CHECK (tier BETWEEN 0 AND 65535),
    maker_rate_ppm integer NOT NULL,
    taker_rate_ppm integer NOT NULL,
    PRIMARY KEY (batch, tier)
);
COMMENT ON TABLE exchange.tier_batch_rates IS 'One row per tier whose rates a batch sets.';
CREATE TABLE exchange.tier_batch_users (
    batch   bigint NOT NULL REFERENCES exchange.tier_batches,
    user_id bigint NOT NULL CHECK (user_id > 0),
    tier    integer NOT NULL CHECK (tier BETWEEN 0 AND 65535),
    PRIMARY KEY (batch, user_id)
);
COMMENT ON TABLE exchange.tier_batch_users IS 'One row per user whom a batch moves to another tier.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON exchange.tier_batches
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON exchange.tier_batch_rates
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON exchange.tier_batch_users
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Ask for a batch whose rows are written: one request, with their number and digest (the engine's, see exchange/staged.py).
CREATE FUNCTION exchange.request_tiers(number bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rates text;
    users text;
    many bigint;
    moved bigint;
BEGIN
    SELECT string_agg(format(E'%s:%s:%s\n', tier, maker_rate_ppm, taker_rate_ppm), '' ORDER BY tier), count(*) INTO rates, many
    FROM exchange.tier_batch_rates WHERE batch = number;
    SELECT string_agg(tier || ':' || user_id || E'\n', '' ORDER BY tier, user_id), count(*) INTO users, moved
    FROM exchange.tier_batch_users WHERE batch = number;
    PERFORM exchange.request_command((SELECT b.request_key FROM exchange.tier_batches b WHERE b.batch = number), 'set_tiers',
        jsonb_build_object('batch', number, 'tiers', many, 'accounts', moved,
            'sha256', encode(sha256(convert_to(concat(rates, users), 'UTF8')), 'hex')));
END $$;

REVOKE EXECUTE ON FUNCTION exchange.request_tiers(bigint), exchange.request_command(text, text, jsonb), exchange.misfit_of_request(text, jsonb),
    exchange.answer_requests(text[], text[], bigint[], text[]), exchange.answer_invalid_request(text, text),
    exchange.guard_command_requests() FROM PUBLIC;
GRANT SELECT ON exchange.command_kinds, exchange.command_requests, exchange.fee_tiers, exchange.user_tiers TO compline_app, compline_dbt;
GRANT SELECT ON exchange.tier_batches, exchange.tier_batch_rates, exchange.tier_batch_users TO compline_app;
GRANT INSERT ON exchange.fee_tiers, exchange.user_tiers TO compline_app;
GRANT EXECUTE ON FUNCTION exchange.answer_requests(text[], text[], bigint[], text[]),
    exchange.answer_invalid_request(text, text) TO compline_app;

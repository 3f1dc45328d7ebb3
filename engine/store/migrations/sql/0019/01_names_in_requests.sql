-- A name with an empty part between its dots is no name of the engine: it is refused where it is asked for, as CL018 says.

-- Why a payload can be no command of its kind; null where it can.
CREATE OR REPLACE FUNCTION exchange.misfit_of_request(kind text, payload jsonb) RETURNS text
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
        -- An asset's or market's name stands in 32 bytes of the journal, and a market's in a subject, where no part is empty.
        WHEN e.key IN ('asset', 'market') THEN e.value #>> '{}' ~ '^[A-Z0-9][A-Z0-9_-]*(\.[A-Z0-9_-]+)*$' AND length(e.value #>> '{}') <= 32
        WHEN e.key = 'account' THEN e.value #>> '{}' ~ '^[a-z0-9-]{1,64}$'
        WHEN e.key = 'reference' THEN e.value #>> '{}' ~ '^[!-~]+$' AND length(e.value #>> '{}') <= 64
        WHEN e.key = 'at' THEN e.value #>> '{}' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$'
        ELSE e.value #>> '{}' <> '' END, false) LIMIT 1;
    IF FOUND THEN RETURN format('field %s holds %s', bad, left((payload -> bad)::text, 80)); END IF;
    IF kind NOT IN ('adjust') AND payload ? 'amount' AND (payload ->> 'amount')::numeric <= 0 THEN RETURN 'the amount is not positive'; END IF;
    RETURN NULL;
END $$;

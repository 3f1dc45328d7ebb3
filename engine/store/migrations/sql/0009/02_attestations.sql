-- Attested addresses: what was read, what counts, and why not; then reserves against liabilities as a gate.

ALTER TABLE reserves.attestations
    ADD COLUMN stated numeric(38, 18) CHECK (stated >= 0 AND stated < 'NaN'),
    ADD COLUMN reason text,
    ADD COLUMN readings bigint[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT attestations_are_numbers CHECK (amount < 'NaN'),
    ADD CONSTRAINT attestations_count_whole_or_zero CHECK (CASE WHEN reason IS NULL THEN amount = stated ELSE amount = 0 END),
    ADD CONSTRAINT attestations_are_plain CHECK (chain ~ '^[!-~]{1,64}$' AND address ~ '^[!-~]{1,128}$'
        AND block_hash ~ '^[!-~]{1,128}$' AND ownership ~ '^[ -~]+$' AND length(ownership) <= 1024 AND block_height >= 0);

-- Once addresses are attested, the ratio is no footnote.
ALTER TABLE close.policies ADD CONSTRAINT policies_reserves_are_judged CHECK (
    coalesce(jsonb_array_length(policy -> 'reserve_addresses'), 0) = 0
    OR policy -> 'required_gates' ? 'reserves_cover_liabilities');

CREATE FUNCTION reserves.replace_attestations(d date, e bigint, given jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v integer;
    written bigint;
BEGIN
    PERFORM close.fence(d, e);
    SELECT y.version INTO v FROM close.days y WHERE y.close_date = d AND y.state IN ('cutoff', 'reconciled') FOR UPDATE;
    IF NOT FOUND THEN PERFORM close.refuse('CL002', format('%s is not being closed: its attestations stay', d)); END IF;
    DELETE FROM reserves.attestations a WHERE a.close_date = d AND a.version = v;
    INSERT INTO reserves.attestations (close_date, version, asset, chain, address, amount, block_height, block_hash, ownership,
        stated, reason, readings)
    SELECT d, v, x.asset, x.chain, x.address, x.amount, x.block_height, x.block_hash, x.ownership, x.stated, x.reason, x.readings
    FROM jsonb_to_recordset(given) AS x (asset text, chain text, address text, amount numeric, block_height bigint,
        block_hash text, ownership text, stated numeric, reason text, readings bigint[]);
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;

-- Per asset: what is owed (customers, and house accounts owed to others, gross) and what is attested.
CREATE FUNCTION reserves.coverage(d date, v integer) RETURNS TABLE (asset text, liabilities numeric, reserves numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT asset, coalesce(o.owed, 0), coalesce(h.held, 0) FROM
        (SELECT a.asset, sum(b.balance) AS owed FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
         WHERE b.close_date = d AND b.version = v
            AND (a.liability_class = 'customer' OR (a.liability_class = 'other_liability' AND b.balance > 0)) GROUP BY a.asset) o
        FULL JOIN (SELECT t.asset, sum(t.amount) AS held FROM reserves.attestations t
                   WHERE t.close_date = d AND t.version = v GROUP BY t.asset) h USING (asset)
$$;

CREATE FUNCTION recon.gate_reserves_cover_liabilities(d date, v integer) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    configured bigint;
    listed bigint;
    short jsonb;
    ratios jsonb;
    uncounted jsonb;
BEGIN
    SELECT coalesce(jsonb_array_length(p.policy -> 'reserve_addresses'), 0) INTO configured FROM close.policy_on(d) p;
    SELECT count(*), jsonb_agg(jsonb_build_object('asset', a.asset, 'chain', a.chain, 'address', a.address, 'why', a.reason)
            ORDER BY a.asset, a.chain, a.address) FILTER (WHERE a.reason IS NOT NULL)
    INTO listed, uncounted FROM reserves.attestations a WHERE a.close_date = d AND a.version = v;
    IF configured = 0 OR listed <> configured THEN
        RETURN ('unknown', jsonb_build_object('what', CASE WHEN configured = 0 THEN 'the policy names no attested address'
            ELSE format('%s of %s addresses were looked at', listed, configured) END))::recon.judgement;
    END IF;
    SELECT jsonb_agg(jsonb_build_object('asset', c.asset, 'liabilities', trim_scale(c.liabilities)::text,
            'reserves', trim_scale(c.reserves)::text, 'short', trim_scale(c.liabilities - c.reserves)::text) ORDER BY c.asset)
            FILTER (WHERE c.reserves < c.liabilities),
        jsonb_object_agg(c.asset, CASE WHEN c.liabilities > 0
            THEN trunc(c.reserves * 100 / c.liabilities, 4)::text || ' %' ELSE 'nothing owed' END)
    INTO short, ratios FROM reserves.coverage(d, v) c;
    RETURN (CASE WHEN short IS NULL THEN 'pass' ELSE 'fail' END, jsonb_build_object('ratio', coalesce(ratios, '{}'),
        'short', coalesce(short, '[]'), 'not_counted', coalesce(uncounted, '[]')))::recon.judgement;
END $$;
INSERT INTO recon.known_gates (gate, late) VALUES ('reserves_cover_liabilities', true);

REVOKE EXECUTE ON FUNCTION reserves.replace_attestations(date, bigint, jsonb), reserves.coverage(date, integer),
    recon.gate_reserves_cover_liabilities(date, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reserves.replace_attestations(date, bigint, jsonb), reserves.coverage(date, integer) TO compline_app;

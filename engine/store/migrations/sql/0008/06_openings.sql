-- What a book that starts in mid-life brings with its opening balances: lots at their cost, and the volumes of the 29 dates
-- before its first day. Loaded once, when the opening balances are final, and sealed with them.

CREATE TABLE positions.opening_volumes (
    user_id    bigint NOT NULL REFERENCES accounts.users,
    close_date date NOT NULL,
    volume     numeric(38, 18) NOT NULL CHECK (volume > 0 AND volume < 'NaN'),
    PRIMARY KEY (user_id, close_date)
);
COMMENT ON TABLE positions.opening_volumes IS 'One row per user and date before the first day: what the user traded then, in the reporting currency; part of the windows that reach back to it.';
CREATE TRIGGER guard BEFORE INSERT ON positions.opening_volumes
    FOR EACH STATEMENT EXECUTE FUNCTION positions.guard_opening();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON positions.opening_volumes
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- SHA-256 over what was loaded; null where nothing was.
CREATE FUNCTION positions.openings_sha256() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT CASE WHEN count(*) > 0 THEN close.table_digest(array_agg(h)) END
    FROM (
        SELECT close.row_hash('lot', u.account, o.asset, o.lot_no::text, to_char(o.acquired_on, 'YYYY-MM-DD'), trim_scale(o.quantity)::text,
            trim_scale(o.cost)::text) AS h
        FROM positions.opening_lots o JOIN accounts.users u USING (user_id)
        UNION ALL
        SELECT close.row_hash('volume', u.account, to_char(o.close_date, 'YYYY-MM-DD'), trim_scale(o.volume)::text)
        FROM positions.opening_volumes o JOIN accounts.users u USING (user_id)) x
$$;

-- Where anything was loaded, or the policy takes no first mark for a cost, every opening balance consists of its lots, and nothing else does; volumes are of dates that
-- a window still reaches.
CREATE FUNCTION positions.check_openings(zero date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
DECLARE
    currency text;
    bad record;
BEGIN
    IF NOT EXISTS (SELECT FROM positions.opening_lots) AND NOT EXISTS (SELECT FROM positions.opening_volumes)
        AND coalesce((SELECT p.policy ->> 'unpriced_basis' FROM close.policy_on(zero + 1) p), 'first_mark') = 'first_mark' THEN
        RETURN;
    END IF;
    SELECT c.asset INTO currency FROM positions.currency_on(zero + 1) c;
    SELECT coalesce(o.user_id, p.user_id) AS user_id, coalesce(o.asset, p.asset) AS asset, o.loaded, p.quantity INTO bad
    FROM (SELECT user_id, asset, sum(quantity) AS loaded FROM positions.opening_lots GROUP BY user_id, asset) o
    FULL JOIN (SELECT a.user_id, a.asset, sum(e.amount) AS quantity
               FROM ledger.ledger_entries e JOIN ledger.accounts a USING (account_id)
               WHERE e.close_date = zero AND a.liability_class IN ('customer', 'affiliate') AND a.asset <> currency
               GROUP BY a.user_id, a.asset HAVING sum(e.amount) <> 0) p USING (user_id, asset)
    WHERE o.loaded IS DISTINCT FROM p.quantity ORDER BY 1, 2 LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL032', format('user %s (%s): opening lots of %s %s, an opening balance of %s', bad.user_id,
            (SELECT u.account FROM accounts.users u WHERE u.user_id = bad.user_id), trim_scale(coalesce(bad.loaded, 0)), bad.asset,
            trim_scale(coalesce(bad.quantity, 0))), 'the lots of an opening balance sum to it, and the reporting currency has none');
    END IF;
    SELECT o.user_id, o.close_date INTO bad FROM positions.opening_volumes o
    WHERE o.close_date NOT BETWEEN zero - 28 AND zero ORDER BY 1, 2 LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL032', format('user %s: an opening volume of %s', bad.user_id, bad.close_date),
            format('opening volumes are of %s to %s', zero - 28, zero));
    END IF;
END $$;

-- The record of genesis, byte for byte, from the tables; as it always was where nothing came with the balances.
CREATE FUNCTION close.expected_genesis(day close.days) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('{"barrier_seq":%s,"books_sha256":"%s","close_date":"%s","exchange":%s,%s"policy_sha256":"%s","v":"genesis/%s","version":%s}',
        day.barrier_seq, day.books_sha256, to_char(day.close_date, 'YYYY-MM-DD'), to_json((SELECT b.exchange FROM close.book b)),
        '"openings_sha256":"' || o.digest || '",', day.policy_sha256, CASE WHEN o.digest IS NULL THEN 1 ELSE 2 END, day.version)
    FROM (SELECT positions.openings_sha256() AS digest) o
$$;

CREATE OR REPLACE FUNCTION close.guard_seals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day close.days;
    before close.days;
    why text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('close.day ' || NEW.close_date));
    SELECT * INTO day FROM close.days WHERE close_date = NEW.close_date FOR UPDATE;
    SELECT * INTO before FROM close.days WHERE close_date = NEW.close_date - 1 FOR SHARE;
    IF day.close_date IS NULL OR day.genesis <> (NEW.kind = 'genesis') OR day.version <> NEW.version
        OR day.state <> (CASE WHEN day.genesis THEN 'cutoff' ELSE 'reconciled' END) THEN
        PERFORM close.refuse('CL011', format('%s v%s cannot be sealed: the day is %s', NEW.close_date, NEW.version,
            coalesce(day.state || ' v' || day.version, 'unknown')), format('compline close run %s', NEW.close_date));
    END IF;
    IF NOT day.genesis AND before.state IS DISTINCT FROM 'sealed' THEN
        PERFORM close.refuse('CL008', format('%s cannot be sealed before %s', NEW.close_date, NEW.close_date - 1),
            format('compline close run %s', NEW.close_date - 1));
    END IF;
    IF day.books_sha256 IS DISTINCT FROM NEW.books_sha256 OR close.books_sha256(NEW.close_date) IS DISTINCT FROM NEW.books_sha256 THEN
        PERFORM close.refuse('CL011', format('the books of %s are not those of hash %s', NEW.close_date, NEW.books_sha256),
            'an input changed after the hash was fixed; run the close of the day again');
    END IF;
    IF NOT day.genesis THEN
        SELECT string_agg(format('%s is %s', g.gate, g.verdict), ', ') INTO why FROM recon.gates(NEW.close_date) g WHERE NOT g.stands;
        IF why IS NOT NULL THEN
            PERFORM close.refuse('CL007', format('%s cannot be sealed: %s', NEW.close_date, why), 'see the runbook of the gate in docs/runbooks');
        END IF;
        -- Legs, trades, totals, snapshots and trees lie outside the books hash: they are judged again as they are now.
        SELECT string_agg(format('%s was %s and is %s', g.gate, g.verdict, coalesce(j.verdict, 'unknown')), ', ') INTO why
        FROM recon.gates(NEW.close_date) g CROSS JOIN LATERAL recon.gate(NEW.close_date, NEW.version, g.gate) j
        WHERE j.verdict IS DISTINCT FROM g.verdict;
        IF why IS NOT NULL THEN
            PERFORM close.refuse('CL007', format('%s cannot be sealed: since it was judged, %s', NEW.close_date, why),
                'rows changed under the verdict: find out who changed them, then close the day with --recapture');
        END IF;
        IF NOT EXISTS (SELECT FROM reserves.log_entries WHERE log_index = NEW.log_index AND entry = convert_to(NEW.manifest, 'UTF8')) THEN
            PERFORM close.refuse('CL013', format('the manifest of %s is not entry %s of the log', NEW.close_date, NEW.log_index));
        END IF;
        IF NOT starts_with(NEW.checkpoint, (SELECT exchange FROM close.book) || '/por' || E'\n' || NEW.log_index + 1 || E'\n'
            || encode(decode(close.merkle_root((SELECT array_agg(entry ORDER BY log_index) FROM reserves.log_entries)), 'hex'), 'base64')
            || E'\n\n') THEN
            PERFORM close.refuse('CL013', format('the checkpoint of %s is not of the log that ends with its manifest', NEW.close_date));
        END IF;
        why := close.manifest_differs(NEW, day);
        IF why IS NOT NULL THEN
            PERFORM close.refuse('CL011', format('the manifest of %s differs from the tables in: %s', NEW.close_date, why),
                'build the trees and the manifest again');
        END IF;
    ELSIF NEW.manifest IS DISTINCT FROM close.expected_genesis(day) THEN
        PERFORM close.refuse('CL011', format('the record of genesis %s differs from the tables', NEW.close_date));
    ELSIF (SELECT (recon.gate_debits_equal_credits(NEW.close_date, NEW.version)).verdict) <> 'pass' THEN
        PERFORM close.refuse('CL007', format('genesis %s does not balance', NEW.close_date));
    ELSE
        PERFORM positions.check_openings(NEW.close_date);
    END IF;
    SELECT max(posting_no) INTO NEW.posting_watermark FROM ledger.journals WHERE close_date = NEW.close_date;
    NEW.sealed_at := clock_timestamp();
    UPDATE close.days SET state = 'sealed', changed_at = clock_timestamp() WHERE close_date = NEW.close_date;
    RETURN NEW;
END $$;

REVOKE EXECUTE ON FUNCTION positions.openings_sha256(), positions.check_openings(date), close.expected_genesis(close.days),
    close.guard_seals() FROM PUBLIC;
GRANT SELECT, INSERT ON positions.opening_volumes TO compline_app;
GRANT SELECT ON positions.opening_volumes TO compline_dbt;
GRANT EXECUTE ON FUNCTION positions.openings_sha256(), positions.check_openings(date) TO compline_app;

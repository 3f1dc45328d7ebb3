-- Trees, the append-only log, and seals: the last gate, which asks for everything again.

CREATE TABLE reserves.liability_trees (
    close_date   date NOT NULL,
    version      integer NOT NULL,
    asset        text NOT NULL REFERENCES exchange.assets,
    books_sha256 text NOT NULL,
    log_seq      bigint NOT NULL,
    ctx          text NOT NULL CHECK (ctx ~ '^[0-9a-f]{64}$'),
    height       integer NOT NULL CHECK (height BETWEEN 1 AND 40),
    root         text NOT NULL CHECK (root ~ '^[0-9a-f]{64}$'),
    total        numeric(38, 18) NOT NULL CHECK (total >= 0),
    accounts     bigint NOT NULL,
    PRIMARY KEY (close_date, version, asset)
);
COMMENT ON TABLE reserves.liability_trees IS 'One row per asset and close date: the sum tree over every customer''s total.';

CREATE TABLE reserves.attestations (
    close_date   date NOT NULL,
    version      integer NOT NULL,
    asset        text NOT NULL REFERENCES exchange.assets,
    chain        text NOT NULL,
    address      text NOT NULL,
    amount       numeric(38, 18) NOT NULL CHECK (amount >= 0),
    block_height bigint NOT NULL,
    block_hash   text NOT NULL,
    ownership    text NOT NULL,
    PRIMARY KEY (close_date, version, asset, chain, address)
);
COMMENT ON TABLE reserves.attestations IS 'One row per attested address and close date.';

CREATE TABLE close.seals (
    close_date        date NOT NULL,
    version           integer NOT NULL,
    kind              text NOT NULL CHECK (kind IN ('genesis', 'day')),
    books_sha256      text NOT NULL CHECK (books_sha256 ~ '^[0-9a-f]{64}$'),
    manifest          text NOT NULL,
    signature         text NOT NULL CHECK (signature ~ '^[0-9a-f]{128}$'),
    key_id            text NOT NULL CHECK (key_id ~ '^[0-9a-f]{16}$'),
    snapshot_root     text CHECK (snapshot_root ~ '^[0-9a-f]{64}$'),
    log_index         bigint UNIQUE,
    checkpoint        text,
    posting_watermark bigint,
    sealed_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (close_date, version),
    CONSTRAINT seals_day_is_logged CHECK ((kind = 'day') = (log_index IS NOT NULL AND checkpoint IS NOT NULL AND snapshot_root IS NOT NULL))
);
COMMENT ON TABLE close.seals IS 'One row per sealed close date and version: the signed manifest, its place in the log, the posting watermark.';

CREATE TABLE reserves.log_entries (
    log_index bigint PRIMARY KEY CHECK (log_index >= 0),
    entry     bytea NOT NULL,
    leaf_hash bytea NOT NULL CHECK (leaf_hash = sha256('\x00'::bytea || entry)),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_entries_only_manifests FOREIGN KEY (log_index) REFERENCES close.seals (log_index) DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON TABLE reserves.log_entries IS 'One row per manifest, in order: the leaves of the RFC 9162 log.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON close.seals
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reserves.log_entries
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE FUNCTION reserves.guard_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('reserves.log'));
    IF NEW.log_index <> (SELECT coalesce(max(log_index) + 1, 0) FROM reserves.log_entries) THEN
        PERFORM close.refuse('CL013', format('log entry %s is not the next one', NEW.log_index), 'the log only grows at its end');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON reserves.log_entries FOR EACH ROW EXECUTE FUNCTION reserves.guard_log();

CREATE FUNCTION reserves.guard_trees() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM close.days WHERE close_date = NEW.close_date AND version = NEW.version
        AND state = 'reconciled' AND books_sha256 = NEW.books_sha256 FOR SHARE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL009', format('%s is not reconciled for books hash %s: no tree is built', NEW.close_date, NEW.books_sha256),
            'run the close of that day');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON reserves.liability_trees FOR EACH ROW EXECUTE FUNCTION reserves.guard_trees();

CREATE FUNCTION reserves.replace_liability_trees(d date, e bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM close.fence(d, e);
    PERFORM 1 FROM close.days WHERE close_date = d AND state IN ('cutoff', 'reconciled') FOR UPDATE;
    IF NOT FOUND THEN PERFORM close.refuse('CL002', format('%s is sealed: its trees stay', d)); END IF;
    DELETE FROM reserves.liability_trees t USING close.days y
    WHERE y.close_date = d AND t.close_date = d AND t.version = y.version;
END $$;

CREATE FUNCTION ledger.replace_fee_accruals(d date, e bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM close.void_books_hash(d, e);
    DELETE FROM ledger.fee_accruals f USING close.days y
    WHERE y.close_date = d AND f.close_date = d AND f.version = y.version;
END $$;
CREATE TRIGGER capture_guard AFTER INSERT ON ledger.fee_accruals
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION close.capture_guard();

-- The RFC 6962 root over leaves in their order: pairs level by level, an odd last node carried up.
CREATE FUNCTION close.merkle_root(leaves bytea[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE level bytea[];
BEGIN
    SELECT array_agg(sha256('\x00'::bytea || leaf) ORDER BY nth) INTO level FROM unnest(leaves) WITH ORDINALITY l (leaf, nth);
    WHILE cardinality(level) > 1 LOOP
        SELECT array_agg(CASE WHEN nth = cardinality(level) THEN level[nth] ELSE sha256('\x01'::bytea || level[nth] || level[nth + 1]) END
            ORDER BY nth) INTO level FROM generate_series(1, cardinality(level), 2) nth;
    END LOOP;
    RETURN encode(coalesce(level[1], sha256(''::bytea)), 'hex');
END $$;

-- The manifest of a day, byte for byte, from the tables: whatever is signed otherwise is not these books.
CREATE FUNCTION close.expected_manifest(day close.days, idx bigint) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    assets text[];
    reserves text[];
    others text;
    owing text;
    verdicts text;
BEGIN
    SELECT array_agg(format('{"asset":%s,"decimals":%s,"height":%s,"root":"%s","total":"%s"}', to_json(t.asset), c.decimals,
        t.height, t.root, trunc(t.total * c.scale)) ORDER BY t.asset COLLATE "C") INTO assets
    FROM reserves.liability_trees t JOIN exchange.assets c USING (asset)
    WHERE t.close_date = day.close_date AND t.version = day.version AND t.books_sha256 = day.books_sha256 AND t.log_seq = idx;
    SELECT array_agg(format('{"address":%s,"amount":"%s","asset":%s,"block_hash":%s,"chain":%s,"height":%s,"ownership":%s}',
        to_json(a.address), trunc(a.amount * c.scale), to_json(a.asset), to_json(a.block_hash), to_json(a.chain), a.block_height,
        to_json(a.ownership)) ORDER BY a.asset COLLATE "C", a.chain COLLATE "C", a.address COLLATE "C") INTO reserves
    FROM reserves.attestations a JOIN exchange.assets c USING (asset)
    WHERE a.close_date = day.close_date AND a.version = day.version;
    SELECT string_agg(format('{"account":%s,"amount":"%s","asset":%s}', to_json(a.account), trunc(b.balance * c.scale),
        to_json(a.asset)), ',' ORDER BY a.asset COLLATE "C", a.account COLLATE "C") INTO others
    FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id) JOIN exchange.assets c ON c.asset = a.asset
    WHERE b.close_date = day.close_date AND b.version = day.version AND a.liability_class = 'other_liability';
    SELECT string_agg(format('{"amount":"%s","asset":%s}', x.amount, to_json(x.asset)), ',' ORDER BY x.asset COLLATE "C") INTO owing
    FROM (SELECT a.asset, trunc(-sum(b.balance) * max(c.scale)) AS amount
          FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id) JOIN exchange.assets c ON c.asset = a.asset
          WHERE b.close_date = day.close_date AND b.version = day.version AND a.liability_class = 'receivable' GROUP BY a.asset) x;
    SELECT encode(sha256(convert_to('[' || coalesce(string_agg(format('{"gate":%s,"scope":%s,"verdict":"%s","waiver":%s}',
        to_json(g.gate), to_json(g.scope), g.verdict, coalesce(to_json(g.waiver)::text, 'null')), ','
        ORDER BY g.gate COLLATE "C", g.scope COLLATE "C"), '') || ']', 'UTF8')), 'hex') INTO verdicts
    FROM recon.gates(day.close_date) g;
    RETURN format('{"assets":[%s],"barrier_seq":%s,"books_sha256":"%s","close_date":"%s","exchange":%s,"other_liabilities":[%s],'
        || '"policy_sha256":"%s","prev_checkpoint":%s,"receivables":[%s],"reserves":[%s],"reserves_root":"%s","seq":%s,'
        || '"snapshot_at":"%s","snapshot_root":"%s","supersedes":%s,"v":"por/1","verdicts_sha256":"%s","version":%s}',
        array_to_string(assets, ','), day.barrier_seq, day.books_sha256, to_char(day.close_date, 'YYYY-MM-DD'),
        to_json((SELECT b.exchange FROM close.book b)), others, day.policy_sha256,
        coalesce(to_json((SELECT s.checkpoint FROM close.seals s WHERE s.log_index = idx - 1))::text, 'null'), owing,
        array_to_string(reserves, ','),
        close.merkle_root((SELECT array_agg(convert_to(x, 'UTF8') ORDER BY n) FROM unnest(reserves) WITH ORDINALITY u (x, n))),
        idx, to_char(day.cutoff_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        close.merkle_root((SELECT array_agg(convert_to(x, 'UTF8') ORDER BY n) FROM unnest(assets) WITH ORDINALITY u (x, n))),
        coalesce((SELECT max(s.log_index) FROM close.seals s WHERE s.close_date = day.close_date)::text, 'null'),
        verdicts, day.version);
END $$;

-- What a manifest says must be what the tables say; the names of the fields that are not.
CREATE FUNCTION close.manifest_differs(s close.seals, day close.days) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holds text := close.expected_manifest(day, s.log_index);
    says text;
BEGIN
    IF s.snapshot_root IS DISTINCT FROM holds::jsonb ->> 'snapshot_root' THEN RETURN 'snapshot_root of the seal'; END IF;
    IF s.manifest = holds THEN RETURN NULL; END IF;
    IF NOT (s.manifest IS JSON OBJECT WITH UNIQUE KEYS) THEN RETURN 'its form: no JSON object with unique keys'; END IF;
    SELECT string_agg(key, ', ' ORDER BY key) INTO says
    FROM jsonb_each(s.manifest::jsonb) m FULL JOIN jsonb_each(holds::jsonb) h USING (key) WHERE m.value IS DISTINCT FROM h.value;
    RETURN coalesce(says, 'its form: not canonical JSON');
END $$;

CREATE FUNCTION close.guard_seals() RETURNS trigger
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
    ELSIF NEW.manifest IS DISTINCT FROM format(
        '{"barrier_seq":%s,"books_sha256":"%s","close_date":"%s","exchange":%s,"policy_sha256":"%s","v":"genesis/1","version":%s}',
        day.barrier_seq, day.books_sha256, to_char(day.close_date, 'YYYY-MM-DD'), to_json((SELECT b.exchange FROM close.book b)),
        day.policy_sha256, day.version) THEN
        PERFORM close.refuse('CL011', format('the record of genesis %s differs from the tables', NEW.close_date));
    ELSIF (SELECT (recon.gate_debits_equal_credits(NEW.close_date, NEW.version)).verdict) <> 'pass' THEN
        PERFORM close.refuse('CL007', format('genesis %s does not balance', NEW.close_date));
    END IF;
    SELECT max(posting_no) INTO NEW.posting_watermark FROM ledger.journals WHERE close_date = NEW.close_date;
    NEW.sealed_at := clock_timestamp();
    UPDATE close.days SET state = 'sealed', changed_at = clock_timestamp() WHERE close_date = NEW.close_date;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON close.seals FOR EACH ROW EXECUTE FUNCTION close.guard_seals();

-- A run keeps its key. After the seal only what follows it may be recorded: a sealed day's earlier runs stay as they are.
CREATE FUNCTION close.guard_runs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.close_date, OLD.step_name, OLD.version) IS DISTINCT FROM (NEW.close_date, NEW.step_name, NEW.version) THEN
        PERFORM close.refuse('CL003', format('the run of %s %s cannot become one of %s %s', OLD.close_date, OLD.step_name,
            NEW.close_date, NEW.step_name), 'a run keeps its date, step and version');
    END IF;
    -- The seal's own run is written once, in the seal's transaction.
    IF NEW.step_name NOT IN ('evidence_packs', 'inclusion_proofs', 'finance')
        AND (NEW.step_name <> 'seals' OR (TG_OP = 'UPDATE' AND OLD.status = 'succeeded'))
        AND EXISTS (SELECT FROM close.days WHERE close_date = NEW.close_date AND (state = 'sealed' OR version <> NEW.version)) THEN
        PERFORM close.refuse('CL002', format('%s is sealed: step %s cannot run again', NEW.close_date, NEW.step_name),
            'a sealed day changes only by reopening it');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON close.eod_runs FOR EACH ROW EXECUTE FUNCTION close.guard_runs();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON close.eod_runs
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

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

-- What a manifest says must be what the tables say.
CREATE FUNCTION close.manifest_differs(s close.seals, day close.days) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m jsonb := s.manifest::jsonb;
    says text;
BEGIN
    SELECT string_agg(x.field, ', ') INTO says FROM (VALUES
        ('v', m ->> 'v', 'por/1'),
        ('exchange', m ->> 'exchange', (SELECT exchange FROM close.book)),
        ('seq', m ->> 'seq', s.log_index::text),
        ('close_date', m ->> 'close_date', s.close_date::text),
        ('version', m ->> 'version', s.version::text),
        ('barrier_seq', m ->> 'barrier_seq', day.barrier_seq::text),
        ('books_sha256', m ->> 'books_sha256', day.books_sha256),
        ('policy_sha256', m ->> 'policy_sha256', day.policy_sha256),
        ('snapshot_root', m ->> 'snapshot_root', s.snapshot_root),
        ('supersedes', m ->> 'supersedes', (SELECT max(log_index)::text FROM close.seals WHERE close_date = s.close_date)),
        ('prev_checkpoint', m ->> 'prev_checkpoint', (SELECT checkpoint FROM close.seals WHERE log_index = s.log_index - 1)),
        ('snapshot_at', m ->> 'snapshot_at', to_char(day.cutoff_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    ) x (field, said, holds) WHERE x.said IS DISTINCT FROM x.holds;
    IF says IS NOT NULL THEN RETURN says; END IF;
    SELECT string_agg(coalesce(a.asset, t.asset), ', ') INTO says
    FROM (SELECT x ->> 'asset' AS asset, x ->> 'root' AS root, x ->> 'total' AS total, x ->> 'decimals' AS decimals, x ->> 'height' AS height
          FROM jsonb_array_elements(m -> 'assets') x) a
    FULL JOIN (
        SELECT t.asset, t.root, trunc(t.total * c.scale)::text AS total, c.decimals::text, t.height::text,
            trunc(k.closing * c.scale)::text AS control_total
        FROM reserves.liability_trees t
        JOIN exchange.assets c USING (asset)
        LEFT JOIN ledger.control_totals k ON k.close_date = t.close_date AND k.version = t.version AND k.asset = t.asset
            AND k.liability_class = 'customer'
        WHERE t.close_date = s.close_date AND t.version = s.version AND t.books_sha256 = s.books_sha256 AND t.log_seq = s.log_index) t
    ON a.asset = t.asset
    WHERE (a.root, a.total, a.decimals, a.height) IS DISTINCT FROM (t.root, t.total, t.decimals, t.height)
       OR a.total IS DISTINCT FROM t.control_total;
    RETURN says;
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
        IF NOT EXISTS (SELECT FROM reserves.log_entries WHERE log_index = NEW.log_index AND entry = convert_to(NEW.manifest, 'UTF8')) THEN
            PERFORM close.refuse('CL013', format('the manifest of %s is not entry %s of the log', NEW.close_date, NEW.log_index));
        END IF;
        why := close.manifest_differs(NEW, day);
        IF why IS NOT NULL THEN
            PERFORM close.refuse('CL011', format('the manifest of %s differs from the tables in: %s', NEW.close_date, why),
                'build the trees and the manifest again');
        END IF;
    ELSIF (SELECT (recon.gate_debits_equal_credits(NEW.close_date, NEW.version)).verdict) <> 'pass' THEN
        PERFORM close.refuse('CL007', format('genesis %s does not balance', NEW.close_date));
    END IF;
    SELECT max(posting_no) INTO NEW.posting_watermark FROM ledger.journals WHERE close_date = NEW.close_date;
    NEW.sealed_at := clock_timestamp();
    UPDATE close.days SET state = 'sealed', changed_at = clock_timestamp() WHERE close_date = NEW.close_date;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON close.seals FOR EACH ROW EXECUTE FUNCTION close.guard_seals();

-- After the seal only what describes it may be recorded: a sealed day's earlier runs stay as they are.
CREATE FUNCTION close.guard_runs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.step_name NOT IN ('seals', 'evidence_packs', 'inclusion_proofs', 'finance') AND EXISTS (
        SELECT FROM close.days WHERE close_date = NEW.close_date AND (state = 'sealed' OR version <> NEW.version)) THEN
        PERFORM close.refuse('CL002', format('%s is sealed: step %s cannot run again', NEW.close_date, NEW.step_name),
            'a sealed day changes only by reopening it');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON close.eod_runs FOR EACH ROW EXECUTE FUNCTION close.guard_runs();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON close.eod_runs
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

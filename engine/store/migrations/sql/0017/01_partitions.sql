-- A day's legs may be copied straight into its partition, where COPY writes many rows at a time: a transition table makes
-- it write row by row through a partitioned parent. Triggers of the parent do not fire for what is written to a partition,
-- nor a partition's for what comes through the parent, so each partition carries the same guards: whichever way a row
-- takes, it meets each of them once.

CREATE OR REPLACE FUNCTION ledger.ensure_partition(d date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE partition CONSTANT text := 'ledger_entries_' || to_char(d, 'YYYYMMDD');
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS ledger.%I PARTITION OF ledger.ledger_entries FOR VALUES IN (%L)', partition, d);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ledger.%I USING brin (posting_no)', partition || '_posting', partition);
    EXECUTE format('CREATE OR REPLACE TRIGGER guard AFTER INSERT ON ledger.%I REFERENCING NEW TABLE AS n'
        ' FOR EACH STATEMENT EXECUTE FUNCTION ledger.guard_entries()', partition);
    EXECUTE format('CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.%I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION close.append_only()', partition);
    -- Last: nobody writes to what has no guard.
    EXECUTE format('GRANT INSERT ON ledger.%I TO compline_app', partition);
END $$;

SELECT ledger.ensure_partition(close_date) FROM close.days ORDER BY close_date;

-- A partition that no day has would have been left without.
DO $$
DECLARE bare text;
BEGIN
    SELECT string_agg(i.inhrelid::regclass::text, ', ') INTO bare FROM pg_inherits i
    WHERE i.inhparent = 'ledger.ledger_entries'::regclass
        AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = i.inhrelid AND t.tgname = 'guard');
    IF bare IS NOT NULL THEN
        RAISE EXCEPTION 'partitions of no day: %', bare USING HINT = 'find out who made them; the product makes one a day';
    END IF;
END $$;

-- A lease is held by its last epoch until another takes it or its holder gives it back; its time says from when another may. Whoever has
-- locked the row and finds its epoch there is alone until COMMIT: a closer that was too busy to renew (a sort of millions of rows, a
-- statement of minutes, whose own lock keeps the renewal waiting) has lost nothing as long as nobody took over.

CREATE FUNCTION close.holds_lease(d date, e bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM close.leases l WHERE l.close_date = d AND l.epoch = e AND l.expires_at > '-infinity')
$$;
REVOKE EXECUTE ON FUNCTION close.holds_lease(date, bigint) FROM PUBLIC;

-- The fence: the last statement before COMMIT of every writing transaction of a closer, and the first of many of its functions.
CREATE OR REPLACE FUNCTION close.fence(d date, e bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM close.leases l WHERE l.close_date = d AND l.epoch = e AND l.expires_at > '-infinity' FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM close.refuse('CL006', format('epoch %s no longer holds the lease on %s', e, d),
            'another closer took over; stop and read close.eod_runs');
    END IF;
END $$;

-- The guard on journals, as before but for the lease.
CREATE OR REPLACE FUNCTION ledger.guard_journals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' SET enable_nestloop = on AS $$
DECLARE
    bad record;
    how_many bigint;
    low bigint;
    high bigint;
BEGIN
    PERFORM 1 FROM close.days WHERE close_date IN (SELECT close_date FROM n) ORDER BY close_date FOR SHARE;
    SELECT g.close_date, g.origin, g.epoch, y.state, y.books_sha256 INTO bad
    FROM (SELECT DISTINCT close_date, origin, epoch FROM n) g LEFT JOIN close.days y USING (close_date)
    WHERE NOT CASE
        WHEN y.state IS NULL THEN false
        WHEN g.origin = 'genesis' THEN y.genesis AND y.state = 'open'
        WHEN y.genesis THEN false
        WHEN g.origin = 'correction' THEN y.state = 'open' AND NOT EXISTS (SELECT FROM n WHERE n.origin = 'correction'
            AND NOT EXISTS (SELECT FROM recon.corrections c WHERE c.posting_no = n.posting_no AND c.break_id::text = n.reference_id
                AND n.reference_type = 'break' AND c.xmin = pg_current_xact_id()::xid))
        WHEN g.origin = 'close' THEN y.state = 'cutoff' AND y.books_sha256 IS NULL AND close.holds_lease(g.close_date, g.epoch)
        ELSE y.state = 'open' END
    LIMIT 1;
    IF FOUND AND bad.origin = 'close' AND bad.state = 'cutoff' AND bad.books_sha256 IS NULL THEN
        PERFORM close.refuse('CL006', format('epoch %s no longer holds the lease on %s', bad.epoch, bad.close_date),
            'another closer took over; stop and read close.eod_runs');
    ELSIF FOUND THEN
        PERFORM close.refuse('CL002', format('%s takes no journal of origin %s: the day is %s',
            bad.close_date, bad.origin, coalesce(bad.state, 'unknown')),
            'late events settle into the open day; a sealed day changes only by reopening it');
    END IF;
    -- Dynamic and without nested loops where large, as in guard_entries; the range lets a hash read this batch's trades only.
    SELECT count(*), min(reference_id::bigint), max(reference_id::bigint) INTO how_many, low, high FROM n WHERE kind = 'trade';
    IF how_many > 2000 THEN PERFORM set_config('enable_nestloop', 'off', true); END IF;
    IF how_many > 0 THEN
        EXECUTE 'SELECT n.posting_no, n.reference_id FROM n
            LEFT JOIN (SELECT * FROM exchange.trades WHERE trade_id BETWEEN $1 AND $2) t ON t.trade_id = n.reference_id::bigint
            WHERE n.kind = ''trade'' AND (t.posting_no IS DISTINCT FROM n.posting_no OR t.close_date <> n.close_date
                OR t.engine_seq <> n.engine_seq OR n.reference_type <> ''trade'') LIMIT 1' INTO bad USING low, high;
        IF bad.posting_no IS NOT NULL THEN
            PERFORM close.refuse('CL005', format('posting %s is not the journal of trade %s', bad.posting_no, bad.reference_id),
                'a trade is settled once, with its row in exchange.trades');
        END IF;
    END IF;
    RETURN NULL;
END $$;

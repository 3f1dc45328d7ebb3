-- The guard on legs, as before in what it refuses: settlement's later batch waits in it, after its zero sums.

CREATE OR REPLACE FUNCTION ledger.guard_entries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' SET enable_nestloop = on SET enable_hashagg = on AS $$
DECLARE
    bad record;
    low bigint;
    high bigint;
    legs bigint;
    stray bigint;
    off bigint;
    of_close boolean;
    moved bigint;
    before CONSTANT text := coalesce(current_setting('compline.settles_after', true), '');
    misfit CONSTANT text := 'SELECT n.posting_no, n.account_id, n.asset, n.amount FROM n
        LEFT JOIN ledger.accounts a ON a.account_id = n.account_id AND a.asset = n.asset
        LEFT JOIN exchange.assets s ON s.asset = n.asset
        WHERE a.account_id IS NULL OR n.amount <> trunc(n.amount, s.decimals) LIMIT 1';
BEGIN
    SELECT min(posting_no), max(posting_no), count(*) INTO low, high, legs FROM n;
    IF legs > 2000 THEN
        -- Sorting what is nearly sorted and adding up is faster than hundreds of thousands of hashed sums.
        PERFORM set_config('enable_nestloop', 'off', true), set_config('enable_hashagg', 'off', true);
    END IF;

    -- One pass: a leg of another date than its journal's is in a group that finds no journal, and so is a stray.
    EXECUTE 'SELECT min(g.posting_no) FILTER (WHERE j.posting_no IS NULL), min(g.posting_no) FILTER (WHERE g.off),
            coalesce(bool_or(j.origin = ''close''), false)
        FROM (SELECT posting_no, close_date, sum(amount) <> 0 AS off FROM n GROUP BY posting_no, asset, close_date) g
        LEFT JOIN (SELECT posting_no, close_date, origin FROM ledger.journals
            WHERE posting_no BETWEEN $1 AND $2 AND xmin = pg_current_xact_id()::xid) j USING (posting_no, close_date)'
    INTO stray, off, of_close USING low, high;
    IF stray IS NOT NULL THEN
        PERFORM close.refuse('CL005', format('posting %s has no journal of that date in this transaction', stray),
            'post a journal and all of its legs together');
    ELSIF off IS NOT NULL THEN
        EXECUTE 'SELECT asset, sum(amount) AS off FROM n WHERE posting_no = $1 GROUP BY asset HAVING sum(amount) <> 0 ORDER BY 1 LIMIT 1'
        INTO bad USING off;
        PERFORM close.refuse('CL001', format('posting %s is off by %s %s', off, trim_scale(bad.off), bad.asset),
            'every journal sums to zero per asset');
    END IF;

    -- Only the close needs this look; settlement's batches skip two joins over all of their legs.
    IF of_close THEN
        EXECUTE misfit INTO bad;
        IF bad.posting_no IS NULL THEN
            EXECUTE 'SELECT j.posting_no, a.account FROM ledger.journals j
                JOIN n ON n.posting_no = j.posting_no
                JOIN ledger.accounts a ON a.account_id = n.account_id
                WHERE j.posting_no BETWEEN $1 AND $2 AND j.origin = ''close'' AND a.user_id IS NOT NULL LIMIT 1'
            INTO bad USING low, high;
            IF bad.posting_no IS NOT NULL THEN
                PERFORM close.refuse('CL004', format('posting %s of the close touches customer account %s',
                    bad.posting_no, bad.account), 'the close posts to house accounts only; users are moved by engine commands');
            END IF;
        END IF;
    END IF;

    -- What is above looks at this statement alone. Balances are moved in the engine's order, so that settlement's later
    -- batch waits here for the one before it, which holds this lock from before it sent its rows until it ends. Given
    -- back at once, as it is taken in a block that is rolled back; what follows sees what that one has committed.
    IF before <> '' THEN
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(hashtext('ledger.settles'), before::integer);
            RAISE SQLSTATE 'CL999';
        EXCEPTION WHEN SQLSTATE 'CL999' THEN NULL;
        END;
    END IF;

    -- An account holds one asset in whole smallest units: who fits is moved, and all legs must have been. Which leg did
    -- not fit is asked afterwards, before any refusal that moving it caused. In the order of accounts, which is that of
    -- their pages: a third faster, and two batches at once cannot lock each other out.
    BEGIN
        EXECUTE 'WITH u AS (UPDATE ledger.accounts a SET balance = a.balance + g.net
                FROM (SELECT account_id, asset, sum(amount) AS net, max(min_scale(amount)) AS finest, count(*) AS legs FROM n
                    GROUP BY account_id, asset ORDER BY account_id) g
                JOIN exchange.assets s ON s.asset = g.asset
                WHERE a.account_id = g.account_id AND a.asset = g.asset AND g.finest <= s.decimals RETURNING g.legs)
            SELECT coalesce(sum(legs), 0) FROM u' INTO moved;
    EXCEPTION WHEN check_violation OR numeric_value_out_of_range THEN
        EXECUTE misfit INTO bad;
        IF bad.posting_no IS NULL THEN RAISE; END IF;
    END;
    IF moved IS NULL OR moved <> legs THEN
        EXECUTE misfit INTO bad;
        PERFORM close.refuse('CL005', format('posting %s: account %s does not hold %s %s', bad.posting_no, bad.account_id,
            trim_scale(bad.amount), bad.asset), 'an account has one asset, and amounts are whole smallest units');
    END IF;
    RETURN NULL;
END $$;

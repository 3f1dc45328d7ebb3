-- Settlement has two transactions under way: one that sends its rows while the one before it checks and commits.

-- A block of consecutive posting numbers for settlement; returns the first. The lock is shared among settlement's
-- transactions, which commit in the order in which they drew (each moves the cursor from where the one before it left
-- it), and excludes everybody else: who draws by ledger.reserve_postings waits for them, and they for him.
CREATE FUNCTION ledger.reserve_in_turn(how_many bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE first bigint;
BEGIN
    IF how_many < 1 THEN PERFORM close.refuse('CL005', 'a block of postings holds at least one'); END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtext('ledger.posting_numbers'));
    BEGIN
        -- One at a time draws; a lock taken in a block that is rolled back is given back, and a sequence stays moved.
        PERFORM pg_advisory_xact_lock(hashtext('ledger.posting_blocks'));
        first := nextval('ledger.posting_numbers');
        PERFORM setval('ledger.posting_numbers', first + how_many - 1);
        RAISE SQLSTATE 'CL999';
    EXCEPTION WHEN SQLSTATE 'CL999' THEN NULL;
    END;
    RETURN first;
END $$;

REVOKE EXECUTE ON FUNCTION ledger.reserve_in_turn(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.reserve_in_turn(bigint) TO compline_app;

-- Three versions of a row may stand side by side: the one in force, the one that the transaction before replaced and this
-- one's statement may still see, and the new one. With room for all of them in its page an update touches no index.
ALTER TABLE ledger.accounts SET (fillfactor = 33);

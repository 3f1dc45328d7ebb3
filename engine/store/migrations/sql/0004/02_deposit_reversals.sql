-- A deposit that was reorganised away settles like any other engine event; what was spent of it is the user's debt.

ALTER TABLE ledger.journals DROP CONSTRAINT journals_kind_check;
ALTER TABLE ledger.journals ADD CONSTRAINT journals_kind_check CHECK (kind IN ('trade', 'deposit', 'deposit_reversed',
    'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed', 'stake', 'unstake', 'reward', 'adjust', 'opening_balance',
    'fee_accrual', 'reward_accrual', 'pot_funding', 'correction'));
ALTER TABLE ledger.journals DROP CONSTRAINT journals_kind_fits_origin;
ALTER TABLE ledger.journals ADD CONSTRAINT journals_kind_fits_origin CHECK (CASE origin
    WHEN 'engine' THEN kind IN ('trade', 'deposit', 'deposit_reversed', 'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed',
        'stake', 'unstake', 'reward', 'adjust')
    WHEN 'genesis' THEN kind = 'opening_balance'
    WHEN 'close' THEN kind IN ('fee_accrual', 'reward_accrual', 'pot_funding')
    ELSE kind = 'correction' END);

-- The hold that the engine put on an account with its debt, as a row. Settlement calls it in the transaction of the journal.
CREATE FUNCTION accounts.hold_for_debt(id bigint, deposit text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ledger.journals j WHERE j.kind = 'deposit_reversed' AND j.reference_id = deposit
        AND j.reference_type = 'deposit_reversed') THEN
        PERFORM close.refuse('CL005', format('deposit %s was not reversed', deposit), 'a debt comes from a settled reversal');
    END IF;
    INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)
    VALUES (id, 'dispute', 'deposit_reversed:' || deposit, 'a deposit was reversed after part of it was spent', 'settlement')
    ON CONFLICT DO NOTHING;
END $$;
REVOKE EXECUTE ON FUNCTION accounts.hold_for_debt(bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION accounts.hold_for_debt(bigint, text) TO compline_app;

-- Every customer (sub-)account, the house's fees, and what users owe: the ledger at the cut-off against the engine at the barrier.
CREATE OR REPLACE FUNCTION recon.engine_ledger_differences(d date, v integer)
RETURNS TABLE (subject text, asset text, expected numeric, actual numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    WITH ledger_side AS (
        SELECT CASE WHEN a.liability_class = 'receivable' THEN 'house:owed' WHEN a.user_id IS NULL THEN 'house:fees'
            ELSE a.account END AS subject, a.asset, sum(b.balance) AS amount
        FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id)
        WHERE b.close_date = d AND b.version = v
          AND (a.liability_class IN ('customer', 'affiliate', 'receivable') OR a.account IN ('fee_clearing', 'fee_income'))
        GROUP BY 1, 2),
    engine_side AS (
        SELECT account || x.suffix AS subject, asset, x.amount
        FROM exchange.engine_balances b
        CROSS JOIN LATERAL (VALUES ('', b.available + b.locked), (':staked', b.staked), (':in_transit', b.in_transit)) x (suffix, amount)
        WHERE b.close_date = d AND b.version = v AND x.amount <> 0)
    SELECT subject, asset, coalesce(l.amount, 0), coalesce(g.amount, 0)
    FROM ledger_side l FULL JOIN engine_side g USING (subject, asset)
    WHERE coalesce(l.amount, 0) <> coalesce(g.amount, 0)
$$;
COMMENT ON TABLE exchange.engine_balances IS 'One row per account, asset and close date with a balance in the engine at the barrier; the engine''s collected fees are account house:fees, what users owe is house:owed, negative.';

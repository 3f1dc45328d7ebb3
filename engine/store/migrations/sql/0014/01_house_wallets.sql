-- Wallets of the house's own coins: what comes to them from outside is the owners' capital, and owed to nobody.

ALTER TABLE ledger.journals DROP CONSTRAINT journals_kind_check;
ALTER TABLE ledger.journals ADD CONSTRAINT journals_kind_check CHECK (kind IN ('trade', 'deposit', 'deposit_reversed',
    'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed', 'stake', 'unstake', 'reward', 'adjust', 'opening_balance',
    'fee_accrual', 'reward_accrual', 'pot_funding', 'network_fee', 'custody_transfer', 'house_capital', 'correction'));
ALTER TABLE ledger.journals DROP CONSTRAINT journals_kind_fits_origin;
ALTER TABLE ledger.journals ADD CONSTRAINT journals_kind_fits_origin CHECK (CASE origin
    WHEN 'engine' THEN kind IN ('trade', 'deposit', 'deposit_reversed', 'withdrawal', 'withdrawal_confirmed', 'withdrawal_failed',
        'stake', 'unstake', 'reward', 'adjust')
    WHEN 'genesis' THEN kind = 'opening_balance'
    WHEN 'close' THEN kind IN ('fee_accrual', 'reward_accrual', 'pot_funding', 'network_fee', 'custody_transfer', 'house_capital')
    ELSE kind = 'correction' END);

-- Accounts that a batch needs, made where they are missing. Names decide the class; the application cannot choose one.
CREATE OR REPLACE FUNCTION ledger.ensure_accounts(names text[], assets text[])
RETURNS TABLE (account text, asset text, account_id bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO ledger.accounts (account, user_id, sub_account, asset, liability_class)
    SELECT w.account, u.user_id,
        CASE WHEN w.account LIKE '%:staked' THEN 'staked' WHEN w.account LIKE '%:in_transit' THEN 'in_transit' ELSE 'main' END,
        w.asset,
        CASE WHEN w.account LIKE 'customer_receivable:%' THEN 'receivable'
             WHEN w.account IN (u.account, u.account || ':staked', u.account || ':in_transit') THEN 'customer'
             WHEN w.account LIKE 'custody:%' OR w.account = 'internal_transfer_in_transit' THEN 'asset'
             WHEN w.account IN ('deposits_unallocated', 'rewards_payable', 'insurance_fund', 'suspense') THEN 'other_liability'
             WHEN w.account IN ('revenue_router', 'network_fee_expense', 'fee_clearing', 'fee_income', 'rewards_pot',
                                'rounding', 'opening_equity', 'house_capital') THEN 'equity' END
    FROM (SELECT DISTINCT n.account, n.asset FROM unnest(names, assets) AS n (account, asset)) w
    LEFT JOIN accounts.users u ON u.account = CASE
        WHEN w.account LIKE 'customer_receivable:%' THEN substr(w.account, 21) ELSE split_part(w.account, ':', 1) END
    WHERE NOT EXISTS (SELECT FROM ledger.accounts a WHERE a.account = w.account AND a.asset = w.asset)
    ORDER BY w.account, w.asset
    ON CONFLICT (account, asset) DO NOTHING;
    RETURN QUERY SELECT a.account, a.asset, a.account_id FROM ledger.accounts a
        JOIN (SELECT DISTINCT n.account, n.asset FROM unnest(names, assets) AS n (account, asset)) w
        ON a.account = w.account AND a.asset = w.asset;
END $$;

-- Confirmed lines of the house's wallets that no other wallet has its side of on this date: coins that the owners put in or took out.
CREATE FUNCTION custody.capital_lines(d date, v integer) RETURNS TABLE (wallet text, asset text, transfer text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.wallet, t.asset, t.transfer FROM custody.transfers t
    JOIN (SELECT DISTINCT w ->> 0 AS wallet, w ->> 1 AS asset FROM close.policy_on(d) p,
          jsonb_array_elements(coalesce(p.policy -> 'custody_wallets', '[]')) w WHERE w ->> 2 = 'house') h USING (wallet, asset)
    WHERE t.close_date = d AND t.version = v AND t.confirmed AND NOT EXISTS (
        SELECT FROM custody.transfers o WHERE o.close_date = d AND o.version = v AND o.confirmed
            AND o.asset = t.asset AND o.reference = t.reference AND o.wallet <> t.wallet)
$$;

-- What the day's confirmed lines should have moved between house accounts, as before; what owners put in is capital.
CREATE OR REPLACE FUNCTION custody.movements_due(d date, v integer)
RETURNS TABLE (kind text, key text, wallet text, asset text, amount numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'network_fee', t.wallet || ':' || t.transfer, t.wallet, t.asset, t.fee FROM custody.transfers t
    WHERE t.close_date = d AND t.version = v AND t.confirmed AND t.fee <> 0
    UNION ALL
    SELECT CASE WHEN c.transfer IS NULL THEN 'custody_transfer' ELSE 'house_capital' END, t.wallet || ':' || t.transfer, t.wallet,
        t.asset, -t.amount
    FROM custody.transfers t LEFT JOIN custody.capital_lines(d, v) c USING (wallet, asset, transfer)
    WHERE t.close_date = d AND t.version = v AND t.confirmed AND t.wallet <> 'main' AND t.amount <> 0
$$;

CREATE OR REPLACE FUNCTION custody.movements_booked(d date)
RETURNS TABLE (kind text, key text, wallet text, asset text, amount numeric, k integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT j.kind, x.key, split_part(x.key, ':', 1), e.asset, sum(e.amount), max(x.k)
    FROM (SELECT posting_no, kind, reference_id FROM ledger.journals
          WHERE close_date = d AND kind IN ('network_fee', 'custody_transfer', 'house_capital')) j
    CROSS JOIN LATERAL (SELECT regexp_replace(substr(j.reference_id, 12), ':[0-9]+$', '') AS key,
        split_part(j.reference_id, ':', -1)::integer AS k) x
    JOIN (SELECT posting_no, account_id, asset, amount FROM ledger.ledger_entries WHERE close_date = d) e USING (posting_no)
    JOIN ledger.accounts a ON a.account_id = e.account_id AND a.account = 'custody:' || split_part(x.key, ':', 1)
    GROUP BY 1, 2, 3, 4
$$;

-- What is in transit at the cut-off, as before; capital is in transit to nobody.
CREATE OR REPLACE FUNCTION custody.expected_in_transit(d date, v integer) RETURNS SETOF custody.in_transit
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '256MB' AS $$
    SELECT d, v, x.asset, x.reference, sum(x.custody), sum(x.ledger), min(x.since),
        EXISTS (SELECT FROM custody.transfers t WHERE t.close_date = d AND t.version = v AND NOT t.confirmed
            AND t.asset = x.asset AND t.reference = x.reference),
        EXISTS (SELECT FROM ledger.journals j WHERE j.kind <> 'trade' AND j.reference_type = 'withdrawal' AND j.reference_id = x.reference
            AND j.close_date <= d)
    FROM (
        SELECT i.asset, i.reference, i.custody_amount AS custody, i.ledger_amount AS ledger, i.since
        FROM custody.in_transit i JOIN close.days y USING (close_date, version) WHERE i.close_date = d - 1
        UNION ALL
        SELECT t.asset, t.reference, t.amount, 0, d FROM custody.transfers t
        LEFT JOIN custody.capital_lines(d, v) c USING (wallet, asset, transfer)
        WHERE t.close_date = d AND t.version = v AND t.confirmed AND c.transfer IS NULL
        UNION ALL
        SELECT l.asset, l.reference, 0, l.amount, d FROM custody.ledger_effects(d) l
            WHERE l.asset IN (SELECT w.asset FROM custody.wallets_on(d) w)) x
    GROUP BY x.asset, x.reference HAVING sum(x.custody) <> sum(x.ledger)
$$;

REVOKE EXECUTE ON FUNCTION custody.capital_lines(date, integer) FROM PUBLIC;

-- Least privilege. Nobody but the owner writes partitions, balances, days, verdicts, waivers or policies.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA close, ledger, exchange, recon, reserves FROM PUBLIC;

GRANT USAGE ON SCHEMA close, ledger, exchange, market, custody, chain, capture, positions, recon, accounts, reserves, events
    TO compline_app;
GRANT SELECT ON ALL TABLES IN SCHEMA close, ledger, exchange, market, custody, chain, capture, positions, recon, accounts, reserves, events
    TO compline_app;
GRANT INSERT ON accounts.users, exchange.assets, exchange.markets, exchange.trades,
    exchange.engine_balances, market.mark_ticks, market.mark_prices, ledger.journals, ledger.ledger_entries, ledger.fee_accruals,
    close.eod_runs, close.seals, reserves.liability_trees, reserves.log_entries, events.outbox TO compline_app;
GRANT UPDATE (last_seq, at) ON ledger.settlement_cursor TO compline_app;
GRANT UPDATE ON close.eod_runs TO compline_app;
GRANT UPDATE (published_at) ON events.outbox TO compline_app;
GRANT EXECUTE ON FUNCTION
    close.refuse(text, text, text), close.append_only(), close.policy_on(date), close.iso_us(timestamptz),
    close.take_lease(date, text, integer, boolean), close.renew_lease(date, text, bigint, integer),
    close.release_lease(date, text, bigint), close.fence(date, bigint), close.open_day(date),
    close.cut_off_day(date, bigint, bigint, timestamptz), close.void_books_hash(date, bigint),
    close.replace_engine_balances(date, bigint), close.replace_mark_prices(date, bigint),
    close.books_digests(date), close.books_sha256(date), close.fix_books_hash(date, bigint),
    close.write_user_balance_snapshots(date, bigint), close.table_digest(bytea[]), close.row_hash(text[]),
    ledger.reserve_postings(bigint), ledger.ensure_accounts(text[], text[]), ledger.write_control_totals(date, bigint),
    ledger.journal_hashes(date), ledger.replace_fee_accruals(date, bigint), reserves.replace_liability_trees(date, bigint),
    recon.judge(date, text, bigint), recon.gates(date)
    TO compline_app;

-- The collector stores raw readings and nothing else.
GRANT USAGE ON SCHEMA capture TO compline_collector;
GRANT SELECT, INSERT ON capture.readings TO compline_collector;

-- dbt reads the books and writes the marts.
GRANT USAGE ON SCHEMA close, ledger, exchange, market, positions, recon, accounts TO compline_dbt;
GRANT SELECT ON ALL TABLES IN SCHEMA close, ledger, exchange, market, positions, recon TO compline_dbt;
GRANT SELECT (user_id, account, state) ON accounts.users TO compline_dbt;
GRANT USAGE, CREATE ON SCHEMA finance TO compline_dbt;

-- Finance reads marts; the auditor reads seals, verdicts and reserves.
GRANT USAGE ON SCHEMA finance TO compline_finance;
GRANT USAGE ON SCHEMA close, recon, reserves TO compline_auditor;
GRANT SELECT ON close.seals, recon.verdicts, recon.breaks, recon.waivers, reserves.liability_trees, reserves.attestations,
    reserves.log_entries TO compline_auditor;

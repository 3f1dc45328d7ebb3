-- Schemas, one per subject, and what nobody may do by default.
-- Group roles (compline_app, compline_dbt, ...) exist before the migrations run.

REVOKE ALL ON SCHEMA public FROM PUBLIC;
DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY, CREATE ON DATABASE %I FROM PUBLIC', current_database()); END $$;

CREATE SCHEMA close;     -- days, leases, runs, snapshots, seals
CREATE SCHEMA ledger;    -- accounts, journals, entries, totals
CREATE SCHEMA exchange;  -- what the matching engine says
CREATE SCHEMA market;    -- prices
CREATE SCHEMA custody;   -- what custodians say
CREATE SCHEMA chain;     -- what the chain says
CREATE SCHEMA capture;   -- raw readings
CREATE SCHEMA positions; -- lots, P&L, volumes
CREATE SCHEMA recon;     -- verdicts, breaks, waivers, tolerances
CREATE SCHEMA accounts;  -- users, states, holds, obligations
CREATE SCHEMA reserves;  -- trees, attestations, the log
CREATE SCHEMA events;    -- the outbox
CREATE SCHEMA finance;   -- dbt's marts

-- A check that failed inside the database: SQLSTATE CL0xx, so that the application can name it without reading prose.
--   CL001 unbalanced   CL002 closed date      CL003 append-only      CL004 house accounts only
--   CL005 no such journal/account             CL006 lease or epoch   CL007 gate not passed
--   CL008 order of days                       CL009 books hash fixed CL010 not settled to the barrier
--   CL011 bad seal     CL012 two people       CL013 log              CL014 policy
CREATE FUNCTION close.refuse(code text, what text, next_step text DEFAULT '') RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = what, HINT = next_step;
END $$;

CREATE FUNCTION close.append_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'CL003',
        MESSAGE = format('%s.%s is append-only: %s refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP),
        HINT = 'corrections are new rows';
END $$;

-- Prices in the book's reporting currency, and raw readings of other sources.

CREATE TABLE market.mark_ticks (
    asset  text NOT NULL REFERENCES exchange.assets,
    at     timestamptz NOT NULL,
    price  numeric(38, 18) NOT NULL CHECK (price > 0 AND price < 'NaN'),
    source text NOT NULL,
    PRIMARY KEY (asset, at, source)
);
COMMENT ON TABLE market.mark_ticks IS 'One row per asset, instant and source: the price of one asset in the reporting currency; append-only.';

CREATE TABLE market.mark_prices (
    close_date date NOT NULL,
    version    integer NOT NULL,
    asset      text NOT NULL REFERENCES exchange.assets,
    price      numeric(38, 18) NOT NULL CHECK (price > 0 AND price < 'NaN'),
    source     text NOT NULL CHECK (source ~ '^[!-~]{1,128}$'),
    at         timestamptz NOT NULL,
    PRIMARY KEY (close_date, version, asset)
);
COMMENT ON TABLE market.mark_prices IS 'One row per asset and close date: its closing mark, with source and time.';

CREATE TABLE capture.readings (
    reading_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source       text NOT NULL CHECK (source ~ '^[!-~]{1,128}$'),
    subject      text NOT NULL CHECK (subject ~ '^[!-~]{1,128}$'),
    at           timestamptz NOT NULL,
    raw          bytea NOT NULL,
    sha256       text GENERATED ALWAYS AS (encode(sha256(raw), 'hex')) STORED,
    collected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (source, subject, at)
);
COMMENT ON TABLE capture.readings IS 'One row per reading of an outside source, raw and immutable.';

CREATE TABLE custody.wallet_balances (
    close_date date NOT NULL,
    version    integer NOT NULL,
    wallet     text NOT NULL,
    asset      text NOT NULL REFERENCES exchange.assets,
    balance    numeric(38, 18) NOT NULL,
    reading_id bigint NOT NULL REFERENCES capture.readings,
    PRIMARY KEY (close_date, version, wallet, asset)
);
COMMENT ON TABLE custody.wallet_balances IS 'One row per custody wallet, asset and close date: the stored reading that the close used.';

CREATE TABLE chain.staking_totals (
    close_date   date NOT NULL,
    version      integer NOT NULL,
    contract     text NOT NULL,
    asset        text NOT NULL REFERENCES exchange.assets,
    total        numeric(38, 18) NOT NULL,
    block_height bigint NOT NULL,
    block_hash   text NOT NULL,
    reading_id   bigint NOT NULL REFERENCES capture.readings,
    PRIMARY KEY (close_date, version, contract)
);
COMMENT ON TABLE chain.staking_totals IS 'One row per staking contract and close date: the finalised block''s total.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON market.mark_ticks
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON capture.readings
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

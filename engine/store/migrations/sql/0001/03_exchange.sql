-- What the matching engine says: assets, markets, trades, and its balances at a barrier.

CREATE TABLE exchange.assets (
    asset     text PRIMARY KEY CHECK (asset ~ '^[!-~]{1,32}$'),
    engine_id integer NOT NULL UNIQUE,
    decimals  integer NOT NULL CHECK (decimals BETWEEN 0 AND 18),
    scale     numeric(38, 18) GENERATED ALWAYS AS (power(10::numeric, decimals)) STORED
);
COMMENT ON TABLE exchange.assets IS 'One row per coin. scale is 10^decimals: amount x scale is a whole number of smallest units.';

CREATE TABLE exchange.markets (
    market                   text PRIMARY KEY CHECK (market ~ '^[!-~]{1,64}$'),
    engine_id                integer NOT NULL UNIQUE,
    base                     text NOT NULL REFERENCES exchange.assets,
    quote                    text NOT NULL REFERENCES exchange.assets,
    base_units_per_lot       numeric(39, 0) NOT NULL CHECK (base_units_per_lot > 0),
    quote_units_per_tick_lot numeric(39, 0) NOT NULL CHECK (quote_units_per_tick_lot > 0)
);
COMMENT ON TABLE exchange.markets IS 'One row per market; a notional is price in ticks x quantity in lots x quote_units_per_tick_lot, never rounded.';

CREATE TABLE exchange.trades (
    trade_id       bigint PRIMARY KEY,
    posting_no     bigint NOT NULL,
    engine_seq     bigint NOT NULL,
    fill_index     integer NOT NULL,
    close_date     date NOT NULL,
    sequenced_at   timestamptz NOT NULL,
    effective_at   timestamptz NOT NULL,
    market         text NOT NULL,
    -- NaN is greater than every number: a lower bound alone would let it in.
    price          numeric(38, 18) NOT NULL CHECK (price > 0 AND price < 'NaN'),
    quantity       numeric(38, 18) NOT NULL CHECK (quantity > 0 AND quantity < 'NaN'),
    quote_quantity numeric(38, 18) NOT NULL CHECK (quote_quantity > 0 AND quote_quantity < 'NaN'),
    taker_side     text NOT NULL CHECK (taker_side IN ('buy', 'sell')),
    maker_id       bigint NOT NULL,
    taker_id       bigint NOT NULL,
    maker_order_id bigint NOT NULL,
    taker_order_id bigint NOT NULL,
    maker_fee      numeric(38, 18) NOT NULL CHECK (maker_fee < 'NaN'),
    taker_fee      numeric(38, 18) NOT NULL CHECK (taker_fee < 'NaN'),
    maker_rate_ppm integer NOT NULL,
    taker_rate_ppm integer NOT NULL
);
COMMENT ON TABLE exchange.trades IS 'One row per fill, in the engine''s order; the reference registry of trades (trade_id). posting_no is its one journal.';
CREATE INDEX trades_close_date ON exchange.trades USING brin (close_date) WITH (pages_per_range = 16);
CREATE INDEX trades_last_of_market ON exchange.trades (market, effective_at, engine_seq);

CREATE TABLE exchange.engine_balances (
    close_date date NOT NULL,
    version    integer NOT NULL,
    account    text NOT NULL CHECK (account ~ '^[!-~]{1,64}$'),
    asset      text NOT NULL,
    available  numeric(38, 18) NOT NULL,
    locked     numeric(38, 18) NOT NULL DEFAULT 0,
    staked     numeric(38, 18) NOT NULL DEFAULT 0,
    in_transit numeric(38, 18) NOT NULL DEFAULT 0,
    PRIMARY KEY (close_date, version, account, asset),
    CONSTRAINT engine_balances_are_numbers CHECK (greatest(available, locked, staked, in_transit) < 'NaN')
);
COMMENT ON TABLE exchange.engine_balances IS 'One row per account, asset and close date with a balance in the engine at the barrier; the engine''s collected fees are account house:fees.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON exchange.trades
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

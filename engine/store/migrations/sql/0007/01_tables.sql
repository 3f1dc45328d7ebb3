-- Lots and P&L. A position is what one user has of one asset. The reporting currency is worth itself, so its positions
-- have a cost (their quantity) and no lots.

CREATE TABLE positions.opening_lots (
    user_id     bigint NOT NULL REFERENCES accounts.users,
    asset       text NOT NULL REFERENCES exchange.assets,
    lot_no      integer NOT NULL CHECK (lot_no >= 0),
    acquired_on date NOT NULL,
    quantity    numeric(38, 18) NOT NULL CHECK (quantity > 0 AND quantity < 'NaN'),
    cost        numeric(38, 18) NOT NULL CHECK (cost >= 0 AND cost < 'NaN'),
    PRIMARY KEY (user_id, asset, lot_no)
);
COMMENT ON TABLE positions.opening_lots IS 'One row per lot that an opening balance of genesis consists of, in order of acquisition; where nothing was loaded for the whole book, each balance is one lot at the first mark.';

CREATE TABLE positions.lots (
    close_date        date NOT NULL,
    version           integer NOT NULL,
    user_id           bigint NOT NULL,
    asset             text NOT NULL,
    lot_seq           bigint NOT NULL,
    lot_no            integer NOT NULL,
    acquired_on       date NOT NULL,
    acquired_quantity numeric(38, 18) NOT NULL CHECK (acquired_quantity > 0),
    acquired_cost     numeric(38, 18) NOT NULL CHECK (acquired_cost >= 0),
    quantity          numeric(38, 18) NOT NULL CHECK (quantity > 0),
    cost              numeric(38, 18) NOT NULL CHECK (cost >= 0),
    PRIMARY KEY (close_date, version, user_id, asset, lot_seq, lot_no)
);
COMMENT ON TABLE positions.lots IS 'One row per lot of a position that changed on the close date, as it was left; lots of positions that did not change stay where positions.unrealized_pnl points. lot_seq is the engine''s sequence of the acquisition, lot_no its number within it; acquired_cost is without fees.';

CREATE TABLE positions.transfers (
    close_date date NOT NULL,
    version    integer NOT NULL,
    user_id    bigint NOT NULL,
    asset      text NOT NULL,
    engine_seq bigint NOT NULL,
    posting_no bigint NOT NULL,
    term       text NOT NULL CHECK (term IN ('deposit', 'withdrawal', 'reward', 'adjustment')),
    quantity   numeric(38, 18) NOT NULL CHECK (quantity <> 0),
    mark       numeric(38, 18) NOT NULL CHECK (mark > 0),
    value      numeric(38, 18) NOT NULL,
    PRIMARY KEY (close_date, version, posting_no, user_id, asset)
);
COMMENT ON TABLE positions.transfers IS 'One row per deposit, confirmed withdrawal, reward or adjustment of a user: what it was worth when it came or went, rounded once. Positive came in.';

CREATE TABLE positions.trade_values (
    close_date      date NOT NULL,
    version         integer NOT NULL,
    trade_id        bigint NOT NULL,
    mark            numeric(38, 18) NOT NULL CHECK (mark > 0),
    value           numeric(38, 18) NOT NULL,
    maker_fee_value numeric(38, 18) NOT NULL,
    taker_fee_value numeric(38, 18) NOT NULL,
    PRIMARY KEY (close_date, version, trade_id)
);
COMMENT ON TABLE positions.trade_values IS 'One row per trade that is not quoted in the reporting currency: what its quote quantity and its fees were worth, each rounded once.';

CREATE TABLE positions.realized_pnl (
    close_date      date NOT NULL,
    version         integer NOT NULL,
    user_id         bigint NOT NULL,
    asset           text NOT NULL,
    bought          numeric(38, 18) NOT NULL,
    bought_value    numeric(38, 18) NOT NULL,
    sold            numeric(38, 18) NOT NULL,
    sold_value      numeric(38, 18) NOT NULL,
    fees            numeric(38, 18) NOT NULL,
    fees_value      numeric(38, 18) NOT NULL,
    deposited       numeric(38, 18) NOT NULL,
    deposited_value numeric(38, 18) NOT NULL,
    withdrawn       numeric(38, 18) NOT NULL,
    withdrawn_value numeric(38, 18) NOT NULL,
    rewarded        numeric(38, 18) NOT NULL,
    rewarded_value  numeric(38, 18) NOT NULL,
    adjusted        numeric(38, 18) NOT NULL,
    adjusted_value  numeric(38, 18) NOT NULL,
    proceeds        numeric(38, 18) NOT NULL,
    disposed_cost   numeric(38, 18) NOT NULL,
    realized        numeric(38, 18) NOT NULL CHECK (realized = proceeds - disposed_cost),
    trading_pnl     numeric(38, 18) NOT NULL,
    quantity        numeric(38, 18) NOT NULL CHECK (quantity >= 0),
    cost            numeric(38, 18) NOT NULL CHECK (cost >= 0),
    PRIMARY KEY (close_date, version, user_id, asset)
);
COMMENT ON TABLE positions.realized_pnl IS 'One row per position that changed on the close date: what came and went by kind, quantity and value, the gain realised over every disposal, and what is left.';

CREATE TABLE positions.unrealized_pnl (
    close_date   date NOT NULL,
    version      integer NOT NULL,
    user_id      bigint NOT NULL,
    asset        text NOT NULL,
    quantity     numeric(38, 18) NOT NULL CHECK (quantity > 0),
    cost         numeric(38, 18) NOT NULL CHECK (cost >= 0),
    mark         numeric(38, 18) NOT NULL CHECK (mark > 0),
    value        numeric(38, 18) NOT NULL,
    unrealized   numeric(38, 18) NOT NULL CHECK (unrealized = value - cost),
    lots_date    date NOT NULL,
    lots_version integer NOT NULL,
    PRIMARY KEY (close_date, version, user_id, asset)
);
COMMENT ON TABLE positions.unrealized_pnl IS 'One row per position held at the cut-off: its cost, its value at the closing mark, and the date and version whose rows of positions.lots are its lots.';

CREATE TABLE positions.restatements (
    close_date date NOT NULL,
    version    integer NOT NULL,
    user_id    bigint NOT NULL,
    asset      text NOT NULL,
    what       text NOT NULL CHECK (what IN ('realized', 'unrealized', 'value')),
    was        numeric(38, 18) NOT NULL,
    now        numeric(38, 18),
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE positions.restatements IS 'One row per figure of a date that was not sealed yet and moved when the date was booked again; now is null until it was valued again.';
CREATE UNIQUE INDEX restatements_pending ON positions.restatements (close_date, version, user_id, asset, what) WHERE now IS NULL;

-- Rows of a day that is being closed, for its own version; what is sealed stays as it is.
CREATE FUNCTION positions.guard_rows() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE bad record;
BEGIN
    SELECT n.close_date, n.version, y.state INTO bad
    FROM (SELECT close_date, version FROM n GROUP BY close_date, version) n LEFT JOIN close.days y USING (close_date)
    WHERE y.version IS DISTINCT FROM n.version OR NOT (y.state IN ('cutoff', 'reconciled')
        OR (y.genesis AND NOT EXISTS (SELECT FROM close.days f WHERE f.close_date = n.close_date + 1 AND f.state = 'sealed')))
    LIMIT 1;
    IF FOUND THEN
        PERFORM close.refuse('CL030', format('%s.%s takes no row of %s v%s: the day is %s', TG_TABLE_SCHEMA, TG_TABLE_NAME,
            bad.close_date, bad.version, coalesce(bad.state, 'unknown')), 'lots and P&L are written by the close of their day');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER INSERT ON positions.lots
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION positions.guard_rows();
CREATE TRIGGER guard AFTER INSERT ON positions.realized_pnl
    REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION positions.guard_rows();

-- What comes with opening balances is loaded before genesis is sealed over it, and never changed.
CREATE FUNCTION positions.guard_opening() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE zero date := (SELECT b.first_day - 1 FROM close.book b);
BEGIN
    -- The seal takes the same lock: it has seen these rows, or they come too late.
    PERFORM pg_advisory_xact_lock(hashtext('close.day ' || zero));
    IF EXISTS (SELECT FROM close.days y WHERE y.close_date = zero AND y.state = 'sealed')
        OR EXISTS (SELECT FROM close.days y WHERE y.close_date = zero + 1 AND y.state <> 'open') THEN
        PERFORM close.refuse('CL030', 'lots and volumes of opening balances come before genesis is sealed', 'later ones come of events');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON positions.opening_lots
    FOR EACH STATEMENT EXECUTE FUNCTION positions.guard_opening();

-- Who holds accounts, in which state, under which holds. The lifecycle's own rules join later.

CREATE TABLE accounts.users (
    user_id    bigint PRIMARY KEY CHECK (user_id > 0),
    account    text NOT NULL UNIQUE CHECK (account ~ '^[a-z0-9-]{1,64}$'),
    state      text NOT NULL DEFAULT 'active' CHECK (state IN (
        'pending_kyc', 'kyc_rejected', 'kyc_approved', 'active', 'suspended', 'restricted', 'banned', 'closed')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- 'custody' would own custody:<wallet>, and 'house' would be frozen for the row house:fees.
    CONSTRAINT users_name_is_not_a_house_account CHECK (account NOT IN ('rounding', 'suspense', 'custody', 'house'))
);
COMMENT ON TABLE accounts.users IS 'One row per user. user_id is the engine''s account id; account is printed on the statement page.';

CREATE TABLE accounts.account_state_transitions (
    transition_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id       bigint NOT NULL REFERENCES accounts.users,
    from_state    text NOT NULL,
    to_state      text NOT NULL,
    actor         text NOT NULL,
    authority     text NOT NULL,
    reason        text NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    prev_hash     bytea,
    row_hash      bytea NOT NULL
);
COMMENT ON TABLE accounts.account_state_transitions IS 'One row per change of a user''s state; append-only.';

CREATE TABLE accounts.holds (
    hold_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     bigint NOT NULL REFERENCES accounts.users,
    kind        text NOT NULL CHECK (kind IN ('break', 'sanctions', 'dispute', 'legal', 'closure')),
    reference   text NOT NULL,
    reason      text NOT NULL,
    opened_by   text NOT NULL,
    opened_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    released_by text,
    released_at timestamptz,
    CONSTRAINT holds_one_effect UNIQUE (user_id, kind, reference),
    CONSTRAINT holds_release_is_whole CHECK ((released_by IS NULL) = (released_at IS NULL))
);
COMMENT ON TABLE accounts.holds IS 'One row per hold on a user''s withdrawals; open while released_at is null.';

CREATE TABLE accounts.obligations (
    obligation_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         bigint NOT NULL REFERENCES accounts.users,
    kind            text NOT NULL,
    cause           text NOT NULL,
    due_at          timestamptz NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by text,
    CONSTRAINT obligations_one_effect UNIQUE (user_id, kind, cause)
);
COMMENT ON TABLE accounts.obligations IS 'One row per side effect owed by a change of state, with its deadline.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.account_state_transitions
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON accounts.users
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON accounts.holds
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

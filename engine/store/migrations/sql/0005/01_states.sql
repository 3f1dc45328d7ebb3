-- The eight states and every transition between two of them, as rows. What is not a row here is refused.
--   CL019 no such transition    CL020 another version is in force    CL021 the transition is not well written
--   CL022 it may not happen yet CL023 a KYC event is refused         CL024 a hold or closure is not in that state

CREATE TABLE accounts.states (
    state        text PRIMARY KEY,
    may_trade    boolean NOT NULL,
    may_withdraw boolean NOT NULL,
    may_receive  boolean NOT NULL,
    meaning      text NOT NULL
);
COMMENT ON TABLE accounts.states IS 'One row per state of an account: what it may do in it; withdrawals also need that no hold is open.';
INSERT INTO accounts.states VALUES
    ('pending_kyc', false, false, false, 'opened, identity not reviewed yet'),
    ('kyc_rejected', false, false, false, 'identity refused; may be submitted again'),
    ('kyc_approved', false, false, true, 'identity reviewed, first deposit awaited'),
    ('active', true, true, true, 'normal operation'),
    ('suspended', false, false, true, 'held by compliance: new review, sanctions match, dispute'),
    ('restricted', false, true, true, 'may only withdraw: leaving, or abandoned'),
    ('banned', false, false, false, 'fraud, sanctions, court order'),
    ('closed', false, false, false, 'ended, balances zero');

CREATE TABLE accounts.authorities (
    authority text PRIMARY KEY,
    meaning   text NOT NULL
);
COMMENT ON TABLE accounts.authorities IS 'One row per authority by which a state changes.';
INSERT INTO accounts.authorities VALUES
    ('kyc_provider', 'an event of the identity provider'),
    ('compliance', 'a compliance officer'),
    ('operator', 'a person who runs the exchange'),
    ('admin_override', 'an administrator against the rule, with a second person'),
    ('legal', 'a court or authority, through the legal team'),
    ('screening', 'a hit on a list, of a version that the reason names'),
    ('user_request', 'the user'),
    ('first_deposit', 'the first deposit that settled'),
    ('opening', 'the account is new: no state before it'),
    ('migration', 'brought over from a table of the old three values');

CREATE TABLE accounts.allowed_transitions (
    from_state            text NOT NULL REFERENCES accounts.states,
    to_state              text NOT NULL REFERENCES accounts.states,
    authority             text NOT NULL REFERENCES accounts.authorities,
    needs_reason          boolean NOT NULL,
    needs_second_approver boolean NOT NULL,
    PRIMARY KEY (from_state, to_state, authority),
    CONSTRAINT allowed_transitions_change_something CHECK (from_state <> to_state),
    CONSTRAINT allowed_transitions_closed_is_the_end CHECK (from_state <> 'closed')
);
COMMENT ON TABLE accounts.allowed_transitions IS 'One row per allowed transition and authority; every other ordered pair of states, and the diagonal, is refused.';
INSERT INTO accounts.allowed_transitions VALUES
    ('pending_kyc', 'kyc_approved', 'kyc_provider', false, false),
    ('pending_kyc', 'kyc_approved', 'compliance', true, true),
    ('pending_kyc', 'kyc_rejected', 'kyc_provider', false, false),
    ('pending_kyc', 'kyc_rejected', 'compliance', true, false),
    ('pending_kyc', 'banned', 'compliance', true, true),
    ('pending_kyc', 'banned', 'legal', true, true),
    ('pending_kyc', 'closed', 'user_request', false, false),
    ('pending_kyc', 'closed', 'operator', true, false),
    ('kyc_rejected', 'pending_kyc', 'user_request', false, false),
    ('kyc_rejected', 'pending_kyc', 'kyc_provider', false, false),
    ('kyc_rejected', 'banned', 'compliance', true, true),
    ('kyc_rejected', 'banned', 'legal', true, true),
    ('kyc_rejected', 'closed', 'user_request', false, false),
    ('kyc_rejected', 'closed', 'operator', true, false),
    ('kyc_approved', 'active', 'first_deposit', false, false),
    ('kyc_approved', 'suspended', 'compliance', true, false),
    ('kyc_approved', 'suspended', 'operator', true, false),
    ('kyc_approved', 'suspended', 'legal', true, false),
    ('kyc_approved', 'suspended', 'screening', true, false),
    ('kyc_approved', 'banned', 'compliance', true, true),
    ('kyc_approved', 'banned', 'legal', true, true),
    ('kyc_approved', 'closed', 'user_request', false, false),
    ('kyc_approved', 'closed', 'operator', true, false),
    ('active', 'suspended', 'compliance', true, false),
    ('active', 'suspended', 'operator', true, false),
    ('active', 'suspended', 'legal', true, false),
    ('active', 'suspended', 'screening', true, false),
    ('active', 'restricted', 'compliance', true, false),
    ('active', 'restricted', 'operator', true, false),
    ('active', 'restricted', 'legal', true, false),
    ('active', 'restricted', 'screening', true, false),
    ('active', 'banned', 'compliance', true, true),
    ('active', 'banned', 'legal', true, true),
    ('active', 'closed', 'user_request', false, false),
    ('suspended', 'active', 'kyc_provider', false, false),
    ('suspended', 'active', 'compliance', true, true),
    ('suspended', 'active', 'operator', true, true),
    ('suspended', 'restricted', 'compliance', true, true),
    ('suspended', 'banned', 'compliance', true, true),
    ('suspended', 'banned', 'legal', true, true),
    ('suspended', 'closed', 'user_request', false, false),
    ('suspended', 'closed', 'legal', true, true),
    ('restricted', 'active', 'compliance', true, true),
    ('restricted', 'suspended', 'compliance', true, false),
    ('restricted', 'suspended', 'operator', true, false),
    ('restricted', 'suspended', 'legal', true, false),
    ('restricted', 'suspended', 'screening', true, false),
    ('restricted', 'banned', 'compliance', true, true),
    ('restricted', 'banned', 'legal', true, true),
    ('restricted', 'closed', 'user_request', false, false),
    ('restricted', 'closed', 'operator', true, false),
    ('banned', 'active', 'admin_override', true, true),
    ('banned', 'closed', 'legal', true, true);

-- What is owed when a state is entered, and within how many seconds where the policy does not say.
CREATE TABLE accounts.duties (
    state text NOT NULL REFERENCES accounts.states,
    kind  text NOT NULL CHECK (kind IN ('freeze_withdrawals', 'cancel_open_orders', 'notify')),
    PRIMARY KEY (state, kind)
);
COMMENT ON TABLE accounts.duties IS 'One row per state and side effect that entering it owes.';
INSERT INTO accounts.duties VALUES
    ('suspended', 'freeze_withdrawals'), ('suspended', 'cancel_open_orders'), ('suspended', 'notify'),
    ('banned', 'freeze_withdrawals'), ('banned', 'cancel_open_orders'), ('banned', 'notify'),
    ('closed', 'freeze_withdrawals'), ('closed', 'cancel_open_orders'), ('closed', 'notify'),
    ('restricted', 'cancel_open_orders'), ('restricted', 'notify');

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.states
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.authorities
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.allowed_transitions
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts.duties
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

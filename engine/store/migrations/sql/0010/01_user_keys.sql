-- Users' own keys: who was given one when; the key itself is derived, and never in the database.

CREATE TABLE reserves.user_keys_given (
    account   text NOT NULL,
    key_epoch bigint NOT NULL CHECK (key_epoch >= 0),
    nth       integer NOT NULL CHECK (nth > 0),
    given_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    login     text NOT NULL DEFAULT session_user,
    reason    text,
    PRIMARY KEY (account, key_epoch, nth),
    CHECK (nth = 1 OR reason ~ '[^[:space:]]')
);
COMMENT ON TABLE reserves.user_keys_given IS 'One row per time that an account''s own key was printed: once, and again only for a reason.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reserves.user_keys_given
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE FUNCTION reserves.give_user_key(p_account text, p_epoch bigint, p_reason text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before reserves.user_keys_given;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('reserves.user_keys'), hashtext(p_account));
    IF NOT EXISTS (SELECT FROM ledger.accounts WHERE account = p_account AND liability_class = 'customer') THEN
        PERFORM close.refuse('CL046', format('there is no customer account %s', p_account), 'compline ledger balance ACCOUNT');
    END IF;
    SELECT * INTO before FROM reserves.user_keys_given
        WHERE account = p_account AND key_epoch = p_epoch ORDER BY nth DESC LIMIT 1;
    IF before.nth IS NOT NULL AND coalesce(p_reason, '') !~ '[^[:space:]]' THEN
        PERFORM close.refuse('CL045', format('the key of %s, epoch %s, was given at %s by %s',
            p_account, p_epoch, date_trunc('second', before.given_at), before.login),
            'a key is given once; to give it again, say why: --again "REASON"');
    END IF;
    INSERT INTO reserves.user_keys_given (account, key_epoch, nth, reason)
        VALUES (p_account, p_epoch, coalesce(before.nth, 0) + 1, p_reason);
    RETURN coalesce(before.nth, 0) + 1;
END $$;
REVOKE EXECUTE ON FUNCTION reserves.give_user_key(text, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reserves.give_user_key(text, bigint, text) TO compline_app;
GRANT SELECT ON reserves.user_keys_given TO compline_app;

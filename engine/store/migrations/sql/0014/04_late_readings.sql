-- A reading of a sealed date that says something else than the one it was sealed on: told once, with the date. Nothing is changed by it.

-- The reading that the sealed version of a date was closed on; nothing where the date is not sealed or the subject was not read.
CREATE FUNCTION capture.sealed_reading(d date, from_source text, of_subject text)
RETURNS TABLE (version integer, opening timestamptz, cutoff_at timestamptz, raw bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT y.version, b.cutoff_at, y.cutoff_at, r.raw FROM close.days y
    LEFT JOIN close.days b ON b.close_date = y.close_date - 1
    JOIN capture.readings r ON r.source = from_source AND r.subject = of_subject
    WHERE y.close_date = d AND y.state = 'sealed' AND r.reading_id IN (
        SELECT w.reading_id FROM custody.wallet_balances w WHERE w.close_date = d AND w.version = y.version
        UNION ALL SELECT t.reading_id FROM chain.staking_totals t WHERE t.close_date = d AND t.version = y.version)
$$;

CREATE FUNCTION capture.tell_changed(d date, from_source text, of_subject text, digest text, what text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO events.outbox (event_key, subject, payload)
    SELECT format('eod.reading.changed:%s:v%s:%s:%s', d, y.version, left(of_subject, 128), left(digest, 16)), 'eod.reading.changed',
        jsonb_build_object('book', b.book, 'close_date', d, 'version', y.version, 'source', from_source, 'subject', of_subject,
            'what', left(what, 500))
    FROM close.days y, close.book b WHERE y.close_date = d AND y.state = 'sealed'
    ON CONFLICT (event_key) DO NOTHING
$$;

REVOKE EXECUTE ON FUNCTION capture.sealed_reading(date, text, text), capture.tell_changed(date, text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION capture.sealed_reading(date, text, text), capture.tell_changed(date, text, text, text, text)
    TO compline_app;

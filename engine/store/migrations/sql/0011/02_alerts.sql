-- Alerts: what somebody must be woken for, once an episode, and how far each channel has it.

CREATE TABLE events.alerts (
    alert_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_key  text NOT NULL CHECK (alert_key <> ''),
    episode    integer NOT NULL DEFAULT 1 CHECK (episode > 0),
    severity   text NOT NULL CHECK (severity IN ('critical', 'error', 'warning')),
    title      text NOT NULL CHECK (title <> ''),
    facts      jsonb NOT NULL,
    runbook    text NOT NULL,
    command    text NOT NULL,
    raised_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT alerts_once_an_episode UNIQUE (alert_key, episode)
);
COMMENT ON TABLE events.alerts IS 'One row per thing that somebody must look at; the same thing again is a new episode only after the policy''s pause.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events.alerts
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

CREATE TABLE events.alert_deliveries (
    alert_id     bigint NOT NULL REFERENCES events.alerts,
    channel      text NOT NULL,
    attempts     integer NOT NULL DEFAULT 0,
    last_error   text,
    next_try_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    PRIMARY KEY (alert_id, channel)
);
COMMENT ON TABLE events.alert_deliveries IS 'One row per alert and channel: attempts, the last error, when it arrived. The channel is a name, never its address.';
CREATE INDEX alert_deliveries_waiting ON events.alert_deliveries (next_try_at) WHERE delivered_at IS NULL;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON events.alert_deliveries
    FOR EACH STATEMENT EXECUTE FUNCTION close.append_only();

-- Events are looked at once, whatever order their transactions commit in. What was there before nobody is woken for.
ALTER TABLE events.outbox ADD COLUMN watched_at timestamptz;
UPDATE events.outbox SET watched_at = clock_timestamp();
CREATE INDEX outbox_unwatched ON events.outbox (event_id) WHERE watched_at IS NULL;

GRANT INSERT ON events.alerts, events.alert_deliveries TO compline_app;
GRANT UPDATE (attempts, last_error, next_try_at, delivered_at) ON events.alert_deliveries TO compline_app;
GRANT UPDATE (watched_at) ON events.outbox TO compline_app;
GRANT SELECT ON events.alerts, events.alert_deliveries TO compline_app;

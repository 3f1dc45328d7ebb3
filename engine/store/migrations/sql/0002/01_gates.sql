-- Gates as rows: a later revision adds a gate by adding its function and its row, and replaces nothing.

CREATE TABLE recon.known_gates (
    gate text PRIMARY KEY CHECK (gate ~ '^[a-z][a-z0-9_]{0,50}$'),
    late boolean NOT NULL
);
COMMENT ON TABLE recon.known_gates IS 'One row per gate; recon.gate_<gate>(date, version) judges it. Late ones are judged after the day is reconciled.';
INSERT INTO recon.known_gates (gate, late) VALUES
    ('debits_equal_credits', false), ('fee_clearing_swept', false), ('marks_fresh', false), ('engine_vs_ledger', false),
    ('trees_equal_control_totals', true);

CREATE OR REPLACE FUNCTION recon.is_late_gate(gate text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT k.late FROM recon.known_gates k WHERE k.gate = is_late_gate.gate), false)
$$;

-- One gate of a day as the tables stand now; null where there is no such gate.
CREATE OR REPLACE FUNCTION recon.gate(d date, v integer, g text) RETURNS recon.judgement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE j recon.judgement;
BEGIN
    IF NOT EXISTS (SELECT FROM recon.known_gates k WHERE k.gate = g) THEN RETURN NULL; END IF;
    EXECUTE format('SELECT x.verdict, x.detail FROM recon.%I($1, $2) x', 'gate_' || g) INTO j USING d, v;
    RETURN j;
END $$;

GRANT SELECT ON recon.known_gates TO compline_app, compline_dbt;

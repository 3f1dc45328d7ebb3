-- The manifest of a day, byte for byte, from the tables. A debit balance of a house account that is owed to others is no
-- debt and is not listed; what customers owe is listed gross, a credit of one never against a debt of another.
CREATE OR REPLACE FUNCTION close.expected_manifest(day close.days, idx bigint) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    assets text[];
    reserves text[];
    others text;
    owing text;
    verdicts text;
BEGIN
    SELECT array_agg(format('{"asset":%s,"decimals":%s,"height":%s,"root":"%s","total":"%s"}', to_json(t.asset), c.decimals,
        t.height, t.root, trunc(t.total * c.scale)) ORDER BY t.asset COLLATE "C") INTO assets
    FROM reserves.liability_trees t JOIN exchange.assets c USING (asset)
    WHERE t.close_date = day.close_date AND t.version = day.version AND t.books_sha256 = day.books_sha256 AND t.log_seq = idx;
    SELECT array_agg(format('{"address":%s,"amount":"%s","asset":%s,"block_hash":%s,"chain":%s,"height":%s,"ownership":%s}',
        to_json(a.address), trunc(a.amount * c.scale), to_json(a.asset), to_json(a.block_hash), to_json(a.chain), a.block_height,
        to_json(a.ownership)) ORDER BY a.asset COLLATE "C", a.chain COLLATE "C", a.address COLLATE "C") INTO reserves
    FROM reserves.attestations a JOIN exchange.assets c USING (asset)
    WHERE a.close_date = day.close_date AND a.version = day.version;
    SELECT string_agg(format('{"account":%s,"amount":"%s","asset":%s}', to_json(a.account), trunc(b.balance * c.scale),
        to_json(a.asset)), ',' ORDER BY a.asset COLLATE "C", a.account COLLATE "C") INTO others
    FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id) JOIN exchange.assets c ON c.asset = a.asset
    WHERE b.close_date = day.close_date AND b.version = day.version AND a.liability_class = 'other_liability' AND b.balance > 0;
    SELECT string_agg(format('{"amount":"%s","asset":%s}', x.amount, to_json(x.asset)), ',' ORDER BY x.asset COLLATE "C") INTO owing
    FROM (SELECT a.asset, trunc(-sum(b.balance) * max(c.scale)) AS amount
          FROM ledger.daily_balances b JOIN ledger.accounts a USING (account_id) JOIN exchange.assets c ON c.asset = a.asset
          WHERE b.close_date = day.close_date AND b.version = day.version AND a.liability_class = 'receivable' AND b.balance < 0
          GROUP BY a.asset) x;
    SELECT encode(sha256(convert_to('[' || coalesce(string_agg(format('{"gate":%s,"scope":%s,"verdict":"%s","waiver":%s}',
        to_json(g.gate), to_json(g.scope), g.verdict, coalesce(to_json(g.waiver)::text, 'null')), ','
        ORDER BY g.gate COLLATE "C", g.scope COLLATE "C"), '') || ']', 'UTF8')), 'hex') INTO verdicts
    FROM recon.gates(day.close_date) g;
    RETURN format('{"assets":[%s],"barrier_seq":%s,"books_sha256":"%s","close_date":"%s","exchange":%s,"other_liabilities":[%s],'
        || '"policy_sha256":"%s","prev_checkpoint":%s,"receivables":[%s],"reserves":[%s],"reserves_root":"%s","seq":%s,'
        || '"snapshot_at":"%s","snapshot_root":"%s","supersedes":%s,"v":"por/1","verdicts_sha256":"%s","version":%s}',
        array_to_string(assets, ','), day.barrier_seq, day.books_sha256, to_char(day.close_date, 'YYYY-MM-DD'),
        to_json((SELECT b.exchange FROM close.book b)), others, day.policy_sha256,
        coalesce(to_json((SELECT s.checkpoint FROM close.seals s WHERE s.log_index = idx - 1))::text, 'null'), owing,
        array_to_string(reserves, ','),
        close.merkle_root((SELECT array_agg(convert_to(x, 'UTF8') ORDER BY n) FROM unnest(reserves) WITH ORDINALITY u (x, n))),
        idx, to_char(day.cutoff_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        close.merkle_root((SELECT array_agg(convert_to(x, 'UTF8') ORDER BY n) FROM unnest(assets) WITH ORDINALITY u (x, n))),
        coalesce((SELECT max(s.log_index) FROM close.seals s WHERE s.close_date = day.close_date)::text, 'null'),
        verdicts, day.version);
END $$;

"""The report of a sealed day: one HTML file that needs nothing else, for people who read no JSON.

What belongs here: turning a pack's own content into a page.
What does not: the content (see `engine.steps.evidence_packs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from engine.money import from_units, text_of
from engine.reserves.manifest import Manifest

_STYLE = """
:root{color-scheme:light dark;--line:#c9ced6;--soft:#667;--good:#176b3a;--bad:#b3261e;--mild:#8a5a00}
@media (prefers-color-scheme:dark){:root{--line:#3a404a;--soft:#9aa3b2;--good:#5fd394;--bad:#ff8a80;--mild:#e8b04b}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2rem 0 .4rem}
p.sub{color:var(--soft);margin-top:0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}td{vertical-align:top}
th{font-weight:600}td.n,th.n{text-align:right;padding-left:.8rem}td.n{white-space:nowrap}
td.n:last-child,th.n:last-child{padding-right:0}
.pass{color:var(--good)}.fail{color:var(--bad)}.unknown{color:var(--mild)}.pass,.fail,.unknown{font-weight:600}
code,pre{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
pre{border:1px solid var(--line);padding:.7rem;overflow-x:auto;white-space:pre-wrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
"""


_BREAK = ("break", "gate", "subject", "asset", "expected", "actual", "difference", "first_date", "state", "reason")
_OUTSIDE = ("ledger_vs_custody", "custody_covers_liabilities", "staking_vs_chain")


def report_html(
    manifest: Manifest,
    *,
    gates: Sequence[Mapping[str, Any]],
    breaks: Sequence[Mapping[str, Any]],
    waivers: Sequence[Mapping[str, Any]],
    marks: Sequence[Mapping[str, Any]],
    totals: Sequence[Mapping[str, Any]],
    attested: Sequence[Mapping[str, Any]],
    decimals: Mapping[str, int],
    pack: str,
    key_id: str,
) -> bytes:
    """The report's bytes.

    Args:
        manifest: of the day.
        gates: as the seal saw them.
        breaks: open at the seal, or what its verdicts are about.
        waivers: of the date.
        marks: closing marks with sources.
        totals: the trial balance by class, smallest units.
        attested: addresses and why they may not count.
        decimals: of every asset that occurs.
        pack: the pack's file name.
        key_id: of the manifest key.
    """
    header = manifest.header
    title = f"{header.exchange}: {header.close_date}, version {header.version}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">The close of one day, sealed as entry {header.seq} of the log of manifests.'
        + (f" It corrects entry {manifest.supersedes}." if manifest.supersedes is not None else "")
        + "</p>",
        _summary(gates, breaks),
        "<h2>Owed and held</h2>",
        _coverage(manifest, attested, decimals),
        "<h2>Gates</h2>",
        _table(
            ["gate", "scope", "verdict", "waiver"],
            [[one["gate"], one["scope"], one["verdict"], one["waiver"] or ""] for one in gates],
            verdicts=2,
        ),
        "<h2>Breaks</h2>",
        _table(
            ["break", "gate", "account", "asset", "expected", "actual", "difference", "since", "state", "reason"],
            [[one["reason"] or "" if k == "reason" else one[k] for k in _BREAK] for one in breaks],
            none="No difference between two sources was open.",
        ),
        "<h2>Waivers</h2>",
        _table(
            ["waiver", "gate", "scope", "asset", "up to", "reason", "given by"],
            [
                [
                    w["waiver"],
                    w["gate"],
                    w["scope"],
                    w["asset"],
                    w["amount_cap"],
                    w["reason"],
                    f"{w['maker']}, {w['checker']}",
                ]
                for w in waivers
            ],
            none="None.",
        ),
        *_outside(gates),
        "<h2>Reserve addresses</h2>",
        _table(
            ["asset", "chain", "address", "amount", "block", "ownership"],
            [
                [
                    a["asset"],
                    a["chain"],
                    a["address"],
                    _money(a["amount"], a["asset"], decimals),
                    a["height"],
                    a["ownership"],
                ]
                for a in attested
            ],
            numbers={3},
            none="No address is attested: this day states what is owed, not what is held.",
        ),
        "<h2>Trial balance</h2>",
        "<p>By asset and class. What the house owes is positive; each asset adds up to zero.</p>",
        _table(
            ["asset", "class", "balance"],
            [[t["asset"], t["liability_class"], _money(t["amount"], t["asset"], decimals)] for t in totals],
            numbers={2},
        ),
        "<h2>Closing marks</h2>",
        _table(
            ["asset", "price", "source", "at"],
            [[m["asset"], m["price"], m["source"], m["at"]] for m in marks],
            numbers={1},
        ),
        "<h2>Digests</h2>",
        _digests(manifest, key_id),
        "<h2>How to check this yourself</h2>",
        _how(header.close_date, pack),
        "<h2>What none of this shows</h2>",
        "<ul><li>Coins that were borrowed for the moment of the reading.</li>"
        "<li>Debts that were kept off these books.</li>"
        "<li>Whether customers check: a total is only as good as the people who compare"
        " their own balance with it.</li></ul>",
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    return page.encode("utf-8")


def _summary(gates: Sequence[Mapping[str, Any]], breaks: Sequence[Mapping[str, Any]]) -> str:
    not_passed = [one for one in gates if one["verdict"] != "pass"]
    if not not_passed:
        text = f"All {len(gates)} gates passed" + (f"; {len(breaks)} breaks are listed." if breaks else ".")
        return f'<p class="pass">{text}</p>'
    names = ", ".join(f"{one['gate']} ({one['verdict']}, waiver {one['waiver']})" for one in not_passed)
    return f'<p class="fail">{escape(f"{len(not_passed)} of {len(gates)} gates did not pass: {names}.")}</p>'


def _outside(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """What custody's and the chain's gates let be: transit, and differences within a tolerance."""
    details = {one["gate"]: one["detail"] for one in gates if one["gate"] in _OUTSIDE}
    if not details:
        return []
    listed = [item for one in details.values() for item in one.get("in_transit", [])]
    count = sum(int(one.get("in_transit_count", 0)) for one in details.values())
    let_be = [(gate, item) for gate, one in details.items() for item in one.get("tolerated", [])]
    return [
        "<h2>In transit between custody and the ledger</h2>",
        "<p>Deposits and withdrawals that one side had at the cut-off and the other had not; none is netted.</p>",
        _table(
            ["asset", "reference", "custody", "ledger", "since"],
            [[item[k] for k in ("asset", "reference", "custody", "ledger", "since")] for item in listed],
            numbers={2, 3},
            none="Nothing.",
        ),
        f"<p>And {count - len(listed)} more.</p>" if count > len(listed) else "",
        "<h2>Tolerances used</h2>",
        _table(
            ["gate", "what", "asset", "difference", "tolerated", "given by", "until"],
            [
                [
                    gate,
                    *(item[k] for k in ("subject", "asset", "difference", "tolerance")),
                    ", ".join(name for name in (item["maker"], item["approver"]) if name),
                    item["until"],
                ]
                for gate, item in let_be
            ],
            none="None: every difference was a break.",
        ),
    ]


def _coverage(manifest: Manifest, attested: Sequence[Mapping[str, Any]], decimals: Mapping[str, int]) -> str:
    customers = {entry.asset: entry.total for entry in manifest.assets}
    others: dict[str, int] = {}
    for one in manifest.other_liabilities:
        others[one.asset] = others.get(one.asset, 0) + one.amount
    held: dict[str, int] = {}
    for entry in manifest.reserves:
        held[entry.asset] = held.get(entry.asset, 0) + entry.amount
    lent = {one.asset: one.amount for one in manifest.receivables}
    rows = []
    for asset in sorted(customers.keys() | others.keys() | held.keys() | lent.keys()):
        owed = customers.get(asset, 0) + others.get(asset, 0)
        money = [_money(part.get(asset, 0), asset, decimals) for part in (customers, others)]
        shown = (
            [_money(held.get(asset, 0), asset, decimals), _ratio(held.get(asset, 0), owed)] if attested else ["-", "-"]
        )
        rows.append([asset, *money, *shown, _money(lent.get(asset, 0), asset, decimals)])
    heads = ["asset", "owed to customers", "owed to others", "attested reserves", "ratio", "customers owe (not netted)"]
    return _table(heads, rows, numbers={1, 2, 3, 4, 5})


def _ratio(held: int, owed: int) -> str:
    if not owed:
        return "nothing owed"
    hundredths = held * 10_000 // owed
    return f"{hundredths // 100}.{hundredths % 100:02d} %"


def _digests(manifest: Manifest, key_id: str) -> str:
    header = manifest.header
    rows = [
        ("books hash", header.books_sha256),
        ("policy", header.policy_sha256),
        ("root of all trees", manifest.snapshot_root),
        ("verdicts", manifest.verdicts_sha256),
        ("cut-off", f"{header.snapshot_at}, engine sequence {header.barrier_seq}"),
        ("signed by", f"key {key_id}"),
        *((f"tree of {one.asset}", f"{one.root} (height {one.height})") for one in manifest.assets),
    ]
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd><code>{escape(v)}</code></dd>" for k, v in rows) + "</dl>"


def _how(day: str, pack: str) -> str:
    return (
        "<p>Take the key file and a checkpoint from the exchange's site, or better, ones that you kept. The verifier"
        " is one Python file without dependencies; take it from the project rather than from this pack.</p>"
        f"<pre>python3 compline_verify.py evidence {escape(pack)} --key keys.txt --checkpoint checkpoint.txt\n"
        "python3 compline_verify.py proof proof-ACCOUNT.json --key keys.txt --checkpoint checkpoint.txt</pre>"
        "<p>The first checks this pack, the second one account's balance in the totals above. With the order"
        " journal, the whole day is computed again, without a database:</p>"
        f"<pre>compline evidence replay {day} JOURNAL --evidence {escape(pack)}</pre>"
    )


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numbers: set[int] | None = None,
    verdicts: int | None = None,
    none: str = "Nothing.",
) -> str:
    if not rows:
        return f"<p>{escape(none)}</p>"
    right = numbers or set()

    def cell(column: int, value: Any) -> str:
        text = escape(str(value))
        kind = ' class="n"' if column in right else f' class="{text}"' if column == verdicts else ""
        return f"<td{kind}>{text}</td>"

    head = "".join(
        f'<th class="n">{escape(h)}</th>' if n in right else f"<th>{escape(h)}</th>" for n, h in enumerate(heads)
    )
    lines = "".join("<tr>" + "".join(cell(n, v) for n, v in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _money(units: Any, asset: str, decimals: Mapping[str, int]) -> str:
    return text_of(from_units(int(units), decimals[asset]))

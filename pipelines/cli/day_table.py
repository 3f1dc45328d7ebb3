"""The table of days: how a person and a program see what a close did.

What belongs here: rows and JSON of day reports. What does not: reading them (see `pipelines.closing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.money import text_of
from pipelines.cli.output import put_table
from pipelines.closing import DayReport

_SHORT = {
    "debits_equal_credits": "debits=credits",
    "fee_clearing_swept": "fees swept",
    "marks_fresh": "marks",
    "engine_vs_ledger": "engine=ledger",
    "ledger_vs_custody": "ledger=custody",
    "custody_covers_liabilities": "custody≥owed",
    "staking_vs_chain": "staked=chain",
    "rewards_as_accrued": "rewards=accrued",
    "quantity_identity": "lots=ledger",
    "value_identity": "value explained",
    "trees_equal_control_totals": "trees=totals",
    "reserves_cover_liabilities": "reserves≥owed",
}

FEW_DAYS = 5
"""Up to so many, days are columns: that fits a terminal of 80."""


def put_days(reports: Sequence[DayReport], *, currency: str) -> None:
    """What each day came to: days as columns where they are few, as rows where they are many."""
    gates = sorted({g.gate for r in reports for g in r.gates}, key=_gate_order)
    names = ["state", "trades", f"volume {currency}", "journals", "fees"]
    names += [_SHORT.get(gate, gate) for gate in gates] + ["books hash", "snapshot root", "seal", "seconds"]
    heads = [f"{report.close_date} v{report.version}" for report in reports]
    columns = [_cells(report, gates) for report in reports]
    if len(reports) <= FEW_DAYS:
        rows = [[name, *(column[n] for column in columns)] for n, name in enumerate(names)]
        put_table(["", *heads], rows)
    else:
        put_table(["date", *names], [[head, *column] for head, column in zip(heads, columns, strict=True)])


def _gate_order(gate: str) -> tuple[int, str]:
    return (list(_SHORT).index(gate) if gate in _SHORT else len(_SHORT), gate)


def _cells(report: DayReport, gates: Sequence[str]) -> list[str]:
    verdicts = {g.gate: g.verdict + (" (waived)" if g.waiver else "") for g in report.gates}
    return [
        report.state,
        f"{report.trades:,}",
        f"{report.volume:,.2f}" if report.volume is not None else "",
        f"{report.journals:,}",
        "\n".join(f"{amount} {asset}" for asset, amount in report.fees.items()),
        *(verdicts.get(gate, "") for gate in gates),
        (report.books_sha256 or "")[:16],
        (report.snapshot_root or "")[:16],
        f"log {report.log_index}" if report.log_index is not None else "",
        f"{report.seconds:.2f}",
    ]


def day_json(report: DayReport) -> dict[str, Any]:
    """A day for a program; amounts are strings."""
    return {
        "close_date": str(report.close_date),
        "version": report.version,
        "state": report.state,
        "trades": report.trades,
        "volume": text_of(report.volume) if report.volume is not None else None,
        "journals": report.journals,
        "fees": report.fees,
        "gates": [
            {"gate": g.gate, "verdict": g.verdict, "waiver": g.waiver, "stands": g.stands, "detail": g.detail}
            for g in report.gates
        ],
        "books_sha256": report.books_sha256,
        "snapshot_root": report.snapshot_root,
        "log_index": report.log_index,
        "steps": {
            name: {
                "status": run.status,
                "attempt": run.attempt,
                "rows": run.row_count,
                "seconds": round((run.finished_at - run.started_at).total_seconds(), 3),
                "error": run.error,
            }
            for name, run in sorted(report.steps.items(), key=lambda item: item[1].started_at)
        },
        "seconds": round(report.seconds, 3),
    }

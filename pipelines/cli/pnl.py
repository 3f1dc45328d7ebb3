"""`compline pnl`: the realised gain of a file of fills, with no database.

What belongs here: the command. What does not: lots (see `engine.valuation`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.valuation.fills import read_fills
from engine.valuation.method import Method
from engine.valuation.report import FeeTreatment, report
from pipelines.cli.options import Json
from pipelines.cli.output import errors, put_json, put_table


def pnl(
    fills: Annotated[
        Path,
        typer.Option(
            help="CSV with executed_at, side, quantity, price; optional user, asset, fee, fee_asset, sequence.",
            metavar="FILE",
        ),
    ],
    method: Annotated[Method, typer.Option(help="Which lot a sale uses up first.", case_sensitive=False)] = Method.FIFO,
    fees: Annotated[
        FeeTreatment | None,
        typer.Option(
            help="Fees beside the gain, as disposals at mark, or as part of the price."
            " Default: part of the price for lots, beside the gain for average cost.",
            show_default=False,
        ),
    ] = None,
    fragments: Annotated[
        bool, typer.Option("--fragments", help="Show each part of each disposal with its lot.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Book a file of fills into lots: proceeds, cost, realised gain, and the lots that are left."""
    with errors(as_json=as_json):
        result = {"file": str(fills), **report(read_fills(fills), method, fees, fragments=fragments)}
    if as_json:
        put_json(result)
        return
    put_table(["", ""], [(name, value) for name, value in result.items() if not isinstance(value, list)])
    for name in ("positions", "remaining_lots", "fragments"):
        rows = result.get(name)
        if rows:
            put_table(list(rows[0]), [list(row.values()) for row in rows], title=name.replace("_", " "))

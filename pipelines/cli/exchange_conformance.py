"""`compline exchange conformance` and `replay`: what outsiders run to check the engines, file in, figures out.

What belongs here: the two commands. What does not: matching and replaying (see `engine.exchange`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.clock import parse_close_date
from engine.exchange import conformance as streams
from engine.exchange.conformance import EngineName
from engine.exchange.replay import replay as replay_journal
from pipelines.cli.options import Json
from pipelines.cli.output import errors, put_json, put_table

Engine = Annotated[EngineName, typer.Option(help="Which of the two engines runs it.")]


def conformance(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet file: a stream of plain messages.")],
    engine: Engine = EngineName.NUMBA,
    as_json: Json = False,
) -> None:
    """Match a stream into an empty book and print the SHA-256 of everything that it reports."""
    with errors(as_json=as_json):
        done, _ = streams.run(streams.read_stream(file), engine)
    result = {
        "file": str(file),
        "engine": done.engine.value,
        "messages": done.messages,
        "reports": done.reports,
        "sha256": done.sha256,
        "seconds": f"{done.seconds:.6f}",
        "messages_per_second": done.messages_per_second,
    }
    if as_json:
        put_json(result)
    else:
        put_table(
            ["", ""], [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in result.items()]
        )


def replay(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="A journal, or the directory that it lies in.")],
    engine: Engine = EngineName.PYTHON,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Stop after this date's cut-off.")] = None,
    as_json: Json = False,
) -> None:
    """Replay a journal with no database: trades, balances, locks and hashes as the live run had them."""
    with errors(as_json=as_json):
        last = None if until is None else parse_close_date(until)
        result = replay_journal(journal, engine, until=last).as_dict()
    if as_json:
        put_json(result)
        return
    balances = result.pop("balances")
    assert isinstance(balances, list)
    put_table(["", ""], [(name, str(value)) for name, value in result.items()])
    put_table(list(balances[0]) if balances else ["account"], [tuple(row.values()) for row in balances])

"""How commands speak: data to stdout (table or JSON), talk and progress to stderr, errors with an exit code.

What belongs here: the console, tables, progress, and turning errors into exit codes.
What does not: any command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.errors import ComplineError, UncheckedError

# `:ghost:` in a reference is no emoji.
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
out = Console(highlight=False, soft_wrap=True, emoji=False)

_STYLES = {"pass": "green", "sealed": "green", "ok": "green", "fail": "red", "unknown": "yellow", "failed": "red"}


def talk(line: str) -> None:
    """A line for a person."""
    err.print(line, style="dim", markup=False)


def put_json(value: Any) -> None:
    """Data for a program: one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=False, default=str) + "\n")


def put_dry_run(would: str, *, as_json: bool) -> None:
    """What a dry run found that would be done: a line for a person, and a document where one was asked for."""
    talk(would)
    if as_json:
        put_json({"dry_run": True, "would": would})


def put_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """Data for a person: a table that is never cut, also where stdout is a file."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    width = None if sys.stdout.isatty() else 400
    Console(highlight=False, width=width, emoji=False).print(table)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    style = _STYLES.get(text)
    escaped = text.replace("[", "\\[")
    return f"[{style}]{escaped}[/{style}]" if style else escaped


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; call with (done, total)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def fail(error: ComplineError, *, as_json: bool = False) -> typer.Exit:
    """Say an error and become its exit code."""
    if as_json:
        put_json(error.as_dict())
    err.print(f"error: {error.what}", style="bold red", markup=False)
    if error.rule:
        err.print(f"rule:  {error.rule}", markup=False)
    if error.next_step:
        err.print(f"next:  {error.next_step}", markup=False)
    return typer.Exit(error.exit_code)


@contextmanager
def errors(*, as_json: bool = False) -> Iterator[None]:
    """Typed errors inside become exit codes, the machine's refusals are UNKNOWN; the rest is a defect with a trace."""
    try:
        yield
    except ComplineError as error:
        raise fail(error, as_json=as_json) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        refused = UncheckedError(
            f"{where}{error.strerror or error}",
            rule="what the machine refused was not done",
            next_step="make room or rights there and run the command again",
        )
        raise fail(refused, as_json=as_json) from None

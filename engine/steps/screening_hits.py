"""Step `screening_hits`: users who stand on a sanctions list get a hold, with the list's version as authority.

What belongs here: reading the list and having its entries compared.
What does not: fuzzy names, addresses and changes of state (they join with the account lifecycle).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.canonical import sha256_jcs
from engine.errors import InputError, UncheckedError
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import screening
from engine.store.connect import Connection
from engine.store.days import Day

LIST_NAME = "sanctions.txt"
"""In the book's folder: one account a line; `#` begins a comment. Absent: nothing is screened, and the step says so."""


def read_list(path: Path) -> tuple[str, list[str]] | None:
    """A list's version (SHA-256 of its bytes, hex) and entries; None where there is no list.

    Raises:
        UncheckedError: the file is there and cannot be read.
        InputError: it is not ASCII text of one account a line.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UncheckedError(f"list {path} cannot be read: {error.strerror}", next_step="make it readable") from None
    try:
        lines = [line.split("#")[0].strip() for line in raw.decode("ascii").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"list {path}: byte {error.start} is not ASCII", rule="one account a line") from None
    return hashlib.sha256(raw).hexdigest(), sorted({line for line in lines if line})


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The list, and how many users there are to compare."""
    found = read_list(context.journal_dir.parent / LIST_NAME)
    return {"list": found[0] if found else None, "users": screening.users(connection), "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Compare every user with the list."""
    found = read_list(context.journal_dir.parent / LIST_NAME)
    if found is None:
        return StepOutput(0, sha256_jcs({"list": None}), {"list": "none configured: nobody was screened"})
    version, entries = found
    hits = screening.screen(connection, context.close_date, context.epoch, version, entries)
    facts = {"list": version, "entries": len(entries), "new_hits": hits}
    return StepOutput(hits, sha256_jcs({"list": version}), facts)


STEP = Step(name="screening_hits", event_stage="recon", inputs=inputs, write=write)

"""Step `screening_hits`: users who stand on a sanctions list are suspended, restricted or held, the list as authority.

What belongs here: which stored list a close screens against, and what the day says of it.
What does not: comparing and acting (see `screening`).

Without lists in the policy, a file `sanctions.txt` of account names in the book's folder is all that there is; without
that, nobody is screened, and the step says so.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.canonical import sha256_jcs
from engine.errors import InputError, UncheckedError
from engine.screening.matcher import VERSION
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.steps.screening import Screened, list_at, screen_all, specs
from engine.store import days, moves, screening
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


def prepare(connection: Connection, context: StepContext) -> None:
    """Screen against every list that can be read: a hit acts although another list may be missing."""
    day = days.read(connection, context.close_date)
    connection.rollback()
    if day is None or day.state not in ("cutoff", "reconciled") or day.cutoff_at is None:
        return
    for spec in specs(context.policy):
        with connection.transaction():
            try:
                reading, listed = list_at(connection, spec, day.cutoff_at, context.policy.screening_list_max_age_s)
            except UncheckedError:
                continue
            screen_all(connection, spec, reading, listed, context.policy.screening_threshold, context.close_date)
            moves.fence(connection, context.close_date, context.epoch)


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The lists, and what there is to compare with them."""
    if not context.policy.screening_lists:
        found = read_list(context.journal_dir.parent / LIST_NAME)
        return {"list": found[0] if found else None, "users": screening.users(connection), "version": day.version}
    assert day.cutoff_at is not None
    near = {
        spec.name: screening.reading_near(connection, spec.name, day.cutoff_at, context.policy.screening_list_max_age_s)
        for spec in specs(context.policy)
    }
    return {
        "action": context.policy.screening_action,
        "lists": {name: reading.sha256 if reading else None for name, reading in near.items()},
        "matcher": VERSION,
        "subjects": screening.subjects(connection),
        "threshold": context.policy.screening_threshold,
        "version": day.version,
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Say what everybody was compared with; stop where a list was not there to compare with."""
    if not context.policy.screening_lists:
        return _by_account(connection, context)
    assert day.cutoff_at is not None
    policy = context.policy
    done: list[Screened] = []
    for spec in specs(policy):
        reading, listed = list_at(connection, spec, day.cutoff_at, policy.screening_list_max_age_s)
        # Nothing to do but for who came since `prepare`.
        done.append(screen_all(connection, spec, reading, listed, policy.screening_threshold, context.close_date))
    hits = screening.hits_of(connection, context.close_date)
    facts = {
        "lists": [
            {"list": one.name, "version": one.version, "sha256": one.sha256, "entries": one.entries} for one in done
        ],
        "subjects": screening.subjects(connection),
        "without_name": screening.without_name(connection),
        "new_hits": len(hits),
        "hits": hits[:100],
    }
    digest = {"hits": hits, "lists": {one.name: one.sha256 for one in done}}
    return StepOutput(len(hits), sha256_jcs(digest), facts)


def _by_account(connection: Connection, context: StepContext) -> StepOutput:
    """Compare the names of accounts with the file in the book's folder."""
    found = read_list(context.journal_dir.parent / LIST_NAME)
    if found is None:
        return StepOutput(0, sha256_jcs({"list": None}), {"list": "none configured: nobody was screened"})
    version, entries = found
    hits = screening.screen(connection, context.close_date, context.epoch, version, entries)
    facts = {"list": version, "entries": len(entries), "new_hits": hits}
    return StepOutput(hits, sha256_jcs({"list": version}), facts)


STEP = Step(name="screening_hits", event_stage="recon", inputs=inputs, write=write, prepare=prepare)

"""What a step of the close is given, and what it gives back.

What belongs here: the records that every step and its caller share.
What does not: running a step (see `runner`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from engine.close.policy import Policy
from engine.reserves.keys import BookKeys
from engine.store.books import Book
from engine.store.connect import Connection
from engine.store.days import Day

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"


@dataclass(frozen=True)
class StepContext:
    """Everything a step may use besides its connection.

    Attributes:
        url: the book's database, as the application.
        close_date: the date being closed.
        run_id: who closes; the Dagster run's id.
        epoch: of the lease on the date, checked last in every transaction.
        book: exchange and first day.
        policy: in force on the date.
        journal_dir: the matching engine's journal and snapshots.
        evidence_dir: where evidence files go.
        load_keys: reads the keys of manifest, checkpoint and leaves; called by the steps that need them.
        now: the instant the run started, UTC.
        recapture: read captures again although their inputs look unchanged.
        tree_kernel: who builds liability trees (`auto`, `libcrypto`, `numba` or `hashlib`); all give the same bytes.
    """

    url: str
    close_date: date
    run_id: str
    epoch: int
    book: Book
    policy: Policy
    journal_dir: Path
    evidence_dir: Path
    load_keys: Callable[[], BookKeys]
    now: datetime
    recapture: bool = False
    tree_kernel: str = "auto"


@dataclass(frozen=True)
class StepOutput:
    """What a step wrote.

    Attributes:
        rows: how many rows.
        output_digest: hex digest of what it wrote.
        metadata: JSON-ready facts for people: amounts as text.
        verdict: of the gate that the step judged; None where it judges none.
    """

    rows: int
    output_digest: str
    metadata: dict[str, Any] = field(default_factory=dict)
    verdict: str | None = None


@dataclass(frozen=True)
class StepResult:
    """How a step of a day stands after `run_step`.

    Attributes:
        unchanged: it had run on the same inputs before; nothing was written.
        status: `succeeded`, `failed` or `unknown`.
    """

    step: str
    close_date: date
    version: int
    status: str
    unchanged: bool
    rows: int
    output_digest: str | None
    metadata: dict[str, Any]


Inputs = dict[str, Any]


def _always(connection: Connection, context: StepContext, day: Day, output_digest: str | None) -> bool:
    return True


@dataclass(frozen=True)
class Step:
    """One step of the close.

    Attributes:
        name: as `close.eod_runs` knows it: the table it writes.
        event_stage: stage in `eod.<stage>.completed|failed`.
        completes: whether its success completes that stage.
        inputs: what its result depends on; digested, so that equal inputs make a no-op.
        write: does the work inside the step's one transaction.
        prepare: work that commits on its own before the transaction, such as settling to the barrier.
        still_valid: whether what it wrote before still stands.
        captures: whether `recapture` makes it run again.
        after_seal: whether it may run on a sealed day.
        before_cutoff: whether it may run on a day that is not cut off.
        one_snapshot: whether its transaction is REPEATABLE READ: all that it reads is of one instant.
    """

    name: str
    event_stage: str
    inputs: Callable[[Connection, StepContext, Day], Inputs]
    write: Callable[[Connection, StepContext, Day], StepOutput]
    completes: bool = False
    prepare: Callable[[Connection, StepContext], None] | None = None
    still_valid: Callable[[Connection, StepContext, Day, str | None], bool] = _always
    captures: bool = False
    after_seal: bool = False
    before_cutoff: bool = False
    one_snapshot: bool = False

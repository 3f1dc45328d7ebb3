"""Step `evidence_packs`: the files of a sealed day, written from rows and written again equal.

What belongs here: which files there are and what is in them. The bytes depend on the rows alone.
What does not: proofs per account and the whole pack (they join with the proof of reserves).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from engine.canonical import sha256_jcs
from engine.errors import GateError, UncheckedError
from engine.reserves.key_file import published_keys_text
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, seals
from engine.store.connect import Connection
from engine.store.days import Day


def folder_of(context: StepContext, version: int) -> Path:
    """Where the evidence of a date and version lies."""
    return context.evidence_dir / context.book.name / f"{context.close_date}-v{version}"


def files_of(connection: Connection, context: StepContext, day: Day) -> dict[str, bytes]:
    """Name -> bytes of every file of a sealed day.

    Raises:
        GateError: the day is not sealed.
    """
    seal = seals.read(connection, context.close_date, day.version)
    if seal is None or seal.checkpoint is None:
        raise GateError(
            f"{context.close_date} is not sealed: there is no evidence to write",
            next_step=f"compline close run {context.close_date}",
        )
    gates = [
        {"gate": g.gate, "scope": g.scope, "verdict": g.verdict, "waiver": g.waiver, "detail": g.detail}
        for g in days.gates(connection, context.close_date)
    ]
    return {
        "manifest.json": seal.manifest.encode("utf-8"),
        "manifest.sig": (seal.signature + "\n").encode("ascii"),
        "checkpoint.txt": seal.checkpoint.encode("utf-8"),
        "keys.txt": published_keys_text(context.load_keys(), context.book.exchange).encode("utf-8"),
        "gates.json": (json.dumps(gates, indent=2, sort_keys=True) + "\n").encode("utf-8"),
        "gates.txt": _table(
            [(g.gate, g.scope, g.verdict, g.waiver or "-") for g in days.gates(connection, day.close_date)]
        ),
    }


def _table(rows: list[tuple[str, str, str, str]]) -> bytes:
    head = [("gate", "scope", "verdict", "waiver"), *rows]
    widths = [max(len(row[n]) for row in head) for n in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in head]
    return ("\n".join(lines) + "\n").encode("utf-8")


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The seal."""
    seal = seals.read(connection, context.close_date, day.version)
    return {"manifest": hashlib.sha256(seal.manifest.encode()).hexdigest() if seal else None}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write the files, each whole or not at all."""
    files = files_of(connection, context, day)
    folder = folder_of(context, day.version)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _write_whole(folder / name, data)
    except OSError as error:
        raise UncheckedError(
            f"the evidence of {context.close_date} cannot be written to {folder}: {error.strerror}",
            next_step="make room or rights there and run the close of the day again; the seal stands",
        ) from None
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    return StepOutput(len(files), sha256_jcs(digests), {"folder": str(folder), "files": digests})


def _write_whole(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """The files stand while each is there with the bytes that the rows give."""
    folder = folder_of(context, day.version)
    try:
        return all((folder / name).read_bytes() == data for name, data in files_of(connection, context, day).items())
    except OSError:
        return False


STEP = Step(
    name="evidence_packs",
    event_stage="seal",
    inputs=inputs,
    write=write,
    still_valid=still_valid,
    after_seal=True,
)

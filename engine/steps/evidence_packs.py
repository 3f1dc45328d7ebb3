"""Step `evidence_packs`: the files of a sealed day, written from rows and written again equal.

What belongs here: which files there are and what is in them. The bytes depend on the rows alone.
What does not: proofs per account (they have a step of their own), and the rows (see `engine.store.evidence`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from engine.canonical import jcs, sha256_jcs
from engine.close.books import books_sha256
from engine.errors import GateError, UncheckedError
from engine.reserves.key_file import published_keys_text
from engine.reserves.manifest import Manifest, parse_manifest
from engine.reserves.merkle import consistency_proof, inclusion_proof
from engine.reserves.pack import pack_name, write_pack
from engine.reserves.report import report_html
from engine.reserves.rotation import Rotation, in_force, walk
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import evidence, log, rotations, seals, trees
from engine.store.connect import Connection
from engine.store.days import Day

VERIFIERS = ("compline_verify.py", "verify.html")
"""The script and the page that come with every pack."""


def folder_of(context: StepContext, version: int) -> Path:
    """Where the evidence of a date and version lies."""
    return context.evidence_dir / context.book.name / f"{context.close_date}-v{version}"


def files_of(connection: Connection, context: StepContext, day: Day) -> dict[str, bytes]:
    """Name -> bytes of every file in the folder of a sealed day: the pack, and what people open without unzipping.

    Raises:
        GateError: the day is not sealed.
    """
    pack = pack_files(connection, context, day.version)
    loose = ("manifest.json", "manifest.sig", "checkpoint.txt", "keys.txt", "gates.json", "report.html")
    gates = json.loads(pack["gates.json"])
    return {
        pack_name(str(context.close_date), day.version): write_pack(pack),
        **{name: pack[name] for name in loose},
        "gates.txt": _table([(g["gate"], g["scope"], g["verdict"], g["waiver"] or "-") for g in gates]),
    }


def pack_files(connection: Connection, context: StepContext, version: int) -> dict[str, bytes]:
    """Name -> bytes of every file of a pack: what the seal saw, and nothing that changes after it.

    Raises:
        GateError: the version is not sealed, or its rows are not those of its books hash any more.
    """
    seal = seals.read(connection, context.close_date, version)
    if seal is None or seal.checkpoint is None:
        raise GateError(
            f"{context.close_date} is not sealed: there is no evidence to write",
            next_step=f"compline close run {context.close_date}",
        )
    manifest = parse_manifest(seal.manifest.encode("utf-8"))
    changes = rotations.read(connection)
    chain = walk(changes, context.book.exchange, _current_keys(context) if not changes else None)
    places = dict(trees.held_assets(connection).values())
    gates, breaks = evidence.gates(connection, seal), evidence.breaks(connection, seal)
    waivers, marks = evidence.waivers(connection, seal), evidence.marks(connection, seal)
    totals = evidence.control_totals(connection, seal)
    attested, documents = evidence.attestations(connection, seal)
    before = context.close_date - timedelta(days=1)
    opening = evidence.house_balances(connection, before, evidence.opening_version(connection, seal))
    name = pack_name(str(context.close_date), seal.version)
    return {
        "manifest.json": seal.manifest.encode("utf-8"),
        "manifest.sig": (seal.signature + "\n").encode("ascii"),
        "checkpoint.txt": seal.checkpoint.encode("utf-8"),
        "keys.txt": in_force(chain, manifest.header.seq).text.encode("utf-8"),
        "rotations.json": _json(
            [{"record": one.record, "signatures": one.signatures} for one in _in_time(changes, manifest.header.seq)]
        ),
        "log_proof.json": _json(_log_proof(connection, manifest)),
        "control_totals.json": _json(totals),
        "policy.json": jcs(evidence.policy(connection, manifest.header.policy_sha256)),
        "verdicts.json": jcs([{key: one[key] for key in ("gate", "scope", "verdict", "waiver")} for one in gates]),
        "gates.json": _json(gates),
        "breaks.json": _json(breaks),
        "waivers.json": _json(waivers),
        "marks.json": _json(marks),
        "readings.json": _json(evidence.readings(connection, seal)),
        "attestations.json": _json(attested),
        **{f"attestations/{digest}.json": raw for digest, raw in documents.items()},
        "books.json": _json(_books(connection, manifest, seal)),
        "close_journals.json": _json(evidence.close_journals(connection, seal)),
        "opening_house_balances.json": _json(opening),
        "report.html": report_html(
            manifest,
            gates=gates,
            breaks=breaks,
            waivers=waivers,
            marks=marks,
            totals=totals,
            attested=attested,
            decimals=places,
            pack=name,
            key_id=seal.key_id,
        ),
        **{name: files("engine.reserves.verifier").joinpath(name).read_bytes() for name in VERIFIERS},
    }


def _current_keys(context: StepContext) -> str:
    return published_keys_text(context.load_keys(), context.book.exchange)


def _in_time(changes: Sequence[Rotation], seq: int) -> list[Rotation]:
    return [one for one in changes if json.loads(one.record)["log_size"] <= seq]


def _log_proof(connection: Connection, manifest: Manifest) -> dict[str, Any]:
    """Inclusion under the seal's own checkpoint, and consistency from the one before it."""
    seq = manifest.header.seq
    hashes = log.ManifestLog(connection).leaf_hashes()[: seq + 1]
    return {
        "index": seq,
        "size": seq + 1,
        "hashes": [one.hex() for one in inclusion_proof(hashes, seq)],
        "consistency": [one.hex() for one in consistency_proof(hashes, seq)] if seq else None,
    }


def _books(connection: Connection, manifest: Manifest, seal: seals.Seal) -> dict[str, Any]:
    """The tables of the books hash; refused where the rows are not the sealed ones."""
    tables = evidence.books(connection, seal)
    header = manifest.header
    found = books_sha256(
        header.close_date,
        header.version,
        header.barrier_seq,
        header.policy_sha256,
        {k: v["sha256"] for k, v in tables.items()},
    )
    if found != header.books_sha256:
        raise GateError(
            f"the rows of {header.close_date} v{header.version} are not those of its seal: books hash {found}",
            rule="a sealed version's rows stay as they are",
            next_step="find out who changed them; the sealed evidence is the one that was written first",
        )
    return tables


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode("ascii")


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
    written = files_of(connection, context, day)
    folder = folder_of(context, day.version)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in written.items():
            _write_whole(folder / name, data)
    except OSError as error:
        raise UncheckedError(
            f"the evidence of {context.close_date} cannot be written to {folder}: {error.strerror}",
            next_step="make room or rights there and run the close of the day again; the seal stands",
        ) from None
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(written.items())}
    return StepOutput(len(written), sha256_jcs(digests), {"folder": str(folder), "files": digests})


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

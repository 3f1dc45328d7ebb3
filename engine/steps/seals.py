"""Step `seals`: the signed manifest of the day, appended to the log in the seal's own transaction.

What belongs here: putting the manifest together from rows, signing it, appending it, sealing.
What does not: deciding whether the day may be sealed: the database's trigger asks for everything again.
"""

from __future__ import annotations

import hashlib

from engine.clock import iso_s
from engine.errors import GateError
from engine.reserves.checkpoint import sign_checkpoint
from engine.reserves.entries import GateVerdict, verdicts_sha256
from engine.reserves.header import Header
from engine.reserves.key_file import published_keys_text
from engine.reserves.manifest import SignedManifest, build_manifest, parse_manifest, sign_manifest
from engine.reserves.rotation import walk
from engine.reserves.signing import key_id
from engine.steps import liability_trees
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.steps.liability_trees import entries_digest, header_of
from engine.store import attestations, days, log, rotations, runs, seals, trees
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books hash; a second seal of it is refused by the database."""
    return {"books_sha256": day.books_sha256, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Seal the day.

    Raises:
        GateError: the day is not reconciled, the trees are another day's, or the database refuses the seal.
    """
    index = log.lock(connection)
    require_keys_in_force(connection, context)
    header = header_of(context, day, index)
    signed = _signed_manifest(connection, context, header)
    keys = context.load_keys()
    book_log = log.ManifestLog(connection)
    book_log.append_entry(signed.data)
    checkpoint = sign_checkpoint(context.book.exchange, index + 1, book_log.get_root(), keys.checkpoint_signer())
    snapshot_root = parse_manifest(signed.data).snapshot_root
    seals.insert(
        connection,
        seals.Seal(
            close_date=context.close_date,
            version=day.version,
            kind="day",
            books_sha256=header.books_sha256,
            manifest=signed.data.decode("utf-8"),
            signature=signed.signature.hex(),
            key_id=signed.key_id,
            snapshot_root=snapshot_root,
            log_index=index,
            checkpoint=checkpoint,
        ),
    )
    return StepOutput(
        1,
        hashlib.sha256(signed.data).hexdigest(),
        {
            "books_sha256": header.books_sha256,
            "snapshot_root": snapshot_root,
            "log_index": index,
            "key_id": signed.key_id,
            "snapshot_at": iso_s(day.cutoff_at) if day.cutoff_at else None,
        },
    )


def require_keys_in_force(connection: Connection, context: StepContext) -> None:
    """Refuse keys that do not follow from those of the log: outsiders could not tell them from a thief's.

    Raises:
        GateError: the keys are others than those in force.
    """
    exchange, keys = context.book.exchange, context.load_keys()
    chain = walk(rotations.read(connection), exchange)
    last = seals.last_key_id(connection)
    ours = key_id(keys.manifest_signer().public_key)
    follows = chain[-1].text == published_keys_text(keys, exchange) if chain else last in (None, ours)
    if not follows:
        raise GateError(
            f"manifest key {ours} does not sign this log: key {last} did, and no rotation leads to other keys",
            rule="keys change by signed rotations, never by replacing the key file",
            next_step="put the key file back; to change keys, or to end a change that was cut short: keys rotate",
        )


def _signed_manifest(connection: Connection, context: StepContext, header: Header) -> SignedManifest:
    day, version = context.close_date, header.version
    entries = trees.read_entries(connection, header)
    if not entries and trees.control_totals(connection, day, version):
        raise GateError(
            f"{day} has no trees for log index {header.seq}",
            rule="the manifest's trees are built for its own place in the log",
            next_step="run reserves/liability_trees of this date again",
        )
    built = runs.read(connection, day, liability_trees.STEP.name, version)
    if built is None or built.output_digest != entries_digest(header, entries):
        raise GateError(
            f"the trees of {day} are not those that step {liability_trees.STEP.name} built",
            rule="the manifest commits to the roots that were built from the day's snapshot",
            next_step=f"find out who changed reserves.liability_trees, then: compline close run {day}",
        )
    manifest = build_manifest(
        header,
        assets=entries,
        verdicts_sha256=verdicts_sha256(
            [GateVerdict(g.gate, g.scope, g.verdict, g.waiver) for g in days.gates(connection, day)]
        ),
        reserves=attestations.entries(connection, day, version),
        other_liabilities=trees.other_liabilities(connection, day, version),
        receivables=trees.receivables(connection, day, version),
        prev_checkpoint=seals.last_checkpoint(connection),
        supersedes=seals.last_log_index(connection, day),
    )
    return sign_manifest(manifest, context.load_keys().manifest_signer())


STEP = Step(name="seals", event_stage="seal", completes=True, inputs=inputs, write=write)

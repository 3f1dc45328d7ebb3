"""Step `inclusion_proofs`: every account's proof of a sealed day, sealed into shards; and single proofs on request.

What belongs here: from the seal's rows and the stored trees to files. All of them can be made again, byte for byte.
What does not: the format (see `engine.reserves.proof`, `shard`), and how millions are written (see `reserves.shards`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from engine.errors import GateError, UncheckedError
from engine.reserves.keys import KeyRing
from engine.reserves.manifest import SignedManifest, parse_manifest
from engine.reserves.merkle import inclusion_proof
from engine.reserves.proof import LogProof, build_proof
from engine.reserves.shard_index import open_index
from engine.reserves.shards import ShardWriter
from engine.steps import liability_trees
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import log, seals
from engine.store.connect import Connection
from engine.store.days import Day
from engine.store.seals import Seal


def shards_folder(context: StepContext, version: int) -> Path:
    """Where the shards of a date and version lie; they can be served to anyone."""
    return liability_trees.trees_folder(context, version).with_name("shards")


def seal_of(connection: Connection, context: StepContext, version: int | None = None) -> tuple[Seal, int, str]:
    """The seal of the context's date with its place in the log and its checkpoint.

    Raises:
        GateError: there is no such seal, or it is the genesis seal, which has no trees.
    """
    seal = seals.read(connection, context.close_date, version)
    if seal is None or seal.log_index is None or seal.checkpoint is None:
        which = "" if version is None else f" version {version}"
        raise GateError(
            f"{context.close_date}{which} is not sealed in the log: there is nothing to prove",
            rule="proofs are of sealed dates",
            next_step=f"compline close run {context.close_date}",
        )
    return seal, seal.log_index, seal.checkpoint


def log_proof(connection: Connection, index: int, checkpoint: str, size: int) -> LogProof:
    """Where a manifest stands in the log of `size` leaves, under that size's checkpoint."""
    hashes = log.ManifestLog(connection).leaf_hashes()[:size]
    return LogProof(index, size, tuple(inclusion_proof(hashes, index)), checkpoint)


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The seal, and how shards are cut."""
    seal, _, _ = seal_of(connection, context, day.version)
    return {"manifest": hashlib.sha256(seal.manifest.encode()).hexdigest(), "digits": context.policy.shard_digits}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write all shards, whole or not at all."""
    seal, index, checkpoint = seal_of(connection, context, day.version)
    header = parse_manifest(seal.manifest.encode("utf-8")).header
    folder = shards_folder(context, day.version)
    try:
        writer = ShardWriter(
            liability_trees.stored(connection, context, header),
            ctx=header.ctx,
            ring=_ring(context),
            signature=seal.signature,
            key_id=seal.key_id,
            log=log_proof(connection, index, checkpoint, index + 1),
            digits=context.policy.shard_digits,
        )
        made = writer.write(folder, kernels=False if context.tree_kernel == "hashlib" else None)
    except OSError as error:
        raise UncheckedError(
            f"the proofs of {context.close_date} cannot be written to {folder}: {error.strerror}",
            next_step="make room or rights there and run the close of the day again; the seal stands",
        ) from None
    facts = {"folder": str(folder), "shards": len(made.files), "digits": made.digits, "record_bytes": made.record_bytes}
    return StepOutput(made.records, hashlib.sha256(made.index()).hexdigest(), facts)


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """The shards stand while their index is the one that was written and every file has its size."""
    index = open_index(shards_folder(context, day.version))
    return index is not None and hashlib.sha256(index).hexdigest() == output


def _ring(context: StepContext) -> KeyRing:
    return KeyRing(context.load_keys().reserve, context.book.exchange)


def prove(
    connection: Connection,
    context: StepContext,
    account: str,
    *,
    version: int | None = None,
    newest: bool = False,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """One account's proof file of the context's date.

    Args:
        connection: as the application; only read.
        context: of the date; its lease is not needed.
        account: as printed on the statement page.
        version: of the seal; None for the newest.
        newest: under the log's newest checkpoint, not under the seal's own.
        may_be_empty: a date on which the account has nothing is stated too.

    Raises:
        GateError: the date is not sealed.
        InputError: the account has no balance on that date.
    """
    seal, index, checkpoint = seal_of(connection, context, version)
    size = index + 1
    if newest:
        size, checkpoint = int(log.ManifestLog(connection).get_size()), seals.last_checkpoint(connection) or checkpoint
    header = parse_manifest(seal.manifest.encode("utf-8")).header
    return build_proof(
        account,
        ring=_ring(context),
        trees=list(liability_trees.stored(connection, context, header).values()),
        signed=SignedManifest(seal.manifest.encode("utf-8"), bytes.fromhex(seal.signature), seal.key_id),
        log=log_proof(connection, index, checkpoint, size),
        may_be_empty=may_be_empty,
    )


def sealed_versions(connection: Connection, context: StepContext) -> list[int]:
    """The sealed versions of the context's date, oldest first.

    Raises:
        GateError: there is none: a history has no gaps.
    """
    newest, _, _ = seal_of(connection, context)
    found = (seals.read(connection, context.close_date, version) for version in range(1, newest.version + 1))
    return [seal.version for seal in found if seal is not None and seal.log_index is not None]


STEP = Step(
    name="inclusion_proofs",
    event_stage="seal",
    inputs=inputs,
    write=write,
    still_valid=still_valid,
    after_seal=True,
)

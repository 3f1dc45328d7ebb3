"""Step `liability_trees`: commit to every customer's balance, one sum tree an asset.

What belongs here: from the day's snapshots to roots, and the gate that their totals are the ledger's.
What does not: the format (see `engine.reserves`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from engine.canonical import sha256_jcs
from engine.clock import iso_s
from engine.close.policy import TREES_EQUAL_CONTROL_TOTALS
from engine.errors import GateError, UncheckedError
from engine.reserves.arena import TreeArena, folder_of
from engine.reserves.arena_builder import BuiltTree
from engine.reserves.build import TreeKernel, build_trees
from engine.reserves.entries import AssetEntry
from engine.reserves.header import Header
from engine.reserves.keys import KeyRing
from engine.reserves.tree import TreePolicy
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, log
from engine.store.connect import Connection
from engine.store.days import Day
from engine.store.trees import (
    TreeRow,
    control_totals,
    count_holdings,
    held_assets,
    holdings,
    read_entries,
    replace_trees,
)


def header_of(context: StepContext, day: Day, seq: int) -> Header:
    """The header that the day's trees and manifest share.

    Args:
        context: of the step.
        day: reconciled.
        seq: the manifest's index in the log.

    Raises:
        GateError: the day is not reconciled.
    """
    if day.state != "reconciled" or day.books_sha256 is None or day.policy_sha256 is None:
        raise GateError(
            f"{day.close_date} is {day.state}, not reconciled: nothing is committed to",
            rule="trees are built over reconciled books",
            next_step=f"compline close run {day.close_date}",
        )
    assert day.cutoff_at is not None
    assert day.barrier_seq is not None
    return Header(
        exchange=context.book.exchange,
        seq=seq,
        close_date=str(day.close_date),
        version=day.version,
        snapshot_at=iso_s(day.cutoff_at),
        barrier_seq=day.barrier_seq,
        books_sha256=day.books_sha256,
        policy_sha256=day.policy_sha256,
    )


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books hash and the manifest's place in the log: both are in every leaf."""
    return {
        "books_sha256": day.books_sha256,
        "log_seq": log.ManifestLog(connection).get_size(),
        "version": day.version,
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Build the trees of every asset that customers hold, and judge their totals.

    Raises:
        GateError: the day is not reconciled, or a total is not the control total.
    """
    seq = log.lock(connection)
    header = header_of(context, day, seq)
    built = build(connection, context, header)
    rows = [TreeRow(tree.entry, tree.accounts) for tree in built]
    replace_trees(connection, header, context.epoch, rows)
    verdict = days.judge(connection, context.close_date, TREES_EQUAL_CONTROL_TOTALS, context.epoch)
    return StepOutput(
        len(rows),
        entries_digest(header, [row.entry for row in rows]),
        {"trees": [{**row.entry.as_dict(), "accounts": row.accounts} for row in rows]},
        verdict,
    )


def trees_folder(context: StepContext, version: int) -> Path:
    """Where the stored trees of a date and version lie; they hold balances, so only this user may enter."""
    return context.evidence_dir / context.book.name / f"{context.close_date}-v{version}" / "trees"


def build(connection: Connection, context: StepContext, header: Header) -> list[BuiltTree]:
    """Build the day's trees from its snapshot into `trees_folder`, in place of those that were there.

    Raises:
        ControlTotalError: a tree's total is not the ledger's control total.
        UncheckedError: the folder can't be written.
    """
    day, version = context.close_date, header.version
    folder = trees_folder(context, version)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        return build_trees(
            folder,
            holdings(connection, day, version),
            held_assets(connection),
            holdings=count_holdings(connection, day, version),
            control_totals={asset: total for asset, (_, total) in control_totals(connection, day, version).items()},
            ctx=header.ctx,
            ring=KeyRing(context.load_keys().reserve, context.book.exchange),
            policy=TreePolicy(chunks=context.policy.chunks, heights=context.policy.tree_heights),
            kernel=TreeKernel(context.tree_kernel),
        )
    except OSError as error:
        raise UncheckedError(
            f"the trees of {day} cannot be written to {folder}: {error.strerror}",
            next_step="make room or rights there and run the close of the day again",
        ) from None


def stored(connection: Connection, context: StepContext, header: Header) -> dict[str, TreeArena]:
    """The stored trees of a sealed or reconciled day by asset, made again where they are missing or another's.

    Raises:
        GateError: what is made again is not what the day committed to.
    """
    entries = read_entries(connection, header)
    folder = trees_folder(context, header.version)
    try:
        return _open_all(folder, entries, header)
    except UncheckedError:
        build(connection, context, header)
    try:
        return _open_all(folder, entries, header)
    except UncheckedError as error:
        raise GateError(
            f"the trees of {context.close_date} made again are not those that it committed to: {error.what}",
            rule="equal snapshots and keys give equal trees",
            next_step="compare the keys and close.user_balance_snapshots with those of the seal",
        ) from error


def _open_all(folder: Path, entries: Iterable[AssetEntry], header: Header) -> dict[str, TreeArena]:
    found = {entry.asset: (entry, TreeArena.open(folder_of(folder, entry.asset))) for entry in entries}
    for asset, (entry, arena) in found.items():
        if arena.entry != entry or arena.ctx != header.ctx:
            raise UncheckedError(f"the stored {asset} tree is that of another version or log index")
    return {asset: arena for asset, (_, arena) in found.items()}


def entries_digest(header: Header, entries: Iterable[AssetEntry]) -> str:
    """Hex digest of a day's entries: the database can add totals up, but only this run knows the roots it built."""
    ordered = sorted(entries, key=lambda entry: entry.asset)
    return sha256_jcs({"ctx": header.ctx.hex(), "entries": [entry.as_dict() for entry in ordered]})


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """Trees stand while their gate does and their rows are those that were built."""
    if day.state != "reconciled":
        return False
    header = header_of(context, day, log.ManifestLog(connection).get_size())
    return entries_digest(header, read_entries(connection, header)) == output and any(
        g.gate == TREES_EQUAL_CONTROL_TOTALS and g.stands for g in days.gates(connection, context.close_date)
    )


STEP = Step(
    name="liability_trees",
    event_stage="reserves",
    completes=True,
    inputs=inputs,
    write=write,
    still_valid=still_valid,
)

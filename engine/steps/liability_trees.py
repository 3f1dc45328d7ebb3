"""Step `liability_trees`: commit to every customer's balance, one sum tree an asset.

What belongs here: from the day's snapshots to roots, and the gate that their totals are the ledger's.
What does not: the format (see `engine.reserves`).
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.canonical import sha256_jcs
from engine.clock import iso_s
from engine.close.policy import TREES_EQUAL_CONTROL_TOTALS
from engine.errors import GateError
from engine.reserves.entries import AssetEntry
from engine.reserves.header import Header
from engine.reserves.keys import KeyRing
from engine.reserves.tree import TreePolicy, build_asset_tree
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, log
from engine.store.connect import Connection
from engine.store.days import Day
from engine.store.trees import TreeRow, control_totals, customer_totals, read_entries, replace_trees


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
    keys = context.load_keys()
    ring = KeyRing(keys.reserve, context.book.exchange)
    policy = TreePolicy(chunks=context.policy.chunks, heights=context.policy.tree_heights)
    owed = control_totals(connection, context.close_date, day.version)
    held = customer_totals(connection, context.close_date, day.version)
    rows = []
    for asset in sorted(owed.keys() | held.keys()):
        decimals, total = owed.get(asset, (0, 0))
        tree = build_asset_tree(
            asset, decimals, held.get(asset, []), ctx=header.ctx, ring=ring, control_total=total, policy=policy
        )
        rows.append(TreeRow(tree.entry, len(held.get(asset, []))))
    replace_trees(connection, header, context.epoch, rows)
    verdict = days.judge(connection, context.close_date, TREES_EQUAL_CONTROL_TOTALS, context.epoch)
    return StepOutput(
        len(rows),
        entries_digest(header, [row.entry for row in rows]),
        {"trees": [{**row.entry.as_dict(), "accounts": row.accounts} for row in rows]},
        verdict,
    )


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

"""A staking contract's reading as it is stored, and read back.

What belongs here: the envelope.
What does not: asking the node (see `chain`), and storing (see `engine.store.readings`).
"""

from __future__ import annotations

import json
from datetime import datetime

from engine.clock import iso_us
from engine.errors import UncheckedError
from engine.gateways.chain import Block, StakedTotal
from engine.gateways.web import strict_json


def envelope(total: StakedTotal, taken_at: datetime) -> bytes:
    """The reading as bytes to store."""
    block = total.block
    return json.dumps(
        {
            "v": "evm/1",
            "contract": total.contract,
            "units": str(total.units),
            "number": block.number,
            "hash": block.hash,
            "parent": block.parent,
            "time_s": block.time_s,
            "taken_at": iso_us(taken_at),
        },
        sort_keys=True,
    ).encode()


def total_at(raw: bytes, contract: str, cutoff: datetime) -> StakedTotal:
    """What a stored reading says.

    Raises:
        UncheckedError: it is another contract's, or of a block after the cut-off.
    """
    value = strict_json(raw, f"the reading of {contract}")
    try:
        block = Block(int(value["number"]), str(value["hash"]), str(value["parent"]), int(value["time_s"]))
        total = StakedTotal(str(value["contract"]), int(value["units"]), block)
    except (KeyError, TypeError, ValueError):
        raise _unusable(contract, "cannot be read") from None
    if value.get("v") != "evm/1" or total.contract != contract:
        raise _unusable(contract, "is of another contract")
    if block.time_s > int(cutoff.timestamp()):
        raise _unusable(contract, f"is of block {block.number}, after the cut-off")
    return total


def changed(old: bytes, new: bytes, contract: str, cutoff: datetime) -> str:
    """What a later reading says differently of a contract at a cut-off; empty where nothing, or where it cannot say."""
    try:
        before, after = (total_at(raw, contract, cutoff) for raw in (old, new))
    except UncheckedError:
        return ""
    said = []
    if before.units != after.units:
        said.append(f"the total at the cut-off was {before.units} and is {after.units} smallest units")
    if before.block != after.block:
        said.append(
            f"it was read at block {before.block.number} {before.block.hash} and is at"
            f" {after.block.number} {after.block.hash}"
        )
    return f"{contract}: {'; '.join(said)}" if said else ""


def _unusable(contract: str, what: str) -> UncheckedError:
    return UncheckedError(
        f"the stored reading of {contract} {what}",
        rule="a close uses a reading of its own contract at or before its cut-off",
        next_step="compline recon collect --date DATE",
    )

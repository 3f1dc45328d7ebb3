"""An EVM chain by JSON-RPC: a contract's `totalStaked()` at the finalised block at or before an instant.

What belongs here: finding that block, reading at its very hash, and noticing an answer of another block.
What does not: what the ledger says was staked, and storing readings (see `engine.store.readings`).

Source: Ethereum JSON-RPC specification; EIP-1898 (a block named by hash, `requireCanonical`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.errors import UncheckedError
from engine.gateways.web import Web

TOTAL_STAKED = "0x817b1cd2"
"""First four bytes of keccak256("totalStaked()")."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_QUANTITY = re.compile(r"0x(0|[1-9a-f][0-9a-f]{0,15})")
_WORD = re.compile(r"0x[0-9a-f]{64}")


@dataclass(frozen=True)
class Block:
    """A block: number, hash, parent and time in seconds."""

    number: int
    hash: str
    parent: str
    time_s: int


@dataclass(frozen=True)
class StakedTotal:
    """What a contract says is staked, in smallest units, and at which block."""

    contract: str
    units: int
    block: Block


class Chain:
    """A node.

    Args:
        url: its JSON-RPC address; may hold a key.
        timeout_s: for one request with its retries.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        self._web = Web(url, "the chain's node", {}, timeout_s)
        self._calls = 0

    def total_staked(self, contract: str, at: datetime) -> StakedTotal:
        """Read `totalStaked()` at the last finalised block at or before an instant.

        Raises:
            UncheckedError: no block of that time is finalised yet, or the node contradicts itself.
        """
        if not _ADDRESS.fullmatch(contract):
            raise self._unchecked(f"{contract!r} is no address")
        block = self.block_at(at)
        word = self._call(
            "eth_call",
            [{"to": contract, "data": TOTAL_STAKED}, {"blockHash": block.hash, "requireCanonical": True}],
        )
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise self._unchecked(f"totalStaked() of {contract} is {str(word)[:80]!r}, not one word of 32 bytes")
        if self._block(hex(block.number)) != block:
            raise self._unchecked(f"block {block.number} changed while it was read")
        return StakedTotal(contract.lower(), int(word, 16), block)

    def block_at(self, at: datetime) -> Block:
        """The last finalised block at or before an instant.

        Raises:
            UncheckedError: the finalised chain does not reach past the instant yet.
        """
        instant = int(at.timestamp())
        last = self._block("finalized")
        if last.time_s < instant:
            raise self._unchecked(
                f"the last finalised block, {last.number}, is older than the cut-off: it is not known yet"
            )
        low, high = 0, last.number
        while low < high:
            middle = (low + high + 1) // 2
            if self._block(hex(middle)).time_s <= instant:
                low = middle
            else:
                high = middle - 1
        found = self._block(hex(low))
        if found.time_s > instant:
            raise self._unchecked(f"its first block is after {at:%Y-%m-%d %H:%M:%S} UTC")
        return found

    def _block(self, tag: str) -> Block:
        value = self._call("eth_getBlockByNumber", [tag, False])
        if not isinstance(value, dict):
            raise self._unchecked(f"there is no block {tag}")
        number, time_s = self._quantity(value, "number"), self._quantity(value, "timestamp")
        if tag.startswith("0x") and number != int(tag, 16):
            raise self._unchecked(f"it answered block {number} when asked for {int(tag, 16)}")
        for name in ("hash", "parentHash"):
            if not isinstance(value.get(name), str) or not _WORD.fullmatch(value[name]):
                raise self._unchecked(f"block {number} has no {name}")
        return Block(number, value["hash"], value["parentHash"], time_s)

    def _quantity(self, value: dict[str, Any], name: str) -> int:
        text = value.get(name)
        if not isinstance(text, str) or not _QUANTITY.fullmatch(text):
            raise self._unchecked(f"{name} is {str(text)[:80]!r}, not a quantity")
        return int(text, 16)

    def _call(self, method: str, params: list[Any]) -> Any:
        self._calls += 1
        value = self._web.post("", {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params}).value
        if not isinstance(value, dict) or value.get("id") != self._calls or value.get("jsonrpc") != "2.0":
            raise self._unchecked(f"its answer to {method} is no answer to this request")
        if value.get("error") is not None:
            raise self._unchecked(f"it refused {method}: {str(value['error'])[:200]}")
        return value.get("result")

    def _unchecked(self, what: str) -> UncheckedError:
        return UncheckedError(
            f"the chain's node: {what}",
            rule="a source that cannot be read is UNKNOWN, never zero and never passed",
            next_step="wait for finality or ask another node, then collect again",
        )

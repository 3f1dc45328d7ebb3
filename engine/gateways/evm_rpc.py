"""An EVM node by JSON-RPC: a contract's answer about a signature, and an address's balance, at the finalised block.

What belongs here: the few calls that attestations need, read strictly.
What does not: what an answer is worth (see `engine.reserves.ownership`).
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError, UncheckedError
from engine.reserves.ownership import eip1271_call, message_of

_LONGEST = 1 << 20
_HEX = re.compile(r"0x[0-9a-f]*")


@dataclass(frozen=True)
class Block:
    """A block by height and hash."""

    height: int
    block_hash: str


@dataclass(frozen=True)
class EvmRpc:
    """A node.

    Attributes:
        url: http or https; may hold a key, so errors do not show it.
        timeout_s: for one call.
    """

    url: str
    timeout_s: int = 20

    def finalised(self) -> Block:
        """The newest block that cannot be taken back."""
        value = self._call("eth_getBlockByNumber", ["finalized", False])
        if not isinstance(value, dict):
            raise UncheckedError("the node knows no finalised block", next_step="ask another node")
        return Block(int(_hex(value.get("number")), 16), _hex(value.get("hash")))

    def ask_contract(self, address: str, exchange: str, checkpoint: str, signature: str) -> dict[str, Any]:
        """Ask a contract whether a signature of a checkpoint is its own (EIP-1271).

        Returns:
            The `answer` of an ownership document: block, the call's data and its result.
        """
        block = self.finalised()
        data = eip1271_call(message_of(exchange, checkpoint), signature)
        result = self._call("eth_call", [{"to": address, "data": data}, {"blockHash": block.block_hash}])
        return {"height": block.height, "block_hash": block.block_hash, "data": data, "result": _hex(result)}

    def balance(self, address: str, block: Block) -> int:
        """An address's own coin at a block, in wei."""
        return int(_hex(self._call("eth_getBalance", [address, {"blockHash": block.block_hash}])), 16)

    def _call(self, method: str, params: list[Any]) -> Any:
        if not self.url.startswith(("http://", "https://")):
            raise InputError("the node's URL is not http or https", next_step="correct --rpc")
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as reply:
                answer = json.loads(reply.read(_LONGEST))
        except (OSError, ValueError, http.client.HTTPException, urllib.error.URLError) as error:
            raise UncheckedError(
                f"{method}: the node does not answer ({type(error).__name__})",
                rule="a source that does not answer is UNKNOWN, never passed",
                next_step="look at the node, then bring the document again",
            ) from error
        if not isinstance(answer, dict) or answer.get("id") != 1 or "result" not in answer or answer.get("error"):
            said = answer.get("error") if isinstance(answer, dict) else None
            raise UncheckedError(f"{method}: the node refuses ({str(said)[:200]})", next_step="ask another node")
        return answer["result"]


def _hex(value: object) -> str:
    if not isinstance(value, str) or len(value) > 4096 or not _HEX.fullmatch(value.lower()):
        raise UncheckedError("the node's answer is not hex", next_step="ask another node")
    return value.lower()

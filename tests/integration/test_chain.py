"""`totalStaked()` from a real EVM node: the finalised block at the cut-off, by its hash; reorganisations; bad nodes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engine.errors import UncheckedError
from engine.gateways.chain import Chain
from tests.fixtures.evm_node import SLOTS, EvmNode

CUT = datetime(2026, 3, 3, tzinfo=UTC)
UNIT = 10**18


def bury(node: EvmNode, after: datetime) -> None:
    """Mine until what came before is finalised."""
    for number in range(2 * SLOTS + 1):
        node.mine(after + timedelta(seconds=12 * (number + 1)))


def staked_pool(node: EvmNode) -> str:
    """1000 staked before the cut-off, one second before and at it; 7 more after."""
    pool = node.deploy_pool(CUT - timedelta(hours=20))
    node.stake(pool, 900 * UNIT, CUT - timedelta(hours=10))
    node.stake(pool, 99 * UNIT, CUT - timedelta(seconds=1))
    node.stake(pool, UNIT, CUT)
    node.stake(pool, 7 * UNIT, CUT + timedelta(seconds=1))
    return pool


def test_the_total_is_that_of_the_last_finalised_block_at_or_before_the_cut_off(evm_node: EvmNode) -> None:
    pool = staked_pool(evm_node)
    bury(evm_node, CUT + timedelta(hours=1))
    total = Chain(evm_node.url).total_staked(pool, CUT)
    block = evm_node.call("eth_getBlockByNumber", hex(total.block.number), False)
    assert total.units == 1000 * UNIT
    assert (block["hash"], int(block["timestamp"], 16)) == (total.block.hash, int(CUT.timestamp()))
    assert Chain(evm_node.url).total_staked(pool, CUT - timedelta(microseconds=1)).units == 999 * UNIT
    assert Chain(evm_node.url).total_staked(pool, CUT + timedelta(minutes=5)).units == 1007 * UNIT


def test_before_finality_reaches_the_cut_off_nothing_is_known(evm_node: EvmNode) -> None:
    pool = staked_pool(evm_node)
    with pytest.raises(UncheckedError, match="older than the cut-off"):
        Chain(evm_node.url).total_staked(pool, CUT)


def test_a_reorganised_chain_gives_another_reading_under_another_hash(evm_node: EvmNode) -> None:
    pool = staked_pool(evm_node)
    before = evm_node.call("evm_snapshot")
    bury(evm_node, CUT + timedelta(hours=1))
    first = Chain(evm_node.url).total_staked(pool, CUT + timedelta(minutes=30))
    assert evm_node.call("evm_revert", before)
    evm_node.stake(pool, -7 * UNIT, CUT + timedelta(minutes=20))
    bury(evm_node, CUT + timedelta(hours=1))
    second = Chain(evm_node.url).total_staked(pool, CUT + timedelta(minutes=30))
    assert (first.units, second.units) == (1007 * UNIT, 1000 * UNIT)
    assert first.block.hash != second.block.hash


def test_no_contract_and_no_address_are_unknown(evm_node: EvmNode) -> None:
    staked_pool(evm_node)
    bury(evm_node, CUT + timedelta(hours=1))
    with pytest.raises(UncheckedError, match="not one word"):
        Chain(evm_node.url).total_staked("0x" + "11" * 20, CUT)
    with pytest.raises(UncheckedError, match="no address"):
        Chain(evm_node.url).total_staked("0x11", CUT)
    with pytest.raises(UncheckedError, match="first block is after"):
        Chain(evm_node.url).block_at(datetime(2020, 1, 1, tzinfo=UTC))


Spoil = Callable[[dict[str, Any], Any], Any]


@pytest.fixture
def lying_node() -> Iterator[Callable[[Spoil], Chain]]:
    """A node that answers from a made-up chain of one block a minute, spoiled as the test likes."""
    servers = []
    start = int((CUT - timedelta(minutes=50)).timestamp())

    def honest(method: str, params: list[Any]) -> Any:
        if method == "eth_getBlockByNumber":
            number = 100 if params[0] == "finalized" else int(params[0], 16)
            return {
                "number": hex(number),
                "timestamp": hex(start + 60 * number),
                "hash": f"0x{number:064x}",
                "parentHash": f"0x{max(number - 1, 0):064x}",
            }
        return f"0x{5 * UNIT:064x}"

    def make(spoil: Spoil) -> Chain:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = {"jsonrpc": "2.0", "id": asked["id"], "result": honest(asked["method"], asked["params"])}
                body = json.dumps(spoil(asked, said)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return Chain(f"http://127.0.0.1:{server.server_port}", timeout_s=3)

    yield make
    for server in servers:
        server.shutdown()


def result(method: str, **changes: Any) -> Spoil:
    def spoil(asked: dict[str, Any], said: Any) -> Any:
        if asked["method"] != method:
            return said
        return {**said, "result": {**said["result"], **changes}}

    return spoil


def answer(method: str, value: Any) -> Spoil:
    return lambda asked, said: {**said, "result": value} if asked["method"] == method else said


POOL = "0x" + "ab" * 20
LIES: dict[str, tuple[Spoil, str]] = {
    "an older block": (result("eth_getBlockByNumber", number="0x5"), "it answered block 5 when asked for|older than"),
    "a float": (result("eth_getBlockByNumber", number=5.5), "not a quantity"),
    "a number": (result("eth_getBlockByNumber", timestamp=5), "not a quantity"),
    "no hash": (result("eth_getBlockByNumber", hash=None), "has no hash"),
    "no block": (answer("eth_getBlockByNumber", None), "there is no block"),
    "a short word": (answer("eth_call", "0x05"), "not one word"),
    "a decimal": (answer("eth_call", "5"), "not one word"),
    "an error": (lambda asked, said: {**said, "error": {"code": -32000, "message": "busy"}}, "it refused"),
    "another request's answer": (lambda asked, said: {**said, "id": 99_999}, "no answer to this request"),
    "a list": (lambda asked, said: [said], "no answer to this request"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_node_that_lies_is_unknown_by_name(lying_node: Callable[[Spoil], Chain], lie: str) -> None:
    spoil, says = LIES[lie]
    assert lying_node(lambda asked, said: said).total_staked(POOL, CUT).units == 5 * UNIT
    with pytest.raises(UncheckedError, match=says):
        lying_node(spoil).total_staked(POOL, CUT)


def test_a_block_that_changes_while_it_is_read_is_unknown(lying_node: Callable[[Spoil], Chain]) -> None:
    called = []

    def reorganised(asked: dict[str, Any], said: Any) -> Any:
        if asked["method"] == "eth_call":
            called.append(1)
        elif called:
            return {**said, "result": {**said["result"], "hash": "0x" + "cc" * 32}}
        return said

    with pytest.raises(UncheckedError, match="changed while it was read"):
        lying_node(reorganised).total_staked(POOL, CUT)

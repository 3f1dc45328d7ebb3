"""`reserves attest` as a person uses it: documents from a file, contracts asked over JSON-RPC, garbage refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode
from typer.testing import CliRunner

from engine.errors import InputError, UncheckedError
from engine.gateways.evm_rpc import EvmRpc
from engine.reserves.attestation import Address, parse_documents
from engine.reserves.ownership import eip191_digest, message_of, verify_ownership
from engine.store import attestations
from pipelines.cli.app import app as cli
from tests.fixtures.attested import Account, encode_defunct
from tests.fixtures.books import BookUnderTest

OWNER = Account.from_key(bytes(range(1, 33)))
CONTRACT = "0x" + "c0" * 20
EXCHANGE = "test.example"


class Node(BaseHTTPRequestHandler):
    """An EVM node with one wallet contract (EIP-1271) whose owner is a key of ours."""

    mode = "honest"

    def do_POST(self) -> None:
        if self.mode == "silent":
            self.send_error(503)
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(
            {"jsonrpc": "2.0", "id": asked["id"], **self.answer(asked["method"], asked["params"])}
        ).encode()
        if self.mode == "garbage":
            body = b"<html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, method: str, params: list[Any]) -> dict[str, Any]:
        if method == "eth_getBlockByNumber":
            assert params == ["finalized", False]
            return {"result": {"number": "0x64", "hash": "0x" + "ab" * 32}}
        if method == "eth_getBalance":
            return {"result": "0xde0b6b3a7640000"}
        assert method == "eth_call"
        call, block = params
        assert block == {"blockHash": "0x" + "ab" * 32}
        if self.mode == "refusing":
            return {"error": {"code": 3, "message": "execution reverted"}}
        digest, signature = decode(["bytes32", "bytes"], bytes.fromhex(call["data"][10:]))
        signer = Account._recover_hash(digest, signature=signature)
        yes = call["to"] == CONTRACT and signer == OWNER.address
        return {"result": "0x1626ba7e" + "00" * 28 if yes else "0xffffffff" + "00" * 28}

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Node)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Node.mode = "honest"
    server.shutdown()
    server.server_close()


def document(checkpoint: str, signer: Any = OWNER) -> dict[str, Any]:
    message = encode_defunct(text=message_of(EXCHANGE, checkpoint))
    return {
        "v": "por-ownership/1",
        "exchange": EXCHANGE,
        "chain": "ethereum",
        "address": CONTRACT,
        "method": "eip1271",
        "checkpoint": checkpoint,
        "signature": "0x" + bytes(signer.sign_message(message).signature).hex(),
        "answer": None,
    }


def newest(book: BookUnderTest) -> str:
    with book.app() as app:
        return attestations.past_checkpoints(app, book.days[1])[-1].text


def run(book: BookUnderTest, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setenv("COMPLINE_HOME", str(book.opened.settings.home))
    return CliRunner().invoke(cli, ["reserves", *words, "--book", book.opened.book.name])


def test_contract_is_asked_and_its_answer_stored(
    sealed_book: BookUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    file = tmp_path / "ownership.json"
    checkpoint = newest(sealed_book)
    file.write_text(json.dumps([document(checkpoint)]), encoding="utf-8")
    assert run(sealed_book, monkeypatch, "attest", str(file)).exit_code == 64, "no node was named"
    at = "2026-03-03T12:00:00Z"
    dry = run(sealed_book, monkeypatch, "attest", str(file), "--rpc", node, "--at", at, "--dry-run", "--json")
    assert (dry.exit_code, json.loads(dry.stdout)["captured"]) == (0, [])
    done = run(sealed_book, monkeypatch, "attest", str(file), "--rpc", node, "--at", at, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["captured"][0]["subject"] == f"ownership:ethereum:{CONTRACT}"
    again = run(sealed_book, monkeypatch, "attest", str(file), "--rpc", node, "--at", at)
    assert again.exit_code == 0, "the same document at the same instant has one effect"
    raw = sealed_book.value("SELECT raw FROM capture.readings WHERE subject = %s", f"ownership:ethereum:{CONTRACT}")
    stored = parse_documents(bytes(raw), where="stored")[0]  # type: ignore[call-overload]
    assert stored.fields["answer"]["height"] == 100
    verify_ownership(stored, Address.parse(f"ETH ethereum {CONTRACT} eip1271"))
    file.write_text(json.dumps(document(checkpoint, Account.from_key(bytes(range(3, 35))))), encoding="utf-8")
    other = run(sealed_book, monkeypatch, "attest", str(file), "--rpc", node, "--at", at)
    assert other.exit_code == 1
    assert "never replaced" in other.output


def test_balance_of_a_chains_own_coin_is_read_at_the_finalised_block(
    sealed_book: BookUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    file = tmp_path / "balance.json"
    asked = dict.fromkeys(("amount", "height", "block_hash", "at"))
    where = {"v": "por-balance/1", "exchange": EXCHANGE, "asset": "ETH", "chain": "ethereum", "address": CONTRACT}
    file.write_text(json.dumps({**where, **asked}), encoding="utf-8")
    assert run(sealed_book, monkeypatch, "attest", str(file)).exit_code == 64
    assert run(sealed_book, monkeypatch, "attest", str(file), "--rpc", node).exit_code == 0
    raw = sealed_book.value("SELECT raw FROM capture.readings WHERE subject = %s", f"balance:ETH:ethereum:{CONTRACT}")
    stored = json.loads(bytes(raw))  # type: ignore[call-overload]
    assert (stored["amount"], stored["height"], stored["block_hash"]) == (str(10**18), 100, "0x" + "ab" * 32)


def test_node_that_is_away_refuses_or_answers_nonsense_is_unknown(node: str) -> None:
    rpc = EvmRpc(node, timeout_s=5)
    assert rpc.finalised().height == 100
    assert rpc.balance(CONTRACT, rpc.finalised()) == 10**18
    for mode in ("silent", "garbage", "refusing"):
        Node.mode = mode
        with pytest.raises(UncheckedError):
            rpc.ask_contract(CONTRACT, EXCHANGE, "x", "0x00")
    with pytest.raises(UncheckedError):
        EvmRpc("http://127.0.0.1:9", timeout_s=2).finalised()
    with pytest.raises(InputError):
        EvmRpc("file:///etc/passwd").finalised()


def test_digest_that_a_contract_is_asked_about_is_that_of_a_personal_message() -> None:
    """EIP-191 version 0x45: keccak of the prefix, the length and the message."""
    from eth_utils.crypto import keccak

    assert eip191_digest("hello") == keccak(b"\x19Ethereum Signed Message:\n5hello")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", 65),
        (b"{}", 65),
        (b"\xff\xfe", 65),
        (b'{"v": "por-balance/1"}', 65),
        (b"[" * 100_000, 65),
        (b'{"v": "por-balance/1", "amount": 1e9}', 65),
        (b"x" * (5 << 20), 65),
    ],
)
def test_garbage_is_refused(
    sealed_book: BookUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, code: int
) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    assert run(sealed_book, monkeypatch, "attest", str(file)).exit_code == code


def test_commands_show_a_date_and_a_tree(
    sealed_book: BookUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = str(sealed_book.days[0])
    shown = run(sealed_book, monkeypatch, "attested", day, "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["addresses"] == []
    dumped = run(sealed_book, monkeypatch, "dump", day, "BTC")
    lines = dumped.stdout.splitlines()
    assert json.loads(lines[0])["asset"] == "BTC"
    assert len(lines) == 1 + 2 ** json.loads(lines[0])["height"]
    assert run(sealed_book, monkeypatch, "dump", day, "NONE").exit_code == 65
    assert run(sealed_book, monkeypatch, "dump", "2031-01-01", "BTC").exit_code == 1
    monkeypatch.setenv("COMPLINE_HOME", str(sealed_book.opened.settings.home))
    name, target = sealed_book.opened.book.name, tmp_path / "pack.zip"
    packed = CliRunner().invoke(cli, ["evidence", "pack", day, "--to", str(target), "--book", name, "--json"])
    assert packed.exit_code == 0, packed.output
    assert json.loads(packed.stdout)["file"] == str(target)
    assert CliRunner().invoke(cli, ["evidence", "verify", str(target)]).exit_code == 2, "not anchored"
    assert CliRunner().invoke(cli, ["evidence", "verify", str(tmp_path / "none.zip")]).exit_code == 2
    assert CliRunner().invoke(cli, ["evidence", "pack", "2031-01-01", "--book", name]).exit_code == 1

"""Ownership of reserve addresses: published vectors first, then what must not count."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.close.policy import CORE_GATES, RESERVES_COVER_LIABILITIES, Policy
from engine.errors import ConfigError
from engine.reserves.attestation import Address, AttestationError, Document, Method, parse_documents
from engine.reserves.attested import Judge, PastCheckpoint, StoredReading
from engine.reserves.checkpoint import sign_checkpoint
from engine.reserves.fields import FormatError
from engine.reserves.keys import derive_demo_keys
from engine.reserves.ownership import eip1271_call, message_of, statement_message, verify_ownership
from engine.reserves.signing import Ed25519ManifestSigner
from tests.fixtures.attested import Account, encode_defunct

EXCHANGE = "test.example"
KEYS = derive_demo_keys(3)
CUTOFF = datetime(2026, 3, 10, tzinfo=UTC)
CHECKPOINT = sign_checkpoint(EXCHANGE, 1, bytes(32), KEYS.checkpoint_signer())
OLDER = sign_checkpoint(EXCHANGE, 2, bytes(32), KEYS.checkpoint_signer())
PAST = [PastCheckpoint(OLDER, CUTOFF - timedelta(days=31)), PastCheckpoint(CHECKPOINT, CUTOFF - timedelta(days=1))]
WALLET = Account.from_key(bytes(range(1, 33)))
CUSTODIAN = Ed25519ManifestSigner(bytes(range(2, 34)))

# BIP-322's own published vectors (bip-0322, basic-test-vectors): address, message, signature.
SINGLE = "bc1q9vza2e8x573nczrlzms0wvx3gsqjx7vavgkx0l"
MULTISIG = "bc1qp0ahvfh83088w49k405szqgg4f3pptr7p2g06tdxfjcd40z4lh4q95lsz9"
TAPROOT = "bc1pss0zhytly75awhm6x2hhvd5lnzv3vssgrf9axfheq8ldyzn88ges79fler"
EMPTY_SIGNED = (
    "AkcwRAIgM2gBAQqvZX15ZiysmKmQpDrG83avLIT492QBzLnQIxYCIBaTpOaD20qRlEylyxFSeEA2ba9YOixpX8z46TSDtS40ASECx/EgAxlkQpQ9"
    "hYjgGu6EBCPMVPwVIVJqO4XCsMvViHI="
)
HELLO_SIGNED = (
    "AkcwRAIgZRfIY3p7/DoVTty6YZbWS71bc5Vct9p9Fia83eRmw2QCICK/ENGfwLtptFluMGs2KsqoNSk89pO7F29zJLUx9a/sASECx/EgAxlkQpQ9"
    "hYjgGu6EBCPMVPwVIVJqO4XCsMvViHI="
)
TAPROOT_SIGNED = "AUCJYOwOjxYAvatTAGYaVlNXBVyFuc4MwNQkOuK2tl8xhfKDONd0NjfYyNSYcRqeCp8hsAnCEPHAVEkO9h6vbQ/R"


def bip322(address: str, message: str, signature: str) -> bool:
    from engine.reserves.ownership import _by_bip322

    return _by_bip322(address, message, {"signature": signature})


@pytest.mark.parametrize(
    ("address", "message", "signature"),
    [
        (SINGLE, "", EMPTY_SIGNED),
        (SINGLE, "", f"smp{EMPTY_SIGNED}"),
        (SINGLE, "Hello World", HELLO_SIGNED),
        (TAPROOT, "No prefix fallback", TAPROOT_SIGNED),
    ],
)
def test_published_bip322_signature_holds(address: str, message: str, signature: str) -> None:
    assert bip322(address, message, signature)


@pytest.mark.parametrize(
    ("address", "message", "signature"),
    [
        (SINGLE, "", "not-valid-base64!!!"),
        (SINGLE, "", ""),
        (SINGLE, "Wrong message that was not signed", EMPTY_SIGNED),
        (MULTISIG, "", EMPTY_SIGNED),
        (SINGLE, "", "smpAA=="),
        (SINGLE, "", "fooAA=="),
        (SINGLE, "Hello World", EMPTY_SIGNED),
    ],
)
def test_published_bip322_refusal_is_refused(address: str, message: str, signature: str) -> None:
    assert not bip322(address, message, signature)


def ownership(method: Method, signature: str, **changes: object) -> Document:
    fields = {
        "v": "por-ownership/1",
        "exchange": EXCHANGE,
        "chain": "ethereum",
        "address": WALLET.address,
        "method": method.value,
        "checkpoint": CHECKPOINT,
        "signature": signature,
        "answer": None,
    }
    return parse_documents(json.dumps({**fields, **changes}).encode(), where="test")[0]


def signed(checkpoint: str = CHECKPOINT, exchange: str = EXCHANGE) -> str:
    message = encode_defunct(text=message_of(exchange, checkpoint))
    return "0x" + bytes(WALLET.sign_message(message).signature).hex()


def balance(**changes: object) -> Document:
    fields = {
        "v": "por-balance/1",
        "exchange": EXCHANGE,
        "asset": "ETH",
        "chain": "ethereum",
        "address": WALLET.address,
        "amount": "5000",
        "height": 77,
        "block_hash": "0xabc",
        "at": "2026-03-09T23:50:00Z",
    }
    return parse_documents(json.dumps({**fields, **changes}).encode(), where="test")[0]


ADDRESS = Address.parse(f"ETH ethereum {WALLET.address} eip191")
JUDGE = Judge(EXCHANGE, CUTOFF, PAST, timedelta(days=30), timedelta(hours=1))


def stored(document: Document, at: datetime = CUTOFF, number: int = 1) -> dict[str, list[StoredReading]]:
    when = datetime.fromisoformat(document.at) if document.at else at
    return {document.subject: [StoredReading(number, when, document.to_bytes())]}


def test_signed_address_with_a_balance_counts() -> None:
    found = JUDGE.judge(ADDRESS, {**stored(balance()), **stored(ownership(Method.EIP191, signed()), number=2)})
    assert (found.counted, found.reason, found.ownership) == (5000, None, "eip191 2026-03-09T00:00:00Z")
    assert (found.height, found.block_hash, found.readings) == (77, "0xabc", (1, 2))


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        ([], "no balance was read"),
        ([balance()], "no ownership proof"),
        ([ownership(Method.EIP191, signed())], "no balance was read"),
        ([balance(at="2026-03-09T20:00:00Z"), ownership(Method.EIP191, signed())], "no balance was read"),
        ([balance(exchange="other.example"), ownership(Method.EIP191, signed())], "another exchange"),
        ([balance(), ownership(Method.EIP191, signed(), exchange="other.example")], "another exchange"),
        ([balance(), ownership(Method.EIP191, signed(exchange="other.example"))], "is not by"),
        ([balance(), ownership(Method.EIP191, signed(OLDER), checkpoint=OLDER)], "expired"),
        ([balance(), ownership(Method.EIP191, signed(OLDER))], "is not by"),
        ([balance(), ownership(Method.EIP191, "0x12")], "cannot be read"),
        ([balance(), ownership(Method.EIP191, "zz")], "not hex"),
        ([balance(), ownership(Method.BIP322, EMPTY_SIGNED)], "the policy names eip191"),
        (
            [
                balance(),
                ownership(
                    Method.EIP191,
                    signed(sign_checkpoint(EXCHANGE, 9, bytes(32), KEYS.checkpoint_signer())),
                    checkpoint=sign_checkpoint(EXCHANGE, 9, bytes(32), KEYS.checkpoint_signer()),
                ),
            ],
            "none of this log's past ones",
        ),
    ],
)
def test_address_without_what_it_needs_counts_zero_with_the_reason(documents: list[Document], why: str) -> None:
    readings: dict[str, list[StoredReading]] = {}
    for number, one in enumerate(documents):
        readings |= stored(one, number=number)
    found = JUDGE.judge(ADDRESS, readings)
    assert found.counted == 0
    assert why in str(found.reason)
    assert found.ownership.startswith("not counted: ")


def test_newest_proof_that_holds_is_taken() -> None:
    good, bad = ownership(Method.EIP191, signed()), ownership(Method.EIP191, signed(OLDER))
    both = [
        StoredReading(2, CUTOFF - timedelta(hours=2), good.to_bytes()),
        StoredReading(3, CUTOFF - timedelta(hours=1), bad.to_bytes()),
    ]
    found = JUDGE.judge(ADDRESS, {**stored(balance()), good.subject: both})
    assert (found.counted, found.readings) == (5000, (1, 2))


def test_proof_captured_long_after_the_cut_off_is_of_another_day() -> None:
    late = stored(ownership(Method.EIP191, signed()), at=CUTOFF + timedelta(hours=2))
    assert JUDGE.judge(ADDRESS, {**stored(balance()), **late}).reason == "no ownership proof"


def contract(answer: dict[str, object]) -> Document:
    return ownership(Method.EIP1271, "0xfeed", answer=answer)


def test_contracts_answer_counts_only_to_the_right_question() -> None:
    address = Address.parse(f"ETH ethereum {WALLET.address} eip1271")
    data = eip1271_call(message_of(EXCHANGE, CHECKPOINT), "0xfeed")
    yes = "0x1626ba7e" + "00" * 28
    answer = {"height": 5, "block_hash": "0x1", "data": data, "result": yes}
    verify_ownership(contract(answer), address)
    for changed, why in (
        ({"result": "0x" + "00" * 32}, "is not by"),
        ({"result": "0x1626ba7e"}, "is not by"),
        ({"result": "0x"}, "is not by"),
        ({"data": eip1271_call(message_of(EXCHANGE, OLDER), "0xfeed")}, "another message"),
        ({"data": eip1271_call(message_of(EXCHANGE, CHECKPOINT), "0xfeee")}, "another message"),
    ):
        with pytest.raises(AttestationError, match=why):
            verify_ownership(contract({**answer, **changed}), address)


def statement(**changes: object) -> Document:
    fields = {
        "v": "por-statement/1",
        "exchange": EXCHANGE,
        "asset": "BTC",
        "chain": "bank-of-x",
        "address": "account-17",
        "amount": "900",
        "at": "2026-03-10T00:10:00Z",
        "checkpoint": CHECKPOINT,
    }
    signature = CUSTODIAN.sign_manifest_message(statement_message(fields)).hex()
    return parse_documents(json.dumps({**fields, "signature": signature, **changes}).encode(), where="test")[0]


def test_custodians_statement_counts_under_the_policys_key_alone() -> None:
    address = Address.parse(f"BTC bank-of-x account-17 custodian:{CUSTODIAN.public_key.hex()}")
    assert JUDGE.judge(address, stored(statement())).counted == 900
    changed = JUDGE.judge(address, stored(statement(amount="901")))
    assert (changed.counted, "not signed" in str(changed.reason)) == (0, True)
    other = Address.parse(f"BTC bank-of-x account-17 custodian:{'ab' * 32}")
    assert JUDGE.judge(other, stored(statement())).counted == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "BTC bitcoin bc1q",
        "BTC bitcoin bc1q rsa",
        "BTC bitcoin bc1q custodian",
        "BTC bitcoin bc1q bip322:00",
        "BTC bit coin bc1q bip322",
        f"BTC bitcoin {'x' * 120} bip322",
        "BTC bitcoin bc1\x07 bip322",
    ],
)
def test_malformed_address_of_a_policy_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Address.parse(text)


def test_policy_with_addresses_needs_the_ratio_as_a_gate() -> None:
    addresses = (f"ETH ethereum {WALLET.address} eip191",)
    with pytest.raises(ConfigError, match="reserves_cover_liabilities"):
        Policy("USDT", reserve_addresses=addresses)
    gates = (*CORE_GATES, RESERVES_COVER_LIABILITIES)
    assert Policy.parse(Policy("USDT", required_gates=gates, reserve_addresses=addresses).as_dict())


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]x",
        '{"v": "por-balance/2"}',
        '{"v": "por-balance/1"}',
        '{"v": 5}',
        "5",
        '[{"v": "por-balance/1", "amount": 1.5}]',
    ],
)
def test_malformed_document_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_documents(text.encode(), where="test")


def test_verifying_a_signature_leaves_the_recursion_limit_as_it_was() -> None:
    """Ethereum's libraries raise it to 100,000, with which deep JSON crashes the process instead of raising."""
    code = (
        "import json, sys; from engine.reserves.attestation import *; from engine.reserves.ownership import *;"
        "limit = sys.getrecursionlimit();"
        f"d = parse_documents({ownership(Method.EIP191, signed()).to_bytes()!r}, where='x')[0];"
        f"verify_ownership(d, Address.parse('ETH ethereum {WALLET.address} eip191'));"
        "eip1271_call('x', '0x00'); eip191_digest('x'); assert sys.getrecursionlimit() == limit;"
        "json_deep = '[' * 100000\n"
        "try: parse_documents(json_deep.encode(), where='x')\n"
        "except FormatError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "refused", done.stderr[-500:]

"""Who controls an address: the message that it signs, and the verification of its signature.

What belongs here: one verifier a method, and what a custodian signs. Source: RESERVES.md, Reserves.
What does not: the documents (see `attestation`), and whether what was signed is recent (see `attested`).

An address signs `POR v1|exchange|<the text of a past checkpoint>`: a checkpoint cannot be known before its day was
sealed, so the signature is no older than it. EIP-191 and BIP-322 are verified here from the document alone; an EIP-1271
document carries the contract's answer at a block, captured when it was brought, and is checked to answer the right
question.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engine.canonical import jcs
from engine.errors import ComplineError
from engine.reserves.attestation import Address, AttestationError, Document, Method

STATEMENT_PREFIX = b"por/1/statement\0"
EIP1271_MAGIC = "0x1626ba7e"


def message_of(exchange: str, checkpoint: str) -> str:
    """What an address signs."""
    return f"POR v1|{exchange}|{checkpoint}"


@contextmanager
def _as_before() -> Iterator[None]:
    """Import Ethereum's libraries inside: one of them raises the process's recursion limit a hundredfold.

    With it, deep JSON no longer ends in a RecursionError but in a crash of the process.
    """
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def eip191_digest(message: str) -> bytes:
    """The hash that EIP-191's personal message signs (version 0x45)."""
    with _as_before():
        from eth_account.messages import _hash_eip191_message, encode_defunct

    return bytes(_hash_eip191_message(encode_defunct(text=message)))


def eip1271_call(message: str, signature: str) -> str:
    """The data of a call of `isValidSignature(bytes32,bytes)`, hex with 0x."""
    with _as_before():
        from eth_abi.abi import encode

    body = encode(["bytes32", "bytes"], [eip191_digest(message), hex_bytes(signature)])
    return EIP1271_MAGIC + body.hex()


def hex_bytes(text: str) -> bytes:
    """The bytes of a signature.

    Raises:
        AttestationError: it is not hex.
    """
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise AttestationError("the signature is not hex", rule="hex, 0x before it") from None


def verify_ownership(document: Document, address: Address) -> None:
    """Check that the address's holder signed the document's checkpoint.

    Raises:
        AttestationError: the signature does not hold, or is of another method than the policy names.
    """
    fields = document.fields
    if fields["method"] != address.method:
        raise AttestationError(f"signed by {fields['method']}, the policy names {address.method}")
    message = message_of(fields["exchange"], fields["checkpoint"])
    try:
        holds = _VERIFIERS[address.method](address.address, message, fields)
    except ComplineError:
        raise
    except Exception as error:
        raise AttestationError(f"the {address.method} signature cannot be read: {type(error).__name__}") from error
    if not holds:
        raise AttestationError(f"the {address.method} signature is not by {address.address}")


def _by_eip191(address: str, message: str, fields: Mapping[str, Any]) -> bool:
    with _as_before():
        from eth_account import Account
        from eth_account.messages import encode_defunct

    signer = Account.recover_message(encode_defunct(text=message), signature=hex_bytes(fields["signature"]))
    return bool(signer.lower() == address.lower())


def _by_eip1271(address: str, message: str, fields: Mapping[str, Any]) -> bool:
    answer = fields["answer"]
    if answer["data"] != eip1271_call(message, fields["signature"]):
        raise AttestationError("the contract was asked about another message or signature")
    if not isinstance(answer["result"], str):
        raise AttestationError("the contract's answer is no text", rule="hex, 0x before it")
    word = hex_bytes(answer["result"])
    return word == bytes.fromhex(EIP1271_MAGIC[2:]) + bytes(28)


def _by_bip322(address: str, message: str, fields: Mapping[str, Any]) -> bool:
    import bip322

    signature = str(fields["signature"]).removeprefix("smp")
    try:
        base64.b64decode(signature, validate=True)
    except binascii.Error:
        return False
    try:
        bip322.verify_simple_encoded(address, message, signature)
    except bip322.VerificationError:
        return False
    return True


_VERIFIERS = {Method.EIP191: _by_eip191, Method.EIP1271: _by_eip1271, Method.BIP322: _by_bip322}


def statement_message(fields: Mapping[str, Any]) -> bytes:
    """What a custodian signs (Ed25519): the statement without its signature, behind a prefix."""
    return STATEMENT_PREFIX + jcs({key: value for key, value in fields.items() if key != "signature"})

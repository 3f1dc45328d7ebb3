"""The rules that single fields of proof-of-reserves format 1 keep: widths, names, amounts, hex, strict JSON.

What belongs here: checks and encodings of one value, shared by every file and structure of the format.
What does not: structures made of several fields (see `entries`, `header`, `manifest`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Any, NoReturn

from engine.errors import InputError
from engine.money import MAX_UNITS

MAX_SAFE_INTEGER = 2**53 - 1
"""Largest integer that JCS carries exactly."""

MAX_HEIGHT = 40
"""Tallest tree that a verifier accepts."""

_ACCOUNT = re.compile(r"[a-z0-9-]{1,64}")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_AMOUNT = re.compile(r"0|[1-9][0-9]{0,38}")
_HEX = re.compile(r"[0-9a-f]*")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")


class FormatError(InputError):
    """Bytes or values that proof-of-reserves format 1 does not allow."""


def shown(value: object) -> str:
    """A value as an error may quote it: short, whatever its size."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return repr(str(value)[:80])


def u32(value: int) -> bytes:
    """Four bytes, unsigned, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Eight bytes, unsigned, big-endian."""
    return value.to_bytes(8, "big")


def u128(value: int) -> bytes:
    """Sixteen bytes, unsigned, big-endian."""
    return value.to_bytes(16, "big")


def check_account(value: object, *, where: str) -> str:
    """A customer account's printed name."""
    if not isinstance(value, str) or not _ACCOUNT.fullmatch(value):
        raise FormatError(f"{where}: account {shown(value)}", rule="an account is 1 to 64 of a-z, 0-9 and -")
    return value


def check_text(value: object, longest: int, *, where: str) -> str:
    """Printable ASCII of 1 to `longest` characters."""
    if not isinstance(value, str) or len(value) > longest or not _PRINTABLE.fullmatch(value):
        raise FormatError(f"{where}: {shown(value)}", rule=f"1 to {longest} printable ASCII characters")
    return value


def check_asset(value: object, *, where: str) -> str:
    """An asset's name."""
    return check_text(value, 32, where=f"{where}: asset")


def check_exchange(value: object, *, where: str) -> str:
    """An exchange's name."""
    return check_text(value, 253, where=f"{where}: exchange")


def check_integer(value: object, low: int, high: int, *, where: str) -> int:
    """An integer in [low, high]; true and false are no integers."""
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"{where}: {shown(value)}", rule=f"an integer from {low} to {high}")
    return value


def check_amount(value: object, *, where: str) -> int:
    """An amount in smallest units, in [0, 2^127)."""
    if type(value) is not int or not 0 <= value <= MAX_UNITS:
        raise FormatError(f"{where}: amount {shown(value)}", rule="amounts and sums lie in [0, 2^127) smallest units")
    return value


def parse_amount(value: object, *, where: str) -> int:
    """Read an amount's decimal text: no sign, space or leading zero."""
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise FormatError(
            f"{where}: amount {shown(value)}",
            rule="an amount is a decimal string of smallest units without sign, space or leading zero",
        )
    return check_amount(int(value), where=where)


def check_hex(value: object, length: int, *, where: str) -> str:
    """Lower-case hex of `length` bytes."""
    if not isinstance(value, str) or len(value) != 2 * length or not _HEX.fullmatch(value):
        raise FormatError(f"{where}: {shown(value)}", rule=f"{length} bytes in lower-case hex")
    return value


def check_date(value: object, *, where: str) -> str:
    """A calendar date as YYYY-MM-DD."""
    if isinstance(value, str) and _DATE.fullmatch(value) and _exists(date.fromisoformat, value):
        return value
    raise FormatError(f"{where}: {shown(value)}", rule="a date as YYYY-MM-DD")


def check_instant(value: object, *, where: str) -> str:
    """A UTC instant as YYYY-MM-DDTHH:MM:SSZ, with at most six decimals of a second."""
    if isinstance(value, str) and _INSTANT.fullmatch(value) and _exists(datetime.fromisoformat, value):
        return value
    raise FormatError(f"{where}: {shown(value)}", rule="a UTC instant as YYYY-MM-DDTHH:MM:SSZ")


def _exists(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def exact_object(value: object, keys: Iterable[str], *, where: str) -> dict[str, Any]:
    """A JSON object with exactly these keys."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: not a JSON object", rule="the format's own structure, nothing else")
    wanted = set(keys)
    if unknown := sorted(set(value) - wanted):
        raise FormatError(f"{where}: unknown key {str(unknown[0])[:80]!r}", rule="unknown keys are refused")
    if missing := sorted(wanted - set(value)):
        raise FormatError(f"{where}: key {missing[0]!r} is missing", rule="every key is present")
    return value


def json_list(value: object, *, where: str) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        raise FormatError(f"{where}: not a JSON array", rule="the format's own structure, nothing else")
    return value


def require_ascending(keys: Sequence[Any], *, where: str) -> None:
    """Sort keys that rise strictly, so that none comes twice.

    ASCII text compares like its bytes, so plain comparison is the format's order.
    """
    for earlier, later in itertools.pairwise(keys):
        if not earlier < later:
            raise FormatError(f"{where}: {later!r} after {earlier!r}", rule="entries are strictly ascending and unique")


def load_strict_json(data: bytes, *, longest: int, where: str) -> Any:
    """Read JSON that has no float, no huge integer, no duplicate key and no NaN.

    Args:
        data: UTF-8 text.
        longest: most bytes that are read at all.
        where: what is read, for the error.

    Raises:
        FormatError: anything else, also nesting too deep for the parser.
    """
    if len(data) > longest:
        raise FormatError(f"{where}: {len(data)} bytes", rule=f"at most {longest} bytes")

    def refuse_number(text: str) -> NoReturn:
        raise FormatError(f"{where}: number {text[:40]!r}", rule="integers only, no fraction or exponent")

    def integer(text: str) -> int:
        if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
            raise FormatError(f"{where}: number {text[:40]!r}", rule="integers below 2^53")
        return int(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise FormatError(f"{where}: a key is given twice", rule="duplicate JSON keys are refused")
        return result

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=integer,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON ({str(error)[:120]})", rule="UTF-8 JSON") from error

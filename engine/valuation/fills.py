"""A file of fills, every rule checked before anything is computed.

What belongs here: the columns, their rules, and fills in the file's order.
What does not: what they come to (see `report`).

Order is the row's: `executed_at` must not go back, and a `sequence` column, where there is one, must increase (then
`executed_at` is information, as everywhere in the books).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from engine.errors import InputError
from engine.money import MAX_DECIMALS, parse_decimal

REQUIRED = ("executed_at", "side", "quantity", "price")
OPTIONAL = ("user", "asset", "fee", "fee_asset", "sequence")
BASE, QUOTE = "base", "quote"
"""Words that name the asset of a fee where the file has no column of assets."""
_LARGEST = Decimal(10) ** 38


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill. `fee` is negative for a rebate; `fee_asset` is None for the reporting currency."""

    row: int
    user: str
    asset: str
    executed_at: datetime
    buys: bool
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str | None


def read_fills(path: Path) -> list[Fill]:
    """Read a CSV file of fills.

    Raises:
        InputError: the file cannot be read, or a row breaks a rule; names file, row and rule.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}", rule="a readable file of UTF-8 text") from None
    lines = csv.reader(text.splitlines(), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_header(path, header)
        fills = list(_fills(path, header, lines))
    except csv.Error as error:
        raise _refuse(path, lines.line_num, f"not CSV: {error}", "comma-separated values with a header") from None
    if not fills:
        raise _refuse(path, 1, "there is no fill", "a header and at least one fill")
    return _with_currency(path, fills)


def _refuse(path: Path, row: int, what: str, rule: str) -> InputError:
    return InputError(
        f"{path}, line {row}: {what}", rule=rule, next_step="correct the file; nothing was computed from it"
    )


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in REQUIRED + OPTIONAL]
    doubled = sorted({name for name in header if header.count(name) > 1})
    for names, what in ((missing, "is missing"), (unknown, "is not known"), (doubled, "is there twice")):
        if names:
            rule = f"columns {', '.join(REQUIRED)}, and optional {', '.join(OPTIONAL)}"
            raise _refuse(path, 1, f"column {names[0]!r} {what}", rule)


def _fills(path: Path, header: Sequence[str], lines: Iterator[list[str]]) -> Iterator[Fill]:
    last_at: datetime | None = None
    last_sequence: int | None = None
    seen: set[tuple[str, ...]] = set()
    for row, values in enumerate(lines, start=2):
        if not values:
            continue
        if len(values) != len(header):
            raise _refuse(path, row, f"{len(values)} values", f"the header has {len(header)} columns")
        given = dict(zip(header, (value.strip() for value in values), strict=True))
        fill = _fill(path, row, given)
        if "sequence" in given:
            sequence = _sequence(path, row, given["sequence"])
            if last_sequence is not None and sequence <= last_sequence:
                what = f"sequence {sequence} follows {last_sequence}"
                raise _refuse(
                    path, row, what, "a sequence increases from fill to fill; the same one twice is a duplicate"
                )
            last_sequence = sequence
        elif last_at is not None and fill.executed_at < last_at:
            what = f"{given['executed_at']} comes after {last_at.isoformat()}"
            raise _refuse(path, row, what, "fills are in the order in which they happened")
        else:
            if fill.executed_at != last_at:
                seen.clear()
            whole = tuple(given.values())
            if whole in seen:
                raise _refuse(path, row, "the same fill twice", "give equal fills of one instant a column `sequence`")
            seen.add(whole)
        last_at = fill.executed_at
        yield fill


def _fill(path: Path, row: int, given: dict[str, str]) -> Fill:
    side = given["side"].lower()
    if side not in ("buy", "sell"):
        raise _refuse(path, row, f"side {given['side'][:40]!r}", "buy or sell")
    fee, fee_asset = given.get("fee", ""), given.get("fee_asset", "")
    asset = given.get("asset", "")
    if "asset" in given and not asset:
        raise _refuse(path, row, "no asset", "a fill names its asset where the file has the column")
    if fee_asset and not fee:
        raise _refuse(path, row, f"fee_asset {fee_asset} without a fee", "a fee has an amount")
    if fee_asset not in ("", BASE, QUOTE) and "asset" not in given:
        rule = "without a column `asset`, fee_asset is `base`, `quote` or empty (quote)"
        raise _refuse(path, row, f"fee_asset {fee_asset}", rule)
    named = {BASE: asset, QUOTE: None, "": None}
    return Fill(
        row=row,
        user=given.get("user", ""),
        asset=asset,
        executed_at=_instant(path, row, given["executed_at"]),
        buys=side == "buy",
        quantity=_amount(path, row, "quantity", given["quantity"], above_zero=True),
        price=_amount(path, row, "price", given["price"], above_zero=True),
        fee=_amount(path, row, "fee", fee or "0"),
        fee_asset=named.get(fee_asset, fee_asset),
    )


def _with_currency(path: Path, fills: list[Fill]) -> list[Fill]:
    """Fees in an asset that nobody trades here are in the reporting currency, of which there is one."""
    traded = {fill.asset for fill in fills}
    currency: str | None = None
    out = []
    for fill in fills:
        if fill.fee_asset is None or fill.fee_asset in traded:
            out.append(fill)
            continue
        currency = currency or fill.fee_asset
        if fill.fee_asset != currency:
            rule = f"an asset without a fill is the reporting currency, and that is {currency}"
            raise _refuse(path, fill.row, f"a fee in {fill.fee_asset}, which has no price", rule)
        out.append(
            Fill(
                fill.row, fill.user, fill.asset, fill.executed_at, fill.buys, fill.quantity, fill.price, fill.fee, None
            )
        )
    return out


def _amount(path: Path, row: int, name: str, text: str, *, above_zero: bool = False) -> Decimal:
    try:
        value = parse_decimal(text, record=name)
    except InputError as error:
        raise _refuse(path, row, error.what, error.rule) from None
    if above_zero and value <= 0:
        raise _refuse(path, row, f"{name} {text}", f"a {name} is above zero")
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if -exponent > MAX_DECIMALS or abs(value) >= _LARGEST:
        rule = f"at most {MAX_DECIMALS} decimals and 38 digits before them"
        raise _refuse(path, row, f"{name} {text} has too many digits", rule)
    return value


def _sequence(path: Path, row: int, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise _refuse(path, row, f"sequence {text[:40]!r}", "a whole number")
    return int(text)


def _instant(path: Path, row: int, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise _refuse(
            path, row, f"executed_at {text[:60]!r}", "an ISO 8601 instant; UTC where it names no zone"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

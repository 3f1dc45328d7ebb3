"""A file of what comes with opening balances: lots at their cost, and volumes of the dates before the first day.

What belongs here: the file's two kinds of lines and their rules.
What does not: whether lots sum to balances (the database knows both), and booking (see `day`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.clock import CloseDate, parse_close_date
from engine.errors import InputError
from engine.money import parse_decimal, to_units

WINDOW_DAYS = 30
LOT, VOLUME = (
    frozenset(("account", "asset", "acquired_on", "quantity", "cost")),
    frozenset(("account", "date", "volume")),
)


@dataclass(frozen=True, slots=True)
class OpeningLot:
    """A part of an opening balance, and what it cost in the reporting currency."""

    account: str
    asset: str
    lot_no: int
    acquired_on: date
    quantity: Decimal
    cost: Decimal


@dataclass(frozen=True, slots=True)
class OpeningVolume:
    """What an account traded on a date before the first day, in the reporting currency."""

    account: str
    date: date
    volume: Decimal


@dataclass(slots=True)
class Openings:
    """A file, read."""

    lots: list[OpeningLot] = field(default_factory=list)
    volumes: list[OpeningVolume] = field(default_factory=list)


def read_openings(path: Path, *, first_day: CloseDate, decimals: Mapping[str, int], currency: str) -> Openings:
    """Read a file of JSON Lines: a lot or a volume each.

    Args:
        path: the file; lots of a position stand in order of acquisition.
        first_day: of the book.
        decimals: of every asset of the book.
        currency: the reporting currency, whose balances have no lots.

    Raises:
        InputError: a line breaks a rule; names file, line and rule.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}", rule="a readable file of UTF-8 text") from None
    found = Openings()
    last: dict[tuple[str, str], OpeningLot] = {}
    dates: set[tuple[str, date]] = set()
    for number, text in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        given = _object(where, text)
        if given.keys() == LOT:
            key = given["account"], given["asset"]
            lot = _lot(where, given, last.get(key), first_day, decimals, currency)
            last[key] = lot
            found.lots.append(lot)
        else:
            volume = _volume(where, given, first_day, decimals[currency])
            if (volume.account, volume.date) in dates:
                raise _refuse(where, f"a second volume of {volume.account} on {volume.date}", "one an account and date")
            dates.add((volume.account, volume.date))
            found.volumes.append(volume)
    if not lines:
        raise _refuse(f"{path}, line 1", "there is nothing", "a lot or a volume a line")
    return found


def _lot(
    where: str,
    given: dict[str, str],
    before: OpeningLot | None,
    first_day: CloseDate,
    decimals: Mapping[str, int],
    currency: str,
) -> OpeningLot:
    asset, acquired_on = given["asset"], _date(where, given["acquired_on"])
    if asset not in decimals:
        raise _refuse(where, f"asset {asset[:40]!r}", f"an asset of the book: {', '.join(sorted(decimals))}")
    if asset == currency:
        raise _refuse(where, f"a lot of {asset}", "the reporting currency is worth itself and has no lots")
    if acquired_on >= first_day:
        raise _refuse(where, f"acquired on {acquired_on}", f"opening lots were acquired before {first_day}")
    if before is not None and acquired_on < before.acquired_on:
        raise _refuse(
            where, f"acquired on {acquired_on}, the one before on {before.acquired_on}", "lots in order of acquisition"
        )
    return OpeningLot(
        account=given["account"],
        asset=asset,
        lot_no=before.lot_no + 1 if before else 0,
        acquired_on=acquired_on,
        quantity=_amount(where, "quantity", given["quantity"], decimals[asset], least=1),
        cost=_amount(where, "cost", given["cost"], decimals[currency], least=0),
    )


def _volume(where: str, given: dict[str, str], first_day: CloseDate, decimals: int) -> OpeningVolume:
    earliest = first_day - timedelta(days=WINDOW_DAYS - 1)
    day = _date(where, given["date"])
    if not earliest <= day < first_day:
        rule = f"from {earliest} to {first_day - timedelta(days=1)}, the dates that a window still reaches"
        raise _refuse(where, f"a volume of {day}", rule)
    return OpeningVolume(given["account"], day, _amount(where, "volume", given["volume"], decimals, least=1))


def _object(where: str, text: str) -> dict[str, str]:
    try:
        given: Any = json.loads(text)
    except ValueError as error:
        raise _refuse(where, f"no JSON: {error}", "one object a line") from None
    if (
        not isinstance(given, dict)
        or given.keys() not in (LOT, VOLUME)
        or not all(isinstance(v, str) for v in given.values())
    ):
        rule = "{account, asset, acquired_on, quantity, cost} or {account, date, volume}, every value a text"
        raise _refuse(where, f"{text[:80]!r}", rule)
    return given


def _date(where: str, text: str) -> date:
    try:
        return parse_close_date(text)
    except InputError as error:
        raise _refuse(where, error.what, error.rule) from None


def _amount(where: str, name: str, text: str, decimals: int, *, least: int) -> Decimal:
    amount = parse_decimal(text, record=f"{where}: {name}")
    if to_units(amount, decimals, record=f"{where}: {name}") < least:
        raise _refuse(where, f"{name} {text}", "above zero" if least else "zero or more")
    return amount


def _refuse(where: str, what: str, rule: str) -> InputError:
    return InputError(f"{where}: {what}", rule=rule, next_step="correct the file; nothing of it was loaded")

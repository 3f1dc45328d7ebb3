"""The file that an exchange begins with: its assets, markets, rates, accounts and balances, a JSON object a line.

What belongs here: the kinds of lines, their fields, and the command that each becomes.
What does not: running them (see `opening`), and what a book's policy may say (see `engine.close.policy`).

Numbers of assets and markets follow from their order; everything else is named, and amounts are decimal strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from engine.clock import CloseDate, parse_close_date
from engine.errors import InputError
from engine.exchange import commands as cmd
from engine.exchange.state import Asset, EngineState
from engine.ledger.journal import NOT_FOR_USERS
from engine.money import parse_decimal, to_units

LONGEST_LINE = 64 * 1024
HEAD = "book"
_MOST = 1_000_000_000
_EXCHANGE = re.compile(r"[!-~]{1,253}")


@dataclass(frozen=True, slots=True)
class Head:
    """The first line.

    Attributes:
        exchange: as manifests name it.
        first_day: the first close date.
        policy: the fields of the book's policy that are not their defaults, unread.
    """

    exchange: str
    first_day: CloseDate
    policy: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Line:
    """One line: where it stands, and its fields."""

    where: str
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A text.

        Raises:
            InputError: it is none.
        """
        value = self.fields[name]
        if not isinstance(value, str) or not value:
            self.refuse(f"{name} is not a text", f"{name} is a text")
        return value

    def whole(self, name: str, default: int = 0, *, least: int = 0, most: int = _MOST) -> int:
        """A whole number.

        Raises:
            InputError: it is none, or out of its range.
        """
        value = self.fields.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(f"{name} is {str(value)[:40]!r}", f"{name} is a whole number from {least} to {most}")
        return value

    def units(self, name: str, decimals: int, default: str = "") -> int:
        """An amount in smallest units, above zero unless it is not given.

        Raises:
            InputError: it is no decimal string, not positive, or too fine.
        """
        if name not in self.fields and default:
            return int(default)
        amount = parse_decimal(self.fields[name], record=f"{self.where}: {name}")
        units = to_units(amount, decimals, record=f"{self.where}: {name}")
        if units <= 0:
            self.refuse(f"{name} is {amount:f}", f"{name} is above zero")
        return units

    def new(self, name: str, known: Mapping[str, object]) -> None:
        """Make sure that nothing has this name yet.

        Raises:
            InputError: a line before has it.
        """
        if self.text(name) in known:
            self.refuse(f"{name} {self.text(name)[:64]} again", "it is listed once")

    def refuse(self, what: str, rule: str) -> NoReturn:
        """Refuse the line."""
        raise refused(self.where, what, rule)


def refused(where: str, what: str, rule: str) -> InputError:
    """The error of a line."""
    return InputError(f"{where}: {what}", rule=rule, next_step="correct the file; nothing of it was opened")


def read_head(path: Path) -> Head:
    """The first line of a file.

    Raises:
        InputError: the file cannot be read, or its first line is no book.
    """
    line = next(_lines(path), None)
    if line is None or line.fields["kind"] != HEAD:
        rule = 'the first line is {"kind": "book", "exchange": …, "first_day": …, "policy": {…}}'
        raise refused(f"{path}, line 1", "no book", rule)
    policy = line.fields["policy"]
    if not isinstance(policy, dict):
        line.refuse("policy is not an object", "policy holds the fields that differ from their defaults")
    if not _EXCHANGE.fullmatch(line.text("exchange")):
        line.refuse(f"exchange {line.text('exchange')[:64]!r}", f"exchange matches {_EXCHANGE.pattern}")
    try:
        first_day = parse_close_date(line.text("first_day"))
    except InputError as error:
        raise refused(line.where, error.what, error.rule) from None
    return Head(line.text("exchange"), first_day, policy)


def commands(path: Path, state: EngineState) -> Iterator[tuple[str, cmd.Command]]:
    """The commands of a file, in order, each with where it stands.

    Args:
        path: the file, whose head was read.
        state: of the engine that each command is given to before the next is asked for.

    Raises:
        InputError: a line breaks a rule; names file, line and rule.
    """
    for number, line in enumerate(_lines(path)):
        if (line.fields["kind"] == HEAD) != (number == 0):
            line.refuse("a book", "one line says what the book is, the first")
        if number:
            yield line.where, _COMMANDS[line.fields["kind"]](line, state)


def command_of(where: str, line: Mapping[str, Any], state: EngineState) -> cmd.Command:
    """The command of one line that is in no file.

    Args:
        where: what an error calls it.
        line: its kind and fields.
        state: of the engine that the command is for.

    Raises:
        InputError: it breaks a rule.
    """
    return _COMMANDS[line["kind"]](_Line(where, _fields(where, json.dumps(line).encode())), state)


def _asset(line: _Line, state: EngineState) -> cmd.Command:
    assets = state.registry.assets
    line.new("asset", state.registry.asset_by_symbol)
    return cmd.SetAsset(len(assets) + 1, line.text("asset"), line.whole("decimals", most=18))


def _market(line: _Line, state: EngineState) -> cmd.Command:
    """A market by its tick (a price) and its lot (a quantity)."""
    markets = state.registry.markets
    line.new("market", state.registry.market_by_symbol)
    base, quote = _known(line, "base", state), _known(line, "quote", state)
    lot = line.units("lot", base.decimals)
    tick = parse_decimal(line.fields["tick"], record=f"{line.where}: tick")
    per_tick_lot = Fraction(tick) * lot * 10**quote.decimals / 10**base.decimals
    if per_tick_lot <= 0 or per_tick_lot.denominator != 1:
        line.refuse(
            f"a tick of {line.fields['tick']} on a lot of {line.fields['lot']} is {per_tick_lot} units of"
            f" {quote.symbol}",
            "a tick times a lot is a whole number of smallest units of the quote",
        )
    limits = cmd.MarketLimits(
        min_quantity_lots=_lots(line, "min_quantity", base, lot),
        max_quantity_lots=_lots(line, "max_quantity", base, lot),
        min_notional_units=line.units("min_notional", quote.decimals, default="0"),
        band_ppm=line.whole("band_ppm"),
        slippage_ppm=line.whole("slippage_ppm"),
        reference_max_age_us=line.whole("reference_max_age_s") * 1_000_000,
        revision=1,
    )
    return cmd.SetMarket(
        len(markets) + 1, line.text("market"), base.asset, quote.asset, lot, int(per_tick_lot), None, limits
    )


def _lots(line: _Line, name: str, base: Asset, lot: int) -> int:
    lots, rest = divmod(line.units(name, base.decimals, default="0"), lot)
    if rest:
        line.refuse(f"{name} is {line.fields[name]}", f"{name} is a whole number of lots")
    return lots


def _tier(line: _Line, state: EngineState) -> cmd.Command:
    rates = (line.whole(name, least=-1_000_000, most=1_000_000) for name in ("maker_rate_ppm", "taker_rate_ppm"))
    maker, taker = rates
    number = line.whole("tier", most=65_535)
    if number in state.tiers:
        line.refuse(f"tier {number} again", "a tier has one line")
    return cmd.SetTier(maker, taker, None, number, f"opening-{number}")


def _account(line: _Line, state: EngineState) -> cmd.Command:
    line.new("account", state.registry.account_by_name)
    number = line.whole("user_id", least=1, most=2**63 - 1)
    if number in state.registry.accounts:
        line.refuse(f"user_id {number} again", "a user_id is one account's")
    if line.text("account") in NOT_FOR_USERS:
        line.refuse(f"account {line.text('account')!r}", f"{', '.join(sorted(NOT_FOR_USERS))} are the house's")
    return cmd.OpenAccount(number, line.text("account"))


def _account_tier(line: _Line, state: EngineState) -> cmd.Command:
    account, tier = _owner(line, state), line.whole("tier", most=65_535)
    if tier not in state.tiers:
        line.refuse(f"tier {tier}", "a tier has a line of its own before")
    return cmd.SetAccountTier(account, tier, f"opening-{account}")


def _balance(line: _Line, state: EngineState) -> cmd.Command:
    asset, account = _known(line, "asset", state), _owner(line, state)
    return cmd.OpeningBalance(
        account, asset.asset, line.units("amount", asset.decimals), f"opening-{account}-{asset.asset}"
    )


def _known(line: _Line, name: str, state: EngineState) -> Asset:
    asset = state.registry.asset_by_symbol.get(line.text(name))
    if asset is None:
        line.refuse(f"{name} {line.text(name)[:40]!r}", "an asset is listed before it is named")
    return asset


def _owner(line: _Line, state: EngineState) -> int:
    account = state.registry.account_by_name.get(line.text("account"))
    if account is None:
        line.refuse(f"account {line.text('account')[:64]!r}", "an account has a line of its own before")
    return account.account


_COMMANDS: dict[str, Callable[[_Line, EngineState], cmd.Command]] = {
    "asset": _asset,
    "market": _market,
    "tier": _tier,
    "account": _account,
    "account_tier": _account_tier,
    "balance": _balance,
}
_LIMITS = {"min_quantity", "max_quantity", "min_notional", "band_ppm", "slippage_ppm", "reference_max_age_s"}
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    HEAD: ({"exchange", "first_day", "policy"}, set()),
    "asset": ({"asset", "decimals"}, set()),
    "market": ({"market", "base", "quote", "tick", "lot"}, _LIMITS),
    "tier": ({"tier", "maker_rate_ppm", "taker_rate_ppm"}, set()),
    "account": ({"account", "user_id"}, set()),
    "account_tier": ({"account", "tier"}, set()),
    "balance": ({"account", "asset", "amount"}, set()),
}
"""What a line of a kind says, and what it may say."""


def _lines(path: Path) -> Iterator[_Line]:
    """Every line that is not empty, with exactly the fields of its kind.

    Of a file that can be read more than once: what a pipe holds is gone after its head.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no regular file", rule="it is read more than once", next_step="write it to a file")
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(raw) > LONGEST_LINE:
                    raise refused(where, "it does not end", f"a line has at most {LONGEST_LINE} bytes")
                if raw.strip():
                    yield _Line(where, _fields(where, raw))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", next_step="name a file of JSON Lines") from None


def _fields(where: str, raw: bytes) -> Mapping[str, Any]:
    try:
        found: Any = json.loads(raw.decode(), object_pairs_hook=_once, parse_float=_no_float, parse_constant=_no_float)
        if r"\u0000" in json.dumps(found, ensure_ascii=False).encode().decode():
            raise ValueError("a text holds a zero")
    except (ValueError, RecursionError) as error:
        raise refused(where, f"no JSON: {str(error)[:100]}", "one JSON object a line, each field once") from None
    kind = found.get("kind") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(kind, str) or kind not in _FIELDS:
        raise refused(where, f"kind {str(kind)[:40]!r}", f"kind is one of {', '.join(_FIELDS)}")
    required, optional = _FIELDS[kind]
    given = found.keys() - {"kind"}
    if missing := sorted(required - given):
        raise refused(
            where, f"field {missing[0]!r} is missing", f"a line of kind {kind} has {', '.join(sorted(required))}"
        )
    if unknown := sorted(given - required - optional):
        raise refused(
            where, f"unknown field {unknown[0][:40]!r}", f"beside these: {', '.join(sorted(optional)) or 'none'}"
        )
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]}: amounts are decimal strings")

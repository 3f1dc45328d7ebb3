"""Messages read strictly: what a request may say, and why one is refused before it is sequenced.

What belongs here: bytes to frozen requests, one function a subject.
What does not: what a request does (see `desk`), and names and scales of an exchange (see `scales`).

JSON numbers are taken for account and order numbers only; prices and quantities are decimal strings, since a JSON
number goes through a float in most languages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from engine.errors import InputError
from engine.exchange.commands import TimeInForce
from engine.exchange.events import Side, TransferKind
from engine.exchange.requests import CommandRequest
from engine.money import parse_decimal

MAX_MESSAGE_BYTES = 16 * 1024
MAX_NUMBER = 2**64 - 1
COMMAND_REQUEST = "command request"
"""What the database asks for is queued and counted under this; a NATS subject has no space."""
MARKER_DUE = "marker due"
"""A marker of the service's own clock, likewise."""
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,31}")
_REFERENCE = re.compile(r"[!-~]{1,64}")
_DIGITS = re.compile(r"[0-9]{1,20}")
_OUTER, _NOTHING = frozenset({"userId", "order"}), frozenset[str]()
_ORDER = frozenset({"symbol", "side", "type", "quantity"})
_ORDER_MAY = frozenset({"price", "timeInForce", "clientOrderId", "postOnly"})
_TYPES = {"limit": False, "market": True}
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_TIMES = {"gtc": TimeInForce.GTC, "ioc": TimeInForce.IOC, "fok": TimeInForce.FOK, "post_only": TimeInForce.POST_ONLY}
TIF_NAMES = {tif: name.upper() for name, tif in _TIMES.items()} | {TimeInForce.MARKET: "IOC"}


class RefusedMessageError(InputError):
    """A message that cannot be sequenced; it is counted and answered, never journalled.

    Args:
        reason: a stable word for programs and metrics.
        what: what is wrong, for a person.
    """

    def __init__(self, reason: str, what: str) -> None:
        self.reason = reason
        super().__init__(what, rule="a message is one JSON object of known fields", next_step="correct the message")


class OrderRequest(NamedTuple):
    """An order as its user says it; `price` is None for a market order without a worst price."""

    user: str | int
    symbol: str
    side: Side
    tif: TimeInForce
    price: Decimal | None
    quantity: Decimal
    client_order_id: str


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A cancel of one order."""

    user: str | int
    order_id: int
    symbol: str


@dataclass(frozen=True, slots=True)
class AmendRequest:
    """Another limit and rest for one resting order."""

    user: str | int
    order_id: int
    symbol: str
    price: Decimal
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class ReduceRequest:
    """A quantity to take off one resting order, which keeps its place."""

    user: str | int
    order_id: int
    symbol: str
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class CancelAllRequest:
    """A cancel of all orders of a user, in one market or in all."""

    user: str | int
    symbol: str | None


@dataclass(frozen=True, slots=True)
class BalancesRequest:
    """A question for one or all balances of a user."""

    user: str | int
    asset: str | None


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """What moves one balance of a user: custody's messages, stakes; `reference` is the idempotency key of its kind."""

    user: str | int
    asset: str
    amount: Decimal
    reference: str
    kind: TransferKind


@dataclass(frozen=True, slots=True)
class OfferedRequest:
    """A command that the database asks for; it is in no command up to `settled`. It never comes over NATS."""

    request: CommandRequest
    settled: int


@dataclass(frozen=True, slots=True)
class MarkerRequest:
    """It is time for a marker. It never comes over NATS."""


Request = (
    OrderRequest
    | CancelRequest
    | AmendRequest
    | ReduceRequest
    | CancelAllRequest
    | BalancesRequest
    | TransferRequest
    | OfferedRequest
    | MarkerRequest
)


def parse_order(data: bytes) -> OrderRequest:
    """Read `orders.submit`.

    Raises:
        RefusedMessageError: it is anything but an order.
    """
    outer = _object(data, _OUTER, _NOTHING)
    order = outer["order"]
    if not isinstance(order, dict):
        _refuse("invalid_field", "order is not an object")
    _check_fields(order, _ORDER, _ORDER_MAY)
    kind = _word(order, "type", _TYPES)
    tif = _time_in_force(order, at_market=kind)
    price = order.get("price")
    if price is None and not kind:
        _refuse("missing_field", "a limit order has a price")
    return OrderRequest(
        user=_user(outer),
        symbol=_matching(order, "symbol", _SYMBOL),
        side=_word(order, "side", _SIDES),
        tif=tif,
        price=None if price is None else _number(price, "price"),
        quantity=_number(order["quantity"], "quantity"),
        client_order_id=_matching(order, "clientOrderId", _REFERENCE) if "clientOrderId" in order else "",
    )


def parse_cancel(data: bytes) -> CancelRequest:
    """Read `orders.cancel`.

    Raises:
        RefusedMessageError: it is anything but a cancel.
    """
    fields = _object(data, {"userId", "orderId", "symbol"}, set())
    return CancelRequest(_user(fields), _order_id(fields["orderId"]), _matching(fields, "symbol", _SYMBOL))


def parse_amend(data: bytes) -> AmendRequest:
    """Read `orders.amend`.

    Raises:
        RefusedMessageError: it is anything but that.
    """
    fields = _object(data, {"userId", "orderId", "symbol", "price", "quantity"}, set())
    return AmendRequest(
        _user(fields),
        _order_id(fields["orderId"]),
        _matching(fields, "symbol", _SYMBOL),
        _number(fields["price"], "price"),
        _number(fields["quantity"], "quantity"),
    )


def parse_reduce(data: bytes) -> ReduceRequest:
    """Read `orders.reduce`.

    Raises:
        RefusedMessageError: it is anything but that.
    """
    fields = _object(data, {"userId", "orderId", "symbol", "quantity"}, set())
    return ReduceRequest(
        _user(fields),
        _order_id(fields["orderId"]),
        _matching(fields, "symbol", _SYMBOL),
        _number(fields["quantity"], "quantity"),
    )


def parse_cancel_all(data: bytes) -> CancelAllRequest:
    """Read `orders.cancel_all`.

    Raises:
        RefusedMessageError: it is anything but that.
    """
    fields = _object(data, {"userId"}, {"symbol"})
    return CancelAllRequest(_user(fields), _matching(fields, "symbol", _SYMBOL) if "symbol" in fields else None)


def parse_balances(data: bytes) -> BalancesRequest:
    """Read `ledger.balances.get`.

    Raises:
        RefusedMessageError: it is anything but that question.
    """
    fields = _object(data, {"userId"}, {"asset"})
    return BalancesRequest(_user(fields), _matching(fields, "asset", _SYMBOL) if "asset" in fields else None)


def parse_offered(data: bytes) -> OfferedRequest:
    """Read what `database_watch` offered; its fields were checked where the request was made."""
    key, kind, reference, payload, settled = json.loads(data)
    return OfferedRequest(CommandRequest(key, kind, reference, payload), settled)


def _transfer(kind: TransferKind, key: str) -> Callable[[bytes], TransferRequest]:
    """The parser of a subject whose messages move a balance; `key` is the field of their idempotency key."""

    def parse(data: bytes) -> TransferRequest:
        fields = _object(data, {"userId", "asset", "amount", key}, set())
        return TransferRequest(
            _user(fields),
            _matching(fields, "asset", _SYMBOL),
            _number(fields["amount"], "amount"),
            _matching(fields, key, _REFERENCE),
            kind,
        )

    return parse


PARSERS: dict[str, Callable[[bytes], Request]] = {
    "orders.submit": parse_order,
    "orders.cancel": parse_cancel,
    "orders.cancel_all": parse_cancel_all,
    "orders.amend": parse_amend,
    "orders.reduce": parse_reduce,
    "ledger.balances.get": parse_balances,
    "staking.stake": _transfer(TransferKind.STAKE, "requestId"),
    "staking.unstake": _transfer(TransferKind.UNSTAKE, "requestId"),
    "custody.deposit.confirmed": _transfer(TransferKind.DEPOSIT, "txHash"),
    "custody.deposit.reversed": _transfer(TransferKind.DEPOSIT_REVERSED, "txHash"),
    "custody.withdrawal.requested": _transfer(TransferKind.WITHDRAWAL, "withdrawalId"),
    "custody.withdrawal.confirmed": _transfer(TransferKind.WITHDRAWAL_CONFIRMED, "withdrawalId"),
    "custody.withdrawal.failed": _transfer(TransferKind.WITHDRAWAL_FAILED, "withdrawalId"),
    COMMAND_REQUEST: parse_offered,
    MARKER_DUE: lambda data: MarkerRequest(),
}
"""The parser of each subject. What an operator decides (rights, corrections, rewards, rates) has none: it is asked for
by the database, where two people and caps stand before it."""


def _object(data: bytes, required: Set[str], optional: Set[str]) -> dict[str, Any]:
    """One JSON object with these fields, each once.

    Raises:
        RefusedMessageError: too long, no JSON, or other fields.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        _refuse("oversized", f"more than {MAX_MESSAGE_BYTES} bytes")
    try:
        # As text: of bytes, json guesses the encoding, and takes what is no UTF-8.
        value = _decoded(data.decode())
    except (ValueError, RecursionError) as error:
        raise RefusedMessageError("malformed", f"no JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        _refuse("malformed", "not a JSON object")
    _check_fields(value, required, optional)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _refuse("malformed", "a field is there twice")
    return found


def _no_number(text: str) -> NoReturn:
    _refuse("invalid_field", f"{text[:40]}: amounts are decimal strings")


# What json.loads would make anew for each message.
_JSON = json.JSONDecoder(object_pairs_hook=_once, parse_float=_no_number, parse_constant=_no_number)


def _decoded(text: str) -> Any:
    """What a text of JSON says; one without space around it, as programs send it, without looking for that."""
    if text.startswith("{"):
        value, end = _JSON.raw_decode(text)
        if end == len(text):
            return value
    return _JSON.decode(text)


def _check_fields(value: dict[str, Any], required: Set[str], optional: Set[str]) -> None:
    there = value.keys()
    if there == required:
        return
    if unknown := there - required - optional:
        _refuse("unknown_field", f"unknown field {sorted(unknown)[0][:40]!r}")
    if missing := required - there:
        _refuse("missing_field", f"field {sorted(missing)[0]!r} is missing")


def _user(fields: dict[str, Any]) -> str | int:
    user = fields["userId"]
    if isinstance(user, int) and not isinstance(user, bool) and 0 < user <= MAX_NUMBER:
        return user
    if isinstance(user, str) and _NAME.fullmatch(user):
        return user
    _refuse("invalid_field", "userId is not the name or number of an account")


def _order_id(value: object) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER:
        return value
    _refuse("invalid_field", "orderId is not the number of an order")


def _matching(fields: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = fields[name]
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    _refuse("invalid_field", f"{name} does not match {pattern.pattern}")


def _word(fields: dict[str, Any], name: str, words: dict[str, Any]) -> Any:
    value = fields[name]
    found = words.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        _refuse("invalid_field", f"{name} is not one of {', '.join(words)}")
    return found


def _time_in_force(order: dict[str, Any], *, at_market: bool) -> TimeInForce:
    post_only = order.get("postOnly", False)
    if not isinstance(post_only, bool):
        _refuse("invalid_field", "postOnly is not true or false")
    if at_market:
        if post_only or ("timeInForce" in order and _word(order, "timeInForce", _TIMES) != TimeInForce.IOC):
            _refuse("invalid_field", "a market order is IOC")
        return TimeInForce.MARKET
    tif: TimeInForce = _word(order, "timeInForce", _TIMES) if "timeInForce" in order else TimeInForce.GTC
    if not post_only:
        return tif
    if tif not in (TimeInForce.GTC, TimeInForce.POST_ONLY):
        _refuse("invalid_field", "a post-only order rests: its timeInForce is GTC")
    return TimeInForce.POST_ONLY


def _number(value: object, name: str) -> Decimal:
    return _decimal(value, name) if isinstance(value, str) else _refuse("invalid_field", f"{name} is no decimal string")


@lru_cache(maxsize=10_000)
def _decimal(text: str, name: str) -> Decimal:
    """A number by its text. A market's prices come again and again, and most quantities are round."""
    try:
        return parse_decimal(text, record=name)
    except InputError as error:
        raise RefusedMessageError("invalid_field", error.what) from None


def _refuse(reason: str, what: str) -> NoReturn:
    raise RefusedMessageError(reason, what)

"""`compline exchange request`: what an operator may ask of an exchange that is open.

What belongs here: the command, and the request that a line of an opening file becomes.
What does not: what needs two people, caps or a history: states of accounts, corrections, rates (docs/ops/exchange.md).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from engine import clock
from engine.clock import iso_of_us, to_us
from engine.errors import InputError, UncheckedError, UsageError
from engine.exchange.commands import SetAsset, SetMarket
from engine.exchange.opening import listing
from engine.exchange.requests import ACCEPTED
from engine.money import parse_decimal
from engine.store import command_requests, listings
from engine.store.connect import Connection, connect, typed_errors
from engine.store.listings import Answer, Listed
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_dry_run, put_json, put_table, talk

_POLL_S = 0.1
_WHOLE = frozenset({"decimals", "band_ppm", "slippage_ppm", "reference_max_age_s"})
_SHARES = ("band_ppm", "slippage_ppm", "reference_max_age_s")
_AMOUNTS = ("min_quantity", "max_quantity", "min_notional")
_DIGITS = re.compile(r"[0-9]{1,18}")
_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
_PRICE = "a venue's price has market, price, and may have at"
_NOTHING = "nothing was asked for"
_Asked = tuple[str, str, dict[str, Any]]
"""Key, kind and payload of a request."""


def request(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="asset, market or reference (a venue's price).")],
    fields: Annotated[
        list[str], typer.Argument(metavar="FIELD=VALUE…", help="As in an opening file; see docs/ops/exchange.md.")
    ],
    wait_s: Annotated[int, typer.Option(min=0, help="Seconds to wait for the exchange's answer.")] = 10,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """List an asset or a market, set a market's limits, or say a venue's price; exit 1 where the exchange refuses."""
    with errors(as_json=as_json):
        make, line = _kind(kind), _line(kind, fields)
        there = opened(book)
        with typed_errors(), closing(connect(there.servers.admin.dsn())) as connection:
            with connection.transaction(force_rollback=dry_run):
                listings.lock(connection)
                key, asked, payload = make(connection, line)
                listings.ask(connection, key, asked, payload)
            connection.autocommit = True
            if dry_run:
                said = ", ".join(f"{name} {value}" for name, value in payload.items())
                put_dry_run(f"would ask the exchange of book {there.book.name} for {asked}: {said}", as_json=as_json)
                return
            served = command_requests.is_listening(connection)
            found = _answered(connection, key, wait_s if served else 0)
        if as_json:
            put_json({"book": there.book.name, "request": key, **_said(found)})
        else:
            put_table(["request", "outcome", "sequence", "detail"], [[key, *list(_said(found).values())[2:]]])
        if found.outcome is None:
            talk("no answer yet: it stands, and is journalled once, by the exchange that serves or a cut-off")
            talk("the same command again says what became of it")
            raise typer.Exit(UncheckedError.exit_code)
        if found.outcome != ACCEPTED:
            talk(f"the exchange refused: {found.outcome}. {found.detail or ''}".rstrip())
            raise typer.Exit(1)


def _said(found: Answer) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "payload": found.payload,
        "outcome": found.outcome or "waiting",
        "sequence": found.engine_seq,
        "detail": found.detail,
    }


def _answered(connection: Connection, key: str, wait_s: int) -> Answer:
    """The request as it stands once it is answered, or the wait is over."""
    deadline = time.monotonic() + wait_s
    while True:
        found = listings.answer(connection, key)
        assert found is not None, "it was asked"
        if found.outcome is not None or time.monotonic() >= deadline:
            return found
        time.sleep(_POLL_S)


def _kind(kind: str) -> Callable[[Connection, dict[str, Any]], _Asked]:
    if kind not in _KINDS:
        raise UsageError(
            f"kind {kind[:40]!r}",
            rule=f"one person may ask for {', '.join(_KINDS)}",
            next_step="accounts: compline accounts onboard, transition, hold, adjust; rates: fee_tiers of the policy",
        )
    return _KINDS[kind]


def _line(kind: str, fields: Sequence[str]) -> dict[str, Any]:
    """The fields as a line of an opening file has them."""
    line: dict[str, Any] = {"kind": kind}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or not name or name in line:
            raise UsageError(f"{field[:60]!r}", rule="each field once, as FIELD=VALUE", next_step=f"{kind}=NAME …")
        line[name] = int(value) if name in _WHOLE and _DIGITS.fullmatch(value) else value
    if kind != "reference" and kind not in line:
        raise UsageError(f"no {kind}=NAME", rule=f"a request names its {kind}", next_step=f"add {kind}=NAME")
    return line


def _asset(connection: Connection, line: dict[str, Any]) -> _Asked:
    key = f"asset:{line['asset']}"
    before = listings.answer(connection, key)
    if before is not None and before.payload["decimals"] == line.get("decimals"):
        return key, before.kind, dict(before.payload)
    if any(isinstance(one, SetAsset) and one.symbol == line["asset"] for one in listings.known(connection)):
        raise InputError(
            f"asset {line['asset']} is listed", rule="once listed, an asset stays as it is", next_step=_NOTHING
        )
    found = listing(listings.known(connection), line)
    assert isinstance(found, SetAsset), "an asset was asked for"
    return key, "set_asset", {"asset": found.symbol, "number": found.asset, "decimals": found.decimals}


def _market(connection: Connection, line: dict[str, Any]) -> _Asked:
    """A listing, or other limits of a listed market under the next revision; the last one again is itself."""
    listed, name = listings.known(connection), line["market"]
    shape = listings.shape(listed, name)
    given = {**shape, **{k: v for k, v in line.items() if not (k in _AMOUNTS and v == "0")}}
    found = listing(listed, given)
    assert isinstance(found, SetMarket), "a market was asked for"
    payload = _payload(found, given, listed)
    last = listings.last_of_market(connection, name)
    if last is not None and last[1].outcome in (None, ACCEPTED) and {**payload, "revision": last[0]} == last[1].payload:
        return f"market:{name}:{last[0]}", "set_market", dict(last[1].payload)
    if shape and (missing := [limit for limit in (*_AMOUNTS, *_SHARES) if limit not in line]):
        raise InputError(
            f"market {name} is listed, and {', '.join(missing)} is not said",
            rule="other limits of a listed market are said whole: one that is left out would be gone",
            next_step=f"say each limit, 0 for none; {_NOTHING}",
        )
    revision = 1 + (last[0] if last else int(bool(shape)))
    return f"market:{name}:{revision}", "set_market", {**payload, "revision": revision}


def _payload(found: SetMarket, line: dict[str, Any], listed: Sequence[Listed]) -> dict[str, Any]:
    symbols = {one.asset: one.symbol for one in listed if isinstance(one, SetAsset)}
    limits = found.limits
    given = {
        "min_quantity_lots": limits.min_quantity_lots,
        "max_quantity_lots": limits.max_quantity_lots,
        **{name: line.get(name, 0) for name in _SHARES},
    }
    return {
        "market": found.symbol,
        "number": found.market,
        "base": symbols[found.base],
        "quote": symbols[found.quote],
        "base_units_per_lot": str(found.base_units_per_lot),
        "quote_units_per_tick_lot": found.quote_units_per_tick_lot,
        **{name: value for name, value in given.items() if value},
        **({"min_notional": line["min_notional"]} if "min_notional" in line else {}),
    }


def _reference(connection: Connection, line: dict[str, Any]) -> _Asked:
    """A venue's price, as of now unless the line says when."""
    if missing := {"market", "price"} - line.keys():
        raise UsageError(
            f"no {min(missing)}", rule="a venue's price has market, price, and may have at", next_step="add it"
        )
    if unknown := line.keys() - {"kind", "market", "price", "at"}:
        raise UsageError(f"field {min(unknown)[:40]!r}", rule=_PRICE, next_step="leave it out")
    name = line["market"]
    if not any(isinstance(one, SetMarket) and one.symbol == name for one in listings.known(connection)):
        raise InputError(f"market {name[:40]!r} is not listed", next_step="compline exchange request market …")
    parse_decimal(line["price"], record="price")
    at = line.get("at", iso_of_us(to_us(clock.now())))
    if not _AT.fullmatch(at):
        raise UsageError(f"at={at[:40]}", rule="an instant of UTC", next_step="e.g. at=2026-03-02T12:00:00Z")
    return f"ref:{name}:{at}", "set_reference", {"market": name, "price": line["price"], "at": at}


_KINDS: dict[str, Callable[[Connection, dict[str, Any]], _Asked]] = {
    "asset": _asset,
    "market": _market,
    "reference": _reference,
}

"""What an exchange lists, and what was asked to be listed: assets and markets, read and asked for.

What belongs here: the owner's requests for assets, markets and venues' prices, and what they were answered.
What does not: whether the exchange would take them (see `engine.exchange.opening`), journalling (`command_requests`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import psycopg

from engine.exchange.commands import SetAsset, SetMarket
from engine.money import MAX_DECIMALS

Listed = SetAsset | SetMarket


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request; `outcome` is None while nobody journalled it."""

    kind: str
    payload: Mapping[str, Any]
    outcome: str | None
    engine_seq: int | None
    detail: str | None


def lock(connection: psycopg.Connection) -> None:
    """Let one at a time choose numbers, until the end of the transaction."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('exchange.listings'))")


def known(connection: psycopg.Connection) -> list[Listed]:
    """What is listed, and what waits to be: assets, then markets, with their numbers."""
    rows = connection.execute(
        "SELECT asset, engine_id, decimals FROM exchange.assets UNION SELECT payload ->> 'asset',"
        " (payload ->> 'number')::integer, (payload ->> 'decimals')::integer FROM exchange.command_requests"
        " WHERE kind = 'set_asset' AND outcome IS NULL ORDER BY 2"
    ).fetchall()
    found: list[Listed] = [SetAsset(int(number), str(asset), int(decimals)) for asset, number, decimals in rows]
    numbers = {asset: number for asset, number, _ in rows}
    for market, number, base, quote, per_lot, per_tick_lot in connection.execute(
        "SELECT market, engine_id, base, quote, base_units_per_lot::text, quote_units_per_tick_lot::text"
        " FROM exchange.markets UNION SELECT payload ->> 'market', (payload ->> 'number')::integer, payload ->> 'base',"
        " payload ->> 'quote', payload ->> 'base_units_per_lot', payload ->> 'quote_units_per_tick_lot'"
        " FROM exchange.command_requests WHERE kind = 'set_market' AND outcome IS NULL ORDER BY 2"
    ).fetchall():
        found.append(SetMarket(number, market, numbers[base], numbers[quote], int(per_lot), int(per_tick_lot)))
    return found


def shape(listed: list[Listed], market: str) -> dict[str, str]:
    """Base, quote, tick and lot of a listed market as an opening file says them; nothing where it is not listed."""
    assets = {one.asset: one for one in listed if isinstance(one, SetAsset)}
    one = next((one for one in listed if isinstance(one, SetMarket) and one.symbol == market), None)
    if one is None:
        return {}
    base, quote = assets[one.base], assets[one.quote]
    lot = Fraction(one.base_units_per_lot, 10**base.decimals)
    tick = Fraction(one.quote_units_per_tick_lot, 10**quote.decimals) / lot
    return {"base": base.symbol, "quote": quote.symbol, "tick": _decimal(tick), "lot": _decimal(lot)}


def _decimal(value: Fraction) -> str:
    whole, rest = divmod(int(value * 10**MAX_DECIMALS), 10**MAX_DECIMALS)
    return f"{whole}.{rest:0{MAX_DECIMALS}d}".rstrip("0").rstrip(".")


def last_of_market(connection: psycopg.Connection, market: str) -> tuple[int, Answer] | None:
    """The highest revision that was asked of a market, with its request; None where none was."""
    row = connection.execute(
        "SELECT (payload ->> 'revision')::bigint, kind, payload, outcome, engine_seq, detail"
        " FROM exchange.command_requests WHERE kind = 'set_market' AND payload ->> 'market' = %s"
        " ORDER BY 1 DESC LIMIT 1",
        (market,),
    ).fetchone()
    return None if row is None else (int(row[0]), Answer(*row[1:]))


def ask(connection: psycopg.Connection, key: str, kind: str, payload: Mapping[str, Any]) -> None:
    """Ask for a command, in the caller's transaction, which is the owner's.

    Raises:
        ConflictError: something else was asked under this key, or of what the payload names.
    """
    connection.execute("SELECT exchange.request_command(%s, %s, %s)", (key, kind, json.dumps(payload)))


def answer(connection: psycopg.Connection, key: str) -> Answer | None:
    """What became of the request of a key; None where there is none."""
    row = connection.execute(
        "SELECT kind, payload, outcome, engine_seq, detail FROM exchange.command_requests WHERE request_key = %s",
        (key,),
    ).fetchone()
    return None if row is None else Answer(*row)

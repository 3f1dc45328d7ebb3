"""Step `mark_prices`: one closing mark per asset held, in the reporting currency, with source and time.

What belongs here: index ticks out of the stored readings, choosing each mark by the policy's sources, and refusing a
missing or stale one.
What does not: index prices themselves (see `engine.market`), and asking venues (a collector's work, not the close's).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from engine.clock import iso_us
from engine.errors import UncheckedError
from engine.market.index import INDEX, LAST_TRADE, IndexRule
from engine.market.ticks import IndexTick, Ticks, index_ticks
from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, market
from engine.store.capture import Mark, assets_held, last_trades, replace_mark_prices
from engine.store.connect import Connection
from engine.store.days import Day

_SHOWN = 20


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier, the policy, what is held, and how much outside sources have said."""
    known = {
        "barrier_seq": day.barrier_seq,
        "policy_sha256": context.policy.sha256,
        "held": assets_held(connection, context.close_date, day.version),
    }
    if context.policy.mark_sources == (LAST_TRADE,):
        return known
    assert day.cutoff_at is not None
    since = _since(connection, context, day.cutoff_at)
    return known | market.seen(connection, context.policy.mark_sources, since, day.cutoff_at)


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Capture the marks.

    Raises:
        UncheckedError: an asset held has no mark, or one older than the policy allows; the assets are named.
    """
    assert day.barrier_seq is not None
    assert day.cutoff_at is not None
    policy = context.policy
    index = _write_index_ticks(connection, context, day.cutoff_at)
    trades = last_trades(connection, policy.reporting_currency, day.barrier_seq, day.cutoff_at)
    cutoff_at = day.cutoff_at

    def said(asset: str, source: str) -> Mark | None:
        if source == LAST_TRADE:
            found = trades.get(asset)
            return Mark(asset, found[1], f"{LAST_TRADE}:{found[0]}", found[2]) if found else None
        tick = market.tick_at(connection, asset, cutoff_at, source)
        return Mark(asset, tick[0], source, tick[1]) if tick else None

    marks, missing = [], []
    for asset in assets_held(connection, context.close_date, day.version):
        if asset == policy.reporting_currency:
            marks.append(Mark(asset, Decimal(1), "reporting_currency", cutoff_at))
            continue
        mark, why = _choose(asset, context, cutoff_at, said)
        if mark is None:
            missing.append(f"{asset} ({why})")
        else:
            marks.append(mark)
    if missing:
        raise UncheckedError(
            f"{context.close_date} has no fresh mark for {', '.join(missing)}",
            rule=f"a mark is at most {policy.mark_max_age_s} s old at the cut-off; nothing is valued at zero",
            next_step="docs/runbooks/marks_fresh.md",
        )
    digest = replace_mark_prices(connection, context.close_date, day.version, context.epoch, marks)
    market.replace_constituents(connection, context.close_date, day.version, _used(marks, index.ticks))
    return StepOutput(len(marks), digest, {"marks": [_shown(mark) for mark in marks], **_dropped(index)})


def _choose(
    asset: str, context: StepContext, cutoff_at: datetime, said: Callable[[str, str], Mark | None]
) -> tuple[Mark | None, str]:
    """The mark of the first source that has a fresh one, or why none has."""
    oldest = cutoff_at - timedelta(seconds=context.policy.mark_max_age_s)
    why = []
    for source in context.policy.mark_sources:
        mark = said(asset, source)
        if mark is not None and mark.at >= oldest:
            return mark, ""
        name = "last trade" if source == LAST_TRADE else source
        never = f"never traded against {context.policy.reporting_currency}" if source == LAST_TRADE else f"no {source}"
        why.append(f"{name} {iso_us(mark.at)}" if mark else never)
    return None, ", ".join(why)


def _since(connection: Connection, context: StepContext, cutoff_at: datetime) -> datetime:
    """From when on readings can matter: yesterday's cut-off, less a reading's age."""
    before = days.read(connection, context.close_date - timedelta(days=1))
    begins = before.cutoff_at if before and before.cutoff_at else cutoff_at - timedelta(days=1)
    return begins - timedelta(seconds=context.policy.index_max_age_s)


def _write_index_ticks(connection: Connection, context: StepContext, cutoff_at: datetime) -> Ticks:
    """Index ticks out of the day's stored readings; none where the policy does not ask for them."""
    policy = context.policy
    rule = IndexRule.of(
        policy.mark_sources,
        policy.index_venues,
        policy.index_min_sources,
        policy.index_band_ppm,
        policy.index_max_age_s,
    )
    if rule is None or INDEX not in policy.mark_sources:
        return Ticks()
    readings = market.readings(connection, _since(connection, context, cutoff_at), cutoff_at)
    found = index_ticks(readings, rule, frozenset(market.coins(connection)), policy.reporting_currency)
    market.insert_ticks(connection, [(t.asset, t.at, t.price.price, INDEX) for t in found.ticks])
    return found


def _used(marks: list[Mark], ticks: list[IndexTick]) -> list[IndexTick]:
    """The index prices that became marks."""
    chosen = {(mark.asset, mark.at, mark.price) for mark in marks if mark.source == INDEX}
    return [tick for tick in ticks if (tick.asset, tick.at, tick.price.price) in chosen]


def _shown(mark: Mark) -> dict[str, str]:
    return {"asset": mark.asset, "price": text_of(mark.price), "source": mark.source, "at": iso_us(mark.at)}


def _dropped(index: Ticks) -> dict[str, Any]:
    """What of the readings was dropped, counted; nothing where none was."""
    return {
        name: dict(counted.most_common(_SHOWN))
        for name, counted in (("unknown_symbols", index.unknown), ("prices_refused", index.refused))
        if counted
    }


STEP = Step(name="mark_prices", event_stage="cutoff", inputs=inputs, write=write, captures=True)

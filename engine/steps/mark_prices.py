"""Step `mark_prices`: one closing mark per asset held, in the reporting currency, with source and time.

What belongs here: choosing the mark (the last trade up to the barrier) and refusing a missing or stale one.
What does not: index prices over venues (they join this step through `market.mark_ticks`).
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from engine.clock import iso_us
from engine.errors import UncheckedError
from engine.money import text_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store.capture import Mark, assets_held, last_trades, replace_mark_prices
from engine.store.connect import Connection
from engine.store.days import Day


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier, the policy, and what is held."""
    return {
        "barrier_seq": day.barrier_seq,
        "policy_sha256": context.policy.sha256,
        "held": assets_held(connection, context.close_date, day.version),
    }


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Capture the marks.

    Raises:
        UncheckedError: an asset held has no mark, or one older than the policy allows; the assets are named.
    """
    assert day.barrier_seq is not None
    assert day.cutoff_at is not None
    currency = context.policy.reporting_currency
    oldest = day.cutoff_at - timedelta(seconds=context.policy.mark_max_age_s)
    trades = last_trades(connection, currency, day.barrier_seq, day.cutoff_at)
    marks, missing = [], []
    for asset in assets_held(connection, context.close_date, day.version):
        if asset == currency:
            marks.append(Mark(asset, Decimal(1), "reporting_currency", day.cutoff_at))
        elif asset not in trades:
            missing.append(f"{asset} (never traded against {currency})")
        else:
            market, price, at = trades[asset]
            if at < oldest:
                missing.append(f"{asset} (last trade {iso_us(at)})")
            marks.append(Mark(asset, price, f"last_trade:{market}", at))
    if missing:
        raise UncheckedError(
            f"{context.close_date} has no fresh mark for {', '.join(missing)}",
            rule=f"a mark is at most {context.policy.mark_max_age_s} s old at the cut-off; nothing is valued at zero",
            next_step="docs/runbooks/marks_fresh.md",
        )
    digest = replace_mark_prices(connection, context.close_date, day.version, context.epoch, marks)
    return StepOutput(
        len(marks),
        digest,
        {
            "marks": [
                {"asset": m.asset, "price": text_of(m.price), "source": m.source, "at": iso_us(m.at)} for m in marks
            ]
        },
    )


STEP = Step(name="mark_prices", event_stage="cutoff", inputs=inputs, write=write, captures=True)

"""Step `engine_balances`: what the matching engine says every account has at the barrier.

What belongs here: reading the engine's state at the cut-off and storing it.
What does not: comparing it with the ledger (see `engine_vs_ledger`).
"""

from __future__ import annotations

from engine.errors import InputError, UncheckedError
from engine.exchange.engine import ExchangeEngine
from engine.exchange.history import state_at_cutoff
from engine.exchange.snapshot import engine_state_hash
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store.capture import HOUSE_FEES, HOUSE_OWED, EngineBalance, replace_engine_balances
from engine.store.connect import Connection
from engine.store.days import Day


def balances_of(engine: ExchangeEngine) -> list[EngineBalance]:
    """Every balance that is not zero, the house's fees and users' debts per asset, by account and asset."""
    registry = engine.registry
    rows = [
        EngineBalance(
            registry.accounts[b.account].name,
            registry.assets[b.asset].symbol,
            registry.assets[b.asset].decimals,
            b.available,
            b.locked,
            b.staked,
            b.in_transit,
        )
        for b in engine.balances()
        if b.available or b.locked or b.staked or b.in_transit
    ]
    fees = [
        EngineBalance(HOUSE_FEES, asset.symbol, asset.decimals, engine.fees(asset.asset), 0, 0, 0)
        for asset in registry.assets.values()
        if engine.fees(asset.asset)
    ]
    owed = [
        EngineBalance(HOUSE_OWED, asset.symbol, asset.decimals, -engine.owed(asset.asset), 0, 0, 0)
        for asset in registry.assets.values()
        if engine.owed(asset.asset)
    ]
    return sorted(rows + fees + owed, key=lambda row: (row.account, row.asset))


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The barrier: the engine's state at a sequence never changes."""
    return {"barrier_seq": day.barrier_seq, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Capture the engine's balances at the barrier.

    Raises:
        UncheckedError: the journal cannot be read, or has another barrier than the day.
    """
    try:
        engine = state_at_cutoff(context.journal_dir, context.close_date)
    except InputError as error:
        raise UncheckedError(
            error.what, rule="a source that cannot be read is UNKNOWN, never passed", next_step=error.next_step
        ) from error
    if engine.last_seq != day.barrier_seq:
        raise UncheckedError(
            f"the journal cuts {context.close_date} off at {engine.last_seq}, the day at {day.barrier_seq}",
            rule="captures are taken at the day's barrier",
            next_step="restore the journal that this book was settled from",
        )
    rows = balances_of(engine)
    digest = replace_engine_balances(connection, context.close_date, day.version, context.epoch, rows)
    return StepOutput(
        len(rows),
        digest,
        {"engine_state_hash": engine_state_hash(engine), "accounts": len({row.account for row in rows})},
    )


STEP = Step(name="engine_balances", event_stage="cutoff", inputs=inputs, write=write, captures=True)

"""Step `custody_movements`: network fees, coins between wallets and the house's capital, from the wallets' own lists.

What belongs here: what is due, what is booked already, and posting the difference on house accounts.
What does not: deposits and withdrawals of users (the engine's commands move them).
"""

from __future__ import annotations

from engine.canonical import row_hash, sha256_jcs, table_digest
from engine.clock import to_us
from engine.errors import UncheckedError
from engine.ledger.journal import HOUSE_CAPITAL, NETWORK_FEE_EXPENSE, Journal, Leg, custody
from engine.money import from_units, text_of, to_units
from engine.recon.sources import DEPOSIT_WALLET
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import postings, readings, runs
from engine.store.capture import decimals_of
from engine.store.connect import Connection
from engine.store.days import Day
from engine.store.readings import Movement


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The captured lines."""
    captured = runs.read(connection, context.close_date, "wallet_balances", day.version)
    return {"wallet_balances": captured.output_digest if captured else None, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Post the difference between what is due and what was booked before.

    Raises:
        UncheckedError: a fee is finer than the asset's smallest unit in the books.
    """
    due, booked = readings.movements(connection, context.close_date, day.version)
    places = decimals_of(connection)
    wanted = {(m.kind, m.key, m.wallet, m.asset): _units(m, places) for m in due}
    there = {(m.kind, m.key, m.wallet, m.asset): (_units(m, places), m.sweep) for m in booked}
    journals = []
    for key in sorted(wanted.keys() | there.keys()):
        before, sweep = there.get(key, (0, 0))
        units = wanted.get(key, 0) - before
        if units:
            journals.append(_journal(context, day, key, units, sweep + 1))
    decimals = {asset: places[asset] for _, _, _, asset in wanted.keys() | there.keys()}
    postings.post(
        connection, journals, decimals=decimals, actor=f"close {context.run_id}", known={}, epoch=context.epoch
    )
    digest = table_digest(row_hash((*key, units)) for key, units in wanted.items())
    fees: dict[str, int] = {}
    for (kind, _, _, asset), units in wanted.items():
        if kind == "network_fee":
            fees[asset] = fees.get(asset, 0) + units
    shown = {asset: text_of(from_units(units, decimals[asset])) for asset, units in sorted(fees.items())}
    return StepOutput(
        len(wanted), sha256_jcs({"movements": digest}), {"journals": len(journals), "network_fees": shown}
    )


def _units(movement: Movement, places: dict[str, int]) -> int:
    try:
        return to_units(movement.amount, places[movement.asset], record=movement.key)
    except ValueError as error:
        raise UncheckedError(
            f"{movement.kind} {movement.key}: {text_of(movement.amount)} {movement.asset} is too fine: {error}",
            rule="an amount is a whole number of the asset's smallest units",
            next_step="give the asset the decimals that its chain has",
        ) from None


def _journal(context: StepContext, day: Day, key: tuple[str, str, str, str], units: int, sweep: int) -> Journal:
    assert day.cutoff_at is not None
    kind, name, wallet, asset = key
    other = {"network_fee": NETWORK_FEE_EXPENSE, "house_capital": HOUSE_CAPITAL}.get(kind, custody(DEPOSIT_WALLET))
    return Journal(
        kind=kind,
        reference_type=kind,
        reference_id=f"{context.close_date}:{name}:{sweep}",
        engine_seq=None,
        effective_us=to_us(day.cutoff_at) - 1,
        close_date=context.close_date,
        origin="close",
        reason=f"{kind.replace('_', ' ')} of wallet {wallet}",
        legs=(Leg(custody(wallet), asset, units), Leg(other, asset, -units)),
    )


STEP = Step(name="custody_movements", event_stage="fees", inputs=inputs, write=write)

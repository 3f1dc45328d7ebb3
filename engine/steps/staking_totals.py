"""Step `staking_totals`: what the stored readings say that every configured contract held staked at the cut-off.

What belongs here: choosing the reading and writing its total, block height and hash.
What does not: asking the node (a collector does), and comparing with the ledger (`staking_vs_chain`).
"""

from __future__ import annotations

from engine.canonical import sha256_jcs
from engine.errors import UncheckedError
from engine.gateways.chain_readings import total_at
from engine.money import from_units, storable, text_of
from engine.recon.sources import ContractSource, contracts_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import readings
from engine.store.capture import decimals_of
from engine.store.connect import Connection
from engine.store.days import Day


def subject_of(source: ContractSource, context: StepContext) -> str:
    """The subject that the collector stores a contract's reading of a date under."""
    return f"{source.contract}@{context.close_date}"


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The policy's contracts, the newest reading of each, and the wallets' step, which makes room for both."""
    found = {}
    for source in contracts_of(context.policy.staking_contracts):
        reading = readings.newest(connection, source.source, subject_of(source, context))
        found[source.contract] = reading.sha256 if reading else None
    return {"policy_sha256": context.policy.sha256, "readings": found, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write the totals; a contract that cannot be read has a row that says why, and its gate is unknown."""
    readings.replace_chain(connection, context.close_date, context.epoch)
    shown, unread = [], []
    for source in contracts_of(context.policy.staking_contracts):
        try:
            shown.append(_total(connection, context, day, source))
        except UncheckedError as error:
            readings.put_unread(connection, context.close_date, day.version, "chain", source.contract, error.what)
            unread.append({"contract": source.contract, "why": error.what})
    facts = {"contracts": shown, "unread": unread}
    return StepOutput(len(shown), sha256_jcs(facts), facts)


def _total(connection: Connection, context: StepContext, day: Day, source: ContractSource) -> dict[str, str]:
    assert day.cutoff_at is not None
    reading = readings.newest(connection, source.source, subject_of(source, context))
    if reading is None:
        raise UncheckedError(f"{source.contract} has no stored reading for {context.close_date}")
    if source.asset not in decimals_of(connection):
        raise UncheckedError(f"{source.contract} is of {source.asset}, an asset that the books do not know")
    found = total_at(reading.raw, source.contract, day.cutoff_at)
    storable(found.units, source.decimals, source.contract)
    total = from_units(found.units, source.decimals)
    readings.put_staking(
        connection,
        context.close_date,
        day.version,
        source.contract,
        source.asset,
        total,
        found.block.number,
        found.block.hash,
        reading,
    )
    return {
        "contract": source.contract,
        "asset": source.asset,
        "total": text_of(total),
        "height": str(found.block.number),
        "block_hash": found.block.hash,
    }


STEP = Step(name="staking_totals", event_stage="cutoff", inputs=inputs, write=write, captures=True)

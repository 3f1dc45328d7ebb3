"""Step `attestations`: what lies on each attested address at the cut-off, who proved to control it, and the ratio.

What belongs here: from captured documents to the manifest's reserve entries.
What does not: capturing (`compline reserves attest`), and what a document is worth (see `engine.reserves.attested`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from engine.canonical import sha256_jcs
from engine.close.policy import RESERVES_COVER_LIABILITIES
from engine.errors import ConfigError
from engine.money import text_of
from engine.reserves.attestation import Address
from engine.reserves.attested import Attested, Judge
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import attestations, days
from engine.store.connect import Connection
from engine.store.days import Day
from engine.store.trees import held_assets


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The books hash, and the documents within reach of the cut-off."""
    found = attestations.readings(connection, *_reach(context, day))
    return {
        "books_sha256": day.books_sha256,
        "version": day.version,
        "addresses": list(context.policy.reserve_addresses),
        "readings": sorted(one.reading_id for group in found.values() for one in group),
    }


def _reach(context: StepContext, day: Day) -> tuple[datetime, datetime]:
    assert day.cutoff_at is not None
    near = timedelta(seconds=context.policy.reserve_reading_max_age_s)
    return day.cutoff_at - timedelta(days=context.policy.attestation_max_age_days) - near, day.cutoff_at + near


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Judge every address of the policy and write the day's entries.

    Raises:
        ConfigError: the policy names an asset that the exchange does not list.
    """
    assert day.cutoff_at is not None
    policy = context.policy
    decimals = dict(held_assets(connection).values())
    addresses = sorted(Address.parse(text) for text in policy.reserve_addresses)
    if unknown := sorted({one.asset for one in addresses} - decimals.keys()):
        raise ConfigError(
            f"the policy attests addresses of {', '.join(unknown)}, which this exchange does not list",
            next_step="correct reserve_addresses",
        )
    judge = Judge(
        context.book.exchange,
        day.cutoff_at,
        attestations.past_checkpoints(connection, context.close_date),
        timedelta(days=policy.attestation_max_age_days),
        timedelta(seconds=policy.reserve_reading_max_age_s),
    )
    readings = attestations.readings(connection, *_reach(context, day))
    found = [judge.judge(one, readings) for one in addresses]
    attestations.replace(connection, context.close_date, context.epoch, found, decimals)
    verdict = None
    if RESERVES_COVER_LIABILITIES in policy.required_gates:
        verdict = days.judge(connection, context.close_date, RESERVES_COVER_LIABILITIES, context.epoch)
    covered = attestations.coverage(connection, context.close_date, day.version)
    return StepOutput(
        len(found),
        _digest(found),
        {
            "not_counted": [
                {"asset": one.address.asset, "address": one.address.place, "why": one.reason}
                for one in found
                if one.reason
            ],
            "coverage": [
                {"asset": one.asset, "liabilities": text_of(one.liabilities), "reserves": text_of(one.reserves)}
                for one in covered
            ]
            if found
            else [],
        },
        verdict,
    )


def _digest(found: list[Attested]) -> str:
    return sha256_jcs(
        [
            {
                "address": f"{one.address.asset} {one.address.place}",
                "amount": str(one.counted),
                "ownership": one.ownership,
            }
            for one in found
        ]
    )


def still_valid(connection: Connection, context: StepContext, day: Day, output: str | None) -> bool:
    """Entries stand while the ratio's gate does, where it is required."""
    return RESERVES_COVER_LIABILITIES not in context.policy.required_gates or any(
        one.gate == RESERVES_COVER_LIABILITIES and one.stands for one in days.gates(connection, context.close_date)
    )


STEP = Step(name="attestations", event_stage="reserves", inputs=inputs, write=write, still_valid=still_valid)

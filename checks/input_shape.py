"""The check that a day's captured inputs look as they must, before anything is compared with anything.

What belongs here: the asset check. What does not: the expectations (see `gx_suites`) and running them (see `gx_run`).
"""

import time
from contextlib import closing

import dagster as dg

from checks.closing import BookResource, runbook, table
from checks.gx_run import SHOWN, Finding, validate_day
from engine.clock import parse_close_date
from engine.errors import ComplineError
from engine.store import days
from engine.store.connect import typed_errors

NAME = "inputs_have_expected_shape"
ASSET = ("close", "user_balance_snapshots")
"""The first definition at which all captured tables of the day are there; recon, trees and seal come after it."""


def build_input_shape_check(partitions: dg.PartitionsDefinition) -> dg.AssetChecksDefinition:
    """The blocking check: what has the wrong shape is neither compared nor sealed by this run.

    Args:
        partitions: those of the close.
    """

    @dg.asset_check(
        asset=dg.AssetKey(list(ASSET)),
        name=NAME,
        description="Trades, engine balances, marks and snapshots of the date, and what custody and chain said: keys"
        " unique, nothing missing, known values, known accounts, assets, markets, wallets and contracts, row counts"
        " that fit each other. Great Expectations.",
        blocking=True,
        required_resource_keys={"close"},
        partitions_def=partitions,
    )
    def _check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        close: BookResource = context.resources.close
        day = parse_close_date(context.partition_key)
        started = time.perf_counter()
        try:
            with closing(close.connect()) as connection, typed_errors():
                there = days.read(connection, day)
            if there is None:
                return _result([], str(day), 0, unchecked=f"{day} is not open")
            checked, findings = validate_day(close.sqlalchemy_url(), day, there.version)
        except ComplineError as error:
            return _result([], str(day), 0, unchecked=str(error))
        context.log.info(f"{checked} expectations of {day} in {time.perf_counter() - started:.1f} s")
        for finding in findings:
            context.log.error(f"{finding.table}: {finding.rule}: {finding.rows} rows")
        return _result(findings, str(day), checked)

    return _check


def _result(findings: list[Finding], day: str, checked: int, *, unchecked: str = "") -> dg.AssetCheckResult:
    said = unchecked or "; ".join(f"{one.table}: {one.said}" for one in findings)
    samples = [{"table": one.table, "rule": one.rule, **row} for one in findings for row in one.sample][:SHOWN]
    return dg.AssetCheckResult(
        passed=not findings and not unchecked,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{day} could not be checked: {unchecked}"
        if unchecked
        else said or f"{day}: {checked} expectations hold",
        metadata={
            "expectations": checked,
            "not met": len(findings),
            **({"rules": table([one.as_row() for one in findings])} if findings else {}),
            **({"failing rows": table(samples)} if samples else {}),
            "runbook": runbook(NAME),
            "look": f"compline close status {day}",
        },
    )

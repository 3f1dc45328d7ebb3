"""Partitions and the schedule of a book: a key is the date on which a window ends, never the window itself.

What belongs here: how a cut-off rule becomes partitions and a cron line.
What does not: windows for the books (see `engine.clock`).
"""

from __future__ import annotations

from datetime import date

import dagster as dg

from engine.clock import CutOffRule


def partitions_of(first_day: date, rule: CutOffRule) -> dg.DailyPartitionsDefinition:
    """Daily partitions by close date.

    A `24:00` date exists once it has ended. A date with an earlier cut-off exists from its own local midnight on; the
    cut-off step refuses it before the instant.
    """
    if rule.hour == 24:
        return dg.DailyPartitionsDefinition(start_date=str(first_day), timezone=rule.zone)
    return dg.DailyPartitionsDefinition(start_date=str(first_day), timezone=rule.zone, end_offset=1)


def cron_of(rule: CutOffRule) -> str:
    """The cron line of the cut-off, in the rule's zone; a minute after midnight for `24:00`."""
    return "1 0 * * *" if rule.hour == 24 else f"{rule.minute} {rule.hour} * * *"

"""Time: the one place that asks what time it is, and the windows that business dates stand for.

What belongs here: `now`, close dates, cut-off instants and windows.
What does not: which day an event belongs to (the engine's journal decides that, by sequence).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.errors import ConfigError, InputError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CloseDate = date
"""A business date: the date on which its window ends (for `24:00`, the date that ends then)."""


def now() -> datetime:
    """The present instant, UTC. Nothing else in the product may ask."""
    return datetime.now(UTC)


def to_us(instant: datetime) -> int:
    """Microseconds since 1970 of an aware instant."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """The UTC instant of a count of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=us)


def iso_us(instant: datetime) -> str:
    """`2026-01-05T23:59:59.999999Z`, always with six decimals: the form that digests use."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def iso_of_us(us: int) -> str:
    """`iso_us` of a count of microseconds since 1970."""
    second, micros = divmod(us, 1_000_000)
    return f"{_iso_second(second)}.{micros:06d}Z"


@lru_cache(maxsize=16)
def _iso_second(second: int) -> str:
    """Asked for again and again while it lasts: whoever tells of events has thousands in a second."""
    return (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")


def iso_s(instant: datetime) -> str:
    """`2026-01-06T00:00:00Z`: whole seconds, the form of a manifest's `snapshot_at`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_close_date(text: str) -> CloseDate:
    """Read `YYYY-MM-DD`.

    Raises:
        InputError: anything else.
    """
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text or ""):
        raise InputError(
            f"close date {text!r} is not YYYY-MM-DD",
            rule="a close date is an ISO date",
            next_step="write it as in 2026-01-31",
        )
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"close date {text!r}: {error}",
            rule="a close date is a day of the calendar",
            next_step="ask for a day that there is",
        ) from None


def day_number(day: CloseDate) -> int:
    """Days since 1970-01-01: how a journal record holds a close date."""
    return day.toordinal() - date(1970, 1, 1).toordinal()


def from_day_number(number: int) -> CloseDate:
    """The close date of a count of days since 1970-01-01."""
    return date.fromordinal(number + date(1970, 1, 1).toordinal())


@dataclass(frozen=True)
class CutOffRule:
    """When a close date ends: a wall-clock time in a zone.

    Attributes:
        hour: 0 to 24; 24 is the midnight that ends the date.
        minute: 0 to 59 (0 where the hour is 24).
        zone: an IANA zone name.
    """

    hour: int
    minute: int
    zone: str

    @classmethod
    def parse(cls, text: str) -> CutOffRule:
        """Read a policy value: `24:00 UTC`, `16:00 America/New_York`, `08:00 UTC`.

        Raises:
            ConfigError: the text is not `HH:MM Zone`, or the zone is unknown.
        """
        found = re.fullmatch(r"(\d{2}):(\d{2}) (\S+)", text or "")
        if not found:
            raise ConfigError(f"cut-off {text!r} is not 'HH:MM Zone'", next_step="set e.g. '24:00 UTC'")
        hour, minute, zone = int(found[1]), int(found[2]), found[3]
        if hour > 24 or minute > 59 or (hour == 24 and minute):
            raise ConfigError(f"cut-off {text!r}: no such time of day", rule="00:00 to 24:00")
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigError(f"cut-off {text!r}: unknown time zone", rule="an IANA zone name") from None
        return cls(hour, minute, zone)

    def instant(self, day: CloseDate) -> datetime:
        """The UTC instant at which a close date ends (exclusive: an event at it belongs to the next date)."""
        zone = ZoneInfo(self.zone)
        whole, hour = (day + timedelta(days=1), 0) if self.hour == 24 else (day, self.hour)
        local = datetime(whole.year, whole.month, whole.day, hour, self.minute, tzinfo=zone)
        return local.astimezone(UTC)

    def date_of(self, instant: datetime) -> CloseDate:
        """The close date whose window holds an instant: start ≤ instant < cut-off."""
        day = instant.astimezone(ZoneInfo(self.zone)).date() - timedelta(days=1)
        while self.instant(day) <= instant:
            day += timedelta(days=1)
        return day


@dataclass(frozen=True)
class CutOffSchedule:
    """The cut-off rules of a book's policies, each in force from a close date on.

    Attributes:
        changes: date and rule, oldest first; the first one also counts before its date.
    """

    changes: tuple[tuple[CloseDate, CutOffRule], ...]

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> CutOffSchedule:
        """Read dates and policy values, e.g. `("2026-03-01", "24:00 UTC")`.

        Raises:
            ConfigError: there is none, or a cut-off cannot be read.
            InputError: a date cannot be read.
        """
        read = ((parse_close_date(day), CutOffRule.parse(text)) for day, text in texts)
        changes = sorted(read, key=lambda change: change[0])
        if not changes:
            raise ConfigError("a book without a cut-off", next_step="compline up")
        return cls(tuple(changes))

    def instant(self, day: CloseDate) -> datetime:
        """The UTC instant at which a close date ends, by the rule in force on it."""
        rule = self.changes[0][1]
        for since, one in self.changes:
            if since <= day:
                rule = one
        return rule.instant(day)


class CutOffs(Protocol):
    """What knows when a close date ends."""

    def instant(self, day: CloseDate) -> datetime:
        """The UTC instant at which a close date ends."""

"""What somebody is woken for: alerts made from events of the close, from overdue seals and from stuck breaks.

What belongs here: which event makes which alert, its severity, its text, and when two are the same.
What does not: sending (see `engine.gateways.alert_channels`) and remembering (see `engine.store.alerts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from engine.canonical import sha256_jcs

CRITICAL, ERROR, WARNING = "critical", "error", "warning"
SHOWN = 10
"""Breaks that one alert lists; how many there are is always said."""


@dataclass(frozen=True)
class Alert:
    """One thing that somebody must look at.

    Attributes:
        key: equal for the same thing; it is told once until the policy's pause has passed.
        severity: `critical`, `error` or `warning`.
        title: one sentence: what, of which date and book.
        facts: (name, text), in order: who or what it concerns and by how much.
        runbook: path below docs/runbooks.
        command: the command to look with.
    """

    key: str
    severity: str
    title: str
    facts: tuple[tuple[str, str], ...]
    runbook: str
    command: str

    def text(self) -> str:
        """The message's body, plain text."""
        lines = [f"{name}: {value}" for name, value in self.facts]
        return "\n".join([*lines, f"look: {self.command}", f"runbook: docs/runbooks/{self.runbook}"])


def from_event(subject: str, payload: dict[str, Any]) -> Alert | None:
    """The alert that an event of the outbox makes; None for one that nobody is woken for.

    Args:
        subject: as on NATS, e.g. `eod.recon.failed`.
        payload: the event's.
    """
    if subject == "eod.recon.marker.failed":
        return _of_marker(payload)
    if subject.startswith("eod.") and subject.endswith(".failed"):
        return _of_failure(subject, payload)
    if subject == "eod.day.reopened":
        return _of_reopening(payload)
    if subject == "eod.reading.changed":
        return _of_changed_reading(payload)
    if subject == "account.obligation.overdue":
        return _of_obligation(payload)
    return None


def seal_overdue(book: str, day: date, due: datetime, state: str) -> Alert:
    """A date whose deadline has passed without a seal."""
    return Alert(
        key=f"{book}:{day}:seal_overdue",
        severity=CRITICAL,
        title=f"{day} of {book} is not sealed: it was due at {due:%Y-%m-%d %H:%M} UTC",
        facts=(("state of the date", state),),
        runbook="seal_overdue.md",
        command=f"compline close status {day} --book {book}",
    )


def markers_overdue(book: str, last: str) -> Alert:
    """A live exchange that is not compared any more."""
    return Alert(
        key=f"{book}:markers_overdue",
        severity=ERROR,
        title=f"engine and ledger of {book} have not been compared since {last}",
        facts=(("what", "the exchange, its settlement or the database is away, or no marker was journalled"),),
        runbook="markers.md",
        command=f"compline recon status --book {book}",
    )


def break_stuck(
    book: str, number: int, subject: str, asset: str, difference: str, days: int, owner: str | None
) -> Alert:
    """A break that has been open for longer than the policy allows."""
    return Alert(
        key=f"{book}:break:{number}:stuck",
        severity=ERROR,
        title=f"break {number} of {book} has been open for {days} days",
        facts=(("account", subject), ("difference", f"{difference} {asset}"), ("owner", owner or "nobody")),
        runbook="breaks.md",
        command=f"compline recon breaks show {number} --book {book}",
    )


def _of_failure(subject: str, payload: dict[str, Any]) -> Alert:
    book, day = str(payload.get("book", "?")), str(payload.get("close_date", "?"))
    step, status = str(payload.get("step", subject)), str(payload.get("status", "failed"))
    found = payload.get("detail")
    detail: dict[str, Any] = found if isinstance(found, dict) else {"what": str(found)} if found else {}
    what = "could not be checked" if status == "unknown" else "failed"
    severity = ERROR if status == "unknown" else CRITICAL
    if detail.get("error") == "StepTimeoutError":
        what, severity = "ran past its time limit", CRITICAL
    facts = _facts(detail)
    return Alert(
        key=f"{book}:{day}:v{payload.get('version', 1)}:{step}:{sha256_jcs([what, [list(f) for f in facts]])[:16]}",
        severity=severity,
        title=f"{step} of {day} {what} in book {book}",
        facts=facts,
        runbook=_runbook(step, detail),
        command=f"compline close status {day} --book {book}",
    )


def _of_marker(payload: dict[str, Any]) -> Alert:
    """A comparison while trading goes on: told once for the same differences, however the balances move meanwhile."""
    book, seq = str(payload.get("book", "?")), payload.get("marker_seq")
    unknown = payload.get("status") == "unknown"
    detail: dict[str, Any] = payload.get("detail") or {}
    breaks = [(str(b["account"]), f"{b['difference']} {b['asset']}") for b in detail.get("breaks", ())]
    facts = (("what", str(detail.get("what"))),) if unknown else (("breaks", str(detail.get("break_count"))), *breaks)
    what = "could not be compared" if unknown else "differ"
    return Alert(
        key=f"{book}:marker:{sha256_jcs([what, [list(f) for f in facts]])[:16]}",
        severity=ERROR if unknown else CRITICAL,
        title=f"engine and ledger of {book} {what} at sequence {seq}",
        facts=facts[: SHOWN + 1],
        runbook="markers.md" if unknown else "engine_vs_ledger.md",
        command=f"compline recon {'status' if unknown else 'breaks list'} --book {book}",
    )


def _facts(detail: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, str]] = []
    breaks = detail.get("breaks")
    if isinstance(breaks, list) and breaks:
        facts.append(("breaks", str(detail.get("break_count", len(breaks)))))
        for one in breaks[:SHOWN]:
            shown = (
                f"{one.get('difference')} {one.get('asset')} (expected {one.get('expected')}, is {one.get('actual')})"
            )
            facts.append((str(one.get("account")), shown))
    unread = detail.get("unread")
    if isinstance(unread, list) and unread:
        facts.append(("sources that could not be used", str(len(unread))))
        facts += [(str(one.get("subject")), str(one.get("why"))) for one in unread[:SHOWN]]
    verdicts = detail.get("verdicts")
    if isinstance(verdicts, dict):
        facts += [(gate, str(verdict)) for gate, verdict in sorted(verdicts.items()) if verdict != "pass"]
    facts += [(name, str(detail[name])) for name in ("what", "rule", "next_step") if detail.get(name)]
    return tuple(facts)


def _runbook(step: str, detail: dict[str, Any]) -> str:
    verdicts = detail.get("verdicts")
    bad = sorted(g for g, v in verdicts.items() if v != "pass") if isinstance(verdicts, dict) else []
    if bad:
        return f"{bad[0]}.md"
    return {
        "engine_vs_ledger": "engine_vs_ledger.md",
        "ledger_vs_custody": "ledger_vs_custody.md",
        "custody_covers_liabilities": "custody_covers_liabilities.md",
        "staking_vs_chain": "staking_vs_chain.md",
        "mark_prices": "marks_fresh.md",
        "liability_trees": "trees_equal_control_totals.md",
        "finance": "finance.md",
    }.get(step, "step_failed.md")


def _of_reopening(payload: dict[str, Any]) -> Alert:
    book, day, version = payload.get("book"), payload.get("close_date"), payload.get("version")
    return Alert(
        key=f"{book}:{day}:reopened:v{version}",
        severity=WARNING,
        title=f"{day} of {book} was reopened and will close as v{version}",
        facts=tuple((name, str(payload.get(name))) for name in ("reason", "maker", "checker")),
        runbook="reopen.md",
        command=f"compline close status {day} --book {book}",
    )


def _of_changed_reading(payload: dict[str, Any]) -> Alert:
    book, day, version = payload.get("book"), payload.get("close_date"), payload.get("version")
    source, subject, what = (str(payload.get(name)) for name in ("source", "subject", "what"))
    return Alert(
        key=f"{book}:{day}:v{version}:reading:{subject}:{sha256_jcs([what])[:16]}",
        severity=ERROR,
        title=f"a reading of {day} in {book} differs from the one that v{version} was sealed on",
        facts=(
            ("source", source),
            ("what", what),
            ("close again", f"compline close reopen {day} --reason … --by … --second … --book {book}"),
        ),
        runbook="reading_changed.md",
        command=f"compline recon collect --date {day} --book {book}",
    )


def _of_obligation(payload: dict[str, Any]) -> Alert:
    account, kind = payload.get("account", payload.get("user_id")), payload.get("kind")
    return Alert(
        key=f"obligation:{account}:{kind}:{payload.get('cause')}",
        severity=CRITICAL,
        title=f"{kind} of {account} is overdue",
        facts=tuple((name, str(value)) for name, value in sorted(payload.items())),
        runbook="obligations.md",
        command=f"compline accounts show {account}",
    )

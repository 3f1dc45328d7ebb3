"""The matrix of transitions as a page: what the docs show is rendered from the rows that the database enforces.

What belongs here: rows to Mermaid and Markdown. What does not: reading the rows (see `engine.store.accounts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BEGIN = "<!-- rendered by `compline accounts matrix`; do not edit -->"
END = "<!-- end -->"


@dataclass(frozen=True)
class StateRow:
    """A state and what an account may do in it."""

    state: str
    may_trade: bool
    may_withdraw: bool
    may_receive: bool
    meaning: str


@dataclass(frozen=True)
class TransitionRow:
    """An allowed transition, by one authority."""

    from_state: str
    to_state: str
    authority: str
    needs_reason: bool
    needs_second: bool


@dataclass(frozen=True)
class Matrix:
    """The eight states in the order of an account's life, and every allowed transition."""

    states: Sequence[StateRow]
    transitions: Sequence[TransitionRow]

    def between(self, before: str, after: str) -> list[TransitionRow]:
        """The rows of one ordered pair; none: it is refused."""
        found = [t for t in self.transitions if (t.from_state, t.to_state) == (before, after)]
        return sorted(found, key=lambda t: t.authority)


def mermaid(matrix: Matrix) -> str:
    """A state diagram; labels are the authorities, `+2` where a second person is needed."""
    lines = ["stateDiagram-v2", "    [*] --> pending_kyc: onboarding", "    [*] --> active: opened by the engine"]
    for before in matrix.states:
        for after in matrix.states:
            rows = matrix.between(before.state, after.state)
            if rows:
                label = ", ".join(f"{r.authority}{' +2' if r.needs_second else ''}" for r in rows)
                lines.append(f"    {before.state} --> {after.state}: {label}")
    return "\n".join([*lines, "    closed --> [*]"])


def markdown(matrix: Matrix) -> str:
    """Rights, diagram and the table of all ordered pairs, between two markers."""
    yes = {True: "yes", False: "no"}
    rights = [
        "| state | meaning | trades | withdraws | receives deposits |",
        "|---|---|---|---|---|",
        *(
            f"| `{s.state}` | {s.meaning} | {yes[s.may_trade]} | {yes[s.may_withdraw]} | {yes[s.may_receive]} |"
            for s in matrix.states
        ),
    ]
    names = [s.state for s in matrix.states]
    table = ["| from \\ to | " + " | ".join(f"`{n}`" for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    for before in names:
        cells = [", ".join(_cell(row) for row in matrix.between(before, after)) or "–" for after in names]
        table.append(f"| `{before}` | " + " | ".join(cells) + " |")
    return "\n".join([BEGIN, "", *rights, "", "```mermaid", mermaid(matrix), "```", "", *table, "", END])


def _cell(row: TransitionRow) -> str:
    """An authority; `*` with a reason, `+2` with a second person."""
    return f"{row.authority}{'*' if row.needs_reason else ''}{' +2' if row.needs_second else ''}"

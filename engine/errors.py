"""Typed errors: what happened, to which record, and what to do next.

What belongs here: the base classes that every layer raises and the exit code each maps to.
What does not: the errors of one subject that carry more than these three texts (keep those beside their subject).
"""

from __future__ import annotations


class ComplineError(Exception):
    """Base of every error that a person may see.

    Args:
        what: what happened, in one sentence, naming the record.
        rule: the rule that the record broke, empty where there is none.
        next_step: the command or action that gets past it.
    """

    exit_code = 1

    def __init__(self, what: str, *, rule: str = "", next_step: str = "") -> None:
        self.what = what
        self.rule = rule
        self.next_step = next_step
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]
        if self.rule:
            parts.append(f"rule: {self.rule}")
        if self.next_step:
            parts.append(f"next: {self.next_step}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, str]:
        """The error as JSON-ready text."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "rule": self.rule,
            "next_step": self.next_step,
        }


class GateError(ComplineError):
    """A gate failed: the data was read and does not hold (exit 1)."""

    exit_code = 1


class UncheckedError(ComplineError):
    """Something could not be checked: a source is down, stale or unreadable (exit 2). Never a pass."""

    exit_code = 2


class ConflictError(ComplineError):
    """Another one decided or changed the record first; look at it as it stands now (exit 1)."""

    exit_code = 1


class InputError(ComplineError):
    """A file, message, argument or foreign row breaks a rule (exit 65)."""

    exit_code = 65


class UsageError(ComplineError):
    """The command was asked for wrongly (exit 64)."""

    exit_code = 64


class ConfigError(ComplineError):
    """Settings, policy or secrets are missing or contradict each other (exit 78)."""

    exit_code = 78


class LedgerRefusedError(ComplineError):
    """The database refused a posting: unbalanced, closed date, negative balance, changed payload (exit 1)."""

    exit_code = 1


class StaleEpochError(ComplineError):
    """Another closer took the lease; this one must stop and must not retry (exit 75)."""

    exit_code = 75


class StepTimeoutError(ComplineError):
    """A step ran past its hard limit and was cancelled (exit 2)."""

    exit_code = 2

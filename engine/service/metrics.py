"""What the service counts, in Prometheus' text format.

What belongs here: counters, gauges and one kind of histogram.
What does not: serving them (see `health`). Seconds are floats: they are no money.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(slots=True)
class Histogram:
    """How long something took."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_S) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration, or several that are alike."""
        self.counts[bisect_left(_BUCKETS_S, seconds)] += times
        self.total_s += seconds * times

    def lines(self, name: str) -> list[str]:
        """Its buckets, sum and count."""
        found, running = [f"# TYPE {name} histogram"], 0
        for limit, count in zip((*map(str, _BUCKETS_S), "+Inf"), self.counts, strict=True):
            running += count
            found.append(f'{name}_bucket{{le="{limit}"}} {running}')
        return [*found, f"{name}_sum {self.total_s:.6f}", f"{name}_count {running}"]


@dataclass(slots=True)
class Metrics:
    """The counts of one service.

    Attributes:
        messages: by subject and outcome (`done`, `rejected`, or the reason why it was refused).
        gauges: by name without the prefix.
    """

    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    gauges: dict[str, int] = field(default_factory=dict)
    commit: Histogram = field(default_factory=Histogram)
    acknowledge: Histogram = field(default_factory=Histogram)

    def text(self) -> str:
        """All of it for a scrape."""
        lines = ["# TYPE compline_exchange_messages_total counter"]
        lines += [
            f'compline_exchange_messages_total{{subject="{subject}",outcome="{outcome}"}} {count}'
            for (subject, outcome), count in sorted(self.messages.items())
        ]
        for name, value in sorted(self.gauges.items()):
            lines += [f"# TYPE compline_exchange_{name} gauge", f"compline_exchange_{name} {value}"]
        lines += self.commit.lines("compline_exchange_commit_seconds")
        lines += self.acknowledge.lines("compline_exchange_acknowledge_seconds")
        return "\n".join(lines) + "\n"

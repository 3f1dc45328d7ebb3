"""Channels that wake people: Slack, PagerDuty, mail and the rest, through Apprise's URLs.

What belongs here: reading the URLs, sending one alert to one of them, and naming a channel without its secret.
What does not: what is sent when (see `engine.close.alerts`), and trying again (see `pipelines.watch`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from engine.close.alerts import WARNING, Alert
from engine.errors import ConfigError, UncheckedError


@dataclass(frozen=True)
class Channel:
    """One place that alerts go to.

    Attributes:
        name: the service and a digest of its address, e.g. `slack-3fa9c1d2`; the address holds secrets.
        url: as Apprise has it.
    """

    name: str
    url: str = field(repr=False)

    def send(self, alert: Alert) -> None:
        """Send one alert.

        Raises:
            UncheckedError: the channel cannot be reached or does not take it.
        """
        import apprise  # takes an eighth of a second, which only a sender should pay

        kind = apprise.NotifyType.WARNING if alert.severity == WARNING else apprise.NotifyType.FAILURE
        with apprise.LogCapture(level=apprise.logging.INFO) as said:  # type: ignore[no-untyped-call]
            sender = apprise.Apprise()
            taken = sender.add(self.url) and sender.notify(
                title=f"[{alert.severity}] {alert.title}",
                body=alert.text(),
                notify_type=kind,
                body_format=apprise.NotifyFormat.TEXT,
            )
            why = _last_line(said.getvalue())
        if not taken:
            raise UncheckedError(
                f"channel {self.name} did not take the alert: {why.replace(self.url, self.name)}",
                rule="an alert that cannot be sent is recorded and tried again",
                next_step="compline alerts test shows whether the channel works",
            )


def channels_of(text: str) -> list[Channel]:
    """Read channels: one Apprise URL a line; `#` begins a comment.

    Raises:
        ConfigError: a line is no URL that Apprise knows; the line's number is named, never its text.
    """
    import apprise

    found: dict[str, Channel] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        made = apprise.Apprise.instantiate(url)
        if made is None:
            raise ConfigError(
                f"line {number} of the alert channels is no URL that Apprise knows",
                rule="one Apprise URL a line, such as slack://, pagerduty://, mailtos://, jsons://",
                next_step="https://github.com/caronc/apprise/wiki has the form of each service",
            )
        name = f"{str(made.service_name).split()[0].lower()}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        found[name] = Channel(name, url)
    return list(found.values())


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].split(" - ")[-1][:300] if lines else "no answer"

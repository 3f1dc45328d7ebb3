"""Reading JSON from an outside server over HTTP: bounded in time and size, strict in form, honest about failure.

What belongs here: one GET or POST with retries inside a deadline, and JSON in which nothing is rounded or hidden.
What does not: what any one server means (one file a server beside this one).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from engine import clock
from engine.errors import UncheckedError

MAX_BYTES = 32 * 1024 * 1024
RETRIED = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        raw: the body, byte for byte.
        value: the body as JSON; numbers with a fraction are Decimal.
        skew_s: how far the server's clock is ahead of ours, in whole seconds; None where it does not say.
    """

    raw: bytes
    value: Any
    skew_s: int | None


@dataclass
class Web:
    """A server, spoken to within limits.

    Attributes:
        base: its URL without a trailing slash.
        headers: sent with every request; may hold a secret.
        timeout_s: for one request with its retries, from first byte sent to last byte read.
        name: as errors call it.
    """

    base: str
    name: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, no .netrc: a secret goes to the configured server only
        self._session.max_redirects = 0

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Answer:
        """GET a path.

        Raises:
            UncheckedError: the server is away, slow, refuses, or answers what is not strict JSON.
        """
        return self._ask("GET", path, params=params, body=None)

    def post(self, path: str, body: Any) -> Answer:
        """POST JSON to a path.

        Raises:
            UncheckedError: as `get`.
        """
        return self._ask("POST", path, params=None, body=body)

    def _ask(self, method: str, path: str, params: Mapping[str, str | int] | None, body: Any) -> Answer:
        end = time.monotonic() + self.timeout_s
        wait = 0.5
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise self._unchecked("did not answer in time")
            try:
                status, headers, raw = self._once(method, path, params, body, left)
            except requests.RequestException as error:
                raise self._unchecked(f"cannot be reached ({type(error).__name__})") from None
            if status == 200:
                return Answer(raw, strict_json(raw, self.name), _skew(headers.get("Date")))
            if status not in RETRIED:
                raise self._unchecked(f"answered {status} to {method} {path}")
            wait = _retry_after(headers.get("Retry-After")) or wait
            if time.monotonic() + wait >= end:
                raise self._unchecked(f"answered {status} to {method} {path} and asks to wait {wait:g} s")
            self.sleep(wait)
            wait = min(wait * 2, 8.0)

    def _once(
        self, method: str, path: str, params: Mapping[str, str | int] | None, body: Any, left: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        end = time.monotonic() + left
        with self._session.request(
            method,
            f"{self.base}{path}",
            params=params,
            json=body,
            headers=dict(self.headers),
            timeout=(min(left, 10.0), min(left, 10.0)),
            stream=True,
            allow_redirects=False,
        ) as answer:
            chunks, size = [], 0
            for chunk in answer.iter_content(65_536):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise self._unchecked(f"answered more than {MAX_BYTES} bytes to {method} {path}")
                if time.monotonic() > end:
                    raise self._unchecked(f"did not finish its answer to {method} {path} in time")
                chunks.append(chunk)
            return answer.status_code, answer.headers, b"".join(chunks)

    def _unchecked(self, what: str) -> UncheckedError:
        return UncheckedError(
            f"{self.name} {what}",
            rule="a source that cannot be read is UNKNOWN, never zero and never passed",
            next_step="look at the source, then collect again",
        )


def strict_json(raw: bytes, name: str) -> Any:
    """JSON in which no key comes twice and no number was rounded.

    Raises:
        UncheckedError: it is anything else.
    """
    try:
        return json.loads(raw, object_pairs_hook=_unique, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UncheckedError(
            f"{name} answered what is not strict JSON: {str(error)[:200]}",
            rule="a source that cannot be read is UNKNOWN, never zero and never passed",
            next_step="look at the source, then collect again",
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key comes twice")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _skew(date_header: str | None) -> int | None:
    try:
        return (
            None if date_header is None else round((parsedate_to_datetime(date_header) - clock.now()).total_seconds())
        )
    except (TypeError, ValueError):
        return None


def _retry_after(text: str | None) -> float | None:
    """Seconds that a server asks to wait: a number, or a date."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        at: datetime = parsedate_to_datetime(text)
        return max(0.0, (at - clock.now()).total_seconds())
    except (TypeError, ValueError):
        return None

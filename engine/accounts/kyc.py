"""What the identity provider sends, read strictly: a signed webhook in Sumsub's shape, and messages on NATS.

What belongs here: bytes and headers to a decision about a user, or a refusal with an HTTP status.
What does not: serving HTTP or NATS (see `engine.service.kyc`), and what the decision does (the database's).

Sumsub (docs.sumsub.com, webhooks) signs the body as sent: `X-Payload-Digest` is the hex HMAC of it under a shared
secret, `X-Payload-Digest-Alg` HMAC_SHA256_HEX or HMAC_SHA512_HEX (its old HMAC_SHA1_HEX is not taken). `externalUserId`
is the account's name, `correlationId` with `type` names the delivery, `createdAtMs` is UTC.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.errors import InputError

MAX_BODY_BYTES = 64 * 1024
MAX_AGE = timedelta(hours=25)
"""The provider tries again for 24 hours and 5 minutes; what is older was kept by somebody and sent again."""
MAX_AHEAD = timedelta(minutes=5)
PROVIDER = "sumsub"
_ALGORITHMS = {"HMAC_SHA256_HEX": hashlib.sha256, "HMAC_SHA512_HEX": hashlib.sha512}
_ACCOUNT = re.compile(r"[a-z0-9-]{1,64}")
_DELIVERY = re.compile(r"[!-~]{1,128}")
_CHAIN = re.compile(r"[a-z0-9-]{1,32}")
_HALF = re.compile("[\ud800-\udfff]")
MAX_IDENTITIES = 100
_ANSWERS = {"GREEN": "approved", "RED": "rejected"}
_OUTCOMES = {"kyc.approved": "approved", "kyc.rejected": "rejected", "kyc.pending": "pending"}


class RefusedWebhookError(InputError):
    """A delivery that changes nothing; `status` is what the sender is answered."""

    def __init__(self, status: int, what: str) -> None:
        self.status = status
        super().__init__(what, rule="a delivery is signed, fresh and of a known shape", next_step="ask the provider")


@dataclass(frozen=True)
class Decision:
    """What a provider decided about an account: `approved`, `rejected`, or `pending` for a new submission."""

    provider: str
    delivery: str
    account: str
    outcome: str
    at: datetime
    payload_sha256: str
    source: str


@dataclass(frozen=True)
class Opening:
    """A new user to be opened.

    Attributes:
        account: its name.
        number: None where the next free one is taken.
        names: that the user goes by, as far as they are known.
        addresses: chain and address that the user pays from or to.
    """

    account: str
    number: int | None = None
    names: tuple[str, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()


def check_signature(body: bytes, headers: Mapping[str, str], secret: bytes) -> None:
    """Whether the body is signed by whoever knows the secret.

    Args:
        body: as it came.
        headers: by lower-case name.
        secret: shared with the provider.

    Raises:
        RefusedWebhookError: it is not.
    """
    algorithm = _ALGORITHMS.get(headers.get("x-payload-digest-alg", ""))
    given = headers.get("x-payload-digest", "")
    if algorithm is None or not given.isascii():
        raise RefusedWebhookError(401, "the delivery names no digest of a kind that is taken here")
    expected = hmac.new(secret, body, algorithm).hexdigest()
    if not hmac.compare_digest(expected, given.lower()):
        raise RefusedWebhookError(401, "the delivery's digest is not that of its body under our secret")


def read_webhook(
    body: bytes, headers: Mapping[str, str], secret: bytes, now: datetime, *, sandbox: bool = False
) -> Decision | None:
    """Read a delivery.

    Args:
        body: as it came.
        headers: by lower-case name.
        secret: shared with the provider.
        now: the instant.
        sandbox: whether events of the provider's sandbox are taken.

    Returns:
        What was decided; None for an event that decides nothing.

    Raises:
        RefusedWebhookError: forged, stale, of the sandbox, or of another shape.
    """
    check_signature(body, headers, secret)
    fields = _object(body)
    kind = _text(fields, "type", _DELIVERY)
    if fields.get("sandboxMode") not in (None, False) and not sandbox:
        raise RefusedWebhookError(422, "the delivery is of the provider's sandbox")
    at = _instant(fields)
    if not now - MAX_AGE <= at <= now + MAX_AHEAD:
        raise RefusedWebhookError(422, f"the delivery is of {at.isoformat()}: too long ago, or in the future")
    if kind == "applicantPending":
        outcome = "pending"
    elif kind == "applicantReviewed":
        result = fields.get("reviewResult")
        answer = result.get("reviewAnswer") if isinstance(result, dict) else None
        if answer not in _ANSWERS:
            raise RefusedWebhookError(400, f"the review answers {answer!r}, neither GREEN nor RED")
        outcome = _ANSWERS[answer]
    else:
        return None
    return Decision(
        PROVIDER,
        f"{kind}:{_text(fields, 'correlationId', _DELIVERY)}",
        _text(fields, "externalUserId", _ACCOUNT),
        outcome,
        at,
        hashlib.sha256(body).hexdigest(),
        "webhook",
    )


def read_message(subject: str, body: bytes) -> Decision | Opening:
    """Read a message of `kyc.approved`, `kyc.rejected`, `kyc.pending` or `account.onboarding.requested`.

    Raises:
        InputError: it is anything else.
    """
    fields = _object(body)
    if subject == "account.onboarding.requested":
        number = fields.get("userId")
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**63):
            raise RefusedWebhookError(400, f"userId {number!r} is no number of an account")
        return Opening(_text(fields, "account", _ACCOUNT), number, _names(fields), _addresses(fields))
    at = fields.get("at")
    try:
        instant = datetime.fromisoformat(at) if isinstance(at, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None or subject not in _OUTCOMES:
        raise RefusedWebhookError(400, f"{subject}: at {at!r} is not an instant with a zone")
    return Decision(
        _text(fields, "provider", re.compile(r"[a-z0-9_-]{1,32}")) if "provider" in fields else PROVIDER,
        _text(fields, "deliveryId", _DELIVERY),
        _text(fields, "account", _ACCOUNT),
        _OUTCOMES[subject],
        instant.astimezone(UTC),
        hashlib.sha256(body).hexdigest(),
        "nats",
    )


def _object(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise RefusedWebhookError(413, f"{len(body)} bytes are more than {MAX_BODY_BYTES}")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise RefusedWebhookError(400, "the body is not JSON in UTF-8 with every key once") from None
    if not isinstance(value, dict):
        raise RefusedWebhookError(400, "the body is not an object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _text(fields: Mapping[str, Any], name: str, shape: re.Pattern[str]) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise RefusedWebhookError(400, f"{name} is missing or not of its shape")
    return value


def _names(fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = fields.get("names", [])
    # JSON can write half a character, which no database takes.
    if (
        not isinstance(value, list)
        or len(value) > MAX_IDENTITIES
        or not all(isinstance(one, str) and not _HALF.search(one) for one in value)
    ):
        raise RefusedWebhookError(400, f"names is no list of at most {MAX_IDENTITIES} texts")
    return tuple(value)


def _addresses(fields: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    value = fields.get("addresses", [])
    if not isinstance(value, list) or len(value) > MAX_IDENTITIES or not all(isinstance(one, dict) for one in value):
        raise RefusedWebhookError(400, f"addresses is no list of at most {MAX_IDENTITIES} objects")
    return tuple((_text(one, "chain", _CHAIN), _text(one, "address", _DELIVERY)) for one in value)


def _instant(fields: Mapping[str, Any]) -> datetime:
    """`createdAtMs` is `2026-03-02 12:00:00.123`, UTC."""
    value = fields.get("createdAtMs")
    try:
        return datetime.strptime(str(value), "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError:
        raise RefusedWebhookError(400, f"createdAtMs {str(value)[:40]!r} is not an instant") from None

"""A wallet's reading as it is stored: BitGo's bodies byte for byte, with when and for which date they were read.

What belongs here: the envelope, and reading it back into the wallet's balance and lines at a cut-off.
What does not: fetching (see `bitgo`), and storing (see `engine.store.readings`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.clock import iso_us
from engine.errors import UncheckedError
from engine.gateways.bitgo import Line, Reading, parse_bodies
from engine.gateways.web import strict_json
from engine.recon.sources import WalletSource

SOURCE = "bitgo"
MAX_SKEW_S = 60


@dataclass(frozen=True)
class WalletAt:
    """What a wallet held at a cut-off, in the custodian's smallest units.

    Attributes:
        units: confirmed before the cut-off.
        moved: lines confirmed from the opening instant up to the cut-off.
        pending: lines not confirmed when it was read.
    """

    units: int
    moved: tuple[Line, ...]
    pending: tuple[Line, ...]


def envelope(source: WalletSource, reading: Reading, taken_at: datetime) -> bytes:
    """The reading as bytes to store."""
    return json.dumps(
        {
            "v": "bitgo/1",
            "wallet": source.subject,
            "coin": source.coin,
            "id": source.wallet_id,
            "taken_at": iso_us(taken_at),
            "skew_s": reading.skew_s,
            "bodies": [body.decode("utf-8", "surrogateescape") for body in reading.bodies],
        },
        sort_keys=True,
    ).encode()


def wallet_at(raw: bytes, source: WalletSource, opening: datetime, cutoff: datetime) -> WalletAt:
    """What a stored reading says of a wallet at a cut-off.

    Args:
        raw: as stored.
        source: the wallet that it should be of.
        opening: the cut-off before.
        cutoff: the instant; lines confirmed at or after it belong to the next date.

    Raises:
        UncheckedError: it is another wallet's, was taken before the cut-off, or under a clock that differs from ours.
    """
    value = strict_json(raw, f"the reading of {source.subject}")
    if not isinstance(value, dict) or value.get("v") != "bitgo/1" or value.get("id") != source.wallet_id:
        raise _unusable(source, "is not one of this wallet")
    taken = datetime.fromisoformat(str(value["taken_at"]).replace("Z", "+00:00"))
    if taken < cutoff:
        raise _unusable(source, f"was taken at {value['taken_at']}, before the cut-off")
    skew = value.get("skew_s")
    if not isinstance(skew, int) or abs(skew) > MAX_SKEW_S:
        raise _unusable(source, f"was taken under a clock that differs from the custodian's by {skew} s")
    reading = parse_bodies(_bodies(value), source.coin, source.wallet_id)
    confirmed = [line for line in reading.lines if line.state == "confirmed"]
    return WalletAt(
        reading.confirmed_at(cutoff),
        tuple(line for line in confirmed if opening <= line.at < cutoff),
        tuple(line for line in reading.lines if line.state == "pending"),
    )


def _bodies(value: dict[str, Any]) -> list[bytes]:
    return [str(body).encode("utf-8", "surrogateescape") for body in value["bodies"]]


def _unusable(source: WalletSource, what: str) -> UncheckedError:
    return UncheckedError(
        f"the stored reading of {source.subject} {what}",
        rule="a close uses a reading of its own wallet, taken at or after its cut-off",
        next_step="compline recon collect --date DATE",
    )

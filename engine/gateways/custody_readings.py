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
from engine.money import from_units, text_of
from engine.recon.sources import WalletSource

MAX_SKEW_S = 60
SHOWN = 5


@dataclass(frozen=True)
class WalletAt:
    """What a wallet held at a cut-off, in the custodian's smallest units.

    Attributes:
        units: confirmed before the cut-off.
        confirmed: every line confirmed before the cut-off that the list has.
        moved: those of them confirmed from the opening instant on.
        pending: lines not confirmed when it was read.
        whole: whether the list went back to the wallet's first line.
    """

    units: int
    confirmed: tuple[Line, ...]
    moved: tuple[Line, ...]
    pending: tuple[Line, ...]
    whole: bool


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
    confirmed = tuple(line for line in reading.lines if line.state == "confirmed" and line.at < cutoff)
    return WalletAt(
        reading.confirmed_at(cutoff),
        confirmed,
        tuple(line for line in confirmed if opening <= line.at),
        tuple(line for line in reading.lines if line.state == "pending"),
        reading.whole,
    )


def changed(old: bytes, new: bytes, source: WalletSource, since: datetime, cutoff: datetime) -> str:
    """What a later reading says differently of a wallet at a cut-off; empty where nothing, or where it cannot say.

    Args:
        old: the reading that the date was closed on.
        new: the later one.
        source: the wallet.
        since: lines confirmed from here on are compared.
        cutoff: of the date.
    """
    try:
        before, after = (wallet_at(raw, source, since, cutoff) for raw in (old, new))
    except UncheckedError:
        return ""
    was, now = ({(x.transfer, x.units, x.fee, x.at): x for x in one.moved} for one in (before, after))
    said = []
    if before.units != after.units:
        was_held, now_held = (text_of(from_units(one.units, source.decimals)) for one in (before, after))
        said.append(f"the balance at the cut-off was {was_held} and is {now_held}")
    for what, lines in (
        ("gone", [x for key, x in was.items() if key not in now]),
        ("new", [x for key, x in now.items() if key not in was]),
    ):
        if lines:
            said.append(f"{len(lines)} lines {what}: {', '.join(x.reference for x in lines[:SHOWN])}")
    return f"{source.subject}: {'; '.join(said)}" if said else ""


def _bodies(value: dict[str, Any]) -> list[bytes]:
    return [str(body).encode("utf-8", "surrogateescape") for body in value["bodies"]]


def _unusable(source: WalletSource, what: str) -> UncheckedError:
    return UncheckedError(
        f"the stored reading of {source.subject} {what}",
        rule="a close uses a reading of its own wallet, taken at or after its cut-off",
        next_step="compline recon collect --date DATE",
    )

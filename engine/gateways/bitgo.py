"""Custody by BitGo's wallet API: balances and transfers of wallets, in smallest units, with the raw answers kept.

What belongs here: paging, reading BitGo's JSON, and the wallet's balance at a past instant along its transfer list.
What does not: what the ledger says of it (the gates in the schema), and storing readings (see `engine.store.readings`).

Source: BitGo API reference, `GET /api/v2/{coin}/wallet/{id}` and `GET /api/v2/{coin}/wallet/{id}/transfer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.errors import UncheckedError
from engine.gateways.web import Answer, Web, strict_json

PAGE = 250
MAX_PAGES = 10_000
_UNITS = re.compile(r"-?(0|[1-9][0-9]{0,77})")
STATES = {
    "confirmed": "confirmed",
    "unconfirmed": "pending",
    "signed": "pending",
    "pendingApproval": "pending",
    "initialized": "pending",
    "failed": "removed",
    "rejected": "removed",
    "removed": "removed",
    "replaced": "removed",
}


@dataclass(frozen=True)
class WalletState:
    """What a wallet holds, in smallest units.

    Attributes:
        total: with what is not confirmed yet.
        confirmed: on chain with enough confirmations.
        spendable: free to send.
    """

    coin: str
    wallet: str
    total: int
    confirmed: int
    spendable: int


@dataclass(frozen=True)
class Line:
    """One line of a wallet's transfer list.

    Attributes:
        transfer: BitGo's id of it.
        txid: of the chain; empty before it is sent.
        reference: the `sequenceId` that a withdrawal was sent under, else the txid.
        units: effect on the wallet, fee included: negative for a send.
        fee: paid by this wallet, never negative.
        state: `confirmed`, `pending` or `removed`.
        at: when it was confirmed; else when it was made.
    """

    transfer: str
    txid: str
    reference: str
    units: int
    fee: int
    state: str
    at: datetime


@dataclass(frozen=True)
class Reading:
    """A wallet and its transfer list as BitGo told them, with the raw bodies.

    Attributes:
        whole: whether the list goes back to the wallet's first line: the last page named no further one.
    """

    state: WalletState
    lines: tuple[Line, ...]
    skew_s: int | None
    bodies: tuple[bytes, ...]
    whole: bool = False

    def confirmed_at(self, instant: datetime) -> int:
        """The confirmed balance at an instant, read back along the list, line by line."""
        return self.state.confirmed - sum(x.units for x in self.lines if x.state == "confirmed" and x.at >= instant)


class BitGo:
    """BitGo's API with a bearer token.

    Args:
        base: e.g. `https://app.bitgo.com`.
        token: the access token; sent, never shown.
        timeout_s: for one request with its retries.
    """

    def __init__(self, base: str, token: str, *, timeout_s: float = 30.0, page: int = PAGE) -> None:
        self._web = Web(base.rstrip("/"), "BitGo", {"Authorization": f"Bearer {token}"}, timeout_s)
        self._page = page

    def read(self, coin: str, wallet: str, since: datetime) -> Reading:
        """Read a wallet, and its transfers back to an instant.

        Args:
            coin: BitGo's name, e.g. `btc`.
            wallet: BitGo's id.
            since: pages beyond the first line before it are not fetched.

        Raises:
            UncheckedError: BitGo cannot be read, a page comes twice, or the wallet changed between the pages.
        """
        path = f"/api/v2/{coin}/wallet/{wallet}"
        before = self._web.get(path)
        state = state_of(before.value, coin, wallet)
        bodies, lines = [before.raw], []
        for answer, page in self._pages(f"{path}/transfer"):
            bodies.append(answer.raw)
            lines += page
            if page and page[-1].at < since:
                break  # BitGo lists the newest first
        after = self._web.get(path)
        if state_of(after.value, coin, wallet) != state:
            raise UncheckedError(
                f"wallet {coin}/{wallet} changed while it was read",
                rule="balance and transfer list are of one instant",
                next_step="it is read again at the next collection",
            )
        return Reading(state, tuple(lines), before.skew_s, tuple(bodies))

    def _pages(self, path: str) -> Iterator[tuple[Answer, list[Line]]]:
        seen: set[str] = set()
        cursor = ""
        for _ in range(MAX_PAGES):
            params: dict[str, str | int] = {"limit": self._page, **({"prevId": cursor} if cursor else {})}
            answer = self._web.get(path, params)
            page = lines_of(answer.value, path)
            repeated = [line.transfer for line in page if line.transfer in seen]
            if repeated or len({line.transfer for line in page}) != len(page):
                raise _malformed(
                    path, f"transfer {(repeated or [page[0].transfer])[0]} comes twice: a page was repeated"
                )
            seen |= {line.transfer for line in page}
            yield answer, page
            following = answer.value.get("nextBatchPrevId")
            if not following:
                return
            if not isinstance(following, str) or following == cursor or not page:
                raise _malformed(path, "the next page is named by an id that leads nowhere")
            cursor = following
        raise _malformed(path, f"more than {MAX_PAGES} pages")


def parse_bodies(bodies: Sequence[bytes], coin: str, wallet: str) -> Reading:
    """A reading from its stored bodies: the wallet's first, then the pages of its transfer list.

    Raises:
        UncheckedError: a body cannot be read as what it should be.
    """
    where = f"wallet {coin}/{wallet}"
    state = state_of(strict_json(bodies[0], where), coin, wallet) if bodies else None
    if state is None:
        raise _malformed(where, "the reading is empty")
    pages = [strict_json(body, where) for body in bodies[1:]]
    lines = [line for page in pages for line in lines_of(page, where)]
    return Reading(state, tuple(lines), None, tuple(bodies), bool(pages) and not pages[-1].get("nextBatchPrevId"))


def state_of(value: Any, coin: str, wallet: str) -> WalletState:
    """A wallet's balances from BitGo's JSON.

    Raises:
        UncheckedError: it is another wallet's, or an amount is not a string of digits.
    """
    where = f"wallet {coin}/{wallet}"
    if not isinstance(value, dict):
        raise _malformed(where, "the answer is no object")
    if value.get("id") != wallet or value.get("coin") != coin:
        raise _malformed(where, f"the answer is of {value.get('coin')}/{value.get('id')}")
    return WalletState(
        coin,
        wallet,
        _units(value, "balanceString", where),
        _units(value, "confirmedBalanceString", where),
        _units(value, "spendableBalanceString", where),
    )


def lines_of(value: Any, where: str) -> list[Line]:
    """The transfers of one page, newest first as BitGo has them.

    Raises:
        UncheckedError: a line cannot be read, or the lines are not in order.
    """
    page = value.get("transfers") if isinstance(value, dict) else None
    if not isinstance(page, list):
        raise _malformed(where, "the page has no transfers")
    return [_line(one, where) for one in page]


def _line(one: Any, where: str) -> Line:
    if not isinstance(one, dict) or not isinstance(one.get("id"), str) or not one["id"]:
        raise _malformed(where, "a transfer has no id")
    what = f"{where} transfer {one['id']}"
    state = STATES.get(str(one.get("state")))
    if state is None:
        raise _malformed(what, f"state {one.get('state')!r} is unknown")
    kind, txid = one.get("type"), one.get("txid") or ""
    units = _units(one, "valueString", what)
    fee = _units(one, "feeString", what) if one.get("feeString") not in (None, "") and kind == "send" else 0
    if kind not in ("send", "receive") or ((units > 0) != (kind == "receive") and units != 0):
        raise _malformed(what, f"a {kind} of {units}")
    if fee < 0 or not isinstance(txid, str):
        raise _malformed(what, f"fee {fee} or txid {txid!r}")
    sequence = one.get("sequenceId")
    reference = sequence if isinstance(sequence, str) and sequence else txid or one["id"]
    return Line(one["id"], txid, reference, units, fee, state, _instant(one, what))


def _instant(one: dict[str, Any], what: str) -> datetime:
    text = one.get("confirmedTime") or one.get("date")
    try:
        at = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise _malformed(what, f"{text!r} is no instant") from None
    if at.tzinfo is None:
        raise _malformed(what, f"{text!r} has no zone")
    return at


def _units(value: dict[str, Any], name: str, where: str) -> int:
    text = value.get(name)
    if not isinstance(text, str) or not _UNITS.fullmatch(text):
        raise _malformed(where, f"{name} is {text!r}, not a string of digits")
    return int(text)


def _malformed(where: str, what: str) -> UncheckedError:
    return UncheckedError(
        f"BitGo, {where}: {what}",
        rule="a source that cannot be read is UNKNOWN, never zero and never passed",
        next_step="ask BitGo, then collect again",
    )

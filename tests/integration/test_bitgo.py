"""BitGo over real HTTP: paging, limits, and every malformed answer as UNKNOWN by name."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import UncheckedError
from engine.gateways import web
from engine.gateways.bitgo import BitGo
from tests.fixtures.bitgo_server import TOKEN, FakeBitGo

START = datetime(2026, 3, 2, tzinfo=UTC)
COIN, WALLET = "btc", "59cd72485007a239fb00282ed480da1f"


@pytest.fixture
def filled(bitgo: FakeBitGo) -> FakeBitGo:
    wallet = bitgo.wallet(COIN, WALLET)
    for hour in range(30):
        wallet.receive(f"in{hour}", 1_000_000_000_000_000_000_000 + hour, START + timedelta(hours=hour))
        wallet.send(f"out{hour}", 7 * hour, 3, START + timedelta(hours=hour, minutes=30), sequence=f"wd-{hour}")
    wallet.receive("late", 5, START + timedelta(hours=40), state="unconfirmed")
    return bitgo


def client(fake: FakeBitGo, **changes: Any) -> BitGo:
    return BitGo(fake.url, TOKEN, **{"page": 7, "timeout_s": 3.0, **changes})


def test_a_past_balance_is_read_back_line_by_line_over_many_pages(filled: FakeBitGo) -> None:
    reading = client(filled).read(COIN, WALLET, START)
    assert len(reading.lines) == 61
    assert len(reading.bodies) == 1 + 9
    for hours in (0, 1, 12, 24, 29, 31):
        instant = START + timedelta(hours=hours)
        truth = sum(
            int(t["valueString"])
            for t in filled.wallet(COIN, WALLET).transfers
            if t["state"] == "confirmed" and datetime.fromisoformat(t["confirmedTime"]) < instant
        )
        assert reading.confirmed_at(instant) == truth
    send = next(line for line in reading.lines if line.txid == "out9")
    assert (send.reference, send.units, send.fee, send.state) == ("wd-9", -66, 3, "confirmed")
    assert reading.state.total - reading.state.confirmed == 5


def test_only_lines_since_the_instant_are_fetched(filled: FakeBitGo) -> None:
    since = START + timedelta(hours=26)
    reading = client(filled).read(COIN, WALLET, since)
    assert {line.transfer for line in reading.lines if line.at >= since} == {
        t["id"] for t in filled.wallet(COIN, WALLET).transfers if datetime.fromisoformat(t["confirmedTime"]) >= since
    }
    assert len([path for path in filled.asked if "transfer" in path]) <= 3


def edit(field: str, value: Any, *, of: str = "transfer") -> Any:
    def spoil(path: str, params: dict[str, str], given: Any) -> Any:
        if path.endswith("/transfer") and of == "transfer" and not params.get("prevId"):
            first = {**given["transfers"][0], field: value}
            return {**given, "transfers": [first, *given["transfers"][1:]]}
        if not path.endswith("/transfer") and of == "wallet":
            return {**given, field: value}
        return given

    return spoil


def repeated(path: str, params: dict[str, str], given: Any) -> Any:
    """Every page is the first."""
    if path.endswith("/transfer") and params.get("prevId"):
        return repeated.first  # type: ignore[attr-defined]
    if path.endswith("/transfer"):
        repeated.first = given  # type: ignore[attr-defined]
    return given


SPOILED = {
    "a float for an amount": (edit("confirmedBalanceString", 12.5, of="wallet"), "not a string of digits"),
    "an integer for an amount": (edit("balanceString", 12, of="wallet"), "not a string of digits"),
    "an amount with an exponent": (edit("valueString", "1e9"), "not a string of digits"),
    "an enormous amount": (edit("valueString", "9" * 100), "not a string of digits"),
    "another wallet's answer": (edit("id", "someone-else", of="wallet"), "the answer is of"),
    "another coin": (edit("coin", "eth", of="wallet"), "the answer is of"),
    "an unknown state": (edit("state", "dreaming"), "state 'dreaming' is unknown"),
    "a receive that takes": (edit("valueString", "-5"), "a receive of -5"),
    "an instant without a zone": (edit("confirmedTime", "2026-03-02T00:00:00"), "has no zone"),
    "no instant": (edit("confirmedTime", "soon"), "no instant"),
    "no transfers": (lambda p, q, v: {"coin": "btc"} if p.endswith("/transfer") else v, "the page has no transfers"),
    "a repeated page": (repeated, "comes twice: a page was repeated"),
    "a key twice": (lambda p, q, v: b'{"id":"a","id":"b"}', "a key comes twice"),
    "NaN": (lambda p, q, v: b'{"id":NaN}', "NaN is no number"),
    "half an answer": (lambda p, q, v: json.dumps(v).encode()[:-5], "not strict JSON"),
    "nested without end": (lambda p, q, v: b"[" * 200_000, "not strict JSON"),
    "no such wallet": (lambda p, q, v: 404, "answered 404"),
    "forbidden": (lambda p, q, v: 403, "answered 403"),
    "a redirect": (lambda p, q, v: 302, "answered 302"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_bitgo_should_not_say_is_unknown_by_name(filled: FakeBitGo, case: str) -> None:
    filled.wallet(COIN, WALLET).transfers.pop()
    filled.wallet(COIN, WALLET).receive("newest", 5, START + timedelta(hours=50))
    filled.spoil, says = SPOILED[case]
    with pytest.raises(UncheckedError) as refused:
        client(filled).read(COIN, WALLET, START)
    assert says in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_a_busy_server_is_asked_again_when_it_says_and_not_for_ever(filled: FakeBitGo) -> None:
    busy = iter([429, 503])
    filled.headers["Retry-After"] = "0"
    filled.spoil = lambda path, params, value: next(busy, value)
    assert client(filled).read(COIN, WALLET, START).state.confirmed > 0
    filled.headers["Retry-After"] = "3600"
    filled.spoil = lambda path, params, value: 429
    started = time.monotonic()
    with pytest.raises(UncheckedError, match=r"answered 429 .* asks to wait 3600 s"):
        client(filled).read(COIN, WALLET, START)
    assert time.monotonic() - started < 3


def test_a_server_that_drips_or_floods_is_left_within_the_limit(
    filled: FakeBitGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: str, params: dict[str, str], value: Any) -> Any:
        time.sleep(2)
        return value

    filled.spoil = slow
    with pytest.raises(UncheckedError, match=r"cannot be reached|in time"):
        client(filled, timeout_s=0.5).read(COIN, WALLET, START)
    monkeypatch.setattr(web, "MAX_BYTES", 100_000)
    filled.spoil = lambda path, params, value: b" " * 5_000_000
    with pytest.raises(UncheckedError, match="more than 100000 bytes"):
        client(filled).read(COIN, WALLET, START)


def test_a_wallet_that_moves_between_two_pages_is_not_read_as_one_instant(filled: FakeBitGo) -> None:
    def moving(path: str, params: dict[str, str], value: Any) -> Any:
        if path.endswith("/transfer"):
            filled.wallet(COIN, WALLET).offset += 1
        return value

    filled.spoil = moving
    with pytest.raises(UncheckedError, match="changed while it was read"):
        client(filled).read(COIN, WALLET, START)


def test_a_wrong_token_and_a_server_that_is_not_there_are_unknown(filled: FakeBitGo) -> None:
    with pytest.raises(UncheckedError, match="answered 401"):
        BitGo(filled.url, "wrong").read(COIN, WALLET, START)
    with pytest.raises(UncheckedError, match="cannot be reached"):
        BitGo("http://127.0.0.1:1", TOKEN, timeout_s=2).read(COIN, WALLET, START)


def test_the_servers_clock_is_compared_with_ours(filled: FakeBitGo) -> None:
    filled.clock_ahead_s = 600
    skew = client(filled).read(COIN, WALLET, START).skew_s
    assert skew is not None
    assert 595 <= skew <= 605


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | st.text(max_size=40).map(lambda t: json.dumps({"transfers": t}).encode()))
def test_no_body_makes_it_do_anything_but_refuse(filled: FakeBitGo, body: bytes) -> None:
    filled.spoil = lambda path, params, value: body
    with pytest.raises(UncheckedError):
        client(filled).read(COIN, WALLET, START)

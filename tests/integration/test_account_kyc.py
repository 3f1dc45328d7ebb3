"""The identity provider's webhook and messages: signed, fresh, once; everything else changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import nats
import psycopg
import pytest

from engine import clock
from engine.accounts.kyc import MAX_BODY_BYTES
from engine.errors import ConfigError
from engine.events.broker import Broker
from engine.service.kyc import KycDesk, consume_messages, serve_webhook
from engine.store import accounts
from pipelines.cli.accounts_kyc import SECRET_FILE, webhook_secret
from pipelines.local.files import put_secret
from pipelines.settings import load_settings
from tests.fixtures.accounts import add_user
from tests.fixtures.books import BookUnderTest

SECRET = b"a secret of the provider"


@pytest.fixture(scope="module")
def desk(lifecycle: BookUnderTest) -> KycDesk:
    return KycDesk(lifecycle.opened.url, SECRET)


@pytest.fixture(scope="module")
def port(desk: KycDesk) -> Iterator[int]:
    """The webhook, served by a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(serve_webhook(desk, 0), loop).result(10)
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def delivery(account: str, answer: str = "GREEN", at: datetime | None = None, **more: Any) -> dict[str, Any]:
    """A delivery in the provider's shape."""
    when = (at or clock.now()).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return {
        "applicantId": "5cb56e8e0a975a35f333cb83",
        "inspectionId": "5cb56e8e0a975a35f333cb84",
        "correlationId": f"req-{account}",
        "externalUserId": account,
        "levelName": "basic-kyc-level",
        "type": "applicantReviewed",
        "reviewResult": {"reviewAnswer": answer},
        "reviewStatus": "completed",
        "createdAtMs": when,
        "sandboxMode": False,
        **more,
    }


def post(
    port: int, value: Any, headers: dict[str, str] | None = None, path: str = "/webhooks/kyc"
) -> tuple[int, dict[str, Any]]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    signed = {
        "X-Payload-Digest": hmac.new(SECRET, body, hashlib.sha256).hexdigest(),
        "X-Payload-Digest-Alg": "HMAC_SHA256_HEX",
    }
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {**signed, **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def state(lifecycle: BookUnderTest, user: int) -> str:
    with lifecycle.app() as app:
        return accounts.find(app, str(user)).state


@pytest.mark.parametrize(("answer", "expected"), [("GREEN", "kyc_approved"), ("RED", "kyc_rejected")])
def test_signed_review_moves_the_account_and_its_replay_changes_nothing(
    lifecycle: BookUnderTest, owner: psycopg.Connection, port: int, answer: str, expected: str
) -> None:
    user = add_user(owner, "pending_kyc")
    body = json.dumps(delivery(f"a-{user}", answer)).encode()
    assert post(port, body) == (200, {"effect": expected})
    for _ in range(3):
        assert post(port, body) == (200, {"effect": "duplicate"})
    with lifecycle.app() as app:
        assert (accounts.find(app, str(user)).state, accounts.find(app, str(user)).version) == (expected, 2)


def test_forged_review_is_refused(lifecycle: BookUnderTest, owner: psycopg.Connection, port: int) -> None:
    user = add_user(owner, "pending_kyc")
    value = delivery(f"a-{user}")
    for headers in (
        {"X-Payload-Digest": "0" * 64},
        {"X-Payload-Digest": ""},
        {"X-Payload-Digest-Alg": "HMAC_SHA1_HEX"},
        {"X-Payload-Digest-Alg": "none"},
        {"X-Payload-Digest": hmac.new(b"other", json.dumps(value).encode(), hashlib.sha256).hexdigest()},
    ):
        assert post(port, value, headers)[0] == 401
    other = hmac.new(SECRET, json.dumps(delivery("someone")).encode(), hashlib.sha256).hexdigest()
    assert post(port, value, {"X-Payload-Digest": other})[0] == 401
    assert state(lifecycle, user) == "pending_kyc"


@pytest.mark.parametrize("late", [timedelta(hours=26), timedelta(days=400), timedelta(minutes=-6)])
def test_stale_review_or_one_of_the_future_is_refused(
    lifecycle: BookUnderTest, owner: psycopg.Connection, port: int, late: timedelta
) -> None:
    user = add_user(owner, "pending_kyc")
    assert post(port, delivery(f"a-{user}", at=clock.now() - late))[0] == 422
    assert state(lifecycle, user) == "pending_kyc"


def test_same_delivery_with_another_answer_is_refused(
    lifecycle: BookUnderTest, owner: psycopg.Connection, port: int
) -> None:
    user = add_user(owner, "pending_kyc")
    at = clock.now()
    assert post(port, delivery(f"a-{user}", "RED", at))[0] == 200
    assert post(port, delivery(f"a-{user}", "GREEN", at))[0] == 422
    assert state(lifecycle, user) == "kyc_rejected"


def test_resubmission_is_pending_again_and_other_events_decide_nothing(
    lifecycle: BookUnderTest, owner: psycopg.Connection, port: int
) -> None:
    user = add_user(owner, "pending_kyc")
    assert post(port, delivery(f"a-{user}", "RED"))[1] == {"effect": "kyc_rejected"}
    assert post(port, delivery(f"a-{user}", type="applicantPending"))[1] == {"effect": "pending_kyc"}
    assert post(port, delivery(f"a-{user}", type="applicantCreated"))[1] == {"effect": "ignored"}
    assert state(lifecycle, user) == "pending_kyc"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"type": "applicantReviewed", "type": "applicantPending"}', 400),
        (b"[" * 5000, 400),
        (delivery("nobody-of-ours"), 422),
        (delivery("UPPER"), 400),
        (delivery("a-1", answer="YELLOW"), 400),
        (delivery("a-1", reviewResult=None), 400),
        (delivery("a-1", sandboxMode=True), 422),
        (delivery("a-1", sandboxMode="false"), 422),
        (delivery("a-1", createdAtMs="yesterday"), 400),
        (delivery("a-1", createdAtMs=1700000000), 400),
        (delivery("a-1", correlationId=7), 400),
        (delivery("a-1", correlationId="x" * 500), 400),
        (b"x" * (MAX_BODY_BYTES + 1), 413),
    ],
    ids=lambda v: str(v)[:24] if isinstance(v, int | bytes) else "delivery",
)
def test_garbage_that_is_signed_is_refused_by_status(port: int, value: Any, status: int) -> None:
    assert post(port, value)[0] == status


def test_server_refuses_other_paths_methods_and_bodies_without_length_and_survives(port: int) -> None:
    assert post(port, b"{}", path="/")[0] == 404
    for request, status in (
        (b"GET /webhooks/kyc HTTP/1.1\r\n\r\n", b"405"),
        (b"POST /webhooks/kyc HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST /webhooks/kyc HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST /webhooks/kyc HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n", b"413"),
        (b"POST /webhooks/kyc HTTP/1.1\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 2\r\n\r\n{}", b"400"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(request)
            assert raw.recv(4096).split()[1] == status
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(b"A" * 40_000 + b"\r\n\r\n")
    assert post(port, b"{}")[0] == 400


def test_database_that_is_away_is_answered_so_that_the_provider_tries_again() -> None:
    away = KycDesk("postgresql://nobody@127.0.0.1:1/none", SECRET)
    body = json.dumps(delivery("a-1")).encode()
    headers = {
        "x-payload-digest": hmac.new(SECRET, body, hashlib.sha512).hexdigest(),
        "x-payload-digest-alg": "HMAC_SHA512_HEX",
    }
    assert away.webhook(body, headers)[0] == 503
    message = json.dumps({"account": "a-1", "deliveryId": "d", "at": "2026-03-02T12:00:00Z"}).encode()
    assert away.message("kyc.approved", message) == b"", "left on NATS"


def test_messages_on_nats_review_and_onboard_each_once(lifecycle: BookUnderTest, owner: psycopg.Connection) -> None:
    user = add_user(owner, "pending_kyc")
    desk = KycDesk(lifecycle.opened.url, SECRET)
    review = {"account": f"a-{user}", "deliveryId": f"nats-{user}", "at": clock.iso_us(clock.now())}

    async def work() -> None:
        broker = Broker(lifecycle.opened.servers.nats_url)
        consuming = asyncio.create_task(consume_messages(desk, broker))
        client = await nats.connect(lifecycle.opened.servers.nats_url)
        stream = client.jetstream()
        for _ in range(100):
            try:
                await stream.publish("kyc.approved", json.dumps(review).encode(), timeout=2)
                break
            except nats.js.errors.Error:
                await asyncio.sleep(0.1)
        await stream.publish("kyc.approved", json.dumps(review).encode())
        await stream.publish("kyc.rejected", b"garbage")
        for _ in range(20):
            await stream.publish("account.onboarding.requested", b'{"account": "by-nats"}')
        for _ in range(200):
            if sum(desk.counts.values()) >= 23:
                break
            await asyncio.sleep(0.05)
        consuming.cancel()
        await client.close()
        await broker.close()

    asyncio.run(asyncio.wait_for(work(), 40))
    assert state(lifecycle, user) == "kyc_approved"
    assert desk.counts["kyc.approved taken"] == 2
    assert desk.counts["kyc.rejected refused"] == 1
    assert owner.execute("SELECT count(*), min(state) FROM accounts.users WHERE account = 'by-nats'").fetchone() == (
        1,
        "pending_kyc",
    )


def test_secret_comes_from_the_environment_or_a_file_that_only_its_owner_reads(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(home=tmp_path / "home")
    with pytest.raises(ConfigError, match="missing or shorter"):
        webhook_secret(settings)
    put_secret(settings.home, SECRET_FILE, "x" * 20)
    assert webhook_secret(settings) == b"x" * 20
    (settings.home / "secrets" / SECRET_FILE).chmod(0o644)
    with pytest.raises(ConfigError, match="read by others"):
        webhook_secret(settings)
    monkeypatch.setenv("COMPLINE_KYC_SECRET", "y" * 20)
    assert webhook_secret(load_settings(home=tmp_path / "home")) == b"y" * 20
    assert "y" * 20 not in repr(load_settings(home=tmp_path / "home"))

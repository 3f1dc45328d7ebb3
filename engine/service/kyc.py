"""The identity provider's door: a webhook on 127.0.0.1 and messages on NATS become events of accounts.

What belongs here: serving both, and answering only after the database has taken it.
What does not: reading a delivery (see `engine.accounts.kyc`), and what an event does (the database's).

A proxy in front ends TLS. What was answered 2xx is in the database; what could not be taken now is answered 503, or
left on NATS, and comes again: a delivery has one effect.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from engine import clock
from engine.accounts.kyc import MAX_BODY_BYTES, Decision, Opening, RefusedWebhookError, read_message, read_webhook
from engine.errors import ComplineError, UncheckedError
from engine.events.broker import Broker, Respond
from engine.steps.onboarding import onboard
from engine.store import account_kyc
from engine.store.connect import connect, typed_errors

HOST = "127.0.0.1"
PATH = "/webhooks/kyc"
SUBJECTS = ["kyc.approved", "kyc.rejected", "kyc.pending", "account.onboarding.requested"]
DURABLE = "compline-accounts"
_LIMIT_S = 10.0
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS |= {411: "Length Required", 413: "Content Too Large", 422: "Unprocessable Content", 503: "Service Unavailable"}


@dataclass
class KycDesk:
    """Takes what the provider says into one book.

    Args:
        url: the book's database, as the application.
        secret: shared with the provider.
        sandbox: whether events of its sandbox are taken.
    """

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    sandbox: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def webhook(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Take a delivery; returns the status and what to answer."""
        try:
            decision = read_webhook(body, headers, self.secret, clock.now(), sandbox=self.sandbox)
            effect = "ignored" if decision is None else self.take(decision)
        except RefusedWebhookError as error:
            return self._counted(error.status, {"error": error.what})
        except UncheckedError as error:
            return self._counted(503, {"error": error.what})
        except ComplineError as error:
            return self._counted(422, {"error": error.what})
        return self._counted(200, {"effect": effect})

    def message(self, subject: str, body: bytes) -> bytes:
        """Take a message; returns what acknowledges it, nothing where it has to come again."""
        try:
            effect = self.take(read_message(subject, body))
        except UncheckedError:
            self.counts[f"{subject} later"] += 1
            return b""
        except ComplineError as error:
            # It would be refused for ever: told and dropped.
            self.counts[f"{subject} refused"] += 1
            return json.dumps({"success": False, "error": error.what}).encode()
        self.counts[f"{subject} taken"] += 1
        return json.dumps({"success": True, "effect": effect}).encode()

    def take(self, one: Decision | Opening) -> str:
        """Hand it to the database.

        Raises:
            UncheckedError: the database is away.
            ComplineError: it refuses.
        """
        with (
            closing(connect(self.url, autocommit=True, application="compline kyc", limit_s=10)) as connection,
            typed_errors(),
            connection.transaction(),
        ):
            if isinstance(one, Opening):
                done = onboard(connection, one, by="onboarding event", at=clock.now())
                found = f", hits: {done.hits}" if done.hits else ""
                return f"user {done.user_id} {'opened' if done.made else 'is there'}{found}"
            user = account_kyc.number_of(connection, one.account)
            event = account_kyc.KycEvent(
                one.provider, one.delivery, user, one.outcome, one.at, one.payload_sha256, one.source
            )
            return account_kyc.take(connection, event)

    def _counted(self, status: int, answer: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.counts[f"webhook {status}"] += 1
        return status, answer


async def serve_webhook(desk: KycDesk, port: int) -> asyncio.Server:
    """Answer the provider until the server is closed.

    Args:
        desk: what a delivery does.
        port: on 127.0.0.1; 0 lets the system choose.

    Raises:
        OSError: the port is taken.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                status, answer = await _answer(reader, desk)
                body = json.dumps(answer).encode()
                head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            desk.counts["webhook broken"] += 1
        finally:
            writer.close()

    return await asyncio.start_server(serve, HOST, port, limit=16 * 1024)


async def _answer(reader: asyncio.StreamReader, desk: KycDesk) -> tuple[int, dict[str, Any]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, _, rest = lines[0].partition(" ")
    if rest.partition(" ")[0].partition("?")[0] != PATH:
        return 404, {"error": f"there is {PATH}"}
    if method != "POST":
        return 405, {"error": "a delivery is a POST"}
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        # Twice the same name would leave it open which one counts.
        if name and headers.setdefault(name.strip().lower(), value.strip()) != value.strip():
            return 400, {"error": f"header {name[:40]} comes twice"}
    length = headers.get("content-length", "")
    if not length.isdecimal() or "transfer-encoding" in headers:
        return 411, {"error": "a delivery says its length"}
    if len(length) > 9 or int(length) > MAX_BODY_BYTES:
        return 413, {"error": f"more than {MAX_BODY_BYTES} bytes"}
    body = await reader.readexactly(int(length))
    return await asyncio.to_thread(desk.webhook, body, headers)


async def consume_messages(desk: KycDesk, broker: Broker) -> None:
    """Take messages from NATS, each until it was acknowledged; runs until cancelled."""

    async def handle(subject: str, data: bytes, respond: Respond) -> None:
        await respond(await asyncio.to_thread(desk.message, subject, data))

    await broker.connect()
    await broker.consume(DURABLE, SUBJECTS, handle)


async def serve(desk: KycDesk, port: int, nats_url: str, stopping: asyncio.Event, talk: Callable[[str], None]) -> None:
    """Serve webhook and messages until told to stop.

    Raises:
        UncheckedError: the port is taken.
    """
    broker = Broker(nats_url)
    try:
        server = await serve_webhook(desk, port)
    except OSError as error:
        raise UncheckedError(
            f"port {port} cannot be listened on: {error.strerror}", next_step="choose another"
        ) from None
    talk(f"taking reviews at http://{HOST}:{server.sockets[0].getsockname()[1]}{PATH} and from NATS")
    consuming = asyncio.create_task(consume_messages(desk, broker))
    try:
        await stopping.wait()
    finally:
        consuming.cancel()
        server.close()
        await broker.close()

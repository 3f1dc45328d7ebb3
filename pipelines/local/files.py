"""Files of the home: folders, secrets, remembered state and the locks between starters.

What belongs here: how a file below `.compline/` is written so that a kill leaves the old or the new one.
What does not: what any of these files means.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.local.errors import LocalServerError, from_os_error

LOCK_TIMEOUT_S = 180.0
# In a folder that we created, or found empty: only such a one is ever removed whole.
MARKER = "COMPLINE_HOME"


def make_home(home: Path) -> Path:
    """Create the home and its fixed folders.

    Others may pass through it (the server runs as another user under root), only the owner reads the secrets.

    Args:
        home: the home, `.compline` or what COMPLINE_HOME says.

    Raises:
        LocalServerError: a folder cannot be written, or the disk is full.
    """
    try:
        if not home.is_dir():
            home.mkdir(parents=True, exist_ok=True)
            home.chmod(0o755)
        if not any(home.iterdir()):
            (home / MARKER).write_text("Everything in this folder was written by Compline.\n", encoding="utf-8")
        (home / "log").mkdir(exist_ok=True)
        folder = home / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise from_os_error(error, home) from error
    return home


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a run after a kill, sees the old text or the new one.

    Args:
        path: the file.
        text: all of it.
        mode: its permission bits, in force before the first byte is written.

    Raises:
        LocalServerError: it cannot be written, or the disk is full.
    """
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(fd, "w", encoding="utf-8") as handle:
            os.fchmod(handle.fileno(), mode)
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise from_os_error(error, path) from error


def secret(home: Path, name: str) -> str:
    """The secret of that name, generated at first use.

    Safe with several processes at once: the first file linked into place is everybody's.

    Args:
        home: the home.
        name: file name below `secrets/`.

    Raises:
        LocalServerError: it can neither be read nor written.
    """
    path = make_home(home) / "secrets" / name
    found = read_secret(home, name)
    if found:
        return found
    try:
        candidate = path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
        write_whole(candidate, secrets.token_urlsafe(32), mode=0o600)
        try:
            if path.exists() and not path.read_text(encoding="utf-8").strip():
                path.unlink()
            os.link(candidate, path)
        except FileExistsError:
            pass
        finally:
            candidate.unlink(missing_ok=True)
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise from_os_error(error, path) from error


def read_secret(home: Path, name: str) -> str | None:
    """The secret of that name, or None where there is none yet.

    Args:
        home: the home.
        name: file name below `secrets/`.

    Raises:
        LocalServerError: the file is there and cannot be read.
    """
    path = home / "secrets" / name
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, path) from error


def put_secret(home: Path, name: str, value: str) -> None:
    """Keep a secret that was not generated here, replacing another value.

    Args:
        home: the home.
        name: file name below `secrets/`.
        value: the secret.

    Raises:
        LocalServerError: it cannot be written.
    """
    if read_secret(home, name) != value:
        write_whole(make_home(home) / "secrets" / name, value, mode=0o600)


def read_state(path: Path) -> dict[str, Any]:
    """A remembered state, empty where there is none or where a crash left it unreadable.

    Args:
        path: a JSON file in the home.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    except OSError as error:
        raise from_os_error(error, path) from error
    return found if isinstance(found, dict) else {}


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Remember a state.

    Args:
        path: a JSON file in the home.
        state: JSON-ready values.
    """
    text = json.dumps(state, indent=1, sort_keys=True) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel releases it when the holder dies.

    Args:
        path: the lock file, created and never removed (removing it would let two in).
        timeout_s: how long to wait for the other process.

    Raises:
        LocalServerError: another process held it all that time.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LocalServerError(
                        f"{path} was held by another process for {timeout_s:.0f} s",
                        rule="one process at a time starts or stops a server",
                        next_step="wait for the other `compline` to end, or end it, then run the same command",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)

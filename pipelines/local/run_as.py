"""Who the embedded Postgres runs as.

Postgres refuses to run as root, so under root it runs as `nobody`. What belongs here: choosing that user, and asking
whether it can enter a folder or run a program. What does not: where the folders are.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.local.errors import LocalServerError

# A program that changes the user and becomes the command. Where `subprocess` changes it itself the child is a copy of
# this process until then, and one of a process with gRPC threads, as Dagster's have, crashes or hangs now and then.
_BECOME = (
    "import os, sys; user, group = map(int, sys.argv[1:3]); os.setgroups([]); os.setgid(group); os.setuid(user);"
    " os.execv(sys.argv[3], sys.argv[3:])"
)


@dataclass(frozen=True)
class RunAs:
    """A user for child processes; `uid` None means the user that we are.

    Args:
        uid: user id to change to.
        gid: group id to change to.
        name: for messages.
    """

    uid: int | None
    gid: int | None
    name: str

    def run(self, command: list[str], **arguments: Any) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` as that user, with an environment and a working directory that it can have.

        Args:
            command: its program by absolute path.
            arguments: further ones of `subprocess.run`.
        """
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        if self.uid is not None:
            command = [sys.executable, "-I", "-S", "-c", _BECOME, str(self.uid), str(self.gid), *command]
        return subprocess.run(command, check=False, cwd="/", env=environment, umask=0o077, **arguments)


def choose(data_dir: Path) -> RunAs:
    """The user for the server.

    Args:
        data_dir: its data directory; where it exists, its owner goes on with it.

    Raises:
        LocalServerError: the data belongs to another user, or this user has no entry in the password database.
    """
    owner = data_dir.stat().st_uid if data_dir.exists() else None
    if os.geteuid() != 0:
        return _ourselves(data_dir, owner)
    if owner:
        entry = _entry(owner)
        return RunAs(owner, entry.pw_gid if entry else data_dir.stat().st_gid, entry.pw_name if entry else str(owner))
    for name in ("nobody", "daemon", "bin", "mail"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return RunAs(entry.pw_uid, entry.pw_gid, name)
    raise LocalServerError(
        "there is no user `nobody` on this machine, and Postgres refuses to run as root",
        rule="under root the embedded Postgres runs as an unprivileged user of the password database",
        next_step="add that user, run as another one, or set DATABASE_URL and DATABASE_ADMIN_URL",
    )


def _ourselves(data_dir: Path, owner: int | None) -> RunAs:
    uid = os.geteuid()
    if owner is not None and owner != uid:
        entry = _entry(owner)
        raise LocalServerError(
            f"{data_dir} belongs to user {entry.pw_name if entry else owner}, not to this one ({uid})",
            rule="one user, or root, runs the embedded Postgres of a home",
            next_step="run as root or as that user, or set COMPLINE_HOME to a folder of your own",
        )
    entry = _entry(uid)
    if entry is None:
        raise LocalServerError(
            f"user id {uid} has no entry in the password database, and Postgres looks its own user up there",
            next_step="run as a user that is in /etc/passwd, or set DATABASE_URL and DATABASE_ADMIN_URL",
        )
    return RunAs(None, None, entry.pw_name)


def _entry(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def can_enter(user: RunAs, folder: Path) -> bool:
    """Whether that user can reach the folder: asked by doing it, since modes do not tell of ACLs and mounts.

    Args:
        user: from `choose`.
        folder: an existing folder.
    """
    return _succeeds(user, ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])


def can_run(user: RunAs, program: Path) -> bool:
    """Whether that user can run the program.

    Args:
        user: from `choose`.
        program: one that answers `--version`.
    """
    return _succeeds(user, [str(program), "--version"])


def _succeeds(user: RunAs, command: list[str]) -> bool:
    try:
        done = user.run(command, capture_output=True, timeout=60)
    except OSError:
        return False
    return done.returncode == 0

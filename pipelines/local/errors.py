"""Errors of the embedded servers.

What belongs here: what can go wrong with a server on this machine, as classes with an exit code.
What does not: refusals of the database itself (`engine.errors`).
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from engine.errors import ConfigError, UncheckedError


class LocalServerError(UncheckedError):
    """An embedded server does not start, stop or answer (exit 2)."""


class DiskFullError(LocalServerError):
    """The disk below the home is full (exit 2)."""


class PortInUseError(ConfigError):
    """A port that a setting forces belongs to another process (exit 78)."""


def disk_full(path: Path) -> DiskFullError:
    """The one wording for a full disk.

    Args:
        path: what could not be written.
    """
    return DiskFullError(
        f"No space left on the disk of {path}",
        rule="a day is never half-written: nothing was kept of what did not fit",
        next_step="free space there, or set COMPLINE_HOME to a folder on a larger disk, then run the same command",
    )


def from_os_error(error: OSError, path: Path) -> LocalServerError:
    """The typed error for an operating system's refusal.

    Args:
        error: what the system said.
        path: the file or folder at hand, used where the error names none.
    """
    named = Path(error.filename) if isinstance(error.filename, str) else path
    # A copied tree gathers its files' refusals as text, without a number.
    full = isinstance(error, shutil.Error) and os.strerror(errno.ENOSPC) in str(error)
    if full or error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(named)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LocalServerError(
            f"{named} cannot be written ({error.strerror})",
            rule="everything the project writes lives below COMPLINE_HOME",
            next_step="make it writable for this user, or set COMPLINE_HOME to a folder that is",
        )
    return LocalServerError(f"{named}: {error.strerror or error}", next_step="see `compline doctor`")

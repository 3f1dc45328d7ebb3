"""Writing that is whole: all bytes at a place, or a file that appears complete.

What belongs here: short writes, temporary name, fsync, rename.
What does not: what counts as durable when (see `journal_writer`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(fd: int, data: bytes, offset: int) -> None:
    """Write all of the bytes at a place of an open file, however many the system takes at once.

    Raises:
        OSError: the disk refused; a part may be written.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole: temporary name, fsync, rename, fsync of the directory.

    Raises:
        OSError: the disk refused; no file of that name appears and the temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the disk hold the names in a folder.

    Raises:
        OSError: the disk refused.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

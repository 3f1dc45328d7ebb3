"""Power cut under load, on a file system of its own: every acknowledged command is there, as if it had never been dark.

A file system in a file is mounted, loaded, shut down without writing what it still held in memory, and mounted again.
So what was not waited for is lost, which no killed process shows. It takes root, and ext4's own ioctl for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_kill_exchange import kill_again_and_again

_SHUTDOWN = 0x8004587D
"""`EXT4_IOC_SHUTDOWN`: _IOR('X', 125, __u32)."""
_WITHOUT_FLUSHING_THE_LOG = 2
_MEGABYTES = 1024
"""As large as it may grow; the file has holes."""


class Disk:
    """A mounted file system that can lose power."""

    def __init__(self, image: Path, mounted: Path) -> None:
        self.image = image
        self.mounted = mounted

    def mount(self) -> None:
        self._run("mount", "-o", "loop", str(self.image), str(self.mounted))

    def umount(self) -> None:
        self._run("umount", str(self.mounted))

    def cut(self) -> None:
        """Nothing reaches the disk from here on, also not what was written before and not waited for."""
        fd = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG.to_bytes(4, "little"))
        finally:
            os.close(fd)

    def mount_again(self) -> None:
        self.umount()
        self.mount()

    def _run(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.returncode, f"{words[0]}: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small ext4 in a file."""
    made = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if os.geteuid() != 0 or made is None:
        pytest.skip("mounting a file system of its own takes root and mkfs.ext4")
    one = Disk(tmp_path / "disk.img", tmp_path / "mounted")
    one.mounted.mkdir()
    with one.image.open("wb") as image:
        image.truncate(_MEGABYTES << 20)
    subprocess.run([made, "-q", "-F", str(one.image)], check=True)
    try:
        one.mount()
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error.strerror}")
    try:
        yield one
    finally:
        one.umount()


def test_a_cut_loses_what_nobody_waited_for(disk: Disk) -> None:
    waited, forgotten = disk.mounted / "waited", disk.mounted / "forgotten"
    with waited.open("wb") as handle:
        handle.write(b"a" * 4096)
        handle.flush()
        os.fsync(handle.fileno())
    forgotten.write_bytes(b"b" * 4096)
    disk.cut()
    disk.mount_again()
    assert waited.read_bytes() == b"a" * 4096
    assert not forgotten.exists() or forgotten.read_bytes() == b""


def test_exchange_that_lost_power_keeps_every_acknowledged_command_once(disk: Disk) -> None:
    kill_again_and_again(disk.mounted / "book", 6, seed=3, cut=disk.cut, mend=disk.mount_again)


@pytest.mark.faults
def test_exchange_that_lost_power_a_hundred_times_keeps_every_acknowledged_command_once(disk: Disk) -> None:
    kill_again_and_again(disk.mounted / "book", 100, seed=4, cut=disk.cut, mend=disk.mount_again)

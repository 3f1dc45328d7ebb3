"""Processes of the embedded servers: is a recorded pid still ours, and end it.

What belongs here: recognising a process by what it runs, never by its number alone (numbers are reused).
What does not: starting anything.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil


def works_in(pid: int, folder: Path, name: str) -> psutil.Process | None:
    """The process of that number, if it lives, is that program and has that working directory.

    Args:
        pid: a recorded process number.
        folder: for Postgres its data directory, which the postmaster and every backend work in.
        name: the program's process name.
    """
    try:
        process = psutil.Process(pid)
        if process.name() != name or not is_alive(process):
            return None
        there, wanted = os.stat(process.cwd()), os.stat(folder)
    except (psutil.Error, OSError, ValueError):
        return None
    return process if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino) else None


def working_in(folder: Path, name: str) -> list[psutil.Process]:
    """All live processes of that program with that working directory.

    Args:
        folder: as for `works_in`.
        name: the program's process name.
    """
    named = (process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == name)
    return [found for pid in named if (found := works_in(pid, folder, name)) is not None]


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie, which nobody may ever reap in a container, does not.

    Args:
        process: any process.
    """
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait for processes to end, and return those that did not.

    Args:
        processes: what to wait for.
        timeout_s: how long, for all together.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        processes = [process for process in processes if is_alive(process)]
        if not processes or time.monotonic() > deadline:
            return processes
        time.sleep(0.02)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal; a process that has just ended is no error.

    Args:
        process: checked by psutil against the reuse of its number.
        number: the signal.
    """
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return

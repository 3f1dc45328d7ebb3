"""Ports on the loopback address: which are free, and which one to use.

What belongs here: asking the kernel about ports. What does not: which server remembers which port.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time

from pipelines.local.errors import LocalServerError, PortInUseError

HOST = "127.0.0.1"
# Below the range that kernels hand to outgoing connections (Linux: from 32768), so a client can't take our port.
FIRST, LAST = 20_000, 29_999


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now.

    Args:
        port: 1 to 65535.
    """
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As servers do it: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that was free a moment ago; the caller starts its server and tries again if it lost a race.

    Raises:
        LocalServerError: none was found in two hundred tries.
    """
    for _ in range(200):
        port = FIRST + secrets.randbelow(LAST - FIRST + 1)
        if is_free(port):
            return port
    raise LocalServerError(
        f"no free port between {FIRST} and {LAST} on {HOST}", next_step="end the servers that hold them"
    )


def choose(forced: int | None, remembered: int | None, *, server: str, setting: str) -> int:
    """The port to start a server on.

    Args:
        forced: what the setting says, None where it says nothing.
        remembered: the port of the last start, None at the first.
        server: the server's name, for the message.
        setting: the setting's name, for the message.

    Raises:
        PortInUseError: the forced port belongs to another process.
    """
    if forced is not None:
        if not is_free(forced):
            raise PortInUseError(
                f"port {forced} on {HOST}, which {setting} forces for {server}, is in use by another process",
                rule="a forced port is used or refused, never replaced",
                next_step=f"end that process, set {setting} to a free port, or unset it to have one chosen",
            )
        return forced
    # A server that was killed a moment ago holds its port for some milliseconds more.
    for _ in range(25 if remembered is not None else 0):
        if remembered is not None and is_free(remembered):
            return remembered
        time.sleep(0.02)
    return free_port()

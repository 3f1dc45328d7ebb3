"""`python -m pipelines.local down|purge|status`: what the Makefile needs without the rest of the command line.

What belongs here: ending the servers of a home. What does not: `compline up` and everything else (`pipelines.cli`).
"""

from __future__ import annotations

import sys

from engine.errors import ComplineError, UsageError
from pipelines.local.nats import nats_status
from pipelines.local.postgres import postgres_status
from pipelines.local.servers import purge, stop_servers
from pipelines.settings import load_settings


def main(arguments: list[str]) -> int:
    """Run one of the three; the exit code.

    Args:
        arguments: the command line without the program.
    """
    try:
        home = load_settings().home
        if arguments == ["down"]:
            stopped = stop_servers(home)
            sys.stderr.write(f"stopped {' and '.join(stopped)}\n" if stopped else "no embedded server was running\n")
        elif arguments == ["purge"]:
            purge(home)
        elif arguments == ["status"]:
            sys.stdout.write(f"{postgres_status(home)}\n{nats_status(home)}\n")
        else:
            raise UsageError("python -m pipelines.local takes down, purge or status")
    except ComplineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

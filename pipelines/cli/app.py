"""`compline`: the root of the command line.

What belongs here: which commands there are, loading the one that is asked for, and the exit codes.
What does not: any command.

A command's module is imported when the command is called (or helped with): each pays for what it needs alone. All of
them together take seconds, most of it for libraries that one or two commands use.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from pipelines.cli.output import err

COMMANDS = {
    "demo": "demo:demo",
    "up": "local:up",
    "down": "local:down",
    "dev": "local:dev",
    "doctor": "doctor:doctor",
    "keys": "keys:app",
    "close": "close:app",
    "exchange": "exchange:app",
    "ledger": "ledger:app",
    "recon": "recon:app",
    "accounts": "accounts:app",
    "reserves": "reserves:app",
    "evidence": "evidence:app",
    "alerts": "alerts:app",
    "admin": "admin:app",
    "market": "market:app",
    "pnl": "pnl:pnl",
}
"""Name of each command or group, and where it is: module of `pipelines.cli`, then the function or application."""


class OnDemand(TyperGroup):
    """A group whose members are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, none where there is no such command."""
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name].partition(":")
            found = getattr(importlib.import_module(f"pipelines.cli.{module}"), attribute)
            self.commands[cmd_name] = _built(cmd_name, found)
        return self.commands.get(cmd_name)


def _built(name: str, found: Any) -> Any:
    """Click's object for a function or a Typer application."""
    holder = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    holder.callback()(lambda: None)
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    group: Any = typer.main.get_command(holder)
    return group.commands[name]


app = typer.Typer(
    cls=OnDemand,
    help="Compline closes an exchange's day: reconciled, proven, sealed.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Compline closes an exchange's day: reconciled, proven, sealed."""


USAGE = 64
INTERRUPTED = 130
_CLICK_ERROR = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Typer carries its own copy of Click; this is that copy's base of wrong usage."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; Click's own 2 for wrong usage becomes 64, since 2 means that something is UNKNOWN.

    Args:
        arguments: without the program's name; by default this process's.
    """
    command = typer.main.get_command(app)
    try:
        code = command.main(None if arguments is None else list(arguments), standalone_mode=False)
    except typer.Exit as done:
        code = done.exit_code
    except _CLICK_ERROR as error:
        error.show()
        code = USAGE
    except (typer.Abort, KeyboardInterrupt):
        err.print("interrupted: nothing is half-written; run the command again")
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()

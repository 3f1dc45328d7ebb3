"""`compline`: the root of the command line.

What belongs here: assembling the commands and the exit codes. What does not: any command.
"""

from __future__ import annotations

import sys

import typer

from pipelines.cli import (
    accounts,
    admin,
    alerts,
    close,
    demo,
    evidence,
    exchange,
    keys,
    ledger,
    local,
    market,
    pnl,
    proofs,
    recon,
    reserves,
)
from pipelines.cli.output import err

app = typer.Typer(
    help="Compline closes an exchange's day: reconciled, proven, sealed.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
local.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(close.app, name="close")
app.add_typer(exchange.app, name="exchange")
app.add_typer(ledger.app, name="ledger")
app.add_typer(recon.app, name="recon")
app.add_typer(accounts.app, name="accounts")
proofs.register(reserves.app)
app.add_typer(reserves.app, name="reserves")
app.add_typer(evidence.app, name="evidence")
app.add_typer(alerts.app, name="alerts")
app.add_typer(admin.app, name="admin")
app.add_typer(market.app, name="market")
app.command("pnl")(pnl.pnl)

USAGE = 64
INTERRUPTED = 130
_CLICK_ERROR = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Typer carries its own copy of Click; this is that copy's base of wrong usage."""


def main() -> None:
    """Run the command line; Click's own 2 for wrong usage becomes 64, since 2 means that something is UNKNOWN."""
    command = typer.main.get_command(app)
    try:
        code = command.main(standalone_mode=False)
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

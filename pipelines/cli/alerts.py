"""`compline alerts`: the watch, what it raised, and a test of the channels.

What belongs here: the commands. What does not: looking and sending (see `pipelines.watch`).
"""

from __future__ import annotations

import signal
from contextlib import closing
from typing import Annotated

import typer

from engine import clock
from engine.close.alerts import WARNING, Alert
from engine.errors import ComplineError, ConfigError, UncheckedError
from engine.store.alerts import recent
from engine.store.connect import connect, typed_errors
from pipelines import watch as watching
from pipelines.cli.options import BookName, DryRun, Json, opened, settings_of
from pipelines.cli.output import errors, put_json, put_table, talk

app = typer.Typer(help="Who is woken, and for what.", no_args_is_help=True)


@app.command()
def watch(
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Raise and send alerts: failed gates and steps, overdue seals, stuck breaks. Needs no Dagster."""
    with errors(as_json=as_json):
        there = opened(book)
        places = watching.channels(there.settings)
        if not places:
            talk("no channel is configured: alerts are recorded and sent nowhere (COMPLINE_ALERT_URLS)")
        if not once:
            stopped: list[int] = []
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, lambda number, frame: stopped.append(number))
            watching.watch(there, every_s=every, talk=talk, stop=lambda: bool(stopped))
            return
        done = watching.look(there, places, clock.now())
        shown = {
            "raised": done.raised,
            "sent": done.sent,
            "unsent": done.unsent,
            "overdue": [str(day) for day in done.overdue],
        }
        if as_json:
            put_json({"book": there.book.name, **shown})
        else:
            put_table(["what", "which"], [[name, value] for name, value in shown.items()])
        if done.unsent:
            raise typer.Exit(UncheckedError.exit_code)


@app.command("list")
def list_alerts(
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 50,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show the last alerts and where each has arrived."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            found = recent(connection, limit)
        if as_json:
            put_json({"book": there.book.name, "alerts": found})
            return
        put_table(
            ["id", "raised at", "severity", "title", "channels"],
            [
                [
                    a["id"],
                    a["raised_at"],
                    a["severity"],
                    a["title"],
                    ", ".join(f"{c}: {s}" for c, s in a["channels"].items()),
                ]
                for a in found
            ],
        )


@app.command("test")
def try_channels(dry_run: DryRun = False, book: BookName = None, as_json: Json = False) -> None:
    """Send a test alert to every channel; exit 2 where one does not take it."""
    with errors(as_json=as_json):
        settings = settings_of(book)
        places = watching.channels(settings)
        if not places:
            raise ConfigError(
                "no channel is configured",
                next_step="set COMPLINE_ALERT_URLS, or write Apprise URLs to "
                f"{settings.home}/secrets/{watching.CHANNELS_SECRET}",
            )
        alert = Alert(
            "test", WARNING, "this is a test", (("book", settings.book),), "alerts.md", "compline alerts list"
        )
        results = {place.name: "would be sent" if dry_run else _try(place, alert) for place in places}
        if as_json:
            put_json({"channels": results})
        else:
            put_table(["channel", "result"], [list(item) for item in results.items()])
        if any(result not in ("sent", "would be sent") for result in results.values()):
            raise typer.Exit(UncheckedError.exit_code)


def _try(place: watching.Channel, alert: Alert) -> str:
    try:
        place.send(alert)
    except ComplineError as error:
        return error.what
    return "sent"

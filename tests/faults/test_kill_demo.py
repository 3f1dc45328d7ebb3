"""`make close`, killed: run again, it ends in the state of a run that nobody touched."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.reserves.key_file import keys_text
from engine.reserves.keys import generate_keys
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import drop_database
from tests.fixtures.command_line import call

COMPLINE = str(Path(sys.executable).with_name("compline"))
SIZE = ("--days", "2", "--users", "40")


class Demo:
    """The demo in a book of its own; what is killed is the program that an operator runs."""

    def __init__(self, settings: Settings, book: str, keys: str) -> None:
        self.home, self.keys, self.arguments = settings.home, keys, ["demo", *SIZE, "--book", book]

    def run(self) -> str:
        """Run it to its end; the state digest."""
        code, said, talk = call(self.home, *self.arguments, COMPLINE_KEYS=self.keys)
        assert code == 0, talk[-3000:]
        assert [day["state"] for day in said["days"]] == ["sealed", "sealed"]
        return str(said["state_digest"])

    def kill(self, after: str, delay_s: float, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill it a moment after it said something (or began)."""
        process = subprocess.Popen(
            [COMPLINE, *self.arguments, "--json"],
            env={**os.environ, "COMPLINE_HOME": str(self.home), "COMPLINE_KEYS": self.keys},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if after in line:
                break
        time.sleep(delay_s)
        process.send_signal(how)
        process.stderr.close()
        process.wait(30)


@pytest.fixture
def demos(settings: Settings, servers: Servers):
    keys = keys_text(generate_keys())
    made: list[str] = []

    def make(name: str) -> Demo:
        made.append(f"{name}{os.getpid()}")
        return Demo(settings, made[-1], keys)

    yield make
    for name in made:
        drop_database(servers, name)


def test_killed_three_times_the_demo_ends_as_if_it_had_not_been(demos) -> None:
    clean = demos("clean").run()
    killed = demos("killed")
    killed.kill("matched", 0.1)
    killed.kill("settled", 2.5, signal.SIGINT)
    killed.kill("sealed", 0.3)
    assert killed.run() == clean


@pytest.mark.faults
def test_killed_at_random_the_demo_ends_as_if_it_had_not_been(demos) -> None:
    chance = random.Random(20260302)
    clean = demos("clean").run()
    for number in range(10):
        killed = demos(f"killed{number}x")
        for _ in range(4):
            killed.kill(chance.choice(("", "matched", "settled", "sealed")), chance.uniform(0, 4))
        assert killed.run() == clean

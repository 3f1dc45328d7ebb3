"""Processes that close days end without looking through what they loaded."""

import subprocess
import sys

CODE = (
    "import atexit, gc; from pipelines.garbage import look_seldom\n"
    "atexit.register(lambda: print(gc.get_freeze_count() > 1_000, gc.get_threshold()[0] > 10_000))\n"
    "look_seldom(); look_seldom()"
)


def test_what_was_loaded_is_not_looked_through_when_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]

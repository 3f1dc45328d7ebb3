"""How long a new user waits: set-up, the first close, the second, one more day, and one date in a cold process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.bench
ROOT = Path(__file__).resolve().parents[2]


def run(command: list[str], where: Path, **environment: str) -> tuple[float, str]:
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG") or k.startswith(("PIP_", "UV_"))}
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=where, env={**keep, **environment}, capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return time.perf_counter() - started, done.stdout


def test_from_clone_to_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o755)
    clone = tmp_path / "clone"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    home = {"HOME": str(tmp_path / "nobody-home")}
    compline = str(clone / ".venv" / "bin" / "compline")
    try:
        setup, _ = run(["make", "setup"], clone, **home)
        cold, _ = run(["make", "close"], clone, **home)
        warm, _ = run(["make", "close"], clone, **home)
        one_more, text = run([compline, "demo", "--book", "bench", "--days", "4", "--json"], clone, **home)
        split: dict[str, Any] = json.loads(text)["process_seconds"]
        run([compline, "demo", "--book", "alone", "--load-only"], clone, **home)
        alone, text_alone = run([compline, "close", "run", "2026-03-02", "--book", "alone", "--json"], clone, **home)
        lone: dict[str, Any] = json.loads(text_alone)["process_seconds"]
    finally:
        run(["make", "clean"], clone, **home)
    with capsys.disabled():
        print(f"\nset-up {setup:.1f} s; make close after it: first {cold:.1f} s, again {warm:.1f} s (3 days)")
        print(f"demo of 4 days in a warm home {one_more:.1f} s; its last day {split['2026-03-05']:.2f} s:")
        print("  " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in steps_of(split, "2026-03-05").items()))
        print(
            f"one date, cold process {alone:.1f} s: "
            + ", ".join(f"{k} {v:.2f}" for k, v in lone.items() if " " not in k)
        )
        print("  " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in steps_of(lone, "2026-03-02").items()))


def steps_of(split: dict[str, Any], day: str) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for name, seconds in split.items():
        if name.startswith(f"{day} "):
            found[name.removeprefix(f"{day} ")] += seconds
    return dict(sorted(found.items(), key=lambda item: -item[1]))

"""A gate that bites on every way in: the command line, the UI's launch, a backfill, and the seal alone.

One captured engine balance is off by one smallest unit. (Over psql: see test_seal_forbidden.)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from pipelines import dagster_home
from pipelines.jobs import JOB_NAME
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.command_line import Answer, call

ROOT = Path(__file__).parents[2]
COMPLINE = Path(sys.executable).with_name("compline")
TAMPERED = ("u-0001", "USDT")


def tamper(book: BookUnderTest, day: date) -> None:
    """Capture, then change one balance by one smallest unit, as the owner."""
    with book.closing(day) as context:
        for step in STEPS[:2]:
            run_step(step, context)
    with book.admin() as connection:
        changed = connection.execute(
            "UPDATE exchange.engine_balances SET available = available + 0.000001"
            " WHERE close_date = %s AND account = %s AND asset = %s",
            (day, *TAMPERED),
        )
        assert changed.rowcount == 1


def compline(book: BookUnderTest, *arguments: str) -> Answer:
    """The command line on a book."""
    return call(book.opened.settings.home, *arguments, "--book", book.opened.book.name)


def program(book: BookUnderTest, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The same as the installed program, in a process of its own."""
    done = subprocess.run(
        [str(COMPLINE), *arguments, "--book", book.opened.book.name, "--json"],
        env={**os.environ, "COMPLINE_HOME": str(book.opened.settings.home)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def state(book: BookUnderTest, day: date) -> object:
    return book.value("SELECT state FROM close.days WHERE close_date = %s", day)


def test_from_the_command_line_and_a_backfill_the_day_does_not_seal_until_it_is_captured_again(
    book: BookUnderTest,
) -> None:
    first, second = book.days
    tamper(book, first)
    code, said = program(book, "close", "run", str(first))
    assert code == 1
    assert said["days"][0]["state"] == "cutoff"
    gate = next(g for g in said["days"][0]["gates"] if g["gate"] == "engine_vs_ledger")
    shown = gate["detail"]["shown"]
    assert gate["verdict"] == "fail"
    assert [(s["account"], s["asset"], s["difference"]) for s in shown] == [(*TAMPERED, "0.000001")]
    assert book.value("SELECT count(*) FROM accounts.holds") == 1
    assert book.value("SELECT account FROM accounts.holds JOIN accounts.users USING (user_id)") == TAMPERED[0]

    code, said, _ = compline(book, "close", "backfill", str(first), str(second))
    assert code == 1
    assert said["not_run"] == [str(second)]
    code, _, talk = compline(book, "close", "run", str(second))
    assert code == 1
    assert str(first) in talk
    assert [state(book, day) for day in book.days] == ["cutoff", "open"]

    code, said, talk = compline(book, "close", "run", str(first), "--recapture")
    assert code == 0, (said, talk)
    assert said["days"][0]["state"] == "sealed"
    code, _, _ = compline(book, "close", "run", str(second))
    assert code == 0
    assert book.value("SELECT count(*) FROM close.seals WHERE kind = 'day'") == 2
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.recon.failed'") >= 1  # type: ignore[operator]


LOOK_OFTEN = """\
from pipelines.garbage import look_seldom
look_seldom()
import dagster._daemon.controller as daemon
daemon.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
"""
"""Python runs a `sitecustomize` at every start: Dagster's daemon, which has no setting for it, looks every 30 s."""


class DagsterServer:
    """`dagster dev` on the session's home, spoken to as the UI speaks: GraphQL over HTTP."""

    def __init__(self, book: BookUnderTest) -> None:
        settings, servers = book.opened.settings, book.opened.servers
        folder = dagster_home.prepare(settings, servers)
        self.book = book
        workspace = folder / f"workspace-{book.opened.book.name}.yaml"
        workspace.write_text(
            "load_from:\n  - python_module:\n      module_name: pipelines.definitions\n"
            f"      attribute: book_{book.opened.book.name}\n      location_name: {book.opened.book.name}\n"
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "often").mkdir(exist_ok=True)
        (folder / "often" / "sitecustomize.py").write_text(LOOK_OFTEN)
        path = os.pathsep.join(filter(None, (str(folder / "often"), str(ROOT), os.environ.get("PYTHONPATH"))))
        self.log = (folder / "dev.log").open("w")
        self.process = subprocess.Popen(
            [str(COMPLINE.with_name("dagster")), "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(self.port)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.load(answer)
        assert "errors" not in said, said
        return said["data"]

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                found = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
                if found["repositoriesOrError"].get("nodes"):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(Path(self.log.name).read_text()[-3000:])

    def selector(self, steps: list[list[str]] | None = None) -> dict[str, Any]:
        name = self.book.opened.book.name
        chosen = {"assetSelection": [{"path": path} for path in steps], "assetCheckSelection": []} if steps else {}
        return {
            "repositoryName": "__repository__",
            "repositoryLocationName": name,
            "pipelineName": JOB_NAME,
            **chosen,
        }

    def launch(self, day: date, steps: list[list[str]] | None = None, **tags: str) -> str:
        """Launch a date as the launchpad does, and wait for the run's end; its status."""
        said = self.ask(
            "mutation ($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename"
            " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            p={
                "selector": self.selector(steps),
                "runConfigData": {},
                "mode": "default",
                "executionMetadata": {
                    "tags": [{"key": k, "value": v} for k, v in {"dagster/partition": str(day), **tags}.items()]
                },
            },
        )["launchRun"]
        assert said["__typename"] == "LaunchRunSuccess", said
        return self.end_of(said["run"]["runId"])

    def end_of(self, run_id: str) -> str:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            run = self.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)[
                "runOrError"
            ]
            if run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
                return str(run["status"])
            time.sleep(0.1)
        raise AssertionError(f"run {run_id} did not end")

    def backfill(self, days: list[date]) -> list[tuple[str, str]]:
        """Backfill dates as the UI does; (date, status) of its runs, oldest first."""
        keys = self.ask("{ assetNodes { assetKey { path } } }")["assetNodes"]
        said = self.ask(
            "mutation ($b: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $b) { __typename"
            " ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            b={
                "partitionNames": [str(day) for day in days],
                "assetSelection": [{"path": node["assetKey"]["path"]} for node in keys],
            },
        )["launchPartitionBackfill"]
        assert said["__typename"] == "LaunchBackfillSuccess", said
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            found = self.ask(
                "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status"
                " runs(limit: 50) { status startTime tags { key value } } } } }",
                id=said["backfillId"],
            )["partitionBackfillOrError"]
            if found["status"].startswith("COMPLETED") or found["status"] == "FAILED":
                runs = sorted(found["runs"], key=lambda run: run["startTime"] or 0)
                tag = "dagster/partition"
                return [(next(t["value"] for t in r["tags"] if t["key"] == tag), r["status"]) for r in runs]
            time.sleep(0.2)
        raise AssertionError("the backfill did not end")

    def stop(self) -> None:
        """End all of it at once: asked to, it would take seconds, and nothing of it is kept."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


@pytest.fixture
def tampered_ui(make_book: MakeBook) -> Iterator[tuple[BookUnderTest, DagsterServer]]:
    book = make_book()
    tamper(book, book.days[0])
    server = DagsterServer(book)
    try:
        server.wait_until_up()
        yield book, server
    finally:
        server.stop()


@pytest.mark.timeout(900)
def test_from_the_ui_and_its_backfill_the_day_does_not_seal_nor_by_running_only_the_seal(
    tampered_ui: tuple[BookUnderTest, DagsterServer],
) -> None:
    book, server = tampered_ui
    first, second = book.days
    assert server.launch(first, [["close", "seals"]]) == "FAILURE"
    assert book.value("SELECT count(*) FROM close.seals WHERE kind = 'day'") == 0

    runs = server.backfill([first, second])
    assert runs == [(str(first), "FAILURE"), (str(second), "FAILURE")], "one run a day, oldest first, none green"
    assert [state(book, day) for day in book.days] == ["cutoff", "open"]

    assert server.launch(first, **{"compline/recapture": "true"}) == "SUCCESS"
    assert state(book, first) == "sealed"

    code, said, talk = compline(book, "close", "run", str(second))
    assert code == 0, (said, talk)
    seen_in_the_ui(book, server, second)
    told_on_nats(book)


def seen_in_the_ui(book: BookUnderTest, server: DagsterServer, day: date) -> None:
    """A close from the command line, with its materializations and check results by partition."""
    found = server.ask(
        "query ($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results { status"
        " assetMaterializations { assetKey { path } partition } } } } }",
        f={"tags": [{"key": "compline/book", "value": book.opened.book.name}]},
    )["runsOrError"]["results"]
    mine = [run for run in found if any(m["partition"] == str(day) for m in run["assetMaterializations"])]
    seen = {"/".join(m["assetKey"]["path"]) for run in mine for m in run["assetMaterializations"]}
    assert {run["status"] for run in mine} == {"SUCCESS"}
    assert {"close/cutoff", "close/seals", "finance/fct_daily_balances"} <= seen
    checks = server.ask(
        "query ($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { assetChecksOrError {"
        " ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } } }",
        k={"path": ["ledger", "control_totals"]},
    )["assetNodeOrError"]["assetChecksOrError"]["checks"]
    assert {c["executionForLatestMaterialization"]["status"] for c in checks} == {"SUCCEEDED"}


def told_on_nats(book: BookUnderTest) -> None:
    """The relay has published what the steps and sensors left in the outbox, failures included."""
    deadline = time.monotonic() + 30
    while book.value("SELECT count(*) FROM events.outbox WHERE published_at IS NULL"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject = 'eod.seal.completed'") == 2
    assert book.value("SELECT count(*) FROM events.outbox WHERE subject LIKE 'eod.%.failed'") != 0

"""Asking as another user, from processes as Dagster's are: threads that call gRPC all the time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.local.run_as import RunAs, can_enter, can_run

BUSY = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import grpc
from pipelines.local import run_as

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

server = grpc.server(ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
call = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/an/echo")

def calls():
    while True:
        call(b"hello")

for _ in range(3):
    threading.Thread(target=calls, daemon=True).start()
print(sum(run_as.can_enter(run_as.RunAs(65534, 65534, "nobody"), Path(sys.argv[1])) for _ in range(100)), flush=True)
os._exit(0)
"""

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")


@root_alone
def test_process_with_busy_grpc_threads_is_told_the_truth_every_time() -> None:
    """With a plain fork under them one answer in thirty was a crash taken for a no, or never came."""
    done = subprocess.run(
        [sys.executable, "-c", BUSY, "/tmp"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["100"], done.stderr[-500:]


@root_alone
def test_another_user_enters_what_is_open_alone_and_runs_what_is_there(tmp_path: Path) -> None:
    nobody = RunAs(65534, 65534, "nobody")
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    assert can_enter(nobody, Path("/tmp"))
    assert not can_enter(nobody, shut)
    assert can_run(nobody, Path("/bin/ls"))
    assert not can_run(nobody, tmp_path / "nothing")
    said = nobody.run(["/bin/sh", "-c", "id -u; id -G; umask; pwd"], capture_output=True, text=True)
    assert said.stdout.split() == ["65534", "65534", "0077", "/"]


def test_we_ourselves_are_asked_too(tmp_path: Path) -> None:
    ourselves = RunAs(None, None, "us")
    assert can_enter(ourselves, tmp_path)
    assert not can_enter(ourselves, tmp_path / "nothing")

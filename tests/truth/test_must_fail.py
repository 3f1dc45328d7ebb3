"""The published must-fail files: they are what the script makes, and the verifier refuses each by its rule."""

import json
import os
import resource
import subprocess
import sys

import pytest

from engine.reserves.verifier import compline_verify
from tests.fixtures.proof_files import VERIFIER, run_verifier
from tests.truth.must_fail import FOLDER, all_cases, folder_files

GOOD = json.loads((FOLDER / "good-proof.json").read_text())
CASES = {case.name: case for case in all_cases()}


@pytest.fixture(scope="module")
def files():
    return folder_files()


def test_the_folder_is_what_the_script_makes(files):
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == files


@pytest.fixture
def anchor():
    return ["--checkpoint", str(FOLDER / "checkpoint.txt"), "--key", str(FOLDER / "keys.txt")]


def test_the_good_files_are_valid(anchor):
    assert run_verifier("proof", FOLDER / "good-proof.json", *anchor).code == 0
    assert run_verifier("evidence", FOLDER / "good-evidence.zip", *anchor).code == 0
    assert run_verifier("evidence", FOLDER / "good-evidence.zip").code == 2


@pytest.mark.parametrize("name", CASES)
def test_every_attack_is_refused_by_its_rule(name, tmp_path, anchor, capsys):
    """In this process: a hundred interpreters would take a minute."""
    case = CASES[name]
    (tmp_path / "file").write_bytes(case.data)
    assert compline_verify.main([case.command, str(tmp_path / "file"), *anchor, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["rule"], answer["result"]) == (case.rule, "invalid")
    assert answer["level"] is not None


def _bounded(*arguments):
    """Run the verifier with 1 GiB of address space and ten seconds of CPU."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))

    command = [sys.executable, "-I", "-S", str(VERIFIER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit)


@pytest.mark.parametrize("command", ["proof", "evidence"])
def test_a_gigabyte_is_refused_before_it_is_read(tmp_path, anchor, command):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**30)
    done = _bounded(command, tmp_path / "huge", *anchor)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("INVALID: rule size")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 2**24,
        b"[[]," + b"[]," * (2**24 // 3 - 2) + b"0]",
        b'{"a":' * (2**24 // 5),
        b'"' + b"\\n" * (2**23 - 1) + b'"',
        b"9" * 2**24,
        b'{"manifest":' + b'"' * 2**20,
        *(b'{"v":%s}' % (b"[" * depth + b"]" * depth) for depth in (900, 980, 2000)),
        json.dumps({**GOOD, "manifest": GOOD["manifest"].replace(":1,", f":{'[' * 970}{']' * 970},")}).encode(),
        json.dumps({**GOOD, "account": ["x" * 10**6] * 10}).encode(),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_hostile_json_of_the_largest_size_stays_in_bounds(tmp_path, anchor, text):
    (tmp_path / "file").write_bytes(text)
    done = _bounded("proof", tmp_path / "file", *anchor)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("INVALID: rule ")


def test_what_cannot_be_read_is_not_checked(tmp_path, anchor):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", "/dev/zero", tmp_path / "pipe"):
        for command in ("proof", "evidence", "tree"):
            run = run_verifier(command, path, *anchor)
            assert run.code == 2
            assert run.said.startswith("NOT CHECKED")


def test_wrong_usage_is_not_checked():
    done = subprocess.run([sys.executable, str(VERIFIER), "prove"], capture_output=True, check=False)
    assert done.returncode == 2

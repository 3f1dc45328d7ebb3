"""The worked example in `docs/auditors` says what the verifier says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "auditors" / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^    \$ (python3 .+)\n((?:    (?!\$).+\n)+)    \$ echo \$\?\n    (\d)\n", TEXT, re.MULTILINE)


def test_there_are_examples_of_every_answer():
    assert {code for _, _, code in EXAMPLES} == {"0", "1", "2"}
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize(("command", "shown", "code"), EXAMPLES)
def test_an_example_is_real(command, shown, code):
    words = command.split()
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == int(code)
    assert done.stdout == re.sub("^    ", "", shown, flags=re.MULTILINE)


def test_every_linked_file_is_there():
    for page in (ROOT / "docs" / "auditors").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"

"""Build `.venv` from the lock files; run by `make setup` with the machine's own Python, standard library only.

A stamp names everything the environment was built from, so that a second run costs nothing; it is written last, so that
an interrupted run is taken up again. Nothing is written outside the clone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "compline-setup"
INSTALLING = VENV / "compline-installing"
BOOTSTRAP = ROOT / "requirements-bootstrap.lock"
LOCK = ROOT / "requirements.lock"
DEBIAN_HINT = "on Debian and Ubuntu: apt-get install python3-venv"


def main() -> int:
    """Build or complete the environment; 0 when it is ready."""
    key = wanted_key()
    if ready(key):
        return 0
    if "--check" in sys.argv:
        return 1
    with alone():
        if ready(key):
            return 0
        began = time.monotonic()
        try:
            build(key)
        except subprocess.CalledProcessError as error:
            say(f"this step failed with {error.returncode}: {' '.join(map(str, error.cmd[:6]))} …")
            say("the set-up is taken up again by the next `make`; `make clean` starts it anew")
            return 1
        except OSError as error:
            say(f"{error.filename or VENV}: {error.strerror or error}")
            return 1
        say(f".venv is ready ({time.monotonic() - began:.0f} s)")
    return 0


def wanted_key() -> str:
    """What the environment is built from. The clone's path is part of it: scripts and links in `.venv` name it."""
    digest = hashlib.sha256()
    for path in (BOOTSTRAP, LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{digest.hexdigest()}\n{identity()}\n"


def identity() -> str:
    """The clone and the interpreter, either of which changing means to build anew."""
    return f"{ROOT}\n{sys.version_info[0]}.{sys.version_info[1]} {Path(sys.base_prefix).resolve()}"


def ready(key: str) -> bool:
    """Whether `.venv` was built whole from that key."""
    try:
        return STAMP.read_text(encoding="utf-8") == key and (BIN / "python").exists()
    except OSError:
        return False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one set-up of this clone at a time; the kernel frees the lock when its holder dies."""
    folder = ROOT / ".compline"
    if not folder.is_dir():
        folder.mkdir()
        folder.chmod(0o755)  # under root the database's user passes through it, whatever the umask says
    with (folder / "setup.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this clone")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(key: str) -> None:
    """The steps, each of which finds its own work done after an interruption."""
    if not usable():
        if VENV.exists():
            shutil.rmtree(VENV)
        say(f"creating .venv with Python {sys.version.split()[0]}")
        run([sys.executable, "-m", "venv", str(VENV)], hint=DEBIAN_HINT)
        (VENV / "compline-identity").write_text(identity(), encoding="utf-8")
    STAMP.unlink(missing_ok=True)
    environment = uv_environment()
    pinned = BOOTSTRAP.read_text(encoding="utf-8").split()[0].removeprefix("uv==")
    if pinned not in said([str(BIN / "uv"), "--version"]).split():
        say(f"installing uv {pinned}")
        install = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--no-input", "--no-cache-dir"]
        run([*install, "--disable-pip-version-check", "--require-hashes", "-r", str(BOOTSTRAP)])
    say("installing the locked packages")
    # A package that a kill left half-copied has its metadata already: after an interruption all are laid anew.
    anew = ["--reinstall"] if INSTALLING.exists() else []
    INSTALLING.touch()
    run([str(BIN / "uv"), "pip", "sync", "--quiet", *anew, "--require-hashes", str(LOCK)], environment)
    INSTALLING.unlink()
    install = [str(BIN / "uv"), "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--offline"]
    run([*install, "--editable", str(ROOT)], environment)
    say("compiling them")
    compile_packages()
    STAMP.write_text(key, encoding="utf-8")


def usable() -> bool:
    """Whether `.venv` is this clone's, of this interpreter, and has a pip that runs."""
    try:
        same = (VENV / "compline-identity").read_text(encoding="utf-8") == identity()
    except OSError:
        same = False
    return same and bool(said([str(BIN / "python"), "-m", "pip", "--version"]))


def compile_packages() -> None:
    """Compile all packages now: where the environment forbids writing bytecode, every start would compile them."""
    code = (
        "import compileall, sys, sysconfig\n"
        "compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2, workers=0, maxlevels=30)\n"
    )
    subprocess.run([str(BIN / "python"), "-c", code], check=False, stdout=subprocess.DEVNULL)


def uv_environment() -> dict[str, str]:
    """The environment for uv: its cache inside the clone, and pip's indexes, which uv does not read by itself."""
    environment = dict(os.environ)
    environment["VIRTUAL_ENV"] = str(VENV)
    environment.setdefault("UV_CACHE_DIR", str(VENV / ".uv-cache"))
    environment.setdefault("UV_NO_PROGRESS", "1")
    environment.setdefault("UV_PYTHON_DOWNLOADS", "never")
    environment.setdefault("UV_HTTP_TIMEOUT", "180")
    configured = pip_configuration()
    for setting, variable in (
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("find-links", "UV_FIND_LINKS"),
        ("trusted-host", "UV_INSECURE_HOST"),
        ("cert", "SSL_CERT_FILE"),
        ("proxy", "ALL_PROXY"),
    ):
        if configured.get(setting):
            environment.setdefault(variable, configured[setting])
    # As pip does it: every index is asked, and the lock's hashes decide what may be installed.
    environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return environment


def pip_configuration() -> dict[str, str]:
    """What the machine's pip is set up with: its files, then PIP_* variables over them."""
    found: dict[str, str] = {}
    for line in said([str(BIN / "python"), "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        section, _, setting = name.rpartition(".")
        if section in ("global", "install", ":env:"):
            joint = "," if setting == "find-links" else " "
            found[setting] = joint.join(value.strip("'\"").replace("\\n", " ").split())
    return found


def run(command: list[str], environment: dict[str, str] | None = None, *, hint: str = "") -> None:
    """Run a step; its output is the person's."""
    try:
        subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=sys.stderr)
    except subprocess.CalledProcessError:
        if hint:
            say(hint)
        raise


def said(command: list[str]) -> str:
    """What a command prints, empty where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def say(line: str) -> None:
    """A line for the person."""
    sys.stderr.write(f"setup: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; the next `make` goes on from here")
        sys.exit(130)

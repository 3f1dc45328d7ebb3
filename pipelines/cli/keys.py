"""`compline keys`: the secrets that a book seals with.

What belongs here: the commands. What does not: keys (see `engine.reserves`, `pipelines.key_store`).
"""

from __future__ import annotations

import typer

from engine.errors import ConfigError
from engine.reserves.signing import key_id
from pipelines.cli.options import BookName, DryRun, Json, settings_of
from pipelines.cli.output import errors, put_json, talk
from pipelines.key_store import init_keys, key_path, load_keys_file

app = typer.Typer(help="Keys of manifests, checkpoints and leaves.", no_args_is_help=True)


@app.callback()
def _keys() -> None:
    """Keys of manifests, checkpoints and leaves."""


@app.command()
def init(book: BookName = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Make a book's keys in a file that only this user can read; an existing file is never replaced."""
    with errors(as_json=as_json):
        settings = settings_of(book)
        path = key_path(settings, settings.book)
        if dry_run:
            if path.exists():
                raise ConfigError(f"{path} exists", rule="keys are never replaced")
            talk(f"would write {path}")
            return
        init_keys(settings, settings.book)
        keys = load_keys_file(path)
        result = {"book": settings.book, "file": str(path), "key_id": key_id(keys.manifest_signer().public_key)}
        if as_json:
            put_json(result)
        else:
            talk(f"keys of book {settings.book} are in {path} (mode 0600), key id {result['key_id']}")
            talk("back the file up: proofs and seals of this book depend on it")

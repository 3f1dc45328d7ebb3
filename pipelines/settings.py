"""The settings: one class, read from the environment, built once by the command that runs.

What belongs here: what an operator sets from outside. What does not: the exchange's policy (rows, effective-dated),
and anything that starts a server or opens a file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import pydantic
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.errors import ConfigError

DEFAULT_BOOK = "demo"
# `<database>_dagster` is Dagster's storage, `<database>_<book>` a book.
RESERVED_BOOKS = frozenset({"dagster"})
_BOOK = re.compile(r"[a-z0-9][a-z0-9_]{0,30}")


def repo_root() -> Path:
    """The clone that this package runs from, or the working directory where it is installed elsewhere."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "Makefile").is_file() else Path.cwd()


class Settings(BaseSettings):
    """What the environment says; no field shows a secret in its text.

    Args:
        home: everything written at run time lives below it (COMPLINE_HOME).
        database_url: a real server, as the application's login (DATABASE_URL).
        database_admin_url: the same database as its owner and migrator (DATABASE_ADMIN_URL).
        nats_url: a real NATS server (NATS_URL).
        book: the book that a command works on (COMPLINE_BOOK).
        step_timeout_s: hard limit of one step of the close, seconds (COMPLINE_STEP_TIMEOUT_S).
        pg_port: forces the embedded Postgres' port (COMPLINE_PG_PORT).
        nats_port: forces the embedded NATS server's port (COMPLINE_NATS_PORT).
        kyc_secret: what the identity provider signs its webhooks with (COMPLINE_KYC_SECRET).
        alert_urls: where alerts go, one Apprise URL a line (COMPLINE_ALERT_URLS).
        bitgo_url: custody's wallet API (COMPLINE_BITGO_URL).
        bitgo_token: its access token (COMPLINE_BITGO_TOKEN); else the file secrets/bitgo_token of the home.
        chain_url: a JSON-RPC node of the chain with the staking contracts (COMPLINE_CHAIN_URL).
        admin_token: what callers of the admin service show (COMPLINE_ADMIN_TOKEN).
        heartbeat_url: an http(s) URL outside that pages when it is not called any more (COMPLINE_HEARTBEAT_URL).
        tree_kernel: who builds liability trees, all with the same bytes (COMPLINE_TREE_KERNEL).
    """

    model_config = SettingsConfigDict(
        # Never by field name: `home` would be read from HOME.
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        populate_by_name=False,
    )

    home: Path = Field(default_factory=lambda: repo_root() / ".compline", validation_alias="COMPLINE_HOME")
    database_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_URL")
    database_admin_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_ADMIN_URL")
    nats_url: SecretStr | None = Field(default=None, validation_alias="NATS_URL")
    book: str = Field(default=DEFAULT_BOOK, validation_alias="COMPLINE_BOOK")
    step_timeout_s: int = Field(default=1800, gt=0, validation_alias="COMPLINE_STEP_TIMEOUT_S")
    pg_port: int | None = Field(default=None, ge=1, le=65535, validation_alias="COMPLINE_PG_PORT")
    nats_port: int | None = Field(default=None, ge=1, le=65535, validation_alias="COMPLINE_NATS_PORT")
    kyc_secret: SecretStr | None = Field(default=None, validation_alias="COMPLINE_KYC_SECRET")
    alert_urls: SecretStr | None = Field(default=None, validation_alias="COMPLINE_ALERT_URLS")
    bitgo_url: str = Field(default="https://app.bitgo.com", validation_alias="COMPLINE_BITGO_URL")
    bitgo_token: SecretStr | None = Field(default=None, validation_alias="COMPLINE_BITGO_TOKEN")
    chain_url: SecretStr | None = Field(default=None, validation_alias="COMPLINE_CHAIN_URL")
    admin_token: SecretStr | None = Field(default=None, validation_alias="COMPLINE_ADMIN_TOKEN")
    heartbeat_url: SecretStr | None = Field(default=None, validation_alias="COMPLINE_HEARTBEAT_URL")
    tree_kernel: Literal["auto", "libcrypto", "numba", "hashlib"] = Field(
        default="auto", validation_alias="COMPLINE_TREE_KERNEL"
    )

    @pydantic.field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @pydantic.field_validator("heartbeat_url")
    @classmethod
    def _web(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("an http or https URL is needed")
        return url

    @property
    def embedded_postgres(self) -> bool:
        """Whether the database is the embedded one."""
        return self.database_url is None


def check_book(book: str) -> str:
    """The book's name, if it is one.

    Args:
        book: it becomes part of a database's name.

    Raises:
        ConfigError: it holds other characters than a-z, 0-9 and _, is too long, or is reserved.
    """
    if not _BOOK.fullmatch(book) or book in RESERVED_BOOKS:
        raise ConfigError(
            f"{book!r} is not a name for a book",
            rule="1 to 31 of a-z, 0-9 and _, not beginning with _; `dagster` is reserved",
            next_step="choose another name for --book or COMPLINE_BOOK",
        )
    return book


def _variable(field: str) -> str:
    return str(Settings.model_fields[field].validation_alias)


def load_settings(**overrides: object) -> Settings:
    """Read the environment, checked as a whole.

    Args:
        overrides: field values that a command line option gives; None means not given.

    Raises:
        ConfigError: a value is not what its field needs, only one of the two database URLs is set, or the home is the
            user's home, the clone or the root.
    """
    try:
        given = {_variable(name): value for name, value in overrides.items() if value is not None}
        settings = Settings(**given)  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"setting {name}: {first['msg']}", next_step=f"correct or unset {name}") from None
    check_book(settings.book)
    if settings.home in (Path("/"), repo_root(), Path(os.environ.get("HOME") or "/").absolute()):
        raise ConfigError(
            f"COMPLINE_HOME is {settings.home}",
            rule="the home is a folder of its own: `make clean` removes it",
            next_step=f"set it to a folder in there, such as {settings.home / 'compline'}",
        )
    if (settings.database_url is None) != (settings.database_admin_url is None):
        there, missing = ("DATABASE_URL", "DATABASE_ADMIN_URL")
        if settings.database_url is None:
            there, missing = missing, there
        raise ConfigError(
            f"{there} is set and {missing} is not",
            rule="a real server needs both: the application's login, and the owner that migrates",
            next_step=f"set {missing} to the same database, or unset {there} to use the embedded server",
        )
    return settings

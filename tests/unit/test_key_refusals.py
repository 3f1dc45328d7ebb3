"""What key files and key sets refuse, and that no secret is quoted."""

import json
import os
import stat

import pytest

from engine.errors import ConfigError
from engine.reserves.key_file import (
    keys_text,
    parse_keys,
    read_key_file,
    write_key_file,
)
from engine.reserves.keys import KeySet, ReserveKeys, derive_demo_keys, generate_keys, refuse_public_keys
from tests.fixtures.reserve_parts import KEYS


def test_key_file_round_trips_with_mode_0600_whatever_the_umask(tmp_path):
    keys, path = generate_keys(), tmp_path / "keys.json"
    before = os.umask(0o777)
    try:
        write_key_file(path, keys)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key_file(path) == keys
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]
    refuse_public_keys(keys)


def test_key_file_is_never_overwritten(tmp_path):
    keys, path = generate_keys(), tmp_path / "keys.json"
    write_key_file(path, keys)
    with pytest.raises(ConfigError, match="exists already"):
        write_key_file(path, generate_keys())
    assert read_key_file(path) == keys
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_key_file_readable_by_others_is_refused(tmp_path, mode):
    path = tmp_path / "keys.json"
    write_key_file(path, generate_keys())
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:04o}"):
        read_key_file(path)


def test_absent_odd_or_malformed_key_files_are_refused(tmp_path):
    fifo, folder, text = tmp_path / "fifo", tmp_path / "folder", tmp_path / "text"
    os.mkfifo(fifo, 0o600)
    folder.mkdir(0o700)
    text.write_bytes(b"\xff\xfe")
    text.chmod(0o600)
    for path in (tmp_path / "none", fifo, folder, text):
        with pytest.raises(ConfigError):
            read_key_file(path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_key_file(tmp_path / "none" / "keys.json", KEYS)


def test_malformed_key_text_is_refused_without_quoting_it():
    content = json.loads(keys_text(KEYS))
    for change in ({"master": "SECRET"}, {"v": "x"}, {"purpose": []}, {"key_epoch": -1}, {"more": 1}, {"master": 1}):
        with pytest.raises(ConfigError) as raised:
            parse_keys(json.dumps({**content, **change}), where="test")
        assert "SECRET" not in str(raised.value)
    with pytest.raises(ConfigError):
        parse_keys("\ud800", where="test")


def test_one_secret_for_two_purposes_is_refused():
    with pytest.raises(ConfigError, match="two purposes"):
        KeySet(KEYS.reserve, KEYS.manifest_seed, KEYS.manifest_seed)
    with pytest.raises(ConfigError):
        ReserveKeys(b"short", 1)


def test_secrets_are_not_in_a_repr():
    for secret in (KEYS.reserve.master, KEYS.manifest_seed, KEYS.checkpoint_seed):
        assert secret.hex() not in repr(KEYS)
        assert repr(secret) not in repr(KEYS)


def test_demo_keys_are_the_same_for_a_seed_and_refused_even_when_renamed():
    assert derive_demo_keys(5) == derive_demo_keys(5) != derive_demo_keys(6)
    with pytest.raises(ConfigError, match="public"):
        refuse_public_keys(derive_demo_keys(5))
    renamed = keys_text(derive_demo_keys(5)).replace('"demo"', '"production"')
    assert parse_keys(renamed, where="test").public
    secret, demo = generate_keys(), derive_demo_keys(123456789)
    mixed = KeySet(secret.reserve, secret.manifest_seed, demo.checkpoint_seed)
    with pytest.raises(ConfigError):
        refuse_public_keys(mixed)

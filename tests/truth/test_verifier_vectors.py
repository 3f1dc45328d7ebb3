"""The verifier against outside truth: the format's vectors and RFC 6962's, good and bad."""

import ast
import base64
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.fixtures.proof_files import VERIFIER, run_verifier

SHARED = Path(__file__).parents[3] / "shared" / "vectors"
RESERVES = SHARED / "reserves_v1.json"
RFC = SHARED / "rfc6962"
needs_reserves = pytest.mark.skipif(not RESERVES.is_file(), reason=f"outside truth is absent: {RESERVES}")
needs_rfc = pytest.mark.skipif(not RFC.is_dir(), reason=f"outside truth is absent: {RFC}")


def load_verifier():
    """The file by its path, as an outsider's test would."""
    spec = importlib.util.spec_from_file_location("compline_verify", VERIFIER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["compline_verify"] = module
    spec.loader.exec_module(module)
    return module


compline_verify = load_verifier()


@pytest.fixture(scope="module")
def vector():
    return json.loads(RESERVES.read_text())


@pytest.fixture
def files(vector, tmp_path):
    (tmp_path / "key").write_text(f"{vector['manifest_key_hex']}\n{vector['checkpoint_vkey']}\n")
    (tmp_path / "checkpoint").write_text(vector["checkpoint_size_2"])
    return tmp_path


def _anchored(files, text):
    (files / "proof.json").write_text(text)
    return _run(files, "proof", files / "proof.json", "--checkpoint", files / "checkpoint", "--key", files / "key")


def _run(files, *arguments):
    """In this process, so that hundreds of cases take seconds; `run_verifier` is the real thing."""
    return compline_verify.main([str(one) for one in arguments])


def test_the_verifier_imports_the_standard_library_alone():
    tree = ast.parse(VERIFIER.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module.split(".")[0])
    assert names <= sys.stdlib_module_names
    assert not names & {"socket", "urllib", "http", "subprocess", "ctypes", "importlib", "pickle"}
    assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"eval", "exec", "__import__"}


def test_the_verifier_is_written_for_older_pythons_too():
    ast.parse(VERIFIER.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_there_is_one_copy_of_the_verifier():
    root = VERIFIER.parents[3]
    found = [path for path in root.rglob("compline_verify.py") if not {".venv", ".compline"} & set(path.parts)]
    assert found == [VERIFIER]


@needs_reserves
def test_the_vectors_proofs_are_valid_with_key_and_checkpoint(vector, files):
    for proof in vector["proofs"]:
        (files / "proof.json").write_text(json.dumps(proof))
        run = run_verifier("proof", files / "proof.json", "--checkpoint", files / "checkpoint", "--key", files / "key")
        assert run.code == 0, run.said


@needs_reserves
@pytest.mark.parametrize("given", [[], ["--key"], ["--checkpoint"]], ids=["nothing", "key alone", "checkpoint alone"])
def test_without_key_and_checkpoint_it_is_not_anchored(vector, files, given):
    (files / "proof.json").write_text(json.dumps(vector["proofs"][0]))
    extra = [word for name in given for word in (name, files / name[2:])]
    run = run_verifier("proof", files / "proof.json", *extra)
    assert run.code == 2
    assert run.said.startswith("consistent, NOT anchored")


@needs_reserves
def test_every_must_fail_proof_is_refused_by_rule_and_level(vector, files, capsys):
    assert len(vector["must_fail"]) >= 37
    for case in vector["must_fail"]:
        assert _anchored(files, json.dumps(case["proof"])) == 1, case["why"]
        said = capsys.readouterr().out
        assert said.startswith("INVALID: rule "), case["why"]
        assert ", level " in said


@needs_reserves
def test_every_must_fail_text_is_refused(vector, files):
    assert len(vector["must_fail_raw"]) >= 4
    for case in vector["must_fail_raw"]:
        assert _anchored(files, case["text"]) == 1, case["why"]


@needs_reserves
def test_consistency_between_the_vectors_checkpoints_holds(vector, files):
    hashes = vector["proofs"][0]["log"]["hashes"]
    second = compline_verify.leaf_hash(vector["manifest"].encode()).hex()
    assert [compline_verify.leaf_hash(vector["day0"]["manifest"].encode()).hex()] == hashes
    (files / "old").write_text(vector["checkpoint_size_1"])
    for hexes, code in (([second], 0), (hashes, 1), ([], 1)):
        (files / "proof").write_text(json.dumps({"hashes": hexes, "size1": 1, "size2": 2}))
        arguments = "consistency", files / "old", files / "checkpoint", files / "proof"
        assert _run(files, *arguments, "--key", files / "key") == code
        assert _run(files, *arguments) == (code or 2)


@needs_reserves
def test_the_vectors_shard_record_is_opened(vector):
    from engine.reserves.shard import join_shard, seal_record

    stated = vector["shard"]
    ctx = bytes.fromhex(vector["ctx"])
    keys = {name: bytes.fromhex(key) for name, key in vector["user_keys"].items()}
    record = seal_record(keys[stated["account"]], ctx, stated["plaintext"].encode(), stated["record_size"])
    shard = join_shard([record, seal_record(keys["acct-0002"], ctx, b"other", stated["record_size"])])
    assert compline_verify.open_record(shard, keys[stated["account"]], ctx) == stated["plaintext"].encode()


def _cases(kind):
    return sorted(RFC.glob(f"{kind}-*/*.json")) if RFC.is_dir() else []


def _bytes(text):
    return base64.b64decode(text or "")


@needs_rfc
@pytest.mark.parametrize("path", _cases("inclusion"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_inclusion_vectors_are_judged_alike(path):
    case = json.loads(path.read_text())
    leaf, root, proof = _bytes(case["leafHash"]), _bytes(case["root"]), [_bytes(one) for one in case["proof"] or []]
    _judge(case, lambda: compline_verify.verify_inclusion(leaf, case["leafIdx"], case["treeSize"], proof, root))


@needs_rfc
@pytest.mark.parametrize("path", _cases("consistency"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_consistency_vectors_are_judged_alike(path):
    case = json.loads(path.read_text())
    roots, proof = (_bytes(case["root1"]), _bytes(case["root2"])), [_bytes(one) for one in case["proof"] or []]
    _judge(case, lambda: compline_verify.verify_consistency(case["size1"], roots[0], case["size2"], roots[1], proof))


def _judge(case, verify):
    if case["wantErr"]:
        with pytest.raises(compline_verify.ProofError):
            verify()
    else:
        verify()


def test_edge_sizes_of_log_proofs():
    inclusion, consistency = compline_verify.verify_inclusion, compline_verify.verify_consistency
    one, other = b"\1" * 32, b"\2" * 32
    inclusion(one, 0, 1, [], one)
    consistency(0, b"any", 0, b"any", [])
    consistency(7, one, 7, one, [])
    for arguments in [
        (one, 0, 0, [], one),
        (one, 1, 1, [], one),
        (one, -1, 1, [], one),
        (one, True, 2, [other], one),
        (one, 0, 2**70, [other] * 70, one),
        (b"short", 0, 1, [], b"short"),
        (one, 0, 1, [], other),
        (one, 0, 2, [b"short"], one),
    ]:
        with pytest.raises(compline_verify.ProofError):
            inclusion(*arguments)
    for arguments in [
        (7, one, 7, other, []),
        (7, one, 7, one, [one]),
        (0, one, 1, one, []),
        (1, one, 2, one, []),
        (2, one, 1, one, [one]),
        (-1, one, -1, one, []),
        (True, one, 2, one, [one]),
    ]:
        with pytest.raises(compline_verify.ProofError):
            consistency(*arguments)


RFC_8032 = [
    # RFC 8032, 7.1: public key, message, signature.
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_rfc_8032_signatures_hold_and_nothing_beside_them(key, message, signature):
    valid = compline_verify.ed25519_valid
    key, message, signature = (bytes.fromhex(one) for one in (key, message, signature))
    assert valid(key, signature, message)
    assert not valid(key, signature, message + b"x")
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = int.from_bytes(signature[32:], "little") + order
    assert not valid(key, signature[:32] + malleable.to_bytes(32, "little"), message)
    assert not valid(key, signature[:32] + b"\0" * 32, message)
    assert not valid(key[:31], signature, message)
    assert not valid(key, signature[:63], message)


def test_points_of_small_order_and_other_encodings_sign_nothing():
    """Under such keys one signature holds for every message (the all-zero S with R = A passes the bare equation)."""
    small = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ]
    for one in small:
        for other in small:
            assert not compline_verify.ed25519_valid(bytes.fromhex(one), bytes.fromhex(other) + bytes(32), b"any")

"""The signature of the webhook is RFC 4231's HMAC: its vectors are taken, and one bit less is refused."""

from __future__ import annotations

import pytest

from engine.accounts.kyc import RefusedWebhookError, check_signature

# RFC 4231, test cases 1, 2 and 6: key, data, HMAC-SHA-256, HMAC-SHA-512.
VECTORS = [
    (
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
        "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
    ),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    ),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
        "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
    ),
]


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_digests_of_the_rfc_are_taken_and_any_other_is_refused(number: int) -> None:
    key, data, *digests = VECTORS[number]
    for name, digest in zip(("HMAC_SHA256_HEX", "HMAC_SHA512_HEX"), digests, strict=True):
        signed = {"x-payload-digest-alg": name, "x-payload-digest": digest}
        check_signature(data, signed, key)
        check_signature(data, {**signed, "x-payload-digest": digest.upper()}, key)
        flipped = f"{int(digest[0], 16) ^ 1:x}{digest[1:]}"
        for headers, body, secret in (
            ({**signed, "x-payload-digest": flipped}, data, key),
            ({**signed, "x-payload-digest": digest[:-1]}, data, key),
            ({**signed, "x-payload-digest": ""}, data, key),
            ({**signed, "x-payload-digest": "é" * len(digest)}, data, key),
            ({**signed, "x-payload-digest-alg": "HMAC_SHA1_HEX"}, data, key),
            ({"x-payload-digest": digest}, data, key),
            ({}, data, key),
            (signed, data + b" ", key),
            (signed, data, key + b"x"),
        ):
            with pytest.raises(RefusedWebhookError) as refused:
                check_signature(body, headers, secret)
            assert refused.value.status == 401

"""The page in headless Chromium: the script's answers, by files, by keyboard, on a phone, with no network."""

import base64
import hashlib
import io
import json
import random
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from engine.reserves.verifier import compline_verify
from tests.conftest import CHROMIUM
from tests.fixtures.proof_files import VERIFIER, small_log, tall_proof
from tests.truth.must_fail import FOLDER, all_cases

pytestmark = pytest.mark.browser

PAGE = VERIFIER.with_name("verify.html")
SHARED = Path(__file__).parents[3] / "shared" / "vectors"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
KEYS, CHECKPOINT = (FOLDER / "keys.txt").read_bytes(), (FOLDER / "checkpoint.txt").read_bytes()

FOCUSED = """(() => {
  const one = document.activeElement;
  return one.id || one.closest("[data-slot]")?.dataset.slot || one.tagName;
})()"""

CHECK = """async ([cases, native]) => {
  const bytes = (text) => text === null ? null : Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), out = [];
  for (const [proof, key, checkpoint] of cases) {
    const found = await compline.check({proof: bytes(proof), key: bytes(key), checkpoint: bytes(checkpoint)}, {native});
    out.push([found.exit, found.rule, found.level]);
  }
  return out;
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Opens the page from disk; whatever it logs, throws or asks of the network fails the test."""
    contexts, complaints, asked = [], [], []

    def make(**options):
        contexts.append(browser.new_context(**{"reduced_motion": "reduce", **options}))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(PAGE.as_uri())
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []
    assert set(asked) == {PAGE.as_uri()}


def _base64(data):
    return None if data is None else base64.b64encode(data).decode()


def _page_says(page, cases, *, native=True):
    """(exit, rule, level) of every (proof, key, checkpoint), in one load of the page."""
    return [tuple(one) for one in page.evaluate(CHECK, [[[_base64(part) for part in one] for one in cases], native])]


def _script_says(folder, cases):
    found = []
    for proof, key, checkpoint in cases:
        arguments = ["proof", str(folder / "proof"), "--json"]
        (folder / "proof").write_bytes(proof)
        for name, data in (("key", key), ("checkpoint", checkpoint)):
            if data is not None:
                (folder / name).write_bytes(data)
                arguments += [f"--{name}", str(folder / name)]
        with redirect_stdout(io.StringIO()) as out:
            compline_verify.main(arguments)
        answer = json.loads(out.getvalue())
        found.append((answer["exit"], answer["rule"], answer["level"]))
    return found


def test_the_page_is_one_file_whose_policy_names_its_script_and_nothing_else():
    text = PAGE.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert len(scripts) == 1
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'")
    assert not re.search(r"""\b(src|href)=|https?://(?!www\.w3\.org/2000/svg)|url\(|@import|innerHTML|eval\(""", text)


def test_the_network_is_forbidden_by_the_pages_own_policy(browser):
    page = browser.new_page()
    page.goto(PAGE.as_uri())
    for call in ("fetch('http://127.0.0.1:9/')", "import('data:text/javascript,1')", "new Worker('data:,1')"):
        blocked = page.evaluate(f"async () => {{ try {{ await {call}; return false }} catch (e) {{ return true }} }}")
        assert blocked or "Worker" in call
    assert page.evaluate("navigator.sendBeacon('http://127.0.0.1:9/', 'x')") in (True, False)
    seen = page.evaluate(
        "() => new Promise((done) => { addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective));"
        " const img = new Image(); img.src = 'http://127.0.0.1:9/x.png'; document.body.append(img); })"
    )
    assert seen == "img-src"
    page.close()


@pytest.mark.parametrize("native", [True, False], ids=["the browser's Ed25519", "the page's own"])
def test_every_published_attack_is_refused_by_the_scripts_rule_and_level(open_page, tmp_path, native):
    cases = [case for case in all_cases() if case.command == "proof"]
    files = [(case.data, KEYS, CHECKPOINT) for case in cases]
    said = _page_says(open_page(), files, native=native)
    assert [rule for _, rule, _ in said] == [case.rule for case in cases]
    assert said == _script_says(tmp_path, files)


def test_good_files_and_what_is_brought_with_them(open_page, tmp_path):
    good = (FOLDER / "good-proof.json").read_bytes()
    other = small_log(seed=1)
    cases = [
        (good, KEYS, CHECKPOINT),
        (good, None, None),
        (good, KEYS, None),
        (good, None, CHECKPOINT),
        (good, other.key_file().encode(), CHECKPOINT),
        (good, KEYS, other.checkpoints[2].encode()),
        (good, KEYS, small_log().checkpoints[1].encode()),
        (good, KEYS[:-20], CHECKPOINT),
        (good, KEYS, CHECKPOINT[:-1]),
        (good, b"\xff", CHECKPOINT),
        (good, KEYS, b"\xff"),
    ]
    said = _page_says(open_page(), cases)
    assert [code for code, _, _ in said] == [0, 2, 2, 2, 1, 1, 2, 1, 1, 1, 1]
    assert said == _script_says(tmp_path, cases)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"outside truth is absent: {SHARED}")
def test_the_formats_vectors_are_judged_as_they_say(open_page, tmp_path):
    vector = json.loads((SHARED / "reserves_v1.json").read_text())
    anchor = (
        f"{vector['manifest_key_hex']}\n{vector['checkpoint_vkey']}\n".encode(),
        vector["checkpoint_size_2"].encode(),
    )
    good = [json.dumps(one).encode() for one in vector["proofs"]]
    bad = [json.dumps(one["proof"]).encode() for one in vector["must_fail"]]
    bad += [one["text"].encode() for one in vector["must_fail_raw"]]
    cases = [(one, *anchor) for one in good + bad]
    said = _page_says(open_page(), cases)
    assert [code for code, _, _ in said] == [0] * len(good) + [1] * len(bad)
    assert said == _script_says(tmp_path, cases)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"outside truth is absent: {SHARED}")
def test_rfc_6962_vectors_are_judged_as_they_say(open_page):
    cases = [json.loads(path.read_text()) for path in sorted((SHARED / "rfc6962").glob("*-*/*.json"))]
    refused = open_page().evaluate(
        """async (cases) => {
          const bytes = (text) => Uint8Array.from(atob(text ?? ""), (one) => one.charCodeAt(0)), out = [];
          for (const one of cases) {
            const proof = (one.proof ?? []).map(bytes);
            try {
              if ("leafIdx" in one) {
                const sizes = [BigInt(one.leafIdx), BigInt(one.treeSize)];
                await compline.verifyInclusion(bytes(one.leafHash), ...sizes, proof, bytes(one.root));
              } else {
                const [first, second] = [BigInt(one.size1), BigInt(one.size2)];
                await compline.verifyConsistency(first, bytes(one.root1), second, bytes(one.root2), proof);
              }
              out.push(false);
            } catch (error) { if (!(error instanceof compline.ProofError)) throw error; out.push(true); }
          }
          return out;
        }""",
        cases,
    )
    assert refused == [case["wantErr"] for case in cases]


def test_mutated_files_are_judged_alike(open_page, tmp_path):
    """Bytes, values and texts changed at random in the proof, in the keys and in the checkpoint."""
    random_ = random.Random(1906)
    good = (FOLDER / "good-proof.json").read_bytes()
    cases = []
    for number in range(140):
        parts = [good, KEYS, CHECKPOINT]
        which = 0 if number % 4 else random_.choice([1, 2])
        data, at = parts[which], random_.randrange(len(parts[which]))
        insert = random_.choice([b"", b"0", b"-", b'"', b" ", b"\\u0000", b"1e3", bytes([random_.randrange(256)])])
        parts[which] = data[:at] + insert + data[at + random_.choice([0, 1, 1, 1, 7]) :]
        cases.append(tuple(parts))
    page, script = _page_says(open_page(), cases), _script_says(tmp_path, cases)
    different = [(case, one, other) for case, one, other in zip(cases, page, script, strict=True) if one != other]
    assert not different, different[0]
    assert len({rule for _, rule, _ in script}) > 10


def _bring(page, **paths):
    for slot, path in paths.items():
        page.locator(f"[data-slot={slot}] input").set_input_files(str(path))


def _answer(page):
    page.locator("#answer").wait_for(state="visible")
    return page.locator("#answer").get_attribute("data-result")


def test_files_are_brought_one_by_one(open_page):
    page = open_page()
    _bring(page, proof=FOLDER / "good-proof.json")
    assert _answer(page) == "open"
    assert "NOT anchored" in page.locator("#answer").inner_text()
    _bring(page, key=FOLDER / "keys.txt", checkpoint=FOLDER / "checkpoint.txt")
    page.locator("#answer[data-result=valid]").wait_for()
    assert "1.50000001 BTC and 5.000000 USDT of account acct-1" in page.locator("#plain").inner_text()
    levels = page.locator("#levels li")
    assert levels.count() == 4
    assert "21 000 001.50000002" in levels.first.inner_text().replace("\u202f", " ")
    assert "borrowed for the day" in page.locator("#limits").inner_text()
    _bring(page, proof=FOLDER / "sibling-negative.json")
    page.locator("#answer[data-result=invalid]").wait_for()
    assert "Rule amount, level 1" in page.locator("#why").inner_text()
    assert page.locator("#levels li.broken").count() >= 1


def test_files_are_dropped_together(open_page):
    page = open_page()
    named = {name: _base64((FOLDER / name).read_bytes()) for name in ("checkpoint.txt", "good-proof.json", "keys.txt")}
    page.evaluate(
        """(named) => {
          const transfer = new DataTransfer();
          for (const name in named)
            transfer.items.add(new File([Uint8Array.from(atob(named[name]), (one) => one.charCodeAt(0))], name));
          document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        named,
    )
    page.locator("#answer[data-result=valid]").wait_for()


def test_everything_is_reached_by_keyboard(open_page):
    page = open_page()
    _bring(page, proof=FOLDER / "good-proof.json")
    _answer(page)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    assert reached[:7] == ["proof", "key", "checkpoint", "chunk", "again", "tree", "SUMMARY"]
    page.locator("#chunk").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#chunk").input_value() == "1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_runs_out_of_the_screen_and_text_can_be_read(open_page, tmp_path, width, scheme):
    proof, key, checkpoint = tall_proof(26)
    for name, text in (("proof.json", proof), ("key", key), ("checkpoint", checkpoint)):
        (tmp_path / name).write_text(text)
    page = open_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    _bring(page, proof=tmp_path / "proof.json", key=tmp_path / "key", checkpoint=tmp_path / "checkpoint")
    page.locator("#answer[data-result=valid]").wait_for()
    assert page.locator("#levels li.lit").count() == 27
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colors = page.evaluate(
        "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] })()"
    )
    light, dark = sorted((_luminance(one) for one in colors), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 7


def _luminance(color):
    parts = [int(one) / 255 for one in re.findall(r"\d+", color)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_climb_is_animated_only_where_motion_is_wanted(open_page):
    for motion, least in (("reduce", 4), ("no-preference", 0)):
        page = open_page(reduced_motion=motion)
        _bring(page, proof=FOLDER / "good-proof.json")
        _answer(page)
        lit = page.evaluate("document.querySelectorAll('#levels li.lit').length")
        assert lit >= least
        if motion == "no-preference":
            assert lit < 4
            page.locator("#levels li.lit").nth(3).wait_for()


def test_a_file_that_is_too_large_is_refused_before_it_is_read(open_page, tmp_path):
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(2**30)
    page = open_page()
    _bring(page, proof=tmp_path / "huge.json")
    assert _answer(page) == "invalid"
    assert "Rule size" in page.locator("#why").inner_text()

"""The index finds what comparing every name with every entry finds: nothing is lost, and nothing is made up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz, process

from engine.screening.kernels import LONGEST
from engine.screening.matcher import NameIndex, score
from engine.screening.names import normal, turned
from tests.fixtures.screening import Names
from tests.property.examples import examples

words = st.text(st.sampled_from("abcé"), min_size=1, max_size=6)
names = st.lists(words, min_size=0, max_size=5).map(lambda parts: normal(" ".join(parts)))


@st.composite
def edited(draw: st.DrawFn, entries: list[str]) -> str:
    """An entry with some characters left out, put in or exchanged, so that many are near the threshold."""
    text = list(draw(st.sampled_from(entries)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(text)))
        if draw(st.booleans()) and at < len(text):
            del text[at]
        else:
            text.insert(at, draw(st.sampled_from("abc d")))
    return normal("".join(text))


def brute(queries: Sequence[str], entries: Sequence[str], threshold: int) -> set[tuple[int, int, int]]:
    """Every pair scored."""
    return {
        (q, e, int(score(one, other)))
        for q, one in enumerate(queries)
        for e, other in enumerate(entries)
        if one and score(one, other) >= threshold
    }


@examples(100, 300)
@given(st.data(), st.integers(70, 100))
def test_index_equals_comparing_everything(data: st.DataObject, threshold: int) -> None:
    entries = data.draw(st.lists(names.filter(bool), min_size=1, max_size=8))
    near = edited(entries)
    queries = data.draw(st.lists(names | near, max_size=8))
    found = NameIndex(entries, threshold).matches(queries)
    assert {(m.name, m.entry, m.score) for m in found} == brute(queries, entries, threshold)
    assert len(found) == len({(m.name, m.entry) for m in found})


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([70, 80, 88, 95]), st.integers(20, 90))
def test_index_equals_comparing_everything_for_long_names(data: st.DataObject, threshold: int, size: int) -> None:
    """Longer than a machine word, where the kernel cannot count edits."""
    entries = [normal(data.draw(st.text("abcde ", min_size=size, max_size=size + 9))) or "a" for _ in range(3)]
    queries = data.draw(st.lists(edited(entries), min_size=1, max_size=6))
    found = {(m.name, m.entry, m.score) for m in NameIndex(entries, threshold).matches(queries)}
    assert found == brute(queries, entries, threshold)


def test_names_longer_than_the_kernels_take_are_compared_with_everything() -> None:
    long = "b" * (LONGEST + 5)
    entries = ["ann lee", long, "b" * LONGEST]
    queries = ["", "ann lee", "b" * (LONGEST + 3), "b" * LONGEST]
    found = {(m.name, m.entry, m.score) for m in NameIndex(entries, 88).matches(queries)}
    assert found == brute(queries, entries, 88)
    assert {(2, 1), (2, 2), (3, 1), (3, 2), (1, 0)} == {pair[:2] for pair in found}


def test_index_equals_the_librarys_own_matrices_on_made_up_people() -> None:
    made = Names(11)
    entries = sorted({normal(made.person()) for _ in range(1_200)})
    queries = [normal(made.person()) for _ in range(1_200)]
    ratio = partial(process.cdist, queries, dtype=np.float64)
    best = ratio(entries, scorer=fuzz.token_sort_ratio)
    for e, entry in enumerate(entries):
        best[:, e] = np.maximum(best[:, e], ratio(turned(entry), scorer=fuzz.ratio).max(axis=1))
    by_words = ratio(entries, scorer=fuzz.token_set_ratio)
    bags, lists = [set(q.split()) for q in queries], [set(e.split()) for e in entries]
    for threshold in (80, 88):
        wanted = {
            (int(q), int(e))
            for q, e in np.argwhere(np.maximum(best, by_words) >= threshold)
            if best[q, e] >= threshold or len(bags[q] & lists[e]) >= 2
        }
        assert len(wanted) > 10
        assert {(m.name, m.entry) for m in NameIndex(entries, threshold).matches(queries)} == wanted

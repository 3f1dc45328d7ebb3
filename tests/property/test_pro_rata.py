"""Shares of a pot: the database's against a model of a few lines in fractions, and numbers worked out elsewhere."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.books import BookUnderTest

weights_lists = st.lists(st.integers(0, 10**40) | st.integers(0, 3), min_size=1, max_size=12).filter(any)


def model(pot: int, weights: dict[int, int]) -> dict[int, int]:
    """Largest remainder, ties to the smaller id."""
    total = sum(weights.values())
    exact = {one: Fraction(pot * weight, total) for one, weight in weights.items() if weight}
    shares = {one: math.floor(share) for one, share in exact.items()}
    left = pot - sum(shares.values())
    for one in sorted(exact, key=lambda one: (shares[one] - exact[one], one))[:left]:
        shares[one] += 1
    return shares


def in_database(connection: psycopg.Connection, pot: int, ids: Sequence[int], weights: Sequence[int]) -> dict[int, int]:
    rows = connection.execute(
        "SELECT id, share FROM positions.pro_rata(%s, %s::bigint[], %s::numeric[])",
        (pot, list(ids), [Decimal(weight) for weight in weights]),
    ).fetchall()
    return {one: int(share) for one, share in rows}


def test_shares_equal_the_model_sum_to_the_pot_and_know_no_order(sealed_book: BookUnderTest) -> None:
    with sealed_book.admin() as owner:

        @settings(max_examples=150, deadline=None)
        @given(st.integers(0, 10**30) | st.integers(0, 20), weights_lists, st.randoms())
        def check(pot: int, weights: list[int], rng: random.Random) -> None:
            ids = rng.sample(range(1, 1000), len(weights))
            given_weights = dict(zip(ids, weights, strict=True))
            shares = in_database(owner, pot, ids, weights)
            assert shares == model(pot, given_weights)
            assert sum(shares.values()) == pot
            total = sum(weights)
            assert all(abs(share - Fraction(pot * given_weights[one], total)) < 1 for one, share in shares.items())
            turned = list(given_weights.items())
            rng.shuffle(turned)
            assert in_database(owner, pot, [i for i, _ in turned], [w for _, w in turned]) == shares

        check()


@pytest.mark.parametrize(
    ("pot", "weights", "expected"),
    [
        pytest.param(100, [1, 1, 1], [34, 33, 33], id="A2"),
        pytest.param(100, [13626332, 47989636, 9596008, 28788024], [14, 48, 9, 29], id="A3"),
        pytest.param(3334, [1, 1, 1, 1], [834, 834, 833, 833], id="A4"),
        pytest.param(5, [70, 30], [4, 1], id="A1 one way"),
        pytest.param(5, [30, 70], [2, 3], id="A1 the other way, by remainder and then by id"),
        pytest.param(0, [1, 2], [0, 0], id="an empty pot"),
        pytest.param(1, [1, 3, 3], [0, 1, 0], id="one unit"),
    ],
)
def test_worked_examples(sealed_book: BookUnderTest, pot: int, weights: list[int], expected: list[int]) -> None:
    with sealed_book.admin() as owner:
        shares = in_database(owner, pot, range(1, len(weights) + 1), weights)
    assert [shares[n] for n in range(1, len(weights) + 1)] == expected


@pytest.mark.parametrize("pot", [98_765_432, 12_345_678])
def test_worked_example_a5_is_never_a_cent_off(sealed_book: BookUnderTest, pot: int) -> None:
    weights = [34_567_889, 46_059_973, 30_483_248]
    with sealed_book.admin() as owner:
        shares = in_database(owner, pot, (1, 2, 3), weights)
    assert sum(shares.values()) == pot
    assert shares == model(pot, dict(enumerate(weights, start=1)))
    naive = [round(Fraction(pot * weight, sum(weights))) for weight in weights]
    assert abs(sum(naive) - pot) == 1


def test_one_unit_over_many_stakers_goes_to_the_longest_and_a_tie_to_the_smallest_id(
    sealed_book: BookUnderTest,
) -> None:
    ids = list(range(20_000, 0, -1))
    with sealed_book.admin() as owner:
        even = in_database(owner, 1, ids, [7] * len(ids))
        assert {one for one, share in even.items() if share} == {1}
        odd = in_database(owner, 1, ids, [7] * 5_000 + [8] + [7] * 14_999)
        assert {one for one, share in odd.items() if share} == {15_000}

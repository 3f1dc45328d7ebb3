"""Batches made ready ahead: in order, one at a time, and nothing left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from engine.exchange.events import AccountOpened, Event
from engine.store.settlement_batch import ahead, in_batches


def counted(made: list[int], many: int) -> Iterator[int]:
    for number in range(many):
        made.append(number)
        yield number


def test_items_come_in_order_and_one_is_made_while_the_one_before_is_worked_on() -> None:
    started = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(started):
            event.set()
            yield number

    seen = []
    with ahead(items()) as made:
        for number in made:
            seen.append(number)
            assert all(event.wait(10) for event in started[: number + 2])
    assert seen == [0, 1, 2, 3]


def test_at_most_one_item_is_made_ahead_and_the_thread_ends_with_who_works() -> None:
    made: list[int] = []

    def work() -> None:
        with ahead(counted(made, 100)) as items:
            for number in items:
                if number == 2:
                    raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        work()
    assert len(made) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("settlement-prepares")]


def test_what_making_an_item_raises_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the journal is gone")

    seen: list[int] = []

    def work() -> None:
        with ahead(items()) as made:
            seen.extend(made)

    with pytest.raises(OSError, match="the journal is gone"):
        work()
    assert seen == [1, 2]


def test_no_items_are_none() -> None:
    with ahead(iter(())) as made:
        assert list(made) == []


def test_groups_are_joined_up_to_a_size_and_never_split() -> None:
    groups: list[list[Event]] = [[AccountOpened(n, n, f"u-{n}-{k}") for k in range(n % 3)] for n in range(10)]
    batches = list(in_batches(groups, 4))
    assert [event for batch in batches for event in batch] == [event for group in groups for event in group]
    assert 1 <= len(batches[0]) < 4, "the first is short: nothing can be done beside it"
    assert all(len(batch) >= 4 for batch in batches[1:-1])
    for first, second in pairwise(batches):
        assert first[-1].engine_seq < second[0].engine_seq

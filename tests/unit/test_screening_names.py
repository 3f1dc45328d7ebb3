"""Names by hand: which look-alikes match at the default threshold, and which do not."""

from __future__ import annotations

import pytest

from engine.close.policy import Policy
from engine.errors import ConfigError
from engine.screening.matcher import NameIndex, score
from engine.screening.names import normal

THRESHOLD = Policy(reporting_currency="USDT").screening_threshold


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("ORLOV, Vladimir", "orlov vladimir"),
        ("  Vladimir   Orlov ", "vladimir orlov"),
        ("José Ángel GARCÍA-Núñez", "jose angel garcia nunez"),
        ("O'Brien, Pat", "obrien pat"),
        ("Pat O’Brien", "pat obrien"),
        ("Straße", "strasse"),
        ("Ｆｕｌｌ　Ｗｉｄｔｈ", "full width"),
        ("Владимир ОРЛОВ", "владимир орлов"),
        ("محمد علي", "محمد علي"),
        ("İbrahim Çelik", "ibrahim celik"),
        ("3D-Systems LLC.", "3d systems llc"),
        ("—", ""),
    ],
)
def test_name_has_one_writing_whatever_its_case_accents_marks_and_order(name: str, written: str) -> None:
    assert normal(name) == written
    assert normal(written) == written


@pytest.mark.parametrize(
    ("one", "other", "matches"),
    [
        ("Vladimir Orlov", "ORLOV, Vladimir", True),
        ("Vladimir Orlov", "Vladimir Sergeyevich Orlov", True),
        ("Wladimir Orlov", "Vladimir Orlov", True),
        ("Vladimir Orlow", "Vladimir Orlov", True),
        ("Jon Smith", "John Smith", True),
        ("Katherine Johnson", "Catherine Johnson", True),
        ("Katherine Johnson", "JOHNSON, Catherine", True),
        ("JOHNSON, Katherine", "Catherine Johnson", True),
        ("Kaled Hussein", "HUSEIN, Khaled", True),
        ("Muhammad Hussain", "Mohammad Hussain", True),
        ("Ali Hassan Al-Mansur", "Ali Hassan al Mansour", True),
        ("Maria", "Maria Gonzalez", False),
        ("Maria Gonzalez", "Maria Fernandez", False),
        ("John Smith", "Jane Smith", False),
        ("Ann Lee", "Anna Leeds", False),
        ("Vladimir Orlov", "Владимир Орлов", False),
        ("Wei Li", "Li Wei", True),
        ("Wei Li", "Wei Liu", True),
    ],
)
def test_look_alikes_match_and_others_do_not(one: str, other: str, matches: bool) -> None:
    assert (score(normal(one), normal(other)) >= THRESHOLD) is matches
    assert bool(NameIndex([normal(other)], THRESHOLD).matches([normal(one)])) is matches
    assert bool(NameIndex([normal(one)], THRESHOLD).matches([normal(other)])) is matches


def test_match_says_its_score_in_whole_per_cent() -> None:
    (match,) = NameIndex(["anna schmidt", "orlov vladimir"], 88).matches(["wladimir orlov"])
    assert (match.name, match.entry, match.score) == (0, 1, 92)


def test_empty_names_and_no_entries_match_nothing() -> None:
    assert NameIndex([], 88).matches(["orlov vladimir", ""]) == []
    assert NameIndex(["orlov vladimir"], 88).matches(["", ""]) == []
    assert NameIndex(["orlov vladimir"], 88).matches([]) == []


@pytest.mark.parametrize("threshold", [0, 69, 101])
def test_threshold_outside_its_range_is_refused(threshold: int) -> None:
    with pytest.raises(ConfigError):
        NameIndex(["a"], threshold)
    with pytest.raises(ConfigError):
        Policy(reporting_currency="USDT", screening_threshold=threshold)


@pytest.mark.parametrize("lists", [("house",), ("house:pdf",), ("HOUSE:plain",), ("a:plain", "a:sdn_xml"), (":plain",)])
def test_policy_refuses_lists_that_it_cannot_read(lists: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Policy(reporting_currency="USDT", screening_lists=lists)
    with pytest.raises(ConfigError):
        Policy(reporting_currency="USDT", screening_action="ban")

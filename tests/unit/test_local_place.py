"""Where the embedded Postgres keeps its data: a place with data in it is never left for another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from pipelines.local import postgres_place, run_as
from pipelines.local.errors import LocalServerError
from pipelines.local.files import make_home, read_state, write_state


@pytest.mark.parametrize("outside", [True, False])
def test_data_whose_folder_cannot_be_entered_is_not_left_for_a_new_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: bool
) -> None:
    home = make_home(tmp_path / "home")
    folder = tmp_path / "elsewhere" if outside else home / "postgres"
    (folder / "data").mkdir(parents=True)
    if outside:
        write_state(folder / "home.json", {"home": str(home)})
        write_state(postgres_place.state_file(home), {"outside": str(folder), "port": 5})
    before = read_state(postgres_place.state_file(home))
    monkeypatch.setattr(run_as, "can_enter", lambda user, where: False)
    monkeypatch.setattr(postgres_place, "OUTSIDE_PARENTS", (tmp_path / "new",))
    (tmp_path / "new").mkdir()
    with pytest.raises(LocalServerError, match="cannot enter"):
        postgres_place.find_or_make(home)
    assert read_state(postgres_place.state_file(home)) == before
    assert list((tmp_path / "new").iterdir()) == []


def test_homes_purged_by_several_at_once_are_gone(tmp_path: Path) -> None:
    """Test runs that start together find the same home of one that was killed."""
    for number in range(5):
        home = make_home(tmp_path / f"home{number}")
        folder = postgres_place.remembered_folder(home)
        for name in range(600):
            (folder / str(name % 20)).mkdir(parents=True, exist_ok=True)
            (folder / str(name % 20) / str(name)).touch()
        together = Barrier(4)

        def purge(home: Path = home, together: Barrier = together) -> None:
            together.wait()
            postgres_place.purge(home)

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(purge) for _ in range(4)]:
                done.result()
        assert not folder.exists()

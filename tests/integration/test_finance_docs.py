"""The documentation of the marts is one page, made without a database."""

from __future__ import annotations

from pathlib import Path

from assets.finance.docs import PAGE, build_docs
from assets.finance.project import marts


def test_docs_describe_every_mart_and_column_without_a_database(tmp_path: Path) -> None:
    page = build_docs(tmp_path / "cache", tmp_path / "docs")
    assert page == tmp_path / "docs" / PAGE
    text = page.read_text(encoding="utf-8")
    for mart in marts():
        assert mart.name in text
        for name, _, description in mart.columns:
            assert name in text
            assert description[:30].split('"')[0] in text
    assert list((tmp_path / "cache").iterdir()) == []

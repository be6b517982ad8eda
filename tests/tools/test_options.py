"""What is made of the declared options is up to date: the schema of mimicit.toml, and the tables of the page."""

from __future__ import annotations

from tools.options import PAGE, SCHEMA, mixture_schema, page_with_tables


def test_files_made_of_the_options_are_up_to_date() -> None:
    """Otherwise: python -m tools.options"""
    assert SCHEMA.read_text() == mixture_schema()
    page = PAGE.read_text()
    assert page.count("\n| `--") > 80 and page_with_tables(page) == page

"""How pictures and clips are found: paths, prefixes, links, and names that several files have."""

from __future__ import annotations

from tests.corpus.case import Case

CASES: list[Case] = []

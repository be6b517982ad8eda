"""What a file is taken for: odd first records, odd names, and files that nobody uses."""

from __future__ import annotations

from tests.corpus.case import Case

CASES: list[Case] = []

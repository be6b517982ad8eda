"""Pictures and clips of all kinds."""

from __future__ import annotations

from tests.corpus.case import Case

CASES: list[Case] = []

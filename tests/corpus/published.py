"""MIMIC-IT, MMC4 and other published sets as they really are."""

from __future__ import annotations

from tests.corpus.case import Case

CASES: list[Case] = []

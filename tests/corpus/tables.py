"""Rows of JSON Lines, JSON, CSV, parquet and Arrow: columns, choices, text as Python writes it."""

from __future__ import annotations

from tests.corpus.case import Case

CASES: list[Case] = []

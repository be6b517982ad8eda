"""Conversations: speakers, content lists, placeholders."""

from __future__ import annotations

from tests.corpus.case import Case

CASES: list[Case] = []

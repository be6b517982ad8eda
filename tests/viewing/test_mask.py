"""The mask that the viewer draws is the one that training learns by."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from mimicit.prompt import ANSWER, ENDOFCHUNK, IMAGE, TEMPLATES, render
from mimicit.records import Sample
from mimicit.viewing.pages import LABEL_MODES, LabelMode, masked_prompt
from otter_train.data.encoding import label_ids
from otter_train.data.tokenizer import SpecialIds
from otter_train.model.packing import IGNORED
from tests.factories import strategies

SPECIAL = SpecialIds(bos=1, eos=2, endofchunk=3, image=4, answer=5, pad=0)
OF_TOKEN = {ENDOFCHUNK: 3, IMAGE: 4, ANSWER: 5}


@given(sample=strategies.samples(), template=st.sampled_from(sorted(TEMPLATES)), mode=st.sampled_from(LABEL_MODES))
def test_what_is_marked_is_what_is_learnt(sample: Sample, template: str, mode: LabelMode) -> None:
    spans = masked_prompt(sample, template, mode)
    prompt = render(sample, template)
    assert "".join(span.text for span in spans) == prompt
    marked = [span.is_learned for span in spans for _ in span.text]
    assert [a.is_learned for a in spans[1:]] == [not b.is_learned for b in spans[:-1]]

    # Every character is a token of its own, every special token is one.
    tokens = re.findall(rf"{re.escape(ENDOFCHUNK)}|{IMAGE}|{ANSWER}|.", prompt, re.DOTALL)
    ids = [1, *(OF_TOKEN.get(token, 100 + ord(token[0])) for token in tokens), 2]
    labels = label_ids(ids, SPECIAL, mode)[1:-1]
    learned = [label != IGNORED for token, label in zip(tokens, labels, strict=True) for _ in token]
    assert marked == learned

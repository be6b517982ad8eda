from __future__ import annotations

from dataclasses import replace

import pytest

from mimicit.errors import UsageError
from otter_train.model import PRESETS, Otter, TokenIds, build_model, freeze, trainable_count, trainable_parameters
from otter_train.model.config import LanguageConfig
from tests.factories.otter import CONFIG, otter

PAPER = {"input_only": 1_309_923_344, "full": 1_441_011_728, "none": 1_178_834_960}


@pytest.fixture(scope="module")
def paper_model() -> Otter:
    ids = TokenIds(endofchunk=32000, image=32001, answer=32002, pad=32003)
    return build_model(PRESETS["otter-9b"], vocab_size=32004, token_ids=ids, device="meta")


@pytest.mark.parametrize("embeddings", PAPER)
def test_counts_of_the_paper(paper_model: Otter, embeddings: str) -> None:
    freeze(paper_model, embeddings=embeddings)
    assert trainable_count(paper_model) == PAPER[embeddings]


def test_counts_of_the_parts(paper_model: Otter) -> None:
    assert sum(p.numel() for p in paper_model.perceiver.parameters()) == 63_019_008
    assert [sum(p.numel() for p in block.parameters()) for block in paper_model.language.blocks] == [139_476_994] * 8
    assert list(paper_model.language.cross_attention) == ["3", "7", "11", "15", "19", "23", "27", "31"]


@pytest.mark.parametrize(
    ("embeddings", "names"),
    [("none", []), ("input_only", ["embed_tokens"]), ("full", ["embed_tokens", "lm_head"])],
)
def test_the_paper_trains_the_middle_and_the_embeddings(embeddings: str, names: list[str]) -> None:
    model = otter()
    freeze(model, embeddings=embeddings)
    trained = [name for name, _ in trainable_parameters(model)]
    rest = [name for name in trained if not name.startswith(("perceiver.", "language.cross_attention."))]
    assert [name.split(".")[-2] for name in rest] == names
    assert all(p.requires_grad for p in [*model.perceiver.parameters(), *model.language.cross_attention.parameters()])


def test_modes_can_follow_each_other_in_any_order() -> None:
    model = otter()
    everything = trainable_count(model)
    freeze(model)
    first = trainable_count(model)
    freeze(model, embeddings="full", train_vision=True, train_language=True)
    assert trainable_count(model) == everything > first
    freeze(model)
    assert trainable_count(model) == first


@pytest.mark.parametrize("embeddings", ["none", "input_only", "full"])
def test_embeddings_are_decided_apart_from_the_language_model(embeddings: str) -> None:
    model = otter()
    freeze(model, embeddings=embeddings, train_language=True)
    lm = model.language.lm
    assert lm.get_input_embeddings().weight.requires_grad == (embeddings != "none")
    assert lm.get_output_embeddings().weight.requires_grad == (embeddings == "full")
    assert lm.model.norm.weight.requires_grad


@pytest.mark.parametrize(("embeddings", "trained"), [("none", False), ("input_only", True), ("full", True)])
def test_tied_embeddings_are_one_matrix_counted_once(embeddings: str, trained: bool) -> None:
    architecture = {**CONFIG.language.architecture, "tie_word_embeddings": True}
    model = otter(replace(CONFIG, language=LanguageConfig(architecture=architecture)))
    freeze(model, embeddings=embeddings)
    matrix = model.language.lm.get_input_embeddings().weight
    assert matrix is model.language.lm.get_output_embeddings().weight
    assert matrix.requires_grad == trained
    freeze(model, embeddings="none")
    without = trainable_count(model)
    freeze(model, embeddings=embeddings)
    assert trainable_count(model) - without == trained * matrix.numel()


def test_an_unknown_mode_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="full, input_only, new_rows, none"):
        freeze(otter(), embeddings="all")

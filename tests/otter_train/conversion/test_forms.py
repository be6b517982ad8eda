"""Every form of a run's weights gives its answers and its losses: the tools' matrix, of which CI tries a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mimicit.errors import UsageError
from otter_train.conversion import convert
from otter_train.conversion.completeness import empty_model
from otter_train.conversion.source import open_origin
from otter_train.conversion.token_rows import named_rows, published_rows
from otter_train.conversion.weight_files import read_notes, read_weights
from otter_train.data.tokenizer import load_tokenizer
from otter_train.model import PRESETS
from otter_train.model.convert import neutral_state, same_bits
from otter_train.model.layouts import Layout, arranged
from otter_train.model.lazy import LazyTensor
from tools.weight_matrix import FORMS, PROGRAMS, Work, differences, prepare, try_form

ORDER = {"<|endofchunk|>": 0, "<image>": 1, "<answer>": 2, "<PAD>": 3}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return prepare(tmp_path_factory.mktemp("matrix") / "work")


@pytest.fixture(scope="module")
def losses(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return try_form(work, "run", "evaluate", tmp_path_factory.mktemp("truth"))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "run"])
def test_every_form_gives_the_losses_of_the_run(
    work: Work, losses: Any, form: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert differences(losses, try_form(work, form, "evaluate", tmp_path)) <= 1e-5


def test_the_added_tokens_matter_to_the_losses(work: Work, losses: Any, tmp_path: Path) -> None:
    """Or the comparisons above would not notice that rows had changed places."""
    stored = {key: tensor.read() for key, tensor in read_weights(work.forms["ours"]).items()}
    rows = read_notes(work.forms["ours"])["added_tokens"]
    for name in ("language.lm.model.embed_tokens.weight", "language.lm.lm_head.weight"):
        stored[name][[rows["<answer>"], rows["<PAD>"]]] = stored[name][[rows["<PAD>"], rows["<answer>"]]].clone()
    with safe_open(work.forms["ours"], framework="pt") as file:
        save_file(stored, tmp_path / "swapped.safetensors", metadata=file.metadata())
    swapped = Work(root=work.root, models=work.models, shards=work.shards, picture=work.picture,
                   forms={"ours": tmp_path / "swapped.safetensors"})  # fmt: skip
    assert differences(losses, try_form(swapped, "ours", "evaluate", tmp_path)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_form_through_every_program(work: Work, program: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    expected = None
    for form in FORMS:
        scratch = tmp_path / form
        scratch.mkdir()
        found = try_form(work, form, program, scratch)
        expected = found if expected is None else expected
        assert differences(expected, found) <= 1e-5, form


def test_openflamingo_has_the_rows_that_its_own_program_makes(work: Work) -> None:
    base = len(load_tokenizer(work.models["language-model"])) - 4
    stored = read_weights(work.forms["openflamingo"])
    assert stored["lang_encoder.model.embed_tokens.weight"].shape[0] == base + 3
    assert stored["lang_encoder.lm_head.weight"].shape[0] == base + 3
    assert read_notes(work.forms["openflamingo"])["added_tokens"] == {
        "<|endofchunk|>": base, "<image>": base + 1, "<PAD>": base + 2, "<answer>": base + 3
    }  # fmt: skip
    # At the size of the paper: LLaMA's 32,000 tokens.
    ids, count = published_rows(32_004, {name: 32_000 + place for name, place in ORDER.items()}, pads=True)
    assert count == 32_003 and ids["<PAD>"] == 32_002 and ids["<answer>"] == 32_003
    assert published_rows(32_004, {name: 32_000 + place for name, place in ORDER.items()}, pads=False).kept == 32_002
    assert published_rows(10, {"<image>": 3, "<answer>": 4}, pads=True) == ({"<image>": 3, "<answer>": 4}, 4)


@pytest.mark.parametrize("name", ["transformers", "ours", "otter", "openflamingo"])
def test_every_file_names_its_added_tokens(work: Work, name: str) -> None:
    notes = read_notes(work.forms[name])
    assert set(notes["added_tokens"]) == set(ORDER) and notes["template"] == "otter"
    assert notes["model"]["cross_attention_every"] == 2


def test_an_order_that_nobody_knows_is_asked_for(work: Work, tmp_path: Path) -> None:
    """A file without notes, as of another program, with as many rows as that program does not make."""
    stored = {key: tensor.read() for key, tensor in read_weights(work.forms["otter"]).items()}
    save_file(stored, tmp_path / "bare.safetensors")
    language = work.models["language-model"]
    given: dict[str, Any] = {"to": "openflamingo", "source_tokenizer": language, "tokenizer": language}
    with pytest.raises(UsageError, match="--added-tokens"):
        convert(tmp_path / "bare.safetensors", tmp_path / "a.safetensors", **given)
    convert(tmp_path / "bare.safetensors", tmp_path / "b.safetensors", **given, added_tokens=tuple(ORDER))
    first, second = read_weights(tmp_path / "b.safetensors"), read_weights(work.forms["openflamingo"])
    assert first.keys() == second.keys() and all(same_bits(first[key], second[key]) for key in first)
    for wrong in (("<image>", "<image>"), ("<pad>",)):
        with pytest.raises(UsageError, match="at most once"):
            convert(tmp_path / "bare.safetensors", tmp_path / "c.safetensors", **given, added_tokens=wrong)
    with pytest.raises(UsageError, match="too few"):
        named_rows(3, "otter", added=tuple(ORDER))


@pytest.mark.parametrize("layout", ["ours", "otter", "openflamingo"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_way_through_a_layout_and_back_gives_the_same_bits(
    work: Work, layout: Layout, suffix: str, tmp_path: Path
) -> None:
    convert(work.forms["ours"], tmp_path / f"there.{suffix}", to=layout)
    language = work.models["language-model"]
    convert(tmp_path / f"there.{suffix}", tmp_path / "back.safetensors", to="ours", tokenizer=language)
    ours, back = read_weights(work.forms["ours"]), read_weights(tmp_path / "back.safetensors")
    assert ours.keys() == back.keys() and all(same_bits(ours[key], back[key]) for key in ours)


@pytest.mark.parametrize("layout", ["ours", "otter", "openflamingo"])
def test_numbers_keep_their_dtype_unless_another_is_named(work: Work, layout: Layout, tmp_path: Path) -> None:
    """A run between frozen models that were stored in bfloat16."""
    models = {}
    for option, folder in work.models.items():
        half = tmp_path / option
        half.mkdir()
        for path in folder.iterdir():
            if path.suffix != ".safetensors":
                (half / path.name).write_bytes(path.read_bytes())
        stored = {key: one.read().bfloat16() for key, one in read_weights(folder).items()}
        save_file(stored, half / "model.safetensors", metadata={"format": "pt"})
        models[option.replace("-", "_")] = str(half)
    run = work.forms["run"]
    convert(run, tmp_path / "kept.safetensors", to=layout, moved=models)
    dtypes = {key: one.dtype for key, one in read_weights(tmp_path / "kept.safetensors").items()}
    embeddings = ("embed_tokens", "lm_head")  # these were trained
    for key, dtype in dtypes.items():
        trained = "perceiver" in key or "cross_att" in key or any(name in key for name in embeddings)
        assert dtype == (torch.float32 if trained else torch.bfloat16), key
    for dtype in (torch.float32, torch.float16):
        target = tmp_path / f"{dtype}.safetensors".removeprefix("torch.")
        convert(run, target, to=layout, moved=models, dtype=dtype)
        assert {one.dtype for one in read_weights(target).values()} == {dtype}


def test_the_paper_model_is_no_larger_than_its_parts() -> None:
    """Frozen parts in bfloat16 and trained ones in float32: 18.9 GB, where float32 alone would be 33.1 GB."""
    model = neutral_state(empty_model(PRESETS["otter-9b"], 32_004))
    trained = ("perceiver.", "language.cross_attention.", "language.lm.model.embed_tokens")
    lazy = {
        name: LazyTensor(one.shape, torch.float32 if name.startswith(trained) else torch.bfloat16, one.read)
        for name, one in model.items()
    }
    sizes = {}
    for layout in ("ours", "otter", "openflamingo"):
        placed = arranged(lazy, layout)  # type: ignore[arg-type]
        sizes[layout] = sum(one.nbytes for one in placed.values())
    assert len(set(sizes.values())) == 1
    assert 18.7e9 < sizes["ours"] < 19.1e9
    assert sum(one.nbytes * 4 // one.dtype.itemsize for one in lazy.values()) > 32e9


def test_frozen_parts_are_read_one_tensor_at_a_time(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is built, and no tensor is read before it is asked for."""
    monkeypatch.setattr("otter_train.conversion.completeness.load_language", lambda *given: pytest.fail("was built"))
    monkeypatch.setattr("otter_train.conversion.completeness.load_vision", lambda *given: pytest.fail("was built"))
    reads = []
    buffer = bytearray
    monkeypatch.setattr("otter_train.conversion.weight_files._fill", lambda *given: reads.append(given))
    origin = open_origin(work.forms["run"])
    assert not reads and buffer
    next(iter(origin.tensors.values())).read()
    assert len(reads) == 1

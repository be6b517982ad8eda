"""``python -m otter_train.convert``: files to files, strictly, losslessly, and within bounded memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from mimicit.errors import TrainError, UsageError
from otter_train.assembly.initial_weights import ready_model
from otter_train.conversion import convert
from otter_train.conversion.token_rows import row_order
from otter_train.conversion.weight_files import read_weights
from otter_train.convert import main
from otter_train.model import ModelConfig, Otter, to_layout
from otter_train.model.config import LanguageConfig
from otter_train.model.layouts import Layout
from otter_train.pretrained import OtterConfig, OtterForConditionalGeneration
from tests.factories.otter import CONFIG, IDS, LANGUAGES, VISIONS, VOCABULARY, inputs, otter, with_language, with_vision
from tools.model_families import tiny_architecture

BLOCK = "lang_encoder.model.layers.1.gated_cross_attn_layer.attn_gate"


def file_of(model: Otter, layout: Layout, path: Path) -> Path:
    tensors = model.state_dict() if layout == "ours" else to_layout(model, layout)
    tensors = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def loaded(path: Path) -> dict[str, Tensor]:
    return {key: tensor.read() for key, tensor in read_weights(path).items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize(
    ("config", "there"),
    list(
        zip(
            [*map(with_language, LANGUAGES), *map(with_vision, VISIONS)],
            itertools.cycle(["openflamingo", "otter"]),
            strict=False,
        )
    ),
    ids=[*LANGUAGES, *VISIONS],
)
def test_files_of_every_backbone_go_there_and_back_bit_for_bit(
    config: ModelConfig, there: Layout, tmp_path: Path
) -> None:
    """Each by one of the layouts; `test_convert` has the tensors of all by both."""
    if config.vision.layout == "open_clip":
        pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    source = file_of(otter(config, seed=1), "ours", tmp_path / "source.safetensors")
    away = convert(source, tmp_path / "away.bin", to=there, architecture=config)
    assert not away.absent
    convert(tmp_path / "away.bin", tmp_path / "back.safetensors", to="ours", vision=config.vision.layout)
    expected = load_file(source)
    if there == "otter" and expected.pop("vision.visual.proj", None) is not None:
        assert away.left_out == {"without a place in the layout": 1}
    assert_same(loaded(tmp_path / "back.safetensors"), expected)


@pytest.mark.parametrize("limit", [None, 20_000])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_single_and_sharded_files_hold_the_same(tmp_path: Path, limit: int | None, suffix: Any) -> None:
    model = otter(seed=1)
    source = file_of(model, "openflamingo", tmp_path / "checkpoint.pt")
    report = convert(source, tmp_path / "out", to="otter", file_format=suffix, max_shard_bytes=limit)
    assert (len(report.files) > 3) == (limit is not None)
    assert_same(loaded(tmp_path / "out"), to_layout(model, "otter"))
    convert(tmp_path / "out", tmp_path / "back.safetensors", to="openflamingo")
    assert_same(loaded(tmp_path / "back.safetensors"), to_layout(model, "openflamingo"))


def test_what_published_files_add_is_counted(tmp_path: Path) -> None:
    file = to_layout(otter(seed=1), "openflamingo")
    for key in [key for key in file if ".gated_cross_attn_layer." in key]:
        copy = key.replace("model.layers.", "gated_cross_attn_layers.").replace("gated_cross_attn_layer.", "")
        file[copy] = file[key].clone()
    file["lang_encoder.model.layers.0.decoder_layer.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    file["vision_encoder.proj"] = torch.ones(24, 8)
    torch.save(
        {"epoch": 1, "model_state_dict": {f"module.{key}": tensor for key, tensor in file.items()}}, tmp_path / "v1.pt"
    )
    report = convert(tmp_path / "v1.pt", tmp_path / "ours.safetensors", to="ours")
    assert report.left_out == {
        "copies under a second name": 22,
        "prefixes of training wrappers": len(file),
        "tables that follow from the configuration": 1,
        "without a place in the layout": 1,
    }
    assert_same(loaded(tmp_path / "ours.safetensors"), otter(seed=1).state_dict())


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("layout", ["openflamingo", "otter"])
def test_every_missing_weight_is_named_with_an_architecture_and_without(
    layout: Layout, knows: bool, tmp_path: Path
) -> None:
    file = to_layout(otter(every=1), layout)
    gone = [
        "perceiver.latents",
        "perceiver.norm.bias",
        next(key for key in file if "perceiver.layers.1" in key and "to_kv" in key),
        "lang_encoder.model.layers.2.gated_cross_attn_layer.attn.norm.weight",
        "lang_encoder.model.layers.0.decoder_layer.mlp.up_proj.weight",
    ]
    for key in gone:
        del file[key]
    torch.save(file, tmp_path / "file.bin")
    architecture = replace(CONFIG, cross_attention_every=1) if knows else None
    with pytest.raises(TrainError) as error:
        convert(tmp_path / "file.bin", tmp_path / "out.safetensors", to="ours", architecture=architecture)
    assert str(error.value).count("; ") == len(gone) - 1
    assert all(f"{key} is missing" in str(error.value) for key in gone)
    assert not (tmp_path / "out.safetensors").exists()


def test_what_does_not_belong_there_is_named(tmp_path: Path) -> None:
    file = to_layout(otter(), "otter")
    torch.save(file | {"optimizer.lr": torch.zeros(1)}, tmp_path / "a.bin")
    with pytest.raises(TrainError, match=r"optimizer\.lr is unexpected"):
        convert(tmp_path / "a.bin", tmp_path / "out.safetensors", to="ours")
    torch.save(file | {"perceiver.media_time_embs": torch.zeros(1), BLOCK: torch.zeros(2)}, tmp_path / "b.bin")
    with pytest.raises(
        TrainError, match=r"perceiver\.media_time_embs is unexpected.*attn_gate gives \(2,\) for \(1,\)"
    ):
        convert(tmp_path / "b.bin", tmp_path / "out.safetensors", to="ours", architecture=CONFIG)


def test_frozen_parts_are_kept_required_or_dropped(tmp_path: Path) -> None:
    whole = to_layout(otter(seed=1), "openflamingo")
    embeddings = ("lang_encoder.lm_head.weight", "lang_encoder.model.embed_tokens.weight")
    trained = {
        key: tensor for key, tensor in whole.items() if "perceiver" in key or "gated_cross" in key or key in embeddings
    }
    torch.save(whole, tmp_path / "whole.pt")
    torch.save(trained, tmp_path / "trained.pt")
    convert(tmp_path / "whole.pt", tmp_path / "dropped.bin", to="openflamingo", frozen="drop")
    assert_same(loaded(tmp_path / "dropped.bin"), trained)
    report = convert(tmp_path / "trained.pt", tmp_path / "kept.bin", to="openflamingo")
    assert report.absent == ["vision.", "language.lm."]
    assert_same(loaded(tmp_path / "kept.bin"), trained)
    with pytest.raises(TrainError, match=r"nothing of vision, language\.lm; say with --language-model"):
        convert(tmp_path / "trained.pt", tmp_path / "full.bin", to="openflamingo", frozen="require")
    partly = {key: tensor for key, tensor in whole.items() if "layers.2.decoder_layer.mlp" not in key}
    torch.save(partly, tmp_path / "partly.pt")
    with pytest.raises(TrainError, match=r"layers\.2\.decoder_layer\.mlp\.up_proj\.weight is missing"):
        convert(tmp_path / "partly.pt", tmp_path / "x.bin", to="otter")


def test_frozen_parts_come_from_the_pretrained_models(tmp_path: Path) -> None:
    model = otter(seed=1)
    model.language.lm.save_pretrained(tmp_path / "language")
    model.vision.model.save_pretrained(tmp_path / "vision")
    whole = to_layout(model, "openflamingo")
    trained = {key: tensor for key, tensor in whole.items() if "perceiver" in key or "gated_cross" in key}
    torch.save(trained, tmp_path / "trained.pt")
    architecture = replace(
        CONFIG,
        vision=replace(CONFIG.vision, pretrained=str(tmp_path / "vision")),
        language=replace(CONFIG.language, pretrained=str(tmp_path / "language")),
    )
    convert(
        tmp_path / "trained.pt", tmp_path / "full.bin", to="openflamingo", frozen="require", architecture=architecture
    )
    assert_same(loaded(tmp_path / "full.bin"), whole)


TOKENS = ("<|endofchunk|>", "<image>", "<answer>", "<PAD>")


FOUR_OF = [st.permutations(range(rows)).map(lambda ids: ids[:4]) for rows in range(13)]


@given(st.integers(4, 12).flatmap(lambda rows: st.tuples(st.just(rows), FOUR_OF[rows], FOUR_OF[rows])))
def test_rows_follow_their_tokens_and_come_back(case: tuple[int, list[int], list[int]]) -> None:
    rows, before, after = case
    source, target = dict(zip(TOKENS, before, strict=True)), dict(zip(TOKENS, after, strict=True))
    order = row_order(rows, source, target)
    assert sorted(order) == list(range(rows))  # no row is lost
    assert all(order[target[name]] == source[name] for name in TOKENS)
    there_and_back = [order[place] for place in row_order(rows, target, source)]
    if set(before) == set(after):
        assert there_and_back == list(range(rows))
    assert all(there_and_back[source[name]] == source[name] for name in TOKENS)


def test_new_tokens_get_new_rows() -> None:
    flamingo = {"<|endofchunk|>": 5, "<image>": 6, "<PAD>": 7}
    ours = {"<|endofchunk|>": 5, "<image>": 6, "<answer>": 7, "<PAD>": 8}
    assert row_order(8, flamingo, ours) == [0, 1, 2, 3, 4, 5, 6, None, 7]
    assert row_order(10, flamingo, ours) == [0, 1, 2, 3, 4, 5, 6, 8, 7, 9]  # 8 and 9 were spare rows
    with pytest.raises(TrainError, match=r"no row for <PAD> \(7\)"):
        row_order(7, flamingo, ours)


def tokenizer_with(order: tuple[str, ...], folder: Path) -> Path:
    base = [f"w{number}" for number in range(VOCABULARY - 6)]
    vocabulary = {word: number for number, word in enumerate([*base, "<s>", "</s>"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary)),
        bos_token="<s>",
        eos_token="</s>",
    )
    tokenizer.add_special_tokens({"extra_special_tokens": [token for token in order if token != "<PAD>"]})
    if "<PAD>" in order:
        tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    tokenizer.save_pretrained(folder)
    return folder


def test_the_order_of_special_tokens_is_resolved_by_name(tmp_path: Path) -> None:
    theirs = tokenizer_with(("<image>", "<answer>", "<|endofchunk|>", "<PAD>"), tmp_path / "theirs")
    ours = tokenizer_with((), tmp_path / "ours")  # has none, so they are added in the order of Otter
    source = file_of(otter(seed=1), "otter", tmp_path / "source.bin")
    there = convert(source, tmp_path / "a.bin", to="otter", tokenizer=ours, source_tokenizer=theirs)
    first = VOCABULARY - 4
    assert there.moved_tokens == {
        "<|endofchunk|>": (first + 2, first), "<image>": (first, first + 1), "<answer>": (first + 1, first + 2),
    }  # fmt: skip
    before, after = loaded(source), loaded(tmp_path / "a.bin")
    for name in ("lang_encoder.model.embed_tokens.weight", "lang_encoder.lm_head.weight"):
        expected = before[name][[*range(first), first + 2, first, first + 1, first + 3]]
        assert torch.equal(after[name], expected)
    assert {key for key in before if not torch.equal(before[key], after[key])} == {
        "lang_encoder.model.embed_tokens.weight", "lang_encoder.lm_head.weight",
    }  # fmt: skip
    convert(tmp_path / "a.bin", tmp_path / "b.bin", to="otter", tokenizer=theirs, source_tokenizer=ours)
    assert_same(loaded(tmp_path / "b.bin"), before)
    with pytest.raises(UsageError, match="--source-tokenizer"):
        convert(source, tmp_path / "c.bin", to="otter", tokenizer=ours)


@pytest.mark.parametrize("language", ["llama", "mpt"])
@pytest.mark.parametrize("through", ["ours", "otter"])
def test_a_published_otter_becomes_a_model_of_transformers(language: str, through: Layout, tmp_path: Path) -> None:
    """A folder as Otter was published: its own configuration, its weights, its tokenizer."""
    config = replace(with_language(language), perceiver=replace(CONFIG.perceiver, dim_head=64, heads=8))
    config = replace(config, cross_attention_heads=8, cross_attention_dim_head=64)
    model = otter(config, seed=1)
    published = tmp_path / "published"
    published.mkdir()
    file_of(model, "otter", published / "pytorch_model.bin")
    vision = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8, "projection_dim": 8, "hidden_act": "quick_gelu"}  # fmt: skip
    text = {**config.language.architecture, "vocab_size": VOCABULARY}
    (published / "config.json").write_text(json.dumps(
        {"model_type": "otter", "cross_attn_every_n_layers": 2, "text_config": text, "vision_config": vision}
    ))  # fmt: skip
    tokenizer_with(("<|endofchunk|>", "<image>", "<answer>", "<PAD>"), published)
    if through == "otter":  # written again in its own layout, it is still such a folder
        convert(published, tmp_path / "again", to="otter")
        assert json.loads((tmp_path / "again/config.json").read_text())["vision_config"]["hidden_size"] == 24
        published = tmp_path / "again"
    convert(published, tmp_path / "ours", to="ours")
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    batch = inputs([[1, 1], [2]])
    model.token_ids = found.model.token_ids
    assert (model.token_ids.endofchunk, model.token_ids.image) == (VOCABULARY - 4, VOCABULARY - 3)
    lang_x = torch.where(batch.lang_x == IDS.image, model.token_ids.image, batch.lang_x)
    seen = {"vision_x": batch.vision_x, "vision_mask": batch.vision_mask, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        expected, got = model(lang_x=lang_x, **seen).logits, found(input_ids=lang_x, **seen).logits
    assert torch.equal(got, expected)
    as_it_is = ready_model(published, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(as_it_is.model(lang_x=lang_x, **seen).logits, expected)
    assert_same(found.model.state_dict(), model.state_dict())
    assert AutoProcessor.from_pretrained(tmp_path / "ours").image_size == 16
    assert found.generation_config.eos_token_id == [VOCABULARY - 5, VOCABULARY - 4]


@pytest.mark.parametrize("family", ["qwen3_moe", "nemotron_h", "granitemoehybrid"])
def test_folders_that_transformers_saved_itself_are_read_too(family: str, tmp_path: Path) -> None:
    """It stores joined experts one by one, and some decoders under other names."""
    config = replace(CONFIG, language=LanguageConfig(architecture=tiny_architecture(family)))
    model = otter(config, seed=2)
    made = OtterConfig.from_model_config(config, vocab_size=VOCABULARY, token_ids=IDS)
    wrapped = OtterForConditionalGeneration.around(model, made)
    wrapped.model.language.lm.to(torch.bfloat16)
    wrapped.save_pretrained(tmp_path / "resaved")
    stored = read_weights(tmp_path / "resaved")
    assert not set(stored) <= {f"model.{name}" for name in model.state_dict()}  # or there is nothing to show here
    convert(tmp_path / "resaved", tmp_path / "ours.safetensors", to="ours")
    found = read_weights(tmp_path / "ours.safetensors")
    expected = {name: one for name, one in model.state_dict().items() if name in found}
    assert len(expected) >= len(model.state_dict()) - 2  # tied weights are stored once
    for name, one in expected.items():
        assert found[name].dtype == one.dtype and torch.equal(found[name].read(), one), name
    convert(tmp_path / "resaved", tmp_path / "published.safetensors", to="openflamingo")
    damaged = {key: one.read() for key, one in stored.items() if "experts.1." not in key and "A_log" not in key}
    save_file(damaged, tmp_path / "resaved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainError, match="missing"):
        convert(tmp_path / "resaved", tmp_path / "damaged.safetensors", to="ours")


class TestCommand:
    """The command line itself."""

    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    def test_it_says_what_it_did(self, tmp_path: Path) -> None:
        source = file_of(otter(seed=1), "openflamingo", tmp_path / "source.pt")
        result = self.run(source, tmp_path / "ours", "--to", "ours", "--max-shard-size", "20kB", "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.output)
        assert (report["layout"], report["target"], report["absent"]) == ("openflamingo", "ours", [])
        assert {Path(file).parent for file in report["files"]} == {tmp_path / "ours"}
        result = self.run(tmp_path / "ours", tmp_path / "back.bin", "--to", "openflamingo")
        assert result.exit_code == 0 and "tensors" in result.output
        assert_same(loaded(tmp_path / "back.bin"), to_layout(otter(seed=1), "openflamingo"))

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["nowhere", "out", "--to", "ours"], 2, "nowhere: no such file or folder"),
            (["page.bin", "out", "--to", "ours"], 1, "page.bin: no file of weights that torch can read safely"),
            (["page.bin", "page.bin", "--to", "ours"], 2, "exists already"),
            (["bert.bin", "out", "--to", "ours"], 1, "no weights of an Otter or OpenFlamingo"),
            (["bert.bin", "out", "--to", "ours", "--max-shard-size", "5 parsecs"], 2, "--max-shard-size 5 parsecs"),
            (["bert.bin", "out", "--to", "ours", "--preset", "otter-1b"], 2, "no model 'otter-1b'"),
            ([".", "out", "--to", "ours"], 1, "no folder with model.safetensors"),
        ],
    )
    def test_errors_are_one_line(
        self, arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("page.bin").write_text("<html>404</html>")
        torch.save({"bert.weight": torch.zeros(1)}, "bert.bin")
        result = self.run(*arguments)
        assert result.exit_code == code
        assert message in result.output and result.output.count("\n") == 1
        assert not Path("out").exists()


PEAK = """
import sys
from pathlib import Path
from otter_train.conversion import convert
from otter_train.assembly.initial_weights import ready_model
source, target, to = sys.argv[1:]
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
convert(Path(source), Path(target), to=to)
print(status("VmHWM") - before)
"""


def big_file(path: Path, megabytes: int) -> int:
    """The weights of a model whose language model makes up nearly all of ``megabytes``; its size in bytes."""
    model = otter(seed=1)
    file = to_layout(model, "openflamingo")
    width = int((megabytes * 1e6 / 4 / 4 / 3) ** 0.5)  # 3 square matrices in each of 4 layers
    for key in file:
        if ".decoder_layer.mlp." in key:
            file[key] = torch.randn(width, width)
    save_file(file, path) if path.suffix == ".safetensors" else torch.save(file, path)
    return path.stat().st_size


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("source", ["a.safetensors", "a.bin"])
@pytest.mark.parametrize("target", ["b.safetensors", "b.bin"])
def test_memory_is_bounded_by_the_largest_file(source: str, target: str, tmp_path: Path) -> None:
    size = big_file(tmp_path / source, 400)
    command = [sys.executable, "-c", PEAK, str(tmp_path / source), str(tmp_path / target), "otter"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak <= 1.2 * size, f"{peak / size:.2f} of the file"

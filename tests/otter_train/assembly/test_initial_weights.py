"""A run that begins with the weights of another, or of a published model, instead of random ones."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import orjson
import torch
from click.testing import CliRunner

from mimicit.errors import TrainError, UsageError
from otter_train.__main__ import main
from otter_train.assembly.initial_weights import inherited
from otter_train.config.run_config import RunOptions, resolve
from otter_train.conversion import convert
from otter_train.inference.answering import load_trained_model
from otter_train.model import PRESETS, Otter, freeze
from otter_train.reporting.metrics import Console
from otter_train.training.loop import Outcome, train
from otter_train.training.session import begin
from tests.factories.loading import small_shards
from tests.factories.pretrained import pretrained_folders
from tests.factories.train import MINUTE_MODEL, Colours

OPTIONS = RunOptions(workers=0, log_every=1, device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return pretrained_folders(tmp_path_factory.mktemp("pretrained"))


def run(folder: Path, **given: Any) -> Outcome:
    config = resolve(None, **{"batch_size": 4, "max_steps": 3, "lr": 1e-2, "perceiver_depth": 1, **given})
    return train(config, Colours(), folder, options=OPTIONS, console=Console(io.StringIO()))


def begun(folder: Path, **given: Any) -> Otter:
    """The model before its first step."""
    config = resolve(None, **{"batch_size": 4, "max_steps": 3, "seed": 7, "perceiver_depth": 1, **given})
    model = begin(config, Colours(), folder, OPTIONS, Console(io.StringIO()), None).model
    freeze(model, "none")  # writes rows that are trained apart into their matrices
    return model


def same(one: Otter, other: Otter) -> bool:
    freeze(other, "none")
    theirs = other.state_dict()
    return one.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in one.state_dict().items()
    )


@pytest.mark.parametrize("then", ["full", "new_rows", "none"])
@pytest.mark.parametrize("now", ["full", "new_rows"])
def test_it_begins_with_every_weight_of_the_run(tmp_path: Path, folders: dict[str, str], then: str, now: str) -> None:
    run(tmp_path / "first", **folders, embeddings=then)
    model = begun(tmp_path / "second", **folders, embeddings=now, init_from=str(tmp_path / "first"))
    assert same(model, load_trained_model(tmp_path / "first", device="cpu").model)
    assert not same(model, begun(tmp_path / "third", **folders, embeddings=now))


@pytest.mark.parametrize("thawed", [True, False])
def test_a_thawed_language_model_goes_along(tmp_path: Path, folders: dict[str, str], thawed: bool) -> None:
    run(tmp_path / "first", **folders, train_language=True)
    model = begun(tmp_path / "second", **folders, train_language=thawed, init_from=str(tmp_path / "first"))
    assert same(model, load_trained_model(tmp_path / "first", device="cpu").model)


@pytest.mark.parametrize("layout", ["ours", "otter", "openflamingo"])
def test_it_begins_with_a_model_of_every_layout(tmp_path: Path, folders: dict[str, str], layout: Any) -> None:
    run(tmp_path / "first", **folders)
    target = tmp_path / ("weights.pt" if layout == "openflamingo" else "model")
    convert(tmp_path / "first", target, to=layout, file_format="bin" if layout == "openflamingo" else "safetensors")
    model = begun(tmp_path / "second", **folders, init_from=str(target))
    assert same(model, load_trained_model(tmp_path / "first", device="cpu").model)


def test_a_run_from_scratch_gives_its_tokenizer_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)
    run(tmp_path / "first")
    first = load_trained_model(tmp_path / "first", device="cpu")
    run(tmp_path / "second", init_from=str(tmp_path / "first"), max_steps=1)
    second = load_trained_model(tmp_path / "second", device="cpu")
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()


def test_it_goes_on_without_what_it_began_with(tmp_path: Path, folders: dict[str, str]) -> None:
    run(tmp_path / "first", **folders)
    given: dict[str, Any] = {**folders, "init_from": str(tmp_path / "first"), "max_steps": 4}
    whole = run(tmp_path / "whole", **given)
    stop = iter([False, True])
    config = resolve(None, **{"batch_size": 4, "lr": 1e-2, "perceiver_depth": 1, **given})
    halted = train(
        config,
        Colours(),
        tmp_path / "halves",
        options=OPTIONS,
        console=Console(io.StringIO()),
        should_stop=lambda: next(stop),
    )
    assert halted.step == 2
    shutil.rmtree(tmp_path / "first")
    resumed = run(tmp_path / "halves", **given)
    assert [row.loss for row in resumed.rows] == [row.loss for row in whole.rows]


def test_weights_that_do_not_fit_are_named(tmp_path: Path, folders: dict[str, str]) -> None:
    run(tmp_path / "first", **folders)
    with pytest.raises(
        TrainError, match=r"--init-from .*first: .*perceiver\.latents has shape \(64, 32\), not \(2, 32\)"
    ):
        begun(tmp_path / "second", **folders, latents=2, init_from=str(tmp_path / "first"))
    convert(tmp_path / "first", tmp_path / "model", to="otter")
    with pytest.raises(TrainError, match=r"--init-from .*model: .*perceiver\.latents"):
        begun(tmp_path / "second", **folders, latents=2, init_from=str(tmp_path / "model"))


def test_what_is_no_model_is_refused(tmp_path: Path, folders: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such file or folder"):
        begun(tmp_path / "second", **folders, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"--language-model"):
        begun(tmp_path / "second", init_from=str(tmp_path / "nowhere"))


def test_on_the_command_line_the_model_need_not_be_described_again(tmp_path: Path, folders: dict[str, str]) -> None:
    shards = small_shards(tmp_path / "shards", 6)
    fast = ["--shards", str(shards), "--max-steps", "1", "--batch-size", "2", "--device", "cpu"]
    models = ["--language-model", folders["language_model"], "--vision-model", folders["vision_model"]]
    chosen = ["--latents", "3", "--perceiver-width", "8", "--template", "plain", "--lr", "0.5"]
    first = CliRunner().invoke(main, [*fast, *models, *chosen, "--out", str(tmp_path / "first")])
    assert first.exit_code == 0, first.output
    command = [*fast, "--out", str(tmp_path / "second"), "--init-from", str(tmp_path / "first")]
    second = CliRunner().invoke(main, command)
    assert second.exit_code == 0, second.output
    written = orjson.loads((tmp_path / "second" / "config.json").read_bytes())
    assert (written["latents"], written["perceiver_width"], written["template"], written["lr"]) == (
        3,
        8,
        "plain",
        1e-5,
    )  # the recipe is its own
    assert {name: written[name] for name in folders} == folders
    assert inherited(shards) == {}
    moved = {name: str(Path(folder).rename(tmp_path / name)) for name, folder in folders.items()}
    try:
        gone = CliRunner().invoke(main, [*fast, "--out", str(tmp_path / "third"), *command[-2:]])
        assert gone.exit_code == 2 and "say with --language-model where it lies now" in gone.output
        by_hand = ["--language-model", moved["language_model"], "--vision-model", moved["vision_model"]]
        third = CliRunner().invoke(main, [*fast, *by_hand, "--out", str(tmp_path / "third"), *command[-2:]])
        assert third.exit_code == 0, third.output
        again = CliRunner().invoke(main, [*fast, *by_hand, *chosen, "--out", str(tmp_path / "first"), "--resume"])
        assert again.exit_code == 0, again.output
    finally:
        for name, folder in folders.items():
            Path(moved[name]).rename(folder)
    missing = CliRunner().invoke(
        main, [*fast, *models, "--init-from", str(tmp_path / "nowhere"), "--out", str(tmp_path / "none")]
    )
    assert missing.exit_code == 2 and "nowhere: no such file or folder" in missing.output

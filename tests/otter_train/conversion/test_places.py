"""Where the frozen models of converted weights lie: found from anywhere, after a move, and never taken for a name."""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from click.testing import CliRunner
from transformers import AutoModelForImageTextToText, AutoProcessor

from mimicit.errors import TrainError, UsageError
from otter_train.config.run_config import RunOptions, resolve
from otter_train.conversion import convert
from otter_train.data.tokenizer import load_tokenizer
from otter_train.generate import main as generate
from otter_train.inference.answering import load_trained_model
from otter_train.model.layouts import Layout
from otter_train.model.sources import is_path, read_pretrained
from otter_train.reporting.metrics import Console
from otter_train.training.loop import train
from tests.factories.pretrained import pretrained_folders
from tests.factories.train import Colours
from tools.model_families import tiny_architecture

LAYOUTS: list[Layout] = ["ours", "otter", "openflamingo"]
PARTS = {"language_model": "language", "vision_model": "vision"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the frozen ``models`` and a ``run`` between them."""
    place = tmp_path_factory.mktemp("places") / "home"
    folders = pretrained_folders(place / "models")
    train(
        resolve(None, batch_size=4, max_steps=1, embeddings="full", **folders),
        Colours(),
        place / "runs" / "run",
        options=RunOptions(workers=0, log_every=1, device="cpu"),
        console=Console(io.StringIO()),
    )
    return place


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exported_weights_find_their_frozen_models(
    home: Path, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(home, tmp_path / "home")
    moved = {name: str(home / "models" / folder) for name, folder in PARTS.items()}
    whole = load_trained_model(home / "runs" / "run", device="cpu", **moved).model.state_dict()
    targets = [
        home / "out" / f"{layout}{suffix}" for suffix in ("" if layout != "openflamingo" else ".bin", ".safetensors")
    ]
    for target in targets:
        convert(home / "runs" / "run", target, to=layout, frozen="drop", moved=moved)

    def is_whole(target: Path, **options: str) -> bool:
        found = load_trained_model(target, device="cpu", **options).model.state_dict()
        return all(torch.equal(found[name], tensor) for name, tensor in whole.items())

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = tree(home)
    assert all(is_whole(target) for target in targets)
    assert tree(home) == before  # nothing is written beside what is read
    home.rename(tmp_path / "moved")
    assert all(is_whole(Path("../moved") / target.relative_to(home)) for target in targets)
    (tmp_path / "moved" / "models").rename(tmp_path / "away")
    gone = Path("../moved") / targets[0].relative_to(home)
    with pytest.raises(UsageError, match=r"model that it was trained with is neither in .*home.* nor in .*moved.*--"):
        load_trained_model(gone, device="cpu")
    assert is_whole(gone, **{name: str(tmp_path / "away" / folder) for name, folder in PARTS.items()})


@pytest.mark.parametrize("layout", ["ours", "otter"])
def test_what_holds_its_frozen_models_needs_no_others(home: Path, layout: Layout, tmp_path: Path) -> None:
    home = shutil.copytree(home, tmp_path / "home")
    moved = {name: str(home / "models" / folder) for name, folder in PARTS.items()}
    convert(home / "runs" / "run", tmp_path / "whole", to=layout, moved=moved)
    convert(home / "runs" / "run", tmp_path / "whole.bin", to=layout, moved=moved)
    shutil.rmtree(home)
    assert load_trained_model(tmp_path / "whole", device="cpu").tokenizer.decode([5])
    with pytest.raises(UsageError, match="--language-model"):  # a file has no tokenizer
        load_trained_model(tmp_path / "whole.bin", device="cpu")


def test_every_table_of_tokens_grows_the_same_way_each_time(tmp_path: Path) -> None:
    """Gemma 4 has one for its layers, and ties the two others, which transformers stores once."""
    architecture = tiny_architecture("gemma4_text")
    folders = pretrained_folders(tmp_path / "models", architecture)
    run = tmp_path / "run"
    train(
        resolve(None, batch_size=4, max_steps=1, **folders),
        Colours(),
        run,
        options=RunOptions(workers=0, log_every=1, device="cpu"),
        console=Console(io.StringIO()),
    )
    whole = load_trained_model(run, device="cpu").model.state_dict()
    (table,) = [name for name in whole if "embed_tokens_per_layer." in name]
    torch.manual_seed(5)
    assert torch.equal(load_trained_model(run, device="cpu").model.state_dict()[table], whole[table])
    convert(run, tmp_path / "ours", to="ours")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "again")
    AutoProcessor.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "again")
    for place in (tmp_path / "ours", tmp_path / "again"):
        found = load_trained_model(place, device="cpu").model.state_dict()
        assert [name for name in whole if not torch.equal(found[name], whole[name])] == []


@pytest.mark.parametrize("source", ["/nowhere/llama", "./llama", "models/my llama/7b", "a/b/c", "nowhere/"])
def test_a_path_is_never_taken_for_a_name(source: str, home: Path, tmp_path: Path) -> None:
    assert is_path(source) and not is_path("meta-llama/Llama-2-7b-hf") and not is_path("gpt2")
    for asked in (lambda: load_tokenizer(source), lambda: read_pretrained(None, source, "weights")):
        with pytest.raises(UsageError, match=r"no such folder$"):
            asked()
    bare = tmp_path / "bare.safetensors"
    convert(home / "runs" / "run", bare, to="ours", frozen="drop")
    command = ["--checkpoint", str(bare), "--prompt", "q", "--language-model", source]
    result = CliRunner().invoke(generate, command)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "no such folder" in result.stderr


def test_a_download_that_fails_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """A name on the Hub is asked for there; whatever goes wrong is one line."""

    class BrokenError(RuntimeError): ...

    class Kind:
        @staticmethod
        def from_pretrained(source: str, *, local_files_only: bool) -> None:
            logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
            assert not local_files_only  # or no name could ever be fetched
            raise BrokenError("first line\nsecond line")

    with pytest.raises(TrainError, match=r"^meta/llama: no weights can be read, neither as a folder .*first line sec"):
        read_pretrained(Kind, "meta/llama", "weights")
    assert capfd.readouterr() == ("", "")

"""What a run writes can be read again everywhere: every form of its weights, through every program, with equal numbers.

    python -m tools.weight_matrix work/

A small model is trained between frozen ones, and written as a run, a folder of transformers, a file of ours, a folder
of Otter, one as Otter was published, a file of OpenFlamingo, one as OpenFlamingo's first version wrote them, and a
folder and a file without the frozen models. All are moved away from these models and made read-only, and from another
working folder each form answers (generate, chat, serve), is evaluated, begins another run, and is converted into every
layout, whose losses are measured again. Then forms and models are moved together, and all of it is asked again. Prints
two tables, and exits with 1 where an answer differs, a loss is off by more than 1e-5, or anything was written beside
the weights. Takes about three minutes on two idle cores.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import torch
from click.testing import CliRunner
from PIL import Image
from tokenizers import Tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LAYOUTS: Final = ("ours", "otter", "openflamingo")
FORMS: Final = (
    "run", "transformers", "ours", "otter", "published otter", "openflamingo", "openflamingo v1", "not frozen",
    "not frozen, file",
)  # fmt: skip
PROGRAMS: Final = ("generate", "chat", "serve", "evaluate", "init-from", *(f"to {layout}" for layout in LAYOUTS))
_COLOURS: Final = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
_QUESTION: Final = "which colour is it?"
_CLOSE: Final = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Where everything lies: the frozen ``models`` by option, the ``shards``, a ``picture``, each form by its name."""

    root: Path
    models: dict[str, Path]
    shards: Path
    picture: Path
    forms: dict[str, Path]

    @property
    def model_options(self) -> list[str]:
        """The options that name the frozen models."""
        return [word for option, folder in self.models.items() for word in (f"--{option}", str(folder))]


def prepare(root: Path, *, steps: int = 30, rate: float = 3e-3) -> Work:
    """Train the small model and write it in every form, under ``root``, which must not exist yet."""
    root.mkdir(parents=True)
    models = _frozen_models(root / "models")
    shards = _shards(root)
    work = Work(root=root, models=models, shards=shards, picture=root / "raw" / "images" / "red.png", forms={})
    before = root / "before"
    first = before / "run"
    command = [
        "--shards",
        str(shards),
        "--out",
        str(first),
        *work.model_options,
        "--max-steps",
        str(steps),
        "--epochs",
        str(steps),
    ]
    command += ["--lr", str(rate), "--batch-size", "4", "--cross-attention-every", "2", "--device", "cpu"]
    command += ["--perceiver-depth", "1", "--latents", "4", "--embeddings", "full", "--seed", "1"]
    _run("otter_train.__main__", [*command, "--precision", "float32"])
    _convert(first, before / "transformers", "ours")
    _convert(first, before / "ours.safetensors", "ours")
    _convert(first, before / "otter", "otter")
    _convert(first, before / "openflamingo.safetensors", "openflamingo")
    _convert(first, before / "not-frozen", "ours", "--without-frozen")
    _convert(first, before / "not-frozen.safetensors", "openflamingo", "--without-frozen")
    _as_published(before / "otter", before / "OTTER-9B")
    _first_version(first, before)
    before.rename(root / "forms")
    names = ("run", "transformers", "ours.safetensors", "otter", "OTTER-9B", "openflamingo.safetensors",
             "openflamingo-v1.pt", "not-frozen", "not-frozen.safetensors")  # fmt: skip
    work.forms.update({form: root / "forms" / name for form, name in zip(FORMS, names, strict=True)})
    _make_read_only(root / "forms")
    return work


def moved(work: Work, root: Path) -> Work:
    """Everything moved together: forms, frozen models, shards and all."""

    def place(path: Path) -> Path:
        return root / path.relative_to(work.root)

    work.root.rename(root)
    return Work(
        root=root,
        models={option: place(path) for option, path in work.models.items()},
        shards=place(work.shards),
        picture=place(work.picture),
        forms={form: place(path) for form, path in work.forms.items()},
    )


def try_form(work: Work, form: str, program: str, scratch: Path) -> Any:
    """What ``program`` gives for the weights in ``form``: an answer, or losses; ``scratch`` is an empty folder."""
    source = Path(os.path.relpath(work.forms[form]))
    named = ["--checkpoint", str(source), "--device", "cpu"]
    match program:
        case "generate":
            command = [*named, "--image", str(work.picture), "--prompt", _QUESTION, "--max-new-tokens", "6", "--json"]
            return orjson.loads(_run("otter_train.generate", command))["answer"]
        case "chat":
            return _run("otter_train.chat", [*named, "--max-new-tokens", "6"], f"/image {work.picture}\n{_QUESTION}\n")
        case "serve":
            return _served(work, source)
        case "evaluate":
            return _losses(work, named)
        case "init-from":
            return _first_loss(work, source, scratch)
        case _:
            layout = program.removeprefix("to ")
            target = scratch / ("whole" if layout != "openflamingo" else "whole.safetensors")
            _convert(source, target, layout, "--with-frozen")
            return _losses(work, ["--checkpoint", str(target), *work.model_options, "--device", "cpu"])


def differences(expected: Any, found: Any) -> float:
    """How far two results of `try_form` are apart; infinite where answers differ."""
    if isinstance(expected, list):
        if len(expected) != len(found):
            return float("inf")
        return max((differences(one, other) for one, other in zip(expected, found, strict=True)), default=0.0)
    if isinstance(expected, float):
        return abs(expected - float(found))
    return 0.0 if expected == found else float("inf")


def main() -> None:
    """Print the table; the exit code is 1 where anything differs."""
    root = Path(sys.argv[1]).resolve()
    work = prepare(root / "work")
    (root / "elsewhere").mkdir()
    os.chdir(root / "elsewhere")
    expected: dict[str, Any] = {}
    print("\nmoved away from the frozen models:\n")
    worst = _table(work, expected)
    print("\nmoved together with them:\n")
    worst = max(worst, _table(moved(work, root / "moved"), expected))
    print(f"\nthe farthest apart: {worst:.1e}")
    sys.exit(int(worst > _CLOSE))


def _table(work: Work, expected: dict[str, Any]) -> float:
    """Print how far each cell is from what is ``expected``, which the first row of the first table says."""
    before = _contents(work.root / "forms")
    print("| weights | " + " | ".join(PROGRAMS) + " |\n|" + " --- |" * (len(PROGRAMS) + 1))
    worst = 0.0
    for form in FORMS:
        cells = []
        for program in PROGRAMS:
            scratch = work.root / "scratch" / form / program
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            try:
                found = try_form(work, form, program, scratch)
            except Exception as error:
                cells.append(f"{type(error).__name__}: {error}"[:120])
                worst = float("inf")
                continue
            truth = expected.setdefault("evaluate" if program.startswith("to ") else program, found)
            apart = differences(truth, found)
            worst = max(worst, apart)
            cells.append("same" if apart == 0 else f"{apart:.1e}")
        print(f"| {form} | " + " | ".join(cells) + " |", flush=True)
    if _contents(work.root / "forms") != before:
        print("something was written beside the weights")
        worst = float("inf")
    return worst


def _contents(place: Path) -> dict[str, tuple[int, int]]:
    """What lies in ``place``, for those whom read-only files do not stop: the size and time of each."""
    return {
        str(path.relative_to(place)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in [place, *place.rglob("*")]
    }


def _frozen_models(place: Path) -> dict[str, Path]:
    """A LLaMA, whose tokenizer knows none of the added tokens, and a CLIP tower."""
    from otter_train.data.tokenizer import train_tokenizer

    torch.manual_seed(0)
    words = [f"User:{_QUESTION} GPT:", *_COLOURS] * 3
    known = train_tokenizer(words).backend_tokenizer.to_str()
    for token in ("<image>", "<answer>", "<|endofchunk|>", "<PAD>"):
        known = known.replace(token, f"unused-{token.strip('<|>')}")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(known), bos_token="<s>", eos_token="</s>")
    language = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.15,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        initializer_range=0.15,
    )  # fmt: skip
    LlamaForCausalLM(language).save_pretrained(place / "language")
    tokenizer.save_pretrained(place / "language")
    CLIPVisionModel(vision).save_pretrained(place / "vision")
    return {"language-model": place / "language", "vision-model": place / "vision"}


def _shards(root: Path) -> Path:
    from mimicit.cli import main as mimicit

    images = root / "raw" / "images"
    images.mkdir(parents=True)
    rows = []
    for name, colour in _COLOURS.items():
        Image.new("RGB", (24, 24), colour).save(images / f"{name}.png")
        talk = [{"from": "human", "value": f"<image>\n{_QUESTION}"}, {"from": "gpt", "value": name}]
        rows.append({"id": name, "image": f"{name}.png", "conversations": talk})
    (root / "raw" / "data.json").write_bytes(orjson.dumps(rows))
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        CliRunner().invoke(
            mimicit, ["build", "--src", str(root / "raw"), "--out", str(root / "shards"), "--workers", "1"],
            catch_exceptions=False,
        )  # fmt: skip
    return root / "shards"


def _convert(source: Path, target: Path, layout: str, *options: str) -> None:
    _run("otter_train.convert", [str(source), str(target), "--to", layout, *options])


def _as_published(otter: Path, target: Path) -> None:
    """A folder of Otter as it was published: shards in torch's format, and nothing that this package adds."""
    from otter_train.conversion.weight_files import read_weights

    target.mkdir()
    for path in otter.iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            shutil.copy(path, target / path.name)
    config = orjson.loads((otter / "config.json").read_bytes())
    del config["otter_train"]
    (target / "config.json").write_bytes(orjson.dumps(config))
    weights = list(read_weights(otter).items())
    places: dict[str, str] = {}
    for number in (1, 2):
        name = f"pytorch_model-{number:05d}-of-00002.bin"
        shard = {key: tensor.read() for key, tensor in weights[number - 1 :: 2]}
        torch.save(shard, target / name)
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": places}
    (target / "pytorch_model.bin.index.json").write_bytes(orjson.dumps(index))


def _first_version(run: Path, root: Path) -> Path:
    """As the first version of OpenFlamingo saved: inside of a wrapper, with prefixes, and the new layers twice."""
    from otter_train.conversion.weight_files import read_notes, read_weights

    source, target = root / "v1.pt", root / "openflamingo-v1.pt"
    _convert(run, source, "openflamingo")
    file = {key: tensor.read() for key, tensor in read_weights(source).items()}
    for key in [key for key in file if ".gated_cross_attn_layer." in key]:
        copy = key.replace("model.layers.", "gated_cross_attn_layers.").replace("gated_cross_attn_layer.", "")
        file[copy] = file[key].clone()
    prefixed = {f"module.{key}": one for key, one in file.items()}
    torch.save({"epoch": 1, "model_state_dict": prefixed}, target)
    target.with_name(target.name + ".otter.json").write_bytes(orjson.dumps(read_notes(source)))
    return target


def _losses(work: Work, named: list[str]) -> list[float]:
    command = [*named, "--shards", str(work.shards), "--max-new-tokens", "4", "--json"]
    (result,) = orjson.loads(_run("otter_train.evaluate", command))["results"]
    return sorted(float(one["nats"]) for one in result["answers"])


def _served(work: Work, source: Path) -> str:
    import base64

    from starlette.testclient import TestClient

    from otter_train.inference.answering import load_trained_model
    from otter_train.serving.app import create_app
    from otter_train.serving.limits import Limits
    from otter_train.serving.worker import Worker

    trained = load_trained_model(source, device="cpu")
    url = "data:image/png;base64," + base64.b64encode(work.picture.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": _QUESTION}]
    body = {"model": "otter", "messages": [{"role": "user", "content": content}], "max_tokens": 6}
    # The processes that read requests import this module and with it torch, which takes its time on a busy machine.
    with Worker(trained, Limits(wait_seconds=300)) as worker, TestClient(create_app(worker, model="otter")) as client:
        response = client.post("/v1/chat/completions", json=body)
    if response.status_code != 200:
        raise RuntimeError(f"serve: {response.text}")
    answer: str = response.json()["choices"][0]["message"]["content"]
    return answer


def _first_loss(work: Work, source: Path, scratch: Path) -> list[float]:
    """The loss of the first step of a run that begins with the weights."""
    from otter_train.reporting.metrics import Row, read_table

    out = scratch / "run"
    command = ["--shards", str(work.shards), "--out", str(out), *work.model_options, "--init-from", str(source)]
    command += ["--max-steps", "1", "--batch-size", "4", "--log-every", "1", "--cross-attention-every", "2"]
    command += ["--perceiver-depth", "1", "--latents", "4", "--device", "cpu", "--precision", "float32", "--seed", "2"]
    _run("otter_train.__main__", command)
    return [row.loss for row in read_table(Row, out / "metrics.csv")]


def _run(program: str, command: list[str], typed: str | None = None) -> str:
    from importlib import import_module

    result = CliRunner().invoke(import_module(program).main, command, input=typed, catch_exceptions=False)
    if result.exit_code:
        raise RuntimeError(f"{program} ended with {result.exit_code}: {result.output.strip()}")
    return result.stdout.strip()


def _make_read_only(place: Path) -> None:
    for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


if __name__ == "__main__":
    main()

"""The table of docs/evaluating.md: small files of each set, as published, are built and give the metric of the set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from click.testing import CliRunner

from mimicit.cli import main as mimicit
from mimicit.loading import load
from mimicit.records import Sample
from otter_train.evaluate import main as evaluate_command
from otter_train.evaluation.report import ALL, lines, summarise
from otter_train.evaluation.scores import Attempt, evaluate
from otter_train.evaluation.support_set import Support
from tests.factories import pages
from tests.factories import raw as make
from tests.factories.formats import put

PAGE = (Path(__file__).parents[3] / "docs" / "evaluating.md").read_text()
CAPTIONS = ["A grey cat sits.", "The cat is sitting on a mat.", "There is a cat."]


def add_captions(root: Path, name: str, folder: str) -> None:
    rows = [{"image": f"{folder}/{n}.jpg", "caption": [f"{text} {n}" for text in CAPTIONS]} for n in range(3)]
    put(root, name, rows)
    for number in range(3):
        put(root, f"{folder}/{number}.jpg", make.picture(number))


def add_vqa(root: Path, prefix: str, *, with_choice: bool) -> None:
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    questions = [{"image_id": n, "question": f"What is in {n}?", "question_id": 10 * n} for n in range(3)]
    people = [{"answer": "net" if k < 7 else "web", "answer_confidence": "yes", "answer_id": k} for k in range(10)]
    own = {"multiple_choice_answer": "net"} if with_choice else {"confidence": 3}
    rows = [{"image_id": n, "question_id": 10 * n, "answers": people, "question_type": "what", **own} for n in range(3)]
    put(root, f"{prefix}OpenEnded_mscoco_val2014_questions.json", {**head, "questions": questions})
    put(root, f"{prefix}mscoco_val2014_annotations.json", {**head, "annotations": rows})
    for number in range(3):
        put(root, f"val2014/COCO_val2014_{number:012d}.jpg", make.picture(number))


def add_textvqa(root: Path) -> None:
    rows = [{"question": f"what is {n}?", "image_id": f"{n:016x}", "answers": ["net"] * 7 + ["web"] * 3,
             "question_id": n, "image_classes": ["Cat"], "set_name": "val"} for n in range(3)]  # fmt: skip
    put(root, "textvqa/TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    for number in range(3):
        put(root, f"textvqa/train_images/{number:016x}.jpg", make.picture(number))


def add_vizwiz(root: Path) -> None:
    people = [{"answer": "net" if k < 7 else "web", "answer_confidence": "yes"} for k in range(10)]
    rows = [{"image": f"VizWiz_val_{n:08d}.jpg", "question": f"What is {n}?", "answers": people, "answerable": 1}
            for n in range(3)]  # fmt: skip
    put(root, "val.json", rows)
    for number in range(3):
        put(root, f"val/VizWiz_val_{number:08d}.jpg", make.picture(number))


def add_memes(root: Path) -> None:
    rows = [{"id": 100 + n, "img": f"img/{n}.png", "label": n % 2, "text": f"words {n}"} for n in range(4)]
    put(root, "hateful/test_seen.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    for number in range(4):
        put(root, f"hateful/img/{number}.png", make.picture(number))


SETS: dict[str, tuple[Any, str]] = {
    "COCO": (lambda root: add_captions(root, "coco_karpathy_test.json", "val2014"), "cider"),
    "Flickr30k": (lambda root: add_captions(root, "flickr30k_test.json", "flickr30k-images"), "cider"),
    "VQAv2": (lambda root: add_vqa(root, "v2_", with_choice=True), "vqa"),
    "OK-VQA": (lambda root: add_vqa(root, "", with_choice=False), "vqa"),
    "TextVQA": (add_textvqa, "vqa"),
    "VizWiz": (add_vizwiz, "vqa"),
    "HatefulMemes": (add_memes, "auc"),
}
SHOWN = {"cider": "CIDEr × 100, of 3 pictures", "vqa": "100.0%", "auc": "ROC AUC × 100 of the likelihood of yes, of 4"}


def knowing(asked: Iterable[Sample]) -> Iterator[Attempt]:
    """A model that is always right, and surer of some than of others."""
    for number, sample in enumerate(asked):
        answer = sample.query.answer
        yield Attempt(sample, answer, 0.1, 2, None, (0.6 if answer == "yes" else 0.4) + number / 100)


@pytest.mark.parametrize("name", SETS)
def test_files_as_published_give_the_metric_of_the_set(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, metric = SETS[name]
    add(tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set")
    (lines_below,) = [block.text for block in pages.blocks(PAGE) if block.language == "python"]
    exec(compile(lines_below, "evaluating.md", "exec"), {})
    source = {"TextVQA": "textvqa/val.jsonl", "HatefulMemes": "hateful/queries.jsonl"}.get(name, "*.json")
    (tmp_path / "set.toml").write_text(f'[[source]]\npath = "{source}"\nname = "asked"\n')
    command = ["build", "--src", ".", "--out", "../shards", "--config", "../set.toml", "--shots", "0", "--workers", "1"]
    result = CliRunner().invoke(mimicit, command)
    assert result.exit_code == 0, result.output
    samples = load(tmp_path / "shards")
    support = Support(samples, "random")
    reports = [evaluate(samples, knowing, shots=shots, with_context=support.with_context) for shots in (0, 2)]
    assert all(len(report.answered) == len(samples) for report in reports)
    summaries = [summarise(report, seed=0) for report in reports]
    found = summaries[1][ALL]
    assert found.context == 2.0
    assert getattr(found, metric).value > 0.99 and SHOWN[metric] in "\n".join(lines(reports, summaries, seed=0))
    if metric == "vqa":
        assert found.with_humans == 3
    if metric == "cider":
        assert found.captioned == 3 and {len(one.answer) > 0 for one in reports[0].answered} == {True}


def test_the_table_names_them_all_and_its_commands_parse() -> None:
    rows = re.findall(r"^\| (\S[^|]*) \|", PAGE[PAGE.index("OpenFlamingo's protocol") :], re.MULTILINE)
    assert set(SETS) <= set(rows)
    commands = [step.command for block in pages.blocks(PAGE) if block.why_not_run for step in pages.steps(block.text)]
    assert len(commands) == 3
    for command in commands:
        words = pages.words_of(command)
        program, given = (
            (mimicit.commands["build"], words[2:]) if words[0] == "mimicit" else (evaluate_command, words[3:])
        )
        context = program.make_context("x", given)
        if words[0] != "mimicit":
            assert context.params["shots"] == (0, 4, 8, 16, 32) and context.params["support"] == "okvqa-train/"

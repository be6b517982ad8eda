"""A talk through a pipe: what is shown stays known, what fails is noted, and the talk goes on."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="comes with the extra 'train'")

from mimicit.errors import UsageError
from mimicit.records import Media, Sample
from otter_train.chat import Chat, converse, main
from otter_train.data.question import Turn, asking_sample
from otter_train.model import PRESETS
from tests.factories.serving import trained_model
from tests.factories.train import MINUTE_MODEL, image, png


class Listener:
    """Answers with the number of the question, and keeps what it was asked."""

    def __init__(self) -> None:
        self.heard: list[Sample] = []

    def answer(self, sample: Sample, wait_for_tasks: Callable[[str], None]) -> str:
        self.heard.append(sample)
        text = f"answer {len(self.heard)}"
        wait_for_tasks(text[:3])
        wait_for_tasks(text[3:])
        return text


def read(path: Path, kind: str) -> Media:
    if path.name == "gone.png":
        raise UsageError("gone.png: no such file")
    return image(png((1, 2, 3)), kind=kind, origin=path.name)


def talk(*lines: str) -> tuple[Listener, str, list[str], int]:
    listener, out, notes = Listener(), io.StringIO(), []
    failures = converse(Chat(listener.answer, read), lines, out, note=notes.append)
    return listener, out.getvalue(), notes, failures


def test_turns_and_pictures_are_remembered_until_a_reset() -> None:
    listener, out, _, failures = talk(
        *("/image a.png", "/video b.mp4", "What is this?\n", "", "  And now? ", "/reset", "Still there?"),
        *("/quit", "never asked"),
    )
    assert out == "answer 1\nanswer 2\nanswer 3\n" and failures == 0
    first, second, third = listener.heard
    assert [(medium.origin, medium.kind) for medium in first.media] == [("a.png", "image"), ("b.mp4", "video")]
    assert second.media == first.media and second.query.media == () and second.query.instruction == "And now?"
    assert [(turn.instruction, turn.answer, turn.relation) for turn in second.context] == [
        ("What is this?", "answer 1", "conversation")
    ]
    assert (third.media, third.context) == ((), ())


@pytest.mark.parametrize("line", ["/image gone.png", "/image", "/dance"])
def test_what_fails_is_noted_and_leaves_the_talk_as_it_was(line: str) -> None:
    listener, out, notes, failures = talk("/image a.png", line, "What is this?")
    assert failures == 1 and any(note.startswith("otter_train: ") for note in notes)
    assert out == "answer 1\n" and [medium.origin for medium in listener.heard[0].media] == ["a.png"]


def test_placeholders_in_a_question_are_read_as_in_training() -> None:
    listener, _, _, failures = talk("Is <image> red?", "/reset", "/image a.png", "Is <image> red?", "<image> <answer>?")
    alone, first, second = (sample.query.instruction for sample in listener.heard)
    assert failures == 0
    assert (alone, first, second) == ("Is <image> red?", "Is image 1 red?", "<answer>?")
    listener, *_ = talk("/image a.png", "<image>Which?")
    assert listener.heard[0].query.instruction == "Which?"


def test_what_the_system_says_comes_before_a_question_without_its_placeholders() -> None:
    pictures = (image(png((1, 2, 3))), image(png((3, 2, 1))))
    first = Turn(instruction="<image>\nRed?", answer="<answer>no", media=pictures[:1])
    turns = [first, Turn(instruction="<image>And?")]
    asked = asking_sample(turns, relation="conversation", origin="endpoint", system="Be <image> brief.")
    assert asked.context[0].instruction == "Be <image> brief.\nRed?" and asked.context[0].answer == "<answer>no"
    assert asked.query.instruction == "And?"  # the same picture again, as in training
    two = [Turn(instruction="Is <image> like <image>?", media=pictures)]
    assert asking_sample(two, relation="x", origin="y").query.instruction == "Is image 1 like image 2?"
    three = [Turn(instruction="<image><image><image>?", media=pictures)]
    assert asking_sample(three, relation="x", origin="y").query.instruction == "<image><image><image>?"


def test_through_a_pipe_each_answer_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)
    trained_model(tmp_path / "run")
    (tmp_path / "a.png").write_bytes(png((220, 20, 20)))
    lines = f"/image {tmp_path / 'a.png'}\nwhich colour?\nsure?\n/image nowhere.png\n"
    arguments = ["--checkpoint", str(tmp_path / "run"), "--max-new-tokens", "3"]
    done = CliRunner().invoke(main, arguments, input=lines)
    assert done.exit_code == 1 and done.stdout.count("\n") == 2, done.stderr
    assert "nowhere.png: No such file" in done.stderr and "Traceback" not in done.stderr

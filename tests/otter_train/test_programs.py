"""The three programs as a user runs them: train, stop, go on, ask, evaluate; on shards that mimicit built."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from click.testing import CliRunner, Result

from mimicit.pipeline import BuildConfig, build_shards
from mimicit.prompt import render
from mimicit.shards.folders import held_folder
from otter_train.__main__ import main
from otter_train.chat import main as chat
from otter_train.evaluate import main as evaluate
from otter_train.generate import main as generate
from otter_train.inference import answering as inference
from otter_train.reporting.metrics import Row, read_table
from otter_train.serve import main as serve
from tests.factories import raw as make
from tests.factories.engines import InProcess

FAST = ["--max-steps", "3", "--batch-size", "2", "--max-tokens", "64", "--log-every", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw data, shards, and a finished run of three steps."""
    place = tmp_path_factory.mktemp("programs")
    make.add_manifest(place / "raw", pictures=4)
    make.clip(place / "clip.mp4")
    build_shards(place / "raw", place / "shards", BuildConfig(), engine=InProcess())
    result = CliRunner().invoke(main, ["--shards", str(place / "shards"), "--out", str(place / "run"), *FAST])
    assert result.exit_code == 0, result.output
    (place / "output.txt").write_text(result.output)
    return place


def picture(place: Path) -> Path:
    return next(path for path in sorted((place / "raw").rglob("*")) if path.suffix in (".jpg", ".png"))


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])  # type: ignore[arg-type]


def test_it_says_first_what_it_trains_and_last_what_to_do_next(place: Path) -> None:
    lines = (place / "output.txt").read_text().splitlines()
    assert "tiny preset" in lines[0] and "--preset otter-9b --language-model PATH --vision-model PATH" in lines[0]
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["1/3", "2/3", "3/3"]
    assert "python -m otter_train.generate --checkpoint" in lines[-1]
    names = sorted(path.name for path in (place / "run").glob("[!.]*"))
    assert names == [
        *("checkpoint-00000003", "config.json", "gates.csv", "loss.png", "metrics.csv", "report.html", "sources.csv"),
    ]


def test_the_same_command_again_has_nothing_to_do(place: Path) -> None:
    result = run(main, "--shards", place / "shards", "--out", place / "run", *FAST)
    assert result.exit_code == 0 and "step 3 of 3" in result.output


def test_other_options_are_refused_by_name(place: Path) -> None:
    result = run(main, "--shards", place / "shards", "--out", place / "run", *FAST, "--lr", "0.5")
    assert result.exit_code == 2 and "lr was" in result.stderr and result.stderr.count("\n") == 1


def test_shards_that_are_none_are_refused(place: Path) -> None:
    result = run(main, "--shards", place / "raw", "--out", place / "never", *FAST)
    assert result.exit_code == 1 and "manifest.json" in result.output


@pytest.mark.parametrize("where", ["run", "run/checkpoint-00000003"])
def test_a_question_about_a_picture_is_answered(place: Path, where: str) -> None:
    asked = ["--image", picture(place), "--prompt", "What is this?", "--max-new-tokens", 4]
    examples = ["--context-image", picture(place), "--context-prompt", "What?", "--context-answer", "a thing"]
    result = run(generate, "--checkpoint", place / where, *asked, *examples, "--json")
    assert result.exit_code == 0, result.output
    value = orjson.loads(result.output)
    assert set(value) == {"answer", "checkpoint", "left_out", "prompt", "step"} and value["step"] == 3
    assert value["left_out"] == {"examples": 0, "beginning_of_question": False}


def test_one_question_about_several_pictures_shows_all_of_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    answer_each = inference.answer_each

    def watch(trained: Any, samples: Any, options: Any) -> Any:
        shown.extend(samples)
        return answer_each(trained, samples, options)

    monkeypatch.setattr(inference, "answer_each", watch)
    pictures = sorted(path for path in (place / "raw").rglob("*") if path.suffix in (".jpg", ".png"))[:2]
    asked = ["--image", pictures[0], "--image", pictures[1], "--prompt", "Which is larger?", "--max-new-tokens", 2]
    result = run(generate, "--checkpoint", place / "run", *asked)
    assert result.exit_code == 0, result.output
    ((sample,),) = [shown]
    assert [medium.origin for medium in sample.media] == [str(path) for path in pictures]
    assert render(sample, with_answer=False) == "<image><image>User:Which is larger? GPT:<answer>"


def test_it_says_what_of_a_prompt_is_cut(place: Path) -> None:
    common = ["--checkpoint", place / "run", "--max-new-tokens", 1]
    long = run(generate, *common, "--prompt", "word " * 600)
    assert long.exit_code == 0 and "the beginning of the question" in long.stderr
    assert long.stderr.startswith("left out, because more than ") and long.stderr.count("tokens do not fit") == 1
    example = ["--context-image", picture(place), "--context-prompt", "word " * 600, "--context-answer", "a"]
    cut = run(generate, *common, *example, "--prompt", "What?", "--json")
    assert orjson.loads(cut.stdout)["left_out"] == {"examples": 1, "beginning_of_question": False}
    assert "the first 1 of what was said or shown before" in cut.stderr
    talk = CliRunner().invoke(chat, [str(word) for word in common], input="word " * 600 + "\n/quit\n")
    assert talk.exit_code == 0 and "the beginning of the question" in talk.stderr


def test_a_question_about_a_clip_is_answered(place: Path) -> None:
    arguments = ["--checkpoint", place / "run", "--video", place / "clip.mp4", "--prompt", "What moves?"]
    result = run(generate, *arguments, "--frames", 3, "--max-new-tokens", 2)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "nowhere.jpg"], "nowhere.jpg"),
        (["--image", "https://example.org/cat.jpg"], "cat.jpg: images are read from files, not from addresses"),
        (["--image", "a", "--video", "b"], "not both"),
        (["--context-image", "a.jpg"], "each example needs one of each"),
        (["--context-prompt", "q", "--context-answer", "a"], "each example needs one of each"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line(place: Path, arguments: list[str], message: str) -> None:
    result = run(generate, "--checkpoint", place / "run", "--prompt", "q", *arguments)
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1


@pytest.mark.parametrize("checkpoint", ["/nowhere/run", "luodian/OTTER-9B"])
@pytest.mark.parametrize("command", [generate, chat, evaluate, serve], ids=["generate", "chat", "evaluate", "serve"])
def test_a_checkpoint_that_does_not_exist_says_so(place: Path, command: Any, checkpoint: str) -> None:
    others = {generate: ["--prompt", "q"], evaluate: ["--shards", place / "shards"]}.get(command, [])
    result = run(command, "--checkpoint", checkpoint, *others)
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert f"{checkpoint}: no such file or folder" in result.output


def test_an_empty_answer_is_said_to_be_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "otter_train.inference.answering.answer_each", lambda trained, samples, options: [(samples[0], "")]
    )
    result = run(generate, "--checkpoint", place / "run", "--prompt", "What?", "--image", picture(place))
    assert result.exit_code == 0 and result.stdout == "\n" and "before the first word" in result.stderr


def test_the_name_of_a_special_token_in_a_question_is_words(place: Path) -> None:
    words = "<image>? <answer></s><|endofchunk|>"
    result = run(generate, "--checkpoint", place / "run", "--prompt", words, "--max-new-tokens", 1)
    assert result.exit_code == 0, result.output


def test_a_run_can_be_started_again_from_its_own_file(place: Path) -> None:
    result = run(main, "--config", place / "run" / "config.json")
    assert result.exit_code == 0 and "step 3 of 3" in result.output
    again = run(main, "--config", place / "run" / "config.json", "--out", place / "again", "--max-steps", 1)
    assert again.exit_code == 0, again.output
    assert [path.name for path in (place / "again").glob("checkpoint-*")] == ["checkpoint-00000001"]
    written = orjson.loads((place / "again" / "config.json").read_bytes())
    assert written["max_steps"] == 1 and written["out"] == str(place / "again")


def test_held_out_loss_is_measured_on_the_way(place: Path) -> None:
    held_out = ["--eval-shards", place / "shards", "--eval-every", 2, "--eval-limit", 5]
    result = run(main, "--shards", place / "shards", "--out", place / "measured", *FAST, *held_out)
    assert result.exit_code == 0, result.output
    lines = (place / "measured" / "eval.csv").read_text().splitlines()
    assert lines[0] == "step,samples,labelled,loss,perplexity"
    assert [line.split(",")[:2] for line in lines[1:]] == [["2", "5"], ["3", "5"]]
    assert result.output.count("held-out loss") == 2
    report = (place / "measured" / "report.html").read_text()
    assert "0 examples shown" in report and "data:image/" in report
    trained = [read_table(Row, place / name / "metrics.csv") for name in ("run", "measured")]
    assert [row.loss for row in trained[0]] == [row.loss for row in trained[1]]  # measuring changes nothing


@pytest.mark.parametrize("options", [["--temperature", 1, "--top-p", 0.9], ["--temperature", 1, "--seed", 3]])
def test_a_drawn_answer_is_the_same_for_the_same_seed(place: Path, options: list[object]) -> None:
    asked = ["--checkpoint", place / "run", "--image", picture(place), "--prompt", "What?", "--max-new-tokens", 8]
    first, second = (run(generate, *asked, *options) for _ in range(2))
    assert first.exit_code == 0 and first.output == second.output


@pytest.mark.parametrize(
    "options", [["--temperature", -1], ["--top-p", 0], ["--beams", 0], ["--beams", 2, "--temperature", 1]]
)
def test_options_of_an_answer_have_limits(place: Path, options: list[object]) -> None:
    result = run(generate, "--checkpoint", place / "run", "--prompt", "What?", *options)
    assert result.exit_code == 2 and str(options[0]) in result.output and result.output.count("\n") == 1


def test_evaluation_prints_a_table_and_json(place: Path) -> None:
    common = ["--checkpoint", place / "run", "--shards", place / "shards", "--max-new-tokens", 2]
    text = run(evaluate, *common, "--baselines", "--limit", 6, "--shots", "0,2", "--out", place / "evaluation")
    assert text.exit_code == 0, text.output
    assert "never looks" in text.output and "95% of 1,000 resamples" in text.output
    assert [line.split()[:3] for line in text.output.splitlines()[1:3]] == [["0", "all", "6"], ["2", "all", "6"]]
    assert sorted(path.name for path in (place / "evaluation").iterdir()) == [
        *("evaluation.json", "evaluation.png", "evaluation.txt"),
    ]
    with held_folder(place / "evaluation", "evaluation"):
        again = run(evaluate, *common, "--out", place / "evaluation")
    assert again.exit_code == 1 and f"{place / 'evaluation'}: another evaluation is writing there" in again.output
    value = orjson.loads(run(evaluate, *common, "--beams", 2, "--json").output)
    (result,) = value["results"]
    assert result["all"]["queries"] == len(result["answers"]) == 12
    assert result["all"]["exact"]["value"] == sum(one["is_right"] for one in result["answers"]) / 12
    assert result["all"]["loss"]["value"] > 0
    assert result["baselines"] == {"majority": None, "question_only": None, "swapped_pictures": None}


@pytest.mark.parametrize("shots", ["-1", "1,two", "", "99999"])
def test_shots_that_are_none_are_refused(place: Path, shots: str) -> None:
    result = run(evaluate, "--checkpoint", place / "run", "--shards", place / "shards", "--shots", shots)
    assert result.exit_code == 2 and "0,1,2,4,8" in result.output


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 1), pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow)]
)
def test_a_signal_writes_a_checkpoint(place: Path, number: signal.Signals, code: int) -> None:
    """Besides, the first line comes before torch, and nothing is imported that such a run does not use."""
    out = place / number.name
    command = [sys.executable, "-m", "otter_train", "--shards", str(place / "shards"), "--out", str(out)]
    command += ["--batch-size", "2", "--max-tokens", "64", "--log-every", "1", "--device", "cpu"]
    command += ["--max-steps", "400", "--epochs", "1000", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step "):
                os.killpg(process.pid, number)  # as Ctrl-C does: the loader's worker gets it too
                break
        lines += process.stdout.readlines()
        assert process.wait(timeout=240) == code
    imported = [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]
    first = next(number for number, line in enumerate(lines) if line.startswith("Loading PyTorch"))
    assert any("import time:" in line for line in lines[:first]) and not any(
        "| torch" in line for line in lines[:first]
    )
    unused = {"matplotlib", "open_clip", "timm", "tensorboard", "wandb", "duckdb", "av", "ray", "datasets"}
    assert "torch" in imported and unused & {name.partition(".")[0] for name in imported} == set()
    lines = [line for line in lines if line.strip() and not line.startswith("import time:")]
    assert sum("Stopping after this step, with a checkpoint" in line for line in lines) == (number == signal.SIGINT)
    assert "the same command goes on from there" in lines[-1]
    (checkpoint,) = out.glob("checkpoint-*")
    assert 1 <= int(checkpoint.name.split("-")[1]) < 400


WAITING = """
import os, signal, sys, time
from otter_train.__main__ import _stop_signals
with _stop_signals() as signals:
    if sys.argv[1] == "stepping":
        signals.should_stop()
    try:
        print("ready", flush=True)
        while True:
            time.sleep(30)  # goes on after the first signal, as a step does
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("state", "signals", "code", "said"), [("starting", 1, 0, "interrupted\n"), ("stepping", 2, -signal.SIGINT, "")]
)
def test_ctrl_c_before_the_first_step_and_a_second_one_end_at_once(
    state: str, signals: int, code: int, said: str
) -> None:
    command = [sys.executable, "-c", WAITING, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        for number in range(signals):
            process.send_signal(signal.SIGINT)
            if number + 1 < signals:
                assert process.stderr.readline() == "\n" and "Ctrl-C once more" in process.stderr.readline()
        assert process.wait(timeout=240) == code  # it would wait for ever
        assert process.stdout.read() == said


def test_what_prepares_data_ends_with_the_program_that_it_works_for() -> None:
    """Else a killed training would hold the terminal until its workers notice."""
    code = (
        "import os, time\n"
        "from mimicit.worker import end_with_parent\n"
        "ready, told = os.pipe()\n"
        "if not os.fork():\n"
        "    end_with_parent(); os.write(told, b'.'); time.sleep(3600); os._exit(0)\n"
        "os.read(ready, 1); os._exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=240)  # waits for the end of stdout
    assert done.returncode == 3


def test_too_few_addresses_are_one_line(place: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    command = [sys.executable, "-m", "otter_train", "--shards", str(place / "shards"), "--out", str(place / "none")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, preexec_fn=limit, env=environment)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "ulimit -v leaves this process 1,024 MiB of addresses" in line

"""Runs that go on from others: what is unchanged is the same, what may change does, and the chain is written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="comes with the extra 'train'")

from click.testing import CliRunner, Result

from mimicit.errors import TrainError
from otter_train.__main__ import main
from otter_train.checkpoint.files import latest_checkpoint, load_optimizer_state, load_weights
from otter_train.checkpoint.lineage import Ancestor, descend, read_lineage
from otter_train.model import PRESETS
from otter_train.reporting.metrics import Row, SourceRow, read_table
from tests.factories.loading import small_shards
from tests.factories.train import MINUTE_MODEL


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, a run of 20 steps, and one of the same command that was stopped after 10."""
    folder = tmp_path_factory.mktemp("lineage")
    small_shards(folder / "a", 24, name="a")
    small_shards(folder / "b", 16, name="b")
    whole = train(folder, "--out", folder / "whole", "--max-steps", 20, "--save-every", 10)
    assert whole.exit_code == 0, whole.output
    shutil.copytree(folder / "whole", folder / "half")
    shutil.rmtree(folder / "half" / "checkpoint-00000020")
    return folder


def train(place: Path, *arguments: object, shares: tuple[float, float] = (3, 1)) -> Result:
    shards = [f"--shards={place}/{name}/shards={share:g}" for name, share in zip("ab", shares, strict=True)]
    fast = ["--preset", "tiny", "--log-every", "1", "--device", "cpu"]
    fast += [] if "--batch-size" in arguments else ["--batch-size", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", MINUTE_MODEL)
        return CliRunner().invoke(main, [*shards, *fast, *map(str, arguments)])


def numbers(run: Path, first: int = 0) -> list[tuple[int, float, float, float]]:
    return [(row.step, row.loss, row.lr, row.gradient_norm) for row in read_table(Row, run / "metrics.csv")][first:]


def test_ten_steps_and_ten_are_twenty(place: Path) -> None:
    run = place / "again"
    result = train(place, "--out", place / "half", "--continue-as", run, "--max-steps", 20)
    assert result.exit_code == 0 and "(step 10 of 20)" in result.output, result.output
    assert numbers(run) == numbers(place / "whole", 10)
    ours, theirs = latest_checkpoint(run), latest_checkpoint(place / "whole")
    assert ours is not None and theirs is not None
    for name, tensor in load_weights(theirs).items():
        torch.testing.assert_close(load_weights(ours)[name], tensor, rtol=0, atol=0)
    moments = load_optimizer_state(theirs)
    assert all(torch.equal(state[key], moments[name][key]) for name, state in load_optimizer_state(ours).items()
               for key in state)  # fmt: skip
    assert ours.meta["loader"] == theirs.meta["loader"] and ours.meta["run_id"] != theirs.meta["run_id"]
    assert read_lineage(run).ancestors == (Ancestor(run=str(place / "half"), step=10, changes=()),)
    done = train(place, "--out", place / "half", "--continue-as", run, "--max-steps", 20)
    assert done.exit_code == 0 and numbers(run) == numbers(place / "whole", 10)


def test_another_rate_is_all_that_differs_and_the_chain_is_in_the_report(place: Path) -> None:
    faster, longer = place / "faster", place / "longer"
    schedule = ("--schedule", "constant", "--warmup", 0)
    rates = ("--lr", 1e-3, "--lr-perceiver", 2e-3, *schedule)
    result = train(place, "--out", place / "half", "--continue-as", faster, "--max-steps", 12, *rates)
    assert result.exit_code == 0, result.output
    assert [lr for _, _, lr, _ in numbers(faster)] == [1e-3, 1e-3]
    whole = numbers(place / "whole", 10)
    assert numbers(faster)[0][1] == whole[0][1]  # the loss before the first update with the new rate
    assert numbers(faster)[1][1] != whole[1][1]
    again = train(place, "--out", faster, "--continue-as", longer, "--max-steps", 13, *rates)
    assert again.exit_code == 0, again.output
    chain = read_lineage(longer).ancestors
    assert [(one.run, one.step) for one in chain] == [(str(place / "half"), 10), (str(faster), 12)]
    assert {"lr was 0.0005, is 0.001", "lr_perceiver was None, is 0.002"} <= set(chain[0].changes) and chain[
        1
    ].changes == ("max_steps was 12, is 13",)
    report = (longer / "report.html").read_text()
    assert f"{faster}, left after step 12; max_steps was 12, is 13" in report and str(place / "half") in report


def test_weights_of_folders_may_change_and_stay_so_on_resume(place: Path, tmp_path: Path) -> None:
    run = place / "reweighted"
    words = ("--out", place / "half", "--continue-as", run, "--save-every", 16)
    result = train(place, *words, "--max-steps", 48, shares=(1, 1))
    assert result.exit_code == 0, result.output
    table = read_table(SourceRow, run / "sources.csv")

    def given(name: str, first: int, last: int) -> int:
        return sum(row.samples for row in table if row.source == name and first < row.step <= last)

    # The new weights begin with the next window of 64 samples: after step 16.
    assert [given("a", 16, 32), given("b", 16, 32), given("a", 32, 48), given("b", 32, 48)] == [32, 32, 32, 32]
    assert "weights of --shards are 1, 1" in read_lineage(run).ancestors[0].changes
    kept = json.loads((run / "config.json").read_text())["shards"]
    assert kept == [f"{place}/a/shards=1", f"{place}/b/shards=1"]
    shutil.rmtree(run / "checkpoint-00000048")
    for name in "ab":
        shutil.copytree(place / name, tmp_path / name)
    on = train(tmp_path, "--out", run, "--max-steps", 48, shares=(1, 1))  # what lies elsewhere now
    assert on.exit_code == 0 and "(step 32 of 48)" in on.output, on.output
    assert read_table(SourceRow, run / "sources.csv") == table
    refused = train(place, "--out", run, "--max-steps", 48, shares=(2, 1))
    assert refused.exit_code == 2 and "--continue-as" in refused.output
    refused = train(place, "--out", tmp_path / "nothing", "--continue-as", tmp_path / "new")
    assert refused.exit_code == 2 and not (tmp_path / "new").exists()


def test_they_stay_shares_of_samples_where_rows_of_one_folder_hold_fewer(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "a", tmp_path / "a")
    small_shards(tmp_path / "b", 16, name="long-" * 20)
    rows = ("--batch-tokens", 512, "--batch-size", 16, "--epochs", 99, "--schedule", "constant")
    assert train(tmp_path, "--out", tmp_path / "old", "--max-steps", 4, *rows).exit_code == 0
    words = ("--out", tmp_path / "old", "--continue-as", tmp_path / "new", "--max-steps", 16, *rows)
    result = train(tmp_path, *words, shares=(1, 1))
    assert result.exit_code == 0, result.output
    table = read_table(SourceRow, tmp_path / "new" / "sources.csv")  # of 3 windows of 64 rows
    seen = [sum(row.samples for row in table if (row.source == "a") == is_first) for is_first in (True, False)]
    assert 0.95 < seen[0] / seen[1] < 1.05, seen


def test_the_new_run_has_a_folder_of_its_own(place: Path) -> None:
    for run, message in (("half", "is --out itself"), ("whole", "is a run of its own, and does not continue")):
        result = train(place, "--out", place / "half", "--continue-as", place / run, "--max-steps", 20)
        assert result.exit_code == 2 and f"--continue-as {place / run}: {message}" in result.output, result.output
    child = shutil.copytree(place / "whole", place / "child")
    descend(place / "half", child, 10, [])
    result = train(place, "--out", place / "whole", "--continue-as", child, "--max-steps", 20)
    assert (
        result.exit_code == 2
        and f"continues {place / 'half'}, and does not continue {place / 'whole'}" in result.output
    )


def test_killed_before_its_first_checkpoint_it_begins_there_again(place: Path) -> None:
    run = place / "killed"
    words = ("--out", place / "half", "--continue-as", run, "--max-steps", 20)
    assert train(place, *words).exit_code == 0
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    alone = train(place, "--out", run, "--max-steps", 20)
    assert alone.exit_code == 2 and "has no checkpoint yet; give --out" in alone.output
    assert train(place, *words).exit_code == 0
    assert numbers(run) == numbers(place / "whole", 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", 5), "seed was 0, is 5; what --continue-as may change are"),
        (("--max-tokens", 48), "max_tokens was"),
        (("--label-mode", "paper"), "label_mode was"),
    ],
)
def test_what_decides_what_is_learnt_may_not_change(place: Path, options: tuple[object, ...], message: str) -> None:
    result = train(place, "--out", place / "half", "--continue-as", place / "other", "--max-steps", 20, *options)
    assert result.exit_code == 2 and message in result.output, result.output


def test_a_run_without_a_checkpoint_and_a_damaged_lineage_are_named(place: Path, tmp_path: Path) -> None:
    result = train(place, "--out", tmp_path / "nothing", "--continue-as", tmp_path / "new")
    assert result.exit_code == 2 and "there is no checkpoint to go on from" in result.output
    (tmp_path / "lineage.json").write_text('{"ancestors": 3}')
    with pytest.raises(TrainError, match=r"lineage\.json: is damaged"):
        read_lineage(tmp_path)

"""What a run measures, where it is sent, and what is traced."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")


from mimicit.errors import UsageError
from otter_train.config.run_config import RunOptions, resolve
from otter_train.model import PRESETS
from otter_train.reporting.metrics import Console, GateRow, Row, SourceRow, open_sinks, read_table
from otter_train.training.loop import train
from tests.factories.train import MINUTE_MODEL, Colours


@pytest.fixture(autouse=True)
def minute_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", MINUTE_MODEL)


def run(folder: Path, log_every: int = 1, **options: Any) -> list[Row]:
    config = resolve("tiny", batch_size=4, epochs=100, max_steps=6, lr=3e-3)
    settings = RunOptions(save_every=0, log_every=log_every, device="cpu", **options)
    return list(
        train(config, Colours(sources=("even", "odd")), folder, options=settings, console=Console(io.StringIO())).rows
    )


def test_numbers_mean_what_they_say(tmp_path: Path) -> None:
    rows = run(tmp_path, log_every=3)
    for row in rows:
        assert 0 < row.mfu < 2 and 0 <= row.data_wait <= 1 and row.left_out == 0
        assert row.peak_memory_bytes > 50 << 20 and row.tokens_per_s > row.samples_per_s > 0
    sources = read_table(SourceRow, tmp_path / "sources.csv")
    assert {row.source for row in sources} == {"even", "odd"}
    for row in rows:
        mine = [one for one in sources if one.step == row.step]
        assert sum(one.samples for one in mine) == 12
        together = sum(one.loss * one.labelled for one in mine) / sum(one.labelled for one in mine)
        assert together == pytest.approx(row.loss, rel=0.05)  # a mean over steps and one over tokens
    gates = read_table(GateRow, tmp_path / "gates.csv")
    assert [(row.step, row.layer) for row in gates] == [(3, 0), (3, 1), (6, 0), (6, 1)]
    assert all(0.5 < row.attention < 1 and row.attention != math.tanh(1) for row in gates)


def test_the_mean_over_a_window_is_that_over_its_tokens(tmp_path: Path) -> None:
    rows = run(tmp_path, log_every=1)
    sources = read_table(SourceRow, tmp_path / "sources.csv")
    for row in rows:
        mine = [one for one in sources if one.step == row.step]
        together = sum(one.loss * one.labelled for one in mine) / sum(one.labelled for one in mine)
        assert together == pytest.approx(row.loss, rel=1e-5)


def test_a_trace_of_some_steps_can_be_opened(tmp_path: Path) -> None:
    run(tmp_path, profile=2)
    (path,) = tmp_path.glob("trace-*.json")
    events = json.loads(path.read_text())["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name", "")).startswith("ProfilerStep")}
    assert len(steps) == 2


def test_tensorboard_gets_what_the_tables_get(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="comes with the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row.loss for row in rows])
    assert {"loss/even", "loss/odd", "gate/attention/0", "mfu", "data_wait"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("torch.utils.tensorboard", {"tensorboard": True, "wandb": None}),
        ("wandb", {"tensorboard": False, "wandb": "otter"}),
    ],
)
def test_a_missing_library_is_named(
    tmp_path: Path, module: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match="pip install"):
        open_sinks(tmp_path, {}, run_id="a", **options)


def test_without_options_neither_library_is_loaded(tmp_path: Path) -> None:
    assert open_sinks(tmp_path, {}, run_id="a", tensorboard=False, wandb=None) == []
    assert "wandb" not in sys.modules

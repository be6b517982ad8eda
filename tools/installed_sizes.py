"""What an installation takes, by extra and by package: a table for docs/installation.md.

    python -m tools.installed_sizes --extras video view hub

The package and each of ``--extras`` are installed by pip into an environment of their own, with the versions of
constraints.txt; MB are 10^6 bytes of the files that belong to each package.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_SIZES: Final = """
import json, os
from importlib.metadata import distributions
def size(one):
    return sum(os.path.getsize(path) for path in (file.locate() for file in one.files or ()) if os.path.isfile(path))
print(json.dumps({one.name: size(one) for one in distributions() if one.name not in ("pip", "setuptools")}))
"""
_LARGEST: Final = 4
_EXTRAS: Final = ("video", "view", "annotate", "hub", "heic", "fast", "decord", "s3", "train")


def main() -> None:
    """Install, measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--extras", nargs="*", default=_EXTRAS)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mimicit-sizes-") as folder:
        core, seconds = installed(Path(folder) / "core", options.python, ())
        print(f"pip install . takes {total(core)} MB and {seconds:.0f} s\n\n| package | MB |\n| --- | ---: |")
        for name, size in largest(core, 8):
            print(f"| {name} | {size / 1e6:.0f} |")
        print("\n| extra | MB more | most of them |\n| --- | ---: | --- |")
        for extra in options.extras:
            found, _ = installed(Path(folder) / extra, options.python, (extra,))
            more = {name: size for name, size in found.items() if name not in core}
            words = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest(more, _LARGEST))
            print(f"| `{extra}` | {total(more)} | {words} |", flush=True)


def installed(folder: Path, python: str, extras: Sequence[str]) -> tuple[dict[str, int], float]:
    """Bytes of each package of an environment with these ``extras``, and the seconds that pip took."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    started = time.monotonic()
    wanted = f"{_ROOT}[{','.join(extras)}]" if extras else str(_ROOT)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--constraint", str(_ROOT / "constraints.txt"), wanted]
    subprocess.run(pip, check=True)
    seconds = time.monotonic() - started
    done = subprocess.run([str(folder / "bin" / "python"), "-c", _SIZES], check=True, capture_output=True, text=True)
    sizes: dict[str, int] = json.loads(done.stdout)
    return sizes, seconds


def largest(sizes: dict[str, int], most: int) -> list[tuple[str, int]]:
    """The ``most`` packages that take most."""
    return sorted(sizes.items(), key=lambda one: (-one[1], one[0]))[:most]


def total(sizes: dict[str, int]) -> int:
    """All of them together, in MB."""
    return round(sum(sizes.values()) / 1e6)


if __name__ == "__main__":
    main()

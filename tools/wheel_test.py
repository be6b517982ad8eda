"""Does the wheel work where nothing else is? Built once, installed and used with each Python.

    python -m tools.wheel_test python3.11 python3.12 python3.13

Each gets an environment of its own with the wheel and what it needs, builds shards from three pictures, inspects,
verifies and loads them; the first failure ends the test.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_RAW: Final = """
from pathlib import Path
from PIL import Image
raw = Path("raw")
raw.mkdir()
for name, colour in (("a", "red"), ("b", "lime"), ("c", "blue")):
    Image.new("RGB", (64, 48), colour).save(raw / f"{name}.png")
    (raw / f"{name}.txt").write_text(f"All of it is {colour}.")
"""
_LOAD: Final = """
import sys, mimicit
samples = mimicit.load("shards/")
print(sys.version.split()[0], len(samples), "samples:", mimicit.render(samples[0]))
"""


def main() -> None:
    """Build the wheel, and use it with each Python."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pythons", nargs="*", default=[sys.executable])
    with tempfile.TemporaryDirectory(prefix="mimicit-wheel-") as folder:
        place = Path(folder)
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(_ROOT)],
            check=True,
        )
        (wheel,) = place.glob("*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        for number, python in enumerate(parser.parse_args().pythons):
            use(place / str(number), python, wheel)


def use(folder: Path, python: str, wheel: Path) -> None:
    """Install ``wheel`` into an environment of ``python`` in the new ``folder``, and run it there."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    own = str(folder / "bin" / "python")
    subprocess.run([own, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    mimicit = str(folder / "bin" / "mimicit")
    for command in (
        [own, "-c", _RAW],
        [mimicit, "build", "--src", "raw/", "--out", "shards/", "--shots", "1", "--workers", "1"],
        [mimicit, "inspect", "shards/shard-000.tar"],
        [mimicit, "verify", "shards/"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    subprocess.run([own, "-c", _LOAD], cwd=folder, check=True)


if __name__ == "__main__":
    main()

"""Files under their final names: absent or complete, whoever else writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimicit.errors import BuildError
from mimicit.shards.files import write_atomically

_WRITES_SLOWLY = """
import sys
from pathlib import Path
from mimicit.shards.files import publish
path = Path(sys.argv[1])
with publish(path, path.with_name(f".{path.name}.tmp")) as file:
    file.write(b"first")
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_file_that_another_process_writes_is_left_to_it(tmp_path: Path, killed: bool) -> None:
    """Both write it under the same temporary name; what a killed process has left there is written anew."""
    path = tmp_path / "file"
    command = [sys.executable, "-c", _WRITES_SLOWLY, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "begun\n"
        if killed:
            other.kill()
            other.wait()
            write_atomically(path, [b"second"])
        else:
            with pytest.raises(BuildError, match=f"{path}: another process is writing it"):
                write_atomically(path, [b"second"])
            other.communicate("")
            assert other.returncode == 0
    assert path.read_bytes() == (b"second" if killed else b"first")

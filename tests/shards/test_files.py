"""Files under their final names: absent or complete, whoever else writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimicit.errors import BuildError
from mimicit.shards import files
from mimicit.shards.files import publish, write_atomically

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


def test_of_two_that_begin_at_once_one_is_refused_and_neither_takes_the_file_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, temporary = tmp_path / "file", tmp_path / ".file.tmp"
    with publish(path, temporary) as file:
        file.write(b"first")
        with monkeypatch.context() as patched:
            patched.setattr(files, "_remove_abandoned", lambda *_: None)  # has looked before the first made it
            with pytest.raises(BuildError, match="another process"):
                write_atomically(path, [b"second"])
    assert path.read_bytes() == b"first"

    def lock_too_late(_: int) -> bool:
        temporary.unlink()
        temporary.write_bytes(b"half of an")
        return True

    monkeypatch.setattr(files, "_lock", lock_too_late)
    with pytest.raises(BuildError, match="another process"):
        write_atomically(path, [b"second"])
    assert path.read_bytes() == b"first"
    assert temporary.read_bytes() == b"half of an"


def test_a_file_has_its_name_before_its_lock_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with publish(path, tmp_path / ".file.tmp") as file:
        replace = files.os.replace

        def checked(source: Path, target: Path) -> None:
            assert not file.closed
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", checked)
        file.write(b"whole")
    assert path.read_bytes() == b"whole"

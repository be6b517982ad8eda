"""Files of weights: what was written is read, bit for bit, and broken files say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.conversion.weight_files import read_weights, write_weights
from otter_train.model.convert import same_bits
from otter_train.model.lazy import LazyTensor, concatenated, third_of, with_rows

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


def lazy(tensors: dict[str, Tensor]) -> dict[str, LazyTensor]:
    return {key: LazyTensor.of(tensor) for key, tensor in tensors.items()}


def some_tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    tensors = {f"a.{number}": torch.randn(3, 5).to(dtype) for number, dtype in enumerate(DTYPES)}
    return tensors | {
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 3).T,
        "view": torch.randn(100, 3)[10:12],
    }


def assert_same(found: dict[str, LazyTensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert same_bits(found[key], LazyTensor.of(tensor)), key


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("limit", [None, 100])
def test_what_was_written_is_read(tmp_path: Path, name: str, limit: int | None) -> None:
    written = write_weights(tmp_path / name, lazy(some_tensors()), max_shard_bytes=limit)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert (len(written) > 3) == (limit is not None)
    assert_same(read_weights(tmp_path), some_tensors())
    assert_same(read_weights(written[-1]), some_tensors())
    if limit is not None:
        biggest = max(tensor.numel() * tensor.element_size() for tensor in some_tensors().values())
        for shard in written[:-1]:
            assert sum(tensor.nbytes for tensor in read_weights(shard).values()) <= max(limit, biggest)


def test_stock_readers_agree(tmp_path: Path) -> None:
    tensors = some_tensors()
    write_weights(tmp_path / "ours.safetensors", lazy(tensors))
    assert_same(lazy(load_file(tmp_path / "ours.safetensors")), tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "theirs.safetensors")
    assert_same(read_weights(tmp_path / "theirs.safetensors"), tensors)
    write_weights(tmp_path / "ours.bin", lazy(tensors))
    assert_same(lazy(torch.load(tmp_path / "ours.bin", weights_only=True)), tensors)
    assert (tmp_path / "ours.bin").stat().st_size < 10_000  # and not all of what the views belong to


def test_files_of_old_torch_are_read(tmp_path: Path) -> None:
    torch.save(some_tensors(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert_same(read_weights(tmp_path / "old.bin"), some_tensors())


def test_the_wrapper_of_a_training_program_is_taken_off(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model_state_dict": some_tensors(), "optimizer": {"lr": 1.0}}, tmp_path / "checkpoint.pt")
    assert_same(read_weights(tmp_path), some_tensors())


class Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 10])


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(10))


def page(path: Path) -> None:
    path.write_text("<html>404</html>")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("damage", [cut, page, grown, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_broken_files_are_named(tmp_path: Path, name: str, damage: Any) -> None:
    (path,) = write_weights(tmp_path / name, lazy(some_tensors()))
    damage(path)
    if damage is grown and name.endswith(".bin"):
        return  # an archive may be followed by anything
    with pytest.raises(TrainError, match=str(path) if path.exists() else "no such file"):
        read_weights(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(1), "hook": Shell()}, tmp_path / "model.bin")
    with pytest.raises(TrainError, match=r"model\.bin: no file of weights that torch can read safely"):
        read_weights(tmp_path / "model.bin")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("state", "message"), [([torch.zeros(1)], "a list; "), ({"lr": 1.0}, "a float and no tensor")])
def test_pickles_of_something_else_raise(tmp_path: Path, state: Any, message: str) -> None:
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(TrainError, match=message):
        read_weights(tmp_path / "model.bin")


def index_of(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = write_weights(folder / "model.safetensors", lazy(some_tensors()), max_shard_bytes=100)[-1]
    return path, json.loads(path.read_text())


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    path, index = index_of(tmp_path)
    del index["weight_map"]["nan"]
    path.write_text(json.dumps(index))
    with pytest.raises(TrainError, match=r"disagree about nan"):
        read_weights(tmp_path)
    index["weight_map"]["nan"] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(TrainError, match=r"names \.\./elsewhere\.safetensors, which is no file beside it"):
        read_weights(tmp_path)
    index["weight_map"]["nan"] = "gone.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(TrainError, match=r"these shards are missing: gone\.safetensors"):
        read_weights(tmp_path)
    path.write_text('{"weight_map": [1]}')
    with pytest.raises(TrainError, match="no index of weights"):
        read_weights(tmp_path)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 100))
def test_thirds_make_the_whole_again(rows: int, columns: int, seed: int) -> None:
    whole = torch.randn(3 * rows, columns, generator=torch.Generator().manual_seed(seed))
    parts = [third_of(LazyTensor.of(whole), third) for third in range(3)]
    assert all(part.shape == part.read().shape == (rows, columns) for part in parts)
    assert torch.equal(concatenated(parts).read(), whole)
    assert concatenated(parts).shape == whole.shape


@given(st.permutations(range(5)), st.integers(0, 2))
def test_rows_move_and_new_ones_are_the_mean(order: list[int], new: int) -> None:
    whole = torch.arange(10.0).reshape(5, 2)
    moved = with_rows(LazyTensor.of(whole), [*order, *[None] * new])
    assert moved.shape == (5 + new, 2)
    assert torch.equal(moved.read()[:5], whole[list(order)])
    assert torch.equal(moved.read()[5:], whole.mean(0).expand(new, 2))

"""Files of weights, read and written one tensor at a time.

Reading gives `LazyTensor`s: nothing but a header is in memory until a tensor is read. ``.safetensors`` files are
read with plain reads, not mapped, so that pages of the file do not count as memory of the process; ``.bin`` files are
mapped by torch, which unpickles tensors and nothing else (``weights_only``). Cost: one pass over the bytes.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mimicit.errors import TrainError
from mimicit.schema import canonical_json
from mimicit.shards.files import publish, read_regular, write_atomically
from otter_train.model.convert import unwrapped
from otter_train.model.lazy import LazyTensor

_DTYPES: Final = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_DTYPE_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_NAMES: Final = ("model.safetensors", "pytorch_model.bin", "checkpoint.pt", "final_weights.pt")
_INDEX: Final = ".index.json"
_NOTES: Final = "otter_train"
_NOTES_SUFFIX: Final = ".otter.json"
_HEADER_LENGTH: Final = 8
_ALIGNMENT: Final = 8


def find_weights(path: Path) -> Path:
    """The file of weights, or the index of its shards, that ``path`` is or holds; `TrainError` if there is none."""
    if path.is_file():
        return path
    for name in _NAMES:
        for candidate in (path / name, path / f"{name}{_INDEX}"):
            if candidate.is_file():
                return candidate
    raise TrainError(f"{path}: no such file, and no folder with {', '.join(_NAMES)} or the index of one of them")


def read_weights(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file, or of all shards of an index (``*.index.json``), in the order they are stored.

    `TrainError` if a file is broken, is no file of weights, or an index and its shards disagree.
    """
    path = find_weights(path)
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def read_notes(path: Path) -> dict[str, Any]:
    """What `write_weights` noted about the weights in ``path``, a file or a folder; empty if others wrote them."""
    path = find_weights(path)
    if path.name.endswith(_INDEX):
        try:
            places = orjson.loads(read_regular(path))["weight_map"]
            path = path.with_name(min(Path(str(name)).name for name in places.values()))
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
            return {}  # `read_weights` says what is wrong with it
    text: Any = None
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(_NOTES)
        except (SafetensorError, OSError):
            return {}
    elif (beside := path.with_name(path.name + _NOTES_SUFFIX)).is_file():
        text = read_regular(beside)
    try:
        notes = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError as error:
        raise TrainError(f"{path}: what it notes of itself is no JSON ({error})") from None
    return notes if isinstance(notes, dict) else {}


def write_weights(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    *,
    max_shard_bytes: int | None = None,
    notes: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``tensors`` as ``path`` (``.safetensors``, else torch's format); returns the files written.

    ``notes``, a JSON object, go into the metadata of each ``.safetensors`` file, and into a second file next to torch's
    format, which has no room for them.

    Beyond ``max_shard_bytes`` they are split into ``NAME-00001-of-00003.safetensors`` and so on, with the index that
    transformers reads. Each file is absent or complete; the index comes last. Writing ``.safetensors`` keeps one
    tensor in memory, torch's format one whole file.
    """
    shards = _split(tensors, max_shard_bytes)
    noted = canonical_json(dict(notes)) if notes else b""
    if len(shards) == 1:
        return _write_file(path, tensors, noted)
    names = [f"{path.stem}-{number:05d}-of-{len(shards):05d}{path.suffix}" for number in range(1, len(shards) + 1)]
    files = []
    for name, shard in zip(names, shards, strict=True):
        files += _write_file(path.with_name(name), shard, noted)
    total = sum(tensor.nbytes for tensor in tensors.values())
    places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = path.with_name(path.name + _INDEX)
    write_atomically(index, [canonical_json({"metadata": {"total_size": total}, "weight_map": places})])
    return [*files, index]


def _split(tensors: Mapping[str, LazyTensor], limit: int | None) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    filled = 0
    for key, tensor in tensors.items():
        if limit is not None and shards[-1] and filled + tensor.nbytes > limit:
            shards.append({})
            filled = 0
        shards[-1][key] = tensor
        filled += tensor.nbytes
    return shards


def _read_shards(index: Path) -> dict[str, LazyTensor]:
    try:
        places = orjson.loads(read_regular(index))["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise TrainError(f"{index}: no index of weights ({type(error).__name__}: {error})") from None
    outside = [name for name in names if Path(name).name != name or name.endswith(_INDEX)]
    if outside:
        raise TrainError(f"{index}: names {', '.join(outside)}, which is no file beside it")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise TrainError(f"{index}: these shards are missing: {', '.join(missing)}")
    tensors: dict[str, LazyTensor] = {}
    for name in names:
        shard = read_weights(index.parent / name)
        listed = {key for key, place in places.items() if place == name}
        if listed != shard.keys():
            wrong = ", ".join(sorted(listed ^ shard.keys()))
            raise TrainError(f"{index.parent / name}: the file and {index.name} disagree about {wrong}")
        tensors |= shard
    return tensors


def _read_safetensors(path: Path) -> dict[str, LazyTensor]:
    try:
        with safe_open(path, framework="pt"):  # checks the header, every offset and the length of the file
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_HEADER_LENGTH), "little")
            header: dict[str, Any] = orjson.loads(file.read(length))
    except (SafetensorError, OSError, orjson.JSONDecodeError) as error:
        raise TrainError(f"{path}: no readable safetensors file ({error}); download or copy it again") from None
    header.pop("__metadata__", None)
    start = _HEADER_LENGTH + length
    tensors = {}
    for key, entry in sorted(header.items(), key=lambda item: int(item[1]["data_offsets"][0])):
        if entry["dtype"] not in _DTYPES:
            raise TrainError(f"{path}: {key} is of the type {entry['dtype']}, which is not known here")
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        tensors[key] = _at(path, start + entry["data_offsets"][0], shape, dtype)
    return tensors


def _at(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    """The tensor whose numbers begin at byte ``offset`` of ``path``."""

    def read_at(place: int, part: tuple[int, ...]) -> Tensor:
        size = math.prod(part) * dtype.itemsize
        if size == 0:
            return torch.empty(part, dtype=dtype)
        buffer = bytearray(size)
        with open(path, "rb", buffering=0) as file:
            file.seek(place)
            _fill(file, memoryview(buffer), path)
        return torch.frombuffer(buffer, dtype=dtype).reshape(part)

    def read_rows(start: int, stop: int) -> Tensor:
        of_row = math.prod(shape[1:]) * dtype.itemsize
        return read_at(offset + start * of_row, (stop - start, *shape[1:]))

    return LazyTensor(shape, dtype, lambda: read_at(offset, shape), read_rows if shape else None)


def _fill(file: Any, view: memoryview, path: Path) -> None:
    while len(view):
        count = file.readinto(view)  # the kernel gives at most 2 GiB at once
        if not count:
            raise TrainError(f"{path}: became shorter while it was read")
        view = view[count:]


def _read_pickle(path: Path) -> dict[str, LazyTensor]:
    try:
        mapped = zipfile.is_zipfile(path)  # torch's format before 1.6 is no archive, and is read as a whole
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainError(f"{path}: no file of weights that torch can read safely ({reason})") from None
    if not isinstance(state, Mapping):
        raise TrainError(f"{path}: a {type(state).__name__}; a file of weights maps names to tensors")
    try:
        return {str(key): LazyTensor.of(tensor) for key, tensor in unwrapped(state).items()}
    except TrainError as error:
        raise TrainError(f"{path}: {error}") from None


def _write_file(path: Path, tensors: Mapping[str, LazyTensor], notes: bytes) -> list[Path]:
    with publish(path, path.with_name(f".{path.name}.tmp")) as file:
        if path.suffix == ".safetensors":
            file.writelines(_safetensors_chunks(tensors, notes))
        else:
            _write_pickle(file, tensors)
    if path.suffix == ".safetensors" or not notes:
        return [path]
    beside = path.with_name(path.name + _NOTES_SUFFIX)
    write_atomically(beside, [notes])
    return [path, beside]


def _write_pickle(file: BinaryIO, tensors: Mapping[str, LazyTensor]) -> None:
    state = {}
    for key, tensor in tensors.items():
        values = tensor.read()
        # torch writes the whole storage of a view.
        whole = values.is_contiguous() and values.untyped_storage().nbytes() == tensor.nbytes
        state[key] = values if whole else values.clone(memory_format=torch.contiguous_format)
    torch.save(state, file)


def _safetensors_chunks(tensors: Mapping[str, LazyTensor], notes: bytes) -> Iterator[bytes | memoryview]:
    """The bytes of a ``.safetensors`` file: the length of the header, the header, and each tensor's numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | ({_NOTES: notes.decode()} if notes else {})}
    offset = 0
    for key, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_NAMES:
            raise TrainError(f"{key}: safetensors cannot hold {tensor.dtype}; write a .bin file")
        end = offset + tensor.nbytes
        header[key] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(_HEADER_LENGTH, "little")
    yield text
    yield from _values(tensors.values())


def _values(tensors: Iterable[LazyTensor]) -> Iterator[memoryview]:
    for tensor in tensors:
        if tensor.nbytes:
            numbers: Any = tensor.read().contiguous().reshape(-1).view(torch.uint8).numpy()
            yield memoryview(numbers)

"""Checkpoints: ``run/checkpoint-{step:08d}/``, absent or complete; written and loaded.

A checkpoint stands alone: the trained parameters (``model.safetensors``), AdamW's state (``optimizer.safetensors``),
the tokenizer, and ``meta.json`` with the checksum of each. Pretrained weights are not repeated; the meta data names
their folders. Everything is written into a hidden folder, synced, and renamed at the end. Cost: one sequential write
and one SHA-256 of the files (about 1.4 GB/s).

The files hold whole tensors, whatever the number of processes that trained them, so any number of processes can
continue, and a model can answer without being assembled first. `torch.distributed.checkpoint` would let every process
write its own shards; but it describes them by a pickle, which runs code when it is read, and what Otter trains (16 GB
with its moments) fits into the memory of one process.

`BackgroundSaver` writes them in the background: one thread, one checkpoint at a time. If the disk is full or gone, that
checkpoint is lost with a warning; the earlier ones are intact and training continues. Only if the last checkpoint of a
run cannot be written does the run end with an error.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import SchemaError, TrainError
from mimicit.schema import canonical_json, validate
from mimicit.shards.files import read_regular, sha256_of, sync_folder
from mimicit.shards.folders import remove_folder

FORMAT: Final = "otter-checkpoint/2"
_META: Final = "meta.json"
_MAX_META_BYTES: Final = 64 << 20
_WEIGHTS: Final = "model.safetensors"
_OPTIMIZER: Final = "optimizer.safetensors"
_TOKENIZER: Final = "tokenizer"
_NAME: Final = re.compile(r"checkpoint-(\d{8,})")

_log = logging.getLogger(__name__)

OptimizerState = Mapping[str, Mapping[str, Tensor]]
"""The tensors of AdamW (``step``, ``exp_avg``, ``exp_avg_sq``) of each trained parameter by name."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder whose files are all there; ``meta`` matches ``schemas/checkpoint.json``."""

    folder: Path
    meta: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps that were done when it was written."""
        return int(self.meta["step"])

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies, for `otter_train.data.tokenizer.load_tokenizer`."""
        return self.folder / _TOKENIZER


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint after ``step`` steps."""
    return f"checkpoint-{step:08d}"


def save_checkpoint(
    run: Path,
    *,
    meta: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    optimizer_state: OptimizerState,
    tokenizer: PreTrainedTokenizerBase,
    keep: int = 3,
) -> Path:
    """Write ``run/checkpoint-{step}`` and remove all but the last ``keep``; returns the path of the new one.

    ``meta`` holds everything of ``schemas/checkpoint.json`` but ``format`` and ``files``. Interrupted at any
    point it leaves the earlier checkpoints as they were; `OSError` if the disk is full.
    """
    run.mkdir(parents=True, exist_ok=True)
    final = run / checkpoint_name(meta["step"])
    temporary = run / f".{final.name}.tmp"
    remove_folder(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write(temporary, meta, weights, optimizer_state, tokenizer)
        _replace_folder(final, temporary)
    finally:
        remove_folder(temporary, ignore_errors=True)
    for _, old in _folders(run)[:-keep]:
        if old.is_symlink():
            _log.warning("%s: is a link, so it is left where an older checkpoint would be removed", old)
        else:
            remove_folder(old)
    return final


def latest_checkpoint(run: Path) -> Checkpoint | None:
    """The last undamaged checkpoint of a run folder, or None if there has never been one.

    A damaged one is skipped with a warning that names it; `TrainError` if all of them are damaged.
    """
    folders = _folders(run)
    for step, folder in reversed(folders):
        try:
            return _verified(folder, step)
        except TrainError as error:
            _log.warning("%s; falling back to the checkpoint before it", error)
    if folders:
        raise TrainError(f"{run}: all {len(folders)} checkpoints are damaged; train into a new --out folder")
    return None


def is_checkpointed(path: Path) -> bool:
    """Whether ``path`` is a checkpoint folder, or a run folder that holds one, damaged or not."""
    return path.is_dir() and ((path / _META).is_file() or any(path.glob(f"checkpoint-*/{_META}")))


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint ``path``, or the last one of the run folder ``path``; `TrainError` if there is none."""
    if _NAME.fullmatch(path.name) or (path / _META).is_file():
        return _verified(path, None)
    checkpoint = latest_checkpoint(path)
    if checkpoint is None:
        raise TrainError(
            f"{path}: no checkpoint in it; give the --out folder of a training run, or a checkpoint-* in it"
        )
    return checkpoint


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process may have left in ``run`` of a checkpoint it was writing."""
    for path in run.glob(".checkpoint-*"):
        remove_folder(path, ignore_errors=True)


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The trained parameters by name, on the CPU."""
    return _load_tensors(checkpoint.folder / _WEIGHTS)


def load_optimizer_state(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """AdamW's state, on the CPU."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _load_tensors(checkpoint.folder / _OPTIMIZER).items():
        name, _, part = key.rpartition(".")
        state.setdefault(name, {})[part] = tensor
    return state


class BackgroundSaver:
    """Runs jobs that write files, in the order in which they are given; a context manager that waits at its end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None
        self._what = ""

    def start(self, what: str, job: Callable[[], None]) -> None:
        """Run ``job``, which writes ``what``, in the background, once the job before it has ended."""
        if (error := self._ended()) is not None:
            _log.warning("%s; training goes on, and the checkpoints before it are intact", self._complaint(error))
        self._what = what
        self._job = self._pool.submit(job)

    def finish(self) -> None:
        """Wait for the last job; `TrainError` if it could not write its files."""
        if (error := self._ended()) is not None:
            raise TrainError(
                f"{self._complaint(error)}; make room and give the same command again: it goes on from the last "
                "complete checkpoint"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)

    def _ended(self) -> OSError | None:
        job, self._job = self._job, None
        try:
            if job is not None:
                job.result()
        except OSError as error:
            return error
        return None

    def _complaint(self, error: OSError) -> str:
        return f"{self._what} could not be written ({error.strerror or error})"


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrainError(f"{path}: unreadable ({error}); use an earlier checkpoint") from None
    return tensors


def _write(
    folder: Path,
    meta: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    optimizer_state: OptimizerState,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    moments = {f"{name}.{part}": tensor for name, parts in optimizer_state.items() for part, tensor in parts.items()}
    try:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / _WEIGHTS)
        save_file({name: tensor.contiguous() for name, tensor in moments.items()}, folder / _OPTIMIZER)
    except SafetensorError as error:  # it wraps errors of the file system
        raise OSError(str(error)) from None
    tokenizer.save_pretrained(folder / _TOKENIZER)
    (folder / _META).touch()
    mode = stat.S_IMODE((folder / _META).stat().st_mode)
    files = {}
    for path in _files(folder):
        if path == folder / _META:
            continue
        path.chmod(mode)  # safetensors makes files that nobody else may read, whatever the umask
        _sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    complete = {"format": FORMAT, **meta, "files": files}
    validate("checkpoint", complete)
    (folder / _META).write_bytes(canonical_json(complete))
    _sync_file(folder / _META)
    sync_folder(folder / _TOKENIZER)
    sync_folder(folder)


def _replace_folder(final: Path, temporary: Path) -> None:
    replaced = final.with_name(f".{final.name}.old")
    remove_folder(replaced, ignore_errors=True)
    if final.is_symlink():
        final.unlink()
    elif final.exists():  # a damaged one that the run fell back from; a rename needs its place empty
        final.rename(replaced)
    temporary.rename(final)
    sync_folder(final.parent)
    remove_folder(replaced, ignore_errors=True)


def _folders(run: Path) -> list[tuple[int, Path]]:
    if not run.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in run.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _verified(folder: Path, step: int | None) -> Checkpoint:
    """The checkpoint in ``folder``, every file compared with its checksum."""
    try:
        meta = orjson.loads(read_regular(folder / _META, most=_MAX_META_BYTES))
        validate("checkpoint", meta)
    except (OSError, orjson.JSONDecodeError, SchemaError) as error:
        raise TrainError(f"{folder}: damaged checkpoint ({_META}: {error})") from None
    if step is not None and meta["step"] != step:
        raise TrainError(f"{folder}: damaged checkpoint ({_META} is that of step {meta['step']})")
    for name, expected in _listed_files(folder, meta):
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"] or sha256_of(path) != expected["sha256"]:
            raise TrainError(f"{folder}: damaged checkpoint ({name} is not what was written)")
    return Checkpoint(folder, meta)


def _listed_files(folder: Path, meta: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    files: Mapping[str, Mapping[str, Any]] = meta["files"]
    for name in (_WEIGHTS, _OPTIMIZER):
        if name not in files:
            raise TrainError(f"{folder}: damaged checkpoint ({_META} lists no {name})")
    for name, expected in files.items():
        if name.startswith("/") or ".." in Path(name).parts:
            raise TrainError(f"{folder}: damaged checkpoint ({_META} names {name}, outside the folder)")
        yield name, expected


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())

"""Patch tokens of pictures, kept on disk: a frozen tower gives the same picture the same tokens, epoch after epoch.

One safetensors file per picture, named by the SHA-256 of its stored bytes, in a folder named by what the tokens depend
on: the weights of the tower, its precision and the size of its pictures. Files appear whole or not at all, so any
number of processes and runs may share a folder; they are not synced, because a file that a crash cuts short is
recognised as damaged and made again. The workers that make batches read the cache, and do not decode what it holds. It
pays off for clips and for slow towers: a picture of ViT-L/14 costs 162 GFLOP to encode and 0.5 MB to read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mimicit.errors import UsageError
from mimicit.shards.files import publish, read_regular
from otter_train.data.batches import normalise
from otter_train.model.vision import VisionTower

_SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """The files of a `FeatureCache` in ``folder``, to be read in any process."""

    folder: Path

    def path(self, key: str) -> Path:
        """The file of the picture whose stored bytes have the SHA-256 ``key``."""
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def read(self, key: str) -> Tensor | None:
        """The patch tokens (v, dim) of a picture; None if they are not kept, or damaged."""
        try:
            return load(read_regular(self.path(key)))["tokens"]
        except (OSError, KeyError, SafetensorError):
            return None

    def read_all(self, keys: Sequence[str]) -> list[Tensor] | None:
        """The patch tokens of all ``keys``; None if those of any are not kept, or damaged."""
        found = []
        for key in keys:
            tokens = self.read(key)
            if tokens is None:
                return None
            found.append(tokens)
        return found


class FeatureCache:
    """The patch tokens of a frozen ``tower`` under ``folder``, at most ``limit_bytes`` with those there already.

    A full cache is read and no longer written. A damaged file is encoded and written again. `UsageError` if the
    tower is trained: its tokens change.
    """

    def __init__(self, folder: Path, tower: VisionTower, *, dtype: torch.dtype, limit_bytes: int) -> None:
        if any(parameter.requires_grad for parameter in tower.parameters()):
            raise UsageError("the vision tower is trained, so its tokens change; leave out --vision-cache")
        self._tower = tower
        self.kept = KeptTokens(folder / f"{tower_fingerprint(tower)}-{str(dtype).removeprefix('torch.')}")
        self.kept.folder.mkdir(parents=True, exist_ok=True)
        self._room = limit_bytes - sum(file.stat().st_size for file in self.kept.folder.glob(f"*/*{_SUFFIX}"))
        self.hits = 0
        self.misses = 0

    def tokens(
        self, pictures: Tensor, keys: Sequence[str], read: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        """The tokens (n, v, dim) of ``pictures`` uint8 (n, 3, H, W) whose stored bytes have the SHA-256 ``keys``.

        A picture that is not kept goes through the tower and is kept from then on, which waits for the device. Only
        these are normalised: to normalise all would cost more than a small model does. If tokens (k, v, dim) were
        ``read`` before, returns those of k + n pictures, ``order`` being the index of each in ``read`` followed by
        ``pictures``.
        """
        if read is None or order is None:
            return self._tokens(pictures, keys)
        self.hits += len(read)
        return torch.cat([read, self._tokens(pictures, keys)])[order] if keys else read  # then they are in order

    def _tokens(self, pictures: Tensor, keys: Sequence[str]) -> Tensor:
        if len(pictures) != len(keys):
            raise ValueError(f"{len(pictures)} pictures and {len(keys)} keys")
        kept = {place: found for place, key in enumerate(keys) if (found := self.kept.read(key)) is not None}
        missing = [place for place in range(len(keys)) if place not in kept]
        self.hits, self.misses = self.hits + len(kept), self.misses + len(missing)
        if missing:
            fresh = self._tower(normalise(pictures[missing], self._tower.mean, self._tower.std))
            for place, tokens in zip(missing, fresh, strict=True):
                self._write(keys[place], tokens)
                kept[place] = tokens
        return torch.stack([kept[place].to(pictures.device, non_blocking=True) for place in range(len(keys))])

    def _write(self, key: str, tokens: Tensor) -> None:
        data = save({"tokens": tokens.detach().cpu().contiguous()})
        if len(data) > self._room:
            return
        path = self.kept.path(key)
        path.parent.mkdir(exist_ok=True)
        with publish(path, path.with_name(f".{key}.{os.getpid()}.tmp"), durable=False) as file:
            file.write(data)
        self._room -= len(data)


def tower_fingerprint(tower: VisionTower) -> str:
    """A hash of the weights, the normalisation and the picture size of ``tower``."""
    result = hashlib.sha256(repr((type(tower).__name__, tower.image_size, tower.mean, tower.std)).encode())
    for name, value in sorted(tower.state_dict().items()):
        result.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        result.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()[:32]

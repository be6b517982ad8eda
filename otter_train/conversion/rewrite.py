"""From one layout of weights to another, one tensor at a time; lossless, and strict about what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from mimicit.errors import TrainError, UsageError
from otter_train.conversion.completeness import EMBEDDINGS, absent_parts, check_complete
from otter_train.conversion.model_folder import write_description
from otter_train.conversion.source import Origin, open_origin
from otter_train.conversion.token_rows import reordered, special_rows
from otter_train.conversion.weight_files import write_weights
from otter_train.model import ModelConfig
from otter_train.model.build import build_model
from otter_train.model.convert import neutral_state
from otter_train.model.layouts import DEFAULT_DECODER, Layout, arranged, decoder_of, place_in
from otter_train.model.otter import TokenIds
from otter_train.model.vision import VisionLayout

__all__ = ["FILE_SUFFIXES", "Frozen", "Report", "convert"]

Frozen = Literal["keep", "require", "drop"]
_PROJECTION: Final = "perceiver.project.weight"
FILE_SUFFIXES: Final = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a conversion did: tensors read and written, those left out by reason, and the frozen parts that lack.

    ``moved_tokens`` are the special tokens whose rows have another place now, with the old and the new id.
    """

    source: str
    layout: str
    target: str
    tensors_read: int
    tensors_written: int
    bytes_written: int
    left_out: dict[str, int]
    absent: list[str]
    moved_tokens: dict[str, tuple[int, int]]
    files: list[str]

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return asdict(self)


def convert(
    source: Path,
    target: Path,
    *,
    to: Layout,
    layout: Layout | None = None,
    frozen: Frozen = "keep",
    architecture: ModelConfig | None = None,
    tokenizer: Path | None = None,
    source_tokenizer: Path | None = None,
    file_format: Literal["safetensors", "bin"] = "safetensors",
    max_shard_bytes: int | None = None,
    vision: VisionLayout | None = None,
    moved: Mapping[str, str | None] | None = None,
) -> Report:
    """Write the weights of ``source`` in the layout ``to`` as the file or into the folder ``target``.

    ``layout`` is that of the source (None: look). ``frozen`` parts are kept as far as they are there, required (from
    the pretrained models of ``architecture`` where the source lacks them), or dropped. ``architecture`` is for sources
    that do not say theirs. With ``tokenizer`` the rows of the special tokens move to the ids that it gives them, from
    those of ``source_tokenizer`` (None: that of the source). ``vision`` is the layout of the tower in ours (None: that
    of the architecture). ``moved`` says where the pretrained models of a training run lie now.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise UsageError(f"{target}: exists already; name a new file or an empty folder")
    origin = open_origin(source, layout, with_frozen=frozen != "drop", **(moved or {}))
    origin = replace(origin, architecture=origin.architecture or architecture)
    if to != "ours" and _PROJECTION in origin.tensors:
        raise UsageError(f"{source}: trained with --perceiver-width, which only --to ours has a place for")
    read = len(origin.tensors)
    check_complete(origin.tensors, origin.layout, decoder=origin.decoder, architecture=origin.architecture)
    origin = _with_frozen(origin, frozen)
    origin, moved_tokens = _with_tokens(origin, tokenizer, source_tokenizer)
    tower = vision or ("transformers" if origin.architecture is None else origin.architecture.vision.layout)
    decoder = origin.decoder or _decoder(origin)
    placed = arranged(origin.tensors, to, vision=tower, decoder=decoder)
    unplaced = [name for name in origin.tensors if place_in(name, to, vision=tower, decoder=decoder) is None]
    left_out = origin.removed + Counter({"without a place in the layout": len(unplaced)})
    is_file = target.suffix in FILE_SUFFIXES
    (target.parent if is_file else target).mkdir(parents=True, exist_ok=True)
    name = "model.safetensors" if file_format == "safetensors" else "pytorch_model.bin"
    files = write_weights(target if is_file else target / name, placed, max_shard_bytes=max_shard_bytes)
    if not is_file:
        files += write_description(target, origin, to, vision=tower)
    return Report(
        source=str(source),
        layout=origin.layout,
        target=to,
        tensors_read=read,
        tensors_written=len(placed),
        bytes_written=sum(tensor.nbytes for tensor in placed.values()),
        left_out=dict(left_out),
        absent=absent_parts(origin.tensors),
        moved_tokens=moved_tokens,
        files=[str(path) for path in files],
    )


def _with_frozen(origin: Origin, frozen: Frozen) -> Origin:
    if frozen == "drop":
        kept = {
            name: tensor
            for name, tensor in origin.tensors.items()
            if not name.startswith(("vision.", "language.lm.")) or name in EMBEDDINGS
        }
        return replace(origin, tensors=kept)
    absent = absent_parts(origin.tensors)
    if frozen == "keep" or not absent:
        return origin
    if origin.architecture is None or _has_no_weights(origin.architecture, absent):
        raise TrainError(
            f"the source holds nothing of {', '.join(part.rstrip('.') for part in absent)}; "
            "say with --language-model and --vision-model where these weights are"
        )
    # The one step that holds whole models in memory: growing a vocabulary is the business of `build_model`.
    rows = max((origin.tensors[name].shape[0] for name in EMBEDDINGS & origin.tensors.keys()), default=1)
    model = build_model(
        origin.architecture,
        vocab_size=rows,
        token_ids=TokenIds(image=0, endofchunk=0, answer=0, pad=0),
        dtype=getattr(torch, str(origin.architecture.language.architecture.get("dtype", "float32"))),
    )
    added = {name: tensor for name, tensor in neutral_state(model).items() if name.startswith(tuple(absent))}
    return replace(origin, tensors={**added, **origin.tensors}, decoder=decoder_of(added, "ours") or origin.decoder)


def _has_no_weights(architecture: ModelConfig, absent: list[str]) -> bool:
    sources = {"vision.": architecture.vision.pretrained, "language.lm.": architecture.language.pretrained}
    return any(sources[part] is None for part in absent)


def _with_tokens(
    origin: Origin, tokenizer: Path | None, source_tokenizer: Path | None
) -> tuple[Origin, dict[str, tuple[int, int]]]:
    if tokenizer is None:
        return replace(origin, tokenizer=source_tokenizer or origin.tokenizer), {}
    known = source_tokenizer or origin.tokenizer
    if known is None:
        raise UsageError("--tokenizer says where special tokens go; say with --source-tokenizer where they are")
    before, after = special_rows(known, origin.layout), special_rows(tokenizer, "ours")
    moved = {name: (id, after[name]) for name, id in before.items() if name in after and after[name] != id}
    return replace(origin, tensors=reordered(origin.tensors, before, after), tokenizer=tokenizer), moved


def _decoder(origin: Origin) -> str:
    if found := decoder_of(origin.tensors, "ours"):
        return found
    if origin.architecture is None:
        return DEFAULT_DECODER
    model = build_model(
        origin.architecture, vocab_size=1, token_ids=TokenIds(image=0, endofchunk=0, answer=0, pad=0), device="meta"
    )
    return decoder_of(model.state_dict(), "ours") or DEFAULT_DECODER

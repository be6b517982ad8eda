"""From one layout of weights to another, one tensor at a time; lossless, and strict about what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from mimicit.errors import TrainError, UsageError
from otter_train.checkpoint.meta import places_of
from otter_train.conversion.completeness import absent_parts, check_complete, empty_model, frozen_weights
from otter_train.conversion.model_folder import write_description
from otter_train.conversion.source import Origin, open_origin
from otter_train.conversion.token_rows import adds_padding, published_rows, reordered, special_rows, without_spare_rows
from otter_train.conversion.weight_files import write_weights
from otter_train.model import ModelConfig
from otter_train.model.layouts import DEFAULT_DECODER, Layout, arranged, decoder_of, place_in
from otter_train.model.vision import VisionLayout

Frozen = Literal["keep", "require", "drop"]
_PROJECTION: Final = "perceiver.project.weight"
FILE_SUFFIXES: Final = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a conversion did: tensors read and written, counts left out by reason, and the frozen parts missing.

    ``moved_tokens`` are the special tokens whose rows moved, with the old and the new id.
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
    added_tokens: Sequence[str] = (),
    file_format: Literal["safetensors", "bin"] = "safetensors",
    max_shard_bytes: int | None = None,
    vision: VisionLayout | None = None,
    dtype: torch.dtype | None = None,
    moved: Mapping[str, str | None] | None = None,
) -> Report:
    """Write the weights of ``source`` in the layout ``to`` as the file or into the folder ``target``.

    ``layout`` is that of the source (None: detect it). ``frozen`` parts are kept as far as they exist, required (from
    the pretrained models of ``architecture`` if the source lacks them), or dropped. ``architecture`` is for sources
    that do not state theirs. With ``tokenizer`` the rows of the special tokens move to its ids, from those that the
    source notes, that ``added_tokens`` name in order, or that ``source_tokenizer`` gives (None: that of the source).
    ``vision`` is the layout of the tower in ours (None: that of the architecture). Numbers keep their dtype unless
    ``dtype`` names another. ``moved`` says where the pretrained models of a training run lie now.

    Memory: one tensor, or one file in torch's format.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise UsageError(f"{target}: exists already; name a new file or an empty folder")
    origin = open_origin(source, layout, with_frozen=frozen != "drop", **(moved or {}))
    origin = replace(origin, architecture=origin.architecture or architecture)
    if to != "ours" and _PROJECTION in origin.tensors:
        raise UsageError(f"{source}: trained with --perceiver-width, which only --to ours has a place for")
    read = len(origin.tensors)
    check_complete(origin.tensors, origin.layout, decoder=origin.decoder, architecture=origin.architecture)
    origin = _with_frozen(origin, frozen, architecture)
    origin, moved_tokens = _with_tokens(origin, tokenizer, source_tokenizer, added_tokens)
    if dtype is not None:
        origin = replace(origin, tensors={name: tensor.cast(dtype) for name, tensor in origin.tensors.items()})
    tower = vision or ("transformers" if origin.architecture is None else origin.architecture.vision.layout)
    decoder = origin.decoder or _decoder(origin)
    count = origin.rows()
    if to == "openflamingo" and origin.tokens is not None and origin.vocabulary:
        origin, count = _with_published_rows(origin)
    placed = arranged(origin.tensors, to, vision=tower, decoder=decoder)
    places = {name: place_in(name, to, vision=tower, decoder=decoder) for name in origin.tensors}
    unplaced = [name for name, place in places.items() if place is None]
    left_out = origin.removed + Counter({"without a place in the layout": len(unplaced)})
    written = without_spare_rows(placed, [place.key for name in origin.vocabulary if (place := places[name])], count)
    is_file = target.suffix in FILE_SUFFIXES
    (target.parent if is_file else target).mkdir(parents=True, exist_ok=True)
    name = "model.safetensors" if file_format == "safetensors" else "pytorch_model.bin"
    files = write_weights(
        target if is_file else target / name,
        written,
        max_shard_bytes=max_shard_bytes,
        notes=_notes(origin, tower, target.parent if is_file else target),
    )
    if not is_file:
        files += write_description(target, origin, to, vision=tower)
    return Report(
        source=str(source),
        layout=origin.layout,
        target=to,
        tensors_read=read,
        tensors_written=len(written),
        bytes_written=sum(tensor.nbytes for tensor in written.values()),
        left_out=dict(left_out),
        absent=absent_parts(origin.tensors, origin.architecture),
        moved_tokens=moved_tokens,
        files=[str(path) for path in files],
    )


def _with_frozen(origin: Origin, frozen: Frozen, named: ModelConfig | None) -> Origin:
    if frozen == "drop":
        vocabulary = origin.vocabulary
        kept = {
            name: tensor
            for name, tensor in origin.tensors.items()
            if not name.startswith(("vision.", "language.lm.")) or name in vocabulary
        }
        return replace(origin, tensors=kept)
    absent = absent_parts(origin.tensors, origin.architecture)
    if frozen == "keep" or not absent:
        return origin
    # The caller names the present places of the models, the source those of earlier.
    architecture = named
    if origin.architecture is not None and (named is None or _has_no_weights(named, absent)):
        architecture = origin.found(absent)
    if architecture is None or _has_no_weights(architecture, absent):
        raise TrainError(
            f"the source holds nothing of {', '.join(part.rstrip('.') for part in absent)}; "
            "say with --language-model and --vision-model where these weights are"
        )
    pretrained = frozen_weights(architecture, origin.rows())
    added = {name: tensor for name, tensor in pretrained.items() if name.startswith(tuple(absent))}
    return replace(origin, tensors={**added, **origin.tensors}, decoder=decoder_of(added, "ours") or origin.decoder)


def _has_no_weights(architecture: ModelConfig, absent: list[str]) -> bool:
    sources = {"vision.": architecture.vision.pretrained, "language.lm.": architecture.language.pretrained}
    return any(sources[part] is None for part in absent)


def _with_tokens(
    origin: Origin, tokenizer: Path | None, source_tokenizer: Path | None, added: Sequence[str]
) -> tuple[Origin, dict[str, tuple[int, int]]]:
    """``origin`` with its rows at the ids of ``tokenizer``, and the old and new id of each added token that moved."""
    known = source_tokenizer or origin.tokenizer
    if tokenizer is None:
        try:
            tokens: dict[str, int] | None = origin.named_rows(known, added)
        except UsageError:
            if added:
                raise
            tokens = None  # nothing moves, so they need not be known
        return replace(origin, tokenizer=known, tokens=tokens), {}
    before, after = origin.named_rows(known, added), special_rows(tokenizer)
    moved = {name: (id, after[name]) for name, id in before.items() if name in after and after[name] != id}
    tensors = reordered(origin.tensors, origin.vocabulary, before, after)
    return replace(origin, tensors=tensors, tokenizer=tokenizer, tokens=after), moved


def _with_published_rows(origin: Origin) -> tuple[Origin, int]:
    """``origin`` with the rows of the added tokens in OpenFlamingo's places, and how many rows OpenFlamingo makes."""
    assert origin.tokens is not None
    language = None if origin.architecture is None else origin.architecture.language.pretrained
    ids, count = published_rows(origin.rows(), origin.tokens, pads=language is None or adds_padding(language))
    tensors = reordered(origin.tensors, origin.vocabulary, origin.tokens, ids)
    return replace(origin, tensors=tensors, tokens=ids), count


def _notes(origin: Origin, tower: VisionLayout, folder: Path) -> dict[str, Any]:
    """What a file of weights in ``folder`` notes about itself."""
    notes: dict[str, Any] = {"template": origin.template}
    if origin.tokens is not None:
        notes["added_tokens"] = origin.tokens
    if origin.architecture is not None:
        notes["model"] = replace(
            origin.architecture, vision=replace(origin.architecture.vision, layout=tower)
        ).to_json()
        parts = {"language_model": origin.architecture.language.pretrained,
                 "vision_model": origin.architecture.vision.pretrained}  # fmt: skip
        notes["pretrained"] = places_of(parts, folder)
    return notes


def _decoder(origin: Origin) -> str:
    if found := decoder_of(origin.tensors, "ours"):
        return found
    if origin.architecture is None:
        return DEFAULT_DECODER
    return decoder_of(empty_model(origin.architecture, 1).state_dict(), "ours") or DEFAULT_DECODER

"""The embedders by the names that the command line uses: ``NAME`` or ``NAME:SOURCE``.

Only the name is checked until an embedder is needed, because the models import torch. Other packages add embedders by
entry points: a function from the source (and, for texts, a sample of them) to the `Embedder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeVar

from mimicit import plugins
from mimicit.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

Item = TypeVar("Item", contravariant=True)

TEXT_EMBEDDERS: Final = ("hashed", "open_clip", "transformers")
IMAGE_EMBEDDERS: Final = ("classical", "open_clip", "transformers")
_GROUPS: Final = {
    "text": (TEXT_EMBEDDERS, plugins.TEXT_EMBEDDERS),
    "image": (IMAGE_EMBEDDERS, plugins.IMAGE_EMBEDDERS),
}
_LIGHT: Final = frozenset({"hashed", "classical"})


class Embedder(Protocol[Item]):
    """Turns texts (``str``) or stored pictures (``bytes``) into vectors."""

    @property
    def fingerprint(self) -> str:
        """Identifies what the vectors depend on besides the input: method, weights, configuration."""

    def embed(self, batch: Sequence[Item], /) -> npt.NDArray[Any]:
        """Numbers [n, d] for a batch of n."""


class _Tower(NamedTuple):
    fingerprint: str
    embed: Any


def parse_embedder(kind: Literal["text", "image"], text: str) -> tuple[str, str]:
    """(name, source) of ``text``; `UsageError` if there is no such embedder of this ``kind``."""
    name, _, source = text.partition(":")
    option = f"--{kind}-embedder"
    own, group = _GROUPS[kind]
    if name not in own:
        others = plugins.added_names(group)
        if name not in others:
            raise UsageError(f"{option}: no embedder {name!r}; there are: {', '.join((*own, *others))}")
        return name, source
    if (name in _LIGHT) == bool(source):
        wanted = (
            f"{name}, without more"
            if name in _LIGHT
            else f"{name}:" + ("ARCHITECTURE:FILE_OR_TAG" if name == "open_clip" else "FOLDER")
        )
        raise UsageError(f"{option}: {text!r}: write {wanted}")
    return name, source


def is_light(text: str) -> bool:
    """Whether an embedder needs no weights, so that any number of processes may hold it."""
    return text in _LIGHT


def text_embedder(text: str, sample: Sequence[str]) -> Embedder[str]:
    """The embedder of texts called ``text``; ``sample`` are texts of the set, for those that weigh words."""
    name, source = parse_embedder("text", text)
    match name:
        case "hashed":
            from mimicit.embedding.light import HashedText

            return HashedText(sample)
        case "open_clip":
            from mimicit.embedding.models import OpenClip

            model = OpenClip(source)
            return _Tower(model.fingerprint, model.embed_texts)
        case "transformers":
            from mimicit.embedding.models import TransformersTexts

            return TransformersTexts(source)
    made: Embedder[str] = plugins.added(plugins.TEXT_EMBEDDERS, None, TEXT_EMBEDDERS)[name](source, sample)
    return made


def image_embedder(text: str) -> Embedder[bytes]:
    """The embedder of pictures called ``text``."""
    name, source = parse_embedder("image", text)
    match name:
        case "classical":
            from mimicit.embedding.light import ClassicalPicture

            return ClassicalPicture()
        case "open_clip":
            from mimicit.embedding.models import OpenClip

            model = OpenClip(source)
            return _Tower(model.fingerprint, model.embed_pictures)
        case "transformers":
            from mimicit.embedding.models import TransformersPictures

            return TransformersPictures(source)
    made: Embedder[bytes] = plugins.added(plugins.IMAGE_EMBEDDERS, None, IMAGE_EMBEDDERS)[name](source)
    return made

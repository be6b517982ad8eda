"""`OtterConfig`: a `ModelConfig`, its vocabulary and its special tokens, as transformers stores them.

`Portable` makes a folder or a repository load with ``trust_remote_code``: one file that imports this package. The model
itself is not copied into the folder: it would be a second implementation, which no test ever sees. The file needs the
package, and says so if that is not installed.
"""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Final

from transformers import AutoConfig, PreTrainedConfig

from mimicit.errors import TrainError
from mimicit.shards.files import write_atomically
from otter_train.model.build import architecture_of, config_of, language_config
from otter_train.model.config import LanguageConfig, ModelConfig, PerceiverConfig, VisionConfig
from otter_train.model.otter import TokenIds

_MODULE: Final = "otter_mimicit"
_AUTO_MAP: Final = {
    "AutoConfig": f"{_MODULE}.OtterConfig",
    "AutoModelForImageTextToText": f"{_MODULE}.OtterForConditionalGeneration",
    "AutoProcessor": f"{_MODULE}.OtterProcessor",
}
"""The ``auto_map`` of a ``config.json``."""

PROCESSOR_MAP: Final = {"AutoProcessor": _AUTO_MAP["AutoProcessor"]}
"""The ``auto_map`` of a ``processor_config.json``."""

# transformers looks for packages that an import outside of ``try`` needs, and would advise to install "otter_train".
_CODE: Final = '''"""Otter, for transformers' ``trust_remote_code``: the model is the one of the package mimicit."""

try:
    from otter_train.pretrained import OtterConfig, OtterForConditionalGeneration, OtterProcessor
except ImportError as error:
    raise ImportError(
        f"this model needs the package mimicit ({error}); install it: pip install 'mimicit[train]'"
    ) from None

__all__ = ["OtterConfig", "OtterForConditionalGeneration", "OtterProcessor"]
'''


class Portable:
    """A base to put before that of transformers: saved folders can be loaded with ``trust_remote_code``."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Do nothing: transformers would copy the source of this class alone into every folder that it saves."""

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with the file that the ``auto_map`` names."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{_MODULE}.py", [_CODE.encode()])
        saved: Any = super()
        return saved.save_pretrained(save_directory, *args, **kwargs)


class OtterConfig(Portable, PreTrainedConfig):  # type: ignore[misc]
    """The configuration of `OtterForConditionalGeneration`; make one with `from_model_config`.

    ``text_config`` is that of the language model, as transformers knows it. ``vision``, ``perceiver`` and
    ``cross_attention`` are the parts of a `ModelConfig`. The ids are those of the special tokens in the tokenizer.
    """

    model_type = "otter"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        vision: dict[str, Any] | None = None,
        perceiver: dict[str, Any] | None = None,
        cross_attention: dict[str, Any] | None = None,
        image_token_id: int | None = None,
        endofchunk_token_id: int | None = None,
        answer_token_id: int | None = None,
        pad_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Each may be None: transformers also makes configurations without arguments, to learn the defaults.
        self.text_config: Any = config_of(text_config) if isinstance(text_config, dict) else text_config
        self.vision: Any = vision
        self.perceiver: Any = perceiver
        self.cross_attention: Any = cross_attention
        self.image_token_id: Any = image_token_id
        self.endofchunk_token_id: Any = endofchunk_token_id
        self.answer_token_id: Any = answer_token_id
        kwargs.setdefault("auto_map", dict(_AUTO_MAP))
        kwargs.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", False))
        super().__init__(**kwargs)
        self.pad_token_id: Any = pad_token_id

    @classmethod
    def from_model_config(cls, model: ModelConfig, *, vocab_size: int, token_ids: TokenIds) -> OtterConfig:
        """The configuration of ``model`` with at least ``vocab_size`` rows of embeddings."""
        vision = asdict(model.vision) | {"pretrained": None}
        return cls(
            text_config=language_config(model.language, vocab_size),
            vision=vision,
            perceiver=asdict(model.perceiver),
            cross_attention={
                "every": model.cross_attention_every,
                "heads": model.cross_attention_heads,
                "dim_head": model.cross_attention_dim_head,
                "gate": model.cross_attention_gate,
            },
            image_token_id=token_ids.image,
            endofchunk_token_id=token_ids.endofchunk,
            answer_token_id=token_ids.answer,
            pad_token_id=token_ids.pad,
        )

    @property
    def token_ids(self) -> TokenIds:
        """The ids of the special tokens."""
        self._must_be_complete()
        return TokenIds(
            image=self.image_token_id,
            endofchunk=self.endofchunk_token_id,
            answer=self.answer_token_id,
            pad=self.pad_token_id,
        )

    def to_model_config(self) -> ModelConfig:
        """Inverse of `from_model_config`; `TrainError` for the configuration of the published Otter."""
        self._must_be_complete()
        return ModelConfig(
            language=LanguageConfig(architecture=architecture_of(self.text_config)),
            vision=VisionConfig(**self.vision),
            perceiver=PerceiverConfig(**self.perceiver),
            **{f"cross_attention_{name}": value for name, value in self.cross_attention.items()},
        )

    def _must_be_complete(self) -> None:
        needed = ("text_config", "vision", "perceiver", "cross_attention", "image_token_id", "endofchunk_token_id")
        missing = [name for name in (*needed, "answer_token_id", "pad_token_id") if getattr(self, name) is None]
        if missing:
            raise TrainError(
                f"the configuration lacks {', '.join(missing)}; if these are the published weights of Otter, rewrite "
                "them first: python -m otter_train.convert SRC DST --to ours"
            )

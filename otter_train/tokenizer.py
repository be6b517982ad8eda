"""The tokenizer of a run: trained on the shards for ``tiny``, read from the language model's folder otherwise.

Published checkpoints add the special tokens in different orders, so every id is resolved by name (`special_ids`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError
from mimicit.prompt import ANSWER, ENDOFCHUNK, IMAGE, SPECIAL_TOKENS

__all__ = ["PAD", "SpecialIds", "added_ids", "load_tokenizer", "special_ids", "train_tokenizer"]

PAD: Final = "<PAD>"
_BOS: Final = "<s>"
_EOS: Final = "</s>"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """The ids of the tokens that steer the model; ``bos`` is None where the language model has none."""

    bos: int | None
    eos: int
    endofchunk: int
    image: int
    answer: int
    pad: int

    def by_name(self) -> dict[str, int | None]:
        """The ids as checkpoints store them."""
        return {
            "bos": self.bos,
            "eos": self.eos,
            ENDOFCHUNK: self.endofchunk,
            IMAGE: self.image,
            ANSWER: self.answer,
            PAD: self.pad,
        }


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 2000) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``vocab_size`` tokens; the same texts in the same order give the same ids.

    Any text can be encoded, since all 256 bytes are in the vocabulary. ``texts`` are read once, as a stream.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the loader's fork
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_BOS, _EOS, *SPECIAL_TOKENS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=PAD,
        extra_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer stored in ``folder``, with the special tokens appended where it lacks them.

    Reads local files only and runs no code of the folder. `TrainError` where there is no tokenizer.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainError(f"{folder}: no tokenizer can be read ({reason})") from None
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):  # padding is never learnt, the end of text is
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """The ids of the special tokens, looked up by name; `TrainError` names the one that is missing."""
    vocabulary = tokenizer.get_vocab()
    for token in SPECIAL_TOKENS:
        if token not in vocabulary:
            raise TrainError(f"the tokenizer has no {token}; the checkpoint was written by another program")
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise TrainError("the tokenizer has no end-of-text or no padding token; name them in its tokenizer_config.json")
    return SpecialIds(
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        endofchunk=vocabulary[ENDOFCHUNK],
        image=vocabulary[IMAGE],
        answer=vocabulary[ANSWER],
        pad=tokenizer.pad_token_id,
    )


def added_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids of the tokens that Otter adds to a language model, sorted; `PAD` only where the model had none."""
    vocabulary = tokenizer.get_vocab()
    names = (*SPECIAL_TOKENS, PAD) if tokenizer.pad_token == PAD else SPECIAL_TOKENS
    return tuple(sorted(vocabulary[name] for name in names))

"""The tokenizer of a run: trained on the shards for ``tiny``, read from the language model's folder otherwise.

Published checkpoints add the special tokens in different orders, so every id is resolved by name (`special_ids`).
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import orjson
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError
from mimicit.prompt import ANSWER, ENDOFCHUNK, IMAGE, SPECIAL_TOKENS, Piece
from otter_train.model.sources import read_pretrained

PAD: Final = "<PAD>"
_BOS: Final = "<s>"
_EOS: Final = "</s>"
# The trainer's time grows with the square of a word's length, so it is given longer words in pieces.
_UNBROKEN: Final = re.compile(r"\S{1000}|\s{1000}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """The ids of the tokens that steer the model; ``bos`` is None if the language model has none."""

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
    tokenizer.train_from_iterator((part for text in texts for part in _broken(text)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=PAD,
        extra_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder ``source``, with the special tokens that it lacks appended.

    If there is no such folder, ``source`` is a name on the Hub. Runs no code that comes with it. Errors are those of
    `read_pretrained`: a path that does not exist is never taken for a name.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer: PreTrainedTokenizerBase = read_pretrained(AutoTokenizer, source, "tokenizer", trust_remote_code=False)
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_added_vocab()]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):  # padding never carries a label, the end of text does
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
    """The ids of the tokens that Otter adds to a language model, sorted; `PAD` only if the model had none."""
    vocabulary = tokenizer.get_vocab()
    names = (*SPECIAL_TOKENS, PAD) if tokenizer.pad_token == PAD else SPECIAL_TOKENS
    return tuple(sorted(vocabulary[name] for name in names))


class PromptTokenizer:
    """Encodes prompts so that special tokens come from the template alone, never out of a person's words.

    A tokenizer finds its special tokens in any text. So a prompt whose words contain the name of a special token is
    encoded by a copy of the tokenizer whose special tokens have names that nobody can guess; all other prompts are
    encoded by the tokenizer itself. The first such prompt makes the copy, which costs reading a ``tokenizer.json``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        names = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
        vocabulary = tokenizer.get_vocab()
        self._ids: dict[str, int] = {name: vocabulary[name] for name in sorted(names | set(SPECIAL_TOKENS))}
        self._names = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))))
        # The unknown token does not steer the model: any words may become it.
        self._steering = set(self._ids.values()) - {tokenizer.unk_token_id}
        self._steering |= {id for id in (tokenizer.bos_token_id, tokenizer.eos_token_id) if id is not None}

    def encode(self, pieces: Iterable[Piece]) -> list[int] | None:
        """The ids of a prompt, without bos and eos; None if the tokenizer finds special tokens in its words."""
        prompt = list(pieces)
        template = "".join(piece.text for piece in prompt if not piece.is_words)
        expected = [id for id in map(self._ids.__getitem__, self._names.findall(template)) if id in self._steering]
        if not any(piece.is_words and self._names.search(piece.text) for piece in prompt):
            whole = "".join(piece.text for piece in prompt)
            ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False)
            if self._special_in(ids) == expected:
                return ids
        ids = self._encode_apart(prompt)
        return ids if self._special_in(ids) == expected else None

    def _special_in(self, ids: Sequence[int]) -> list[int]:
        return [id for id in ids if id in self._steering]

    def _encode_apart(self, prompt: Sequence[Piece]) -> list[int]:
        if self._tokenizer.is_fast:
            secret, backend = self._backend
            whole = (
                piece.text if piece.is_words else self._names.sub(lambda name: secret[name[0]], piece.text)
                for piece in prompt
            )
            ids: list[int] = backend.encode("".join(whole), add_special_tokens=False).ids
            return ids
        ids = []
        for part in self._parts(prompt):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._tokenizer.convert_tokens_to_ids(self._tokenizer.tokenize(part, split_special_tokens=True))
        return ids

    def _parts(self, prompt: Sequence[Piece]) -> Iterator[str | int]:
        """The ids of special tokens, and the text between them."""
        text = ""
        for piece in prompt:
            start = 0
            for name in () if piece.is_words else self._names.finditer(piece.text):
                text += piece.text[start : name.start()]
                if text:
                    yield text
                yield self._ids[name[0]]
                text, start = "", name.end()
            text += piece.text[start:]
        if text:
            yield text

    @cached_property
    def _backend(self) -> tuple[dict[str, str], Tokenizer]:
        """The secret name of each special token, and the tokenizer that knows them by these."""
        nonce = secrets.token_hex(16)
        secret = {name: f"<{nonce}-{id}>" for name, id in self._ids.items()}
        rules: dict[str, Any] = orjson.loads(self._tokenizer.backend_tokenizer.to_str())
        rules |= {"truncation": None, "padding": None, "post_processor": None}
        for token in rules["added_tokens"]:
            token["content"] = secret.get(token["content"], token["content"])
        model = rules["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {secret.get(token, token): id for token, id in model["vocab"].items()}
        else:  # of Unigram, which takes any token of its vocabulary that it finds
            model["vocab"] = [[secret.get(token, token), score] for token, score in model["vocab"]]
        if "merges" in model:  # of BPE; some would put the name of a special token together
            model["merges"] = [pair for pair in model["merges"] if not secret.keys() & {*pair, "".join(pair)}]
        if model.get("unk_token") in secret:
            model["unk_token"] = secret[model["unk_token"]]
        return secret, Tokenizer.from_str(orjson.dumps(rules).decode())


def _broken(text: str) -> Iterator[str]:
    """``text`` in parts, cut only inside of words or gaps that are too long (`_UNBROKEN`)."""
    start = 0
    for run in _UNBROKEN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]

"""Small tokenizers of the kinds that language models bring, as folders of transformers."""

from __future__ import annotations

import io
import string
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPTSw3Tokenizer, PreTrainedTokenizerFast

KINDS = ("byte-level", "llama", "metaspace", "unigram", "word-level", "lower-case", "sentencepiece")

_TEXTS = ["User: Which colour is it? GPT: red, green or blue.", "Use <s>text</s> to strike it out", "[INST] a [/INST]"]
_ALPHABET = sorted({*" ".join(_TEXTS), *string.printable} - {" "})


def write_tokenizer(folder: Path, kind: str) -> Path:
    """A tokenizer of ``kind``, one of `KINDS`, with the tokens of ChatML; ``folder`` itself."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind == "sentencepiece":
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(_TEXTS * 4),
            model_writer=model,
            vocab_size=400,
            hard_vocab_limit=False,
            byte_fallback=True,
            model_type="bpe",
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spiece.model").write_bytes(model.getvalue())
        slow = GPTSw3Tokenizer(str(folder / "spiece.model"), **special)
        slow.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        slow.save_pretrained(folder)
        return folder
    backend = _backend(kind)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    fast.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.save_pretrained(folder)
    return folder


def _backend(kind: str) -> Tokenizer:
    first = ["<unk>", "<s>", "</s>"]
    if kind == "word-level":
        words = sorted({word for text in _TEXTS for word in text.split()})
        backend = Tokenizer(models.WordLevel({word: id for id, word in enumerate([*first, *words])}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
        return backend
    if kind == "unigram":  # its own special tokens are the likeliest pieces of all
        pieces = [*((token, 0.0) for token in first), *((f"▁{letter}", -5.0) for letter in _ALPHABET)]
        pieces += [(letter, -6.0) for letter in [*_ALPHABET, "▁"]]
        backend = Tokenizer(models.Unigram(pieces, unk_id=0))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
        backend.decoder = decoders.Metaspace()  # type: ignore[assignment]
        return backend
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if kind == "llama":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
        backend.decoder = decoders.Metaspace()  # type: ignore[assignment]
    elif kind == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)  # type: ignore[assignment]
        backend.decoder = decoders.Metaspace()  # type: ignore[assignment]
    else:
        backend.normalizer = normalizers.Lowercase() if kind == "lower-case" else None  # type: ignore[assignment]
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind in ("byte-level", "lower-case") else [*_ALPHABET, "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=first, initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(_TEXTS, trainer)
    return backend

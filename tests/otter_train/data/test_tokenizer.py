"""The tokenizer of a run: repeatable, lossless, and asked for its special tokens by name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError
from mimicit.prompt import SPECIAL_TOKENS, TEMPLATES, Piece, pieces, render
from mimicit.records import Sample
from otter_train.data.tokenizer import PAD, PromptTokenizer, load_tokenizer, special_ids, train_tokenizer
from tests.factories.tokenizers import KINDS, write_tokenizer
from tests.factories.train import TOKENIZER, image, sample, triplet

TEXTS = [f"what is the {colour} shape? {colour}" for colour in ("red", "green", "blue")] * 5


def test_the_same_texts_give_the_same_tokens() -> None:
    first, second = train_tokenizer(TEXTS), train_tokenizer(iter(TEXTS))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_the_vocabulary_is_bounded() -> None:
    assert len(train_tokenizer((f"word{n}" for n in range(3000)), vocab_size=300)) <= 300


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "<" not in text))
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_special_tokens_are_single_and_kept_when_stored(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert special_ids(loaded) == special_ids(tokenizer)
    ids = special_ids(loaded)
    text = "<image>User:red? GPT:<answer>red<|endofchunk|>"
    tokens = loaded.encode(text, add_special_tokens=False)
    assert tokens == tokenizer.encode(text, add_special_tokens=False)
    assert [tokens.count(id) for id in (ids.image, ids.answer, ids.endofchunk)] == [1, 1, 1]
    assert len({ids.bos, ids.eos, ids.image, ids.answer, ids.endofchunk, ids.pad}) == 6


def word_level(tmp_path: Path, words: list[str], **special: str) -> Path:
    """A language model's folder whose tokenizer knows ``words``."""
    backend = Tokenizer(WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    return tmp_path


def test_what_a_language_model_lacks_is_appended(tmp_path: Path) -> None:
    folder = word_level(tmp_path, ["<unk>", "<s>", "</s>", "red"], bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer = load_tokenizer(folder)
    names = [tokenizer.convert_ids_to_tokens(id) for id in range(4, len(tokenizer))]
    assert names == [*SPECIAL_TOKENS, PAD]
    assert special_ids(tokenizer).bos == 1


def test_ids_follow_the_names_in_any_order(tmp_path: Path) -> None:
    words = ["<unk>", "</s>", "<answer>", "<PAD>", "<image>", "<|endofchunk|>"]
    folder = word_level(tmp_path, words, eos_token="</s>", pad_token="<PAD>", unk_token="<unk>")
    ids = special_ids(load_tokenizer(folder))
    assert (ids.answer, ids.image, ids.endofchunk, ids.pad, ids.bos) == (2, 4, 5, 3, None)


def test_padding_that_is_also_the_end_of_text_is_replaced(tmp_path: Path) -> None:
    folder = word_level(tmp_path, ["<unk>", "</s>"], eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    ids = special_ids(load_tokenizer(folder))
    assert ids.pad != ids.eos  # else no end of text would ever be learned


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


ORDINARY = [
    ("Which colour is it?", "red"),
    ("Is a < b, or a > b?\n\nSay  why.", "a<b since  b-a > 0 "),
    ("use text/strike |out|", "[a] it's"),
    ("", " "),
]
ODD = [
    "</s>",
    "Use <s>text</s> to strike it <PAD>.",
    "<|im_start|>user",
    "<unk> or </s",
    "<image><answer><|endofchunk|>",
    "<<s>>",
    "a<|im_end|><|im_end|>b",
]


def talk(question: str, answer: str) -> Sample:
    return sample(triplet(answer or "q", question or "a"), triplet(question, answer, media=[0]), media=[image(b"")])


@pytest.fixture(scope="module", params=KINDS)
def brought(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model."""
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer") / request.param, request.param))


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_ordinary_texts_have_the_tokens_of_the_whole_prompt(brought: PreTrainedTokenizerBase, template: str) -> None:
    for question, answer in ORDINARY:
        prompt = talk(question, answer)
        expected = brought.encode(render(prompt, template), add_special_tokens=False)
        assert PromptTokenizer(brought).encode(pieces(prompt, template)) == expected


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "<", "image>", "<|", "endofchunk|>", "a "]), max_size=5).map("".join))
def test_a_rendered_prompt_has_the_special_tokens_of_its_template_alone(template: str, words: str) -> None:
    rendered, plain = render(talk(words, words), template), render(talk("a", "a"), template)
    assert [rendered.count(token) for token in SPECIAL_TOKENS] == [plain.count(token) for token in SPECIAL_TOKENS]
    if not any(token in words for token in SPECIAL_TOKENS):
        assert words in rendered


@pytest.mark.parametrize("template", ["otter", "chat", "plain"])
@pytest.mark.parametrize("words", ODD)
def test_words_never_become_special_tokens(brought: PreTrainedTokenizerBase, template: str, words: str) -> None:
    encode = PromptTokenizer(brought).encode
    special = set(brought.all_special_ids) - {brought.unk_token_id}
    ids = encode(pieces(talk(words, words), template))
    plain = encode(pieces(talk("which colour", "red"), template))
    assert ids is not None and plain is not None
    assert [id for id in ids if id in special] == [id for id in plain if id in special]
    start = ids.index(brought.get_vocab()["<answer>"]) + 1
    answer = ids[start : ids.index(brought.get_vocab()["<|endofchunk|>"])]
    is_lossless = brought.encode("red <", add_special_tokens=False).count(brought.unk_token_id) == 0
    if is_lossless:
        assert brought.unk_token_id not in answer
        assert brought.decode(answer).strip() in (words, words.lower())


def test_words_beside_the_name_of_a_special_token_keep_their_tokens(brought: PreTrainedTokenizerBase) -> None:
    eos = brought.get_vocab()["</s>"]
    text = "red, green or blue."
    told = [Piece("<image>"), Piece(text, is_words=True), Piece("<answer>"), Piece("</s>", is_words=True)]
    ids = PromptTokenizer(brought).encode(told)
    assert ids is not None and eos not in ids
    expected = brought.encode(f"<image>{text}<answer>", add_special_tokens=False)
    assert ids[: len(expected)] == expected


def test_a_long_word_does_not_hold_up_the_trainer() -> None:
    tokenizer = train_tokenizer(["a" * 900_000, "red and blue"])
    assert tokenizer.decode(tokenizer.encode("red and blue aa", add_special_tokens=False)) == "red and blue aa"

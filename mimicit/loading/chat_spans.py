"""Find the tokens of each answer in a processor's output, whatever the template and the processor do around it.

Answers are marked before the template is rendered, by characters that no text holds (Unicode sets noncharacters aside
for such use). The processor puts its image tokens between the marked words. When it calls its tokenizer, the marks are
taken out again. Their places give the answers as ranges of characters of the text that is tokenized, which the offsets
of a fast tokenizer turn into tokens. So the ids are those of the text without marks, and nothing needs to be known
about the template or about how many tokens a picture has. The cost is one more rendering of the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from mimicit.errors import UsageError

_NONCHARACTERS: Final = "".join(map(chr, range(0xFDD0, 0xFDF0)))
_SHOWN: Final = re.compile("image|video|audio|vision|boi|eoi|boa|eoa")
"""Parts of the names of tokens that stand for media or around them."""


class Span(NamedTuple):
    """An answer in a text, in characters: its words from ``start`` to ``words_end``, and its end of turn to ``end``."""

    start: int
    words_end: int
    end: int


class Marks(NamedTuple):
    """The characters before an answer, after its words, and after its end of turn."""

    start: str
    words_end: str
    end: str

    def around(self, words: str) -> str:
        """``words`` marked as an answer; spaces around them stay outside, where a template may strip them."""
        core = words.strip()
        left = len(words) - len(words.lstrip())
        return f"{words[:left]}{self.start}{core}{self.words_end}{words[left + len(core) :]}"

    def without(self, text: str) -> str:
        """``text`` without marks."""
        return text.translate({ord(mark): None for mark in self})

    def answers(self, text: str) -> list[str]:
        """The words between the marks of ``text``."""
        return re.findall(f"{self.start}([^{self.words_end}]*){self.words_end}", text)

    def close(self, text: str, ends: re.Pattern[str], last: str | None) -> str:
        """``text`` with the end of turn of each answer marked.

        It is what the template writes after the last answer, up to and including the first token that ``ends`` matches;
        after another answer it is marked if it stands there too. If nothing matches, ``last`` is added to the text.
        """
        first, *others = text.split(self.words_end)
        found = ends.search(others[-1])
        end = others[-1][: found.end()].lstrip() if found else ""  # the spaces are those of the answer
        closed = first
        for part in others:
            spaces = len(part) - len(part.lstrip())
            own = part[: spaces + len(end)] if end and part.startswith(end, spaces) else ""
            closed += self.words_end + own + self.end + part[len(own) :]
        if found or not last:
            return closed
        head, _, tail = closed.rpartition(self.end)
        return head + tail + last + self.end

    def taken_out(self, text: str) -> tuple[str, list[Span]]:
        """``text`` without marks, and the answers in it."""
        places: dict[str, list[int]] = {mark: [] for mark in self}
        length = 0
        clean = []
        for part in re.split(f"([{''.join(self)}])", text):
            if part in places:
                places[part].append(length)
            else:
                clean.append(part)
                length += len(part)
        return "".join(clean), [Span(*span) for span in zip(*places.values(), strict=True)]


def choose_marks(texts: Iterable[str]) -> Marks:
    """Three characters that none of ``texts`` holds."""
    held = {letter for text in texts for letter in _NONCHARACTERS if letter in text}
    free = [letter for letter in _NONCHARACTERS if letter not in held]
    if len(free) < 3:
        raise UsageError(
            f"the texts hold {len(held)} of the 32 noncharacters U+FDD0 to U+FDEF; leave these out of them"
        )
    return Marks(*free[:3])


class Words:
    """The names of a processor's control tokens, and texts in which these names are plain words."""

    def __init__(self, processor: Any, template: str) -> None:
        tokenizer = processor.tokenizer
        named = {name: value for name, value in vars(processor).items() if isinstance(value, str)}
        named |= {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        added = tokenizer.added_tokens_decoder
        known = {token.content for token in added.values()}
        placeholders = {str(token) for kind in _KINDS if (token := getattr(processor, f"{kind}_token", None))}
        shown = placeholders | {value for name, value in named.items() if _SHOWN.search(name) and value in known}
        controls = shown | {token.content for token in added.values() if token.special}
        controls |= {value for value in named.values() if value in known}
        self._controls = _any_of(token for token in controls if len(token) > 1)
        begin = {tokenizer.bos_token, tokenizer.pad_token} - {tokenizer.eos_token}
        written = {token for token in known if token in template}
        self.ends = _any_of((controls | written) - shown - begin)
        ids = {id for id, token in added.items() if token.content in shown}
        for kind in _KINDS:
            ids |= set(getattr(processor, f"{kind}_token_ids", None) or ())
        self.shown_ids: frozenset[int] = frozenset(id for id in ids if id is not None)

    def clean(self, text: str) -> str:
        """``text`` in which the name of a control token gets a space, ``< image>``."""
        return self._controls.sub(lambda name: f"{name[0][0]} {name[0][1:]}", text)


_KINDS: Final = ("image", "video", "audio")


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(
        (token for token in tokens if token and not token.isspace()), key=lambda one: (-len(one), one)
    )
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


class MarkedTokenizer:
    """A fast ``tokenizer`` that takes marks out of its text; ``ids``, ``offsets`` and ``spans`` are of the last call.

    All other attributes are those of the tokenizer, so it can replace the tokenizer in a processor.
    """

    def __init__(self, tokenizer: Any, marks: Marks) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self.ids: list[list[int]] = []
        self.offsets: list[list[tuple[int, int]]] = []
        self.spans: list[list[Span]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str | Sequence[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        """What the tokenizer makes of the text without marks."""
        texts = [text] if isinstance(text, str) else list(text or ())
        if not any(mark in one for one in texts for mark in self._marks):
            return self._tokenizer(text, *args, **kwargs)
        taken = [self._marks.taken_out(one) for one in texts]
        cleaned = [clean for clean, _ in taken]
        encoding = self._tokenizer(cleaned, *args, **{**kwargs, "return_offsets_mapping": True})
        self.spans = [spans for _, spans in taken]
        self.offsets = _lists(encoding.pop("offset_mapping"))
        self.ids = _lists(encoding["input_ids"])
        places = [[place for place, letter in enumerate(one) if letter in self._marks] for one in texts]
        to_token = encoding.char_to_token

        def char_to_token(row: int, char: int, *rest: Any) -> int | None:
            """For processors that ask for the token at a character of the text that they made, with marks."""
            found: int | None = to_token(row, char - sum(place < char for place in places[row]), *rest)
            return found

        encoding.char_to_token = char_to_token
        return encoding


def _lists(values: Any) -> list[Any]:
    found: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return [row.tolist() if hasattr(row, "tolist") else list(row) for row in found]

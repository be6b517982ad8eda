"""Samples as training inputs of any vision-language model of `transformers`.

`ChatCollator` needs the processor of a model, and torch because its tensors are torch's. Importing this module needs
neither.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from mimicit.errors import UsageError
from mimicit.loading.chat_spans import MarkedTokenizer, Marks, Span, Words, choose_marks
from mimicit.loading.conversation import Message, messages, text_message
from mimicit.loading.order import Slots
from mimicit.prompt import drop_context
from mimicit.records import Media, Sample

__all__ = ["ChatCollator", "Message", "messages"]

_IGNORED: Final = -100  # the label that losses of torch and transformers ignore
_NOT_CAUSAL: Final = ("PaliGemmaProcessor",)
_BEHIND: Final = 16  # tokens between the end of a turn and the next one; templates have one or two
_TRIES: Final = 3
_EQUAL_CLIPS: Final = '; some processors take only clips of equally many frames in one batch: give clips="pictures"'
_TICKS: Final = 1000  # per second: clips are described by frame numbers at one rate, and ours are not evenly spaced


@dataclass(frozen=True)
class _Row:
    """One sample in preparation: its rendered text, with the answers marked, and the media that it shows."""

    sample: Sample
    text: str
    answers: tuple[str, ...]
    images: list[Any]
    videos: list[list[Any]]
    metadata: list[Mapping[str, Any]]


class ChatCollator:
    """Samples to the inputs of a vision-language model, with ``labels`` on the answers and their ends of turn alone.

    ``processor`` is the model's own (`AutoProcessor`), with a fast tokenizer and a chat template. The collator takes a
    list of samples, the `Slots` of a `Loader`, or rows with a ``sample`` (a data set of `datasets`), and gives what
    the processor makes of the batch (``input_ids``, ``attention_mask``, ``pixel_values``, …), and ``labels``, int64
    like ``input_ids``: the id where the model is to say it, -100 elsewhere. Slots without a value are left out, and
    samples without media come last.

    ``answers`` says which are labelled: ``"all"``, or that of the ``"query"``. A prompt of more than ``max_length``
    tokens loses whole context triplets, the farthest first, with the pictures that only they show; if the query
    alone is longer, ``too_long`` says whether that is an error or the sample is ``"drop"``-ped from the batch.
    ``context``, ``system`` and ``clips`` are those of `messages`; with ``clips="auto"`` a clip is a video if
    processor and template take one, else pictures. ``chat_template`` and ``template_kwargs`` replace and feed the
    template, ``processor_kwargs`` go to the processor (``{"images_kwargs": …}``).

    Names of the processor's control tokens in the words of samples get a space (``< image>``), so they are words.
    If the template writes no end of turn after the last answer, the tokenizer's ``eos_token`` is added.

    Each batch is checked: the labels decode to the answers, and none is an image token. `UsageError` names the sample
    if that fails, if the template changes an answer, or if the processor refuses the batch.
    """

    def __init__(
        self,
        processor: Any,
        *,
        answers: Literal["all", "query"] = "all",
        max_length: int | None = None,
        too_long: Literal["error", "drop"] = "error",
        context: Literal["turns", "one-turn"] = "turns",
        system: str | None = None,
        clips: Literal["auto", "video", "pictures"] = "auto",
        padding_side: Literal["left", "right"] = "right",
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        _check_choices(
            answers=(answers, "all", "query"),
            too_long=(too_long, "error", "drop"),
            context=(context, "turns", "one-turn"),
            clips=(clips, "auto", "video", "pictures"),
            padding_side=(padding_side, "left", "right"),
        )
        name = type(processor).__name__
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise UsageError(f"{name} has no tokenizer; give the model's processor (AutoProcessor.from_pretrained)")
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(f"{type(tokenizer).__name__} tells no offsets; load the processor with a fast tokenizer")
        if name in _NOT_CAUSAL:
            raise UsageError(f"{name}: its model sees the whole prompt, answers too, so it cannot be trained on them")
        self.processor = processor
        self.answers = answers
        self.max_length = max_length
        self.too_long = too_long
        self.context = context
        self.system = system
        self.padding_side = padding_side
        self.template_kwargs = dict(template_kwargs or {})
        self.processor_kwargs = dict(processor_kwargs or {})
        self.chat_template = _template(processor, chat_template)
        self.clips = self._clips_of(clips)

    def __call__(self, samples: Slots[Sample] | Sequence[Any]) -> Any:
        """The batch of ``samples``; `UsageError` if none of them is left."""
        given = samples.values if isinstance(samples, Slots) else samples
        here = [one["sample"] if isinstance(one, Mapping) else one for one in given]
        present = [one for one in here if one is not None]
        marks = _marks(present)
        # Some processors look at the first row to learn about the pictures of all.
        rows = [self._row(one, marks) for one in sorted(present, key=lambda sample: not sample.media)]
        if self.max_length is not None and rows:
            rows = self._shortened(rows, marks, self.max_length)
        if not rows:
            raise UsageError("no sample of the batch is left: all are damaged or too long")
        return self._encoded(rows, marks).batch

    def length(self, sample: Sample) -> int:
        """Tokens of ``sample`` with all of its context, those of its pictures included."""
        marks = _marks([sample])
        return self._encoded([self._row(sample, marks)], marks).lengths[0]

    def fits(self, sample: Sample) -> bool:
        """Whether ``sample`` fits: its query alone has at most ``max_length`` tokens."""
        return self.max_length is None or self.length(drop_context(sample, len(sample.context))) <= self.max_length

    def _shortened(self, rows: list[_Row], marks: Marks, most: int) -> list[_Row]:
        """``rows`` with so little context that none has more than ``most`` tokens; ``too_long`` decides on the rest."""
        encoded = self._encoded(rows, marks)
        kept = []
        for place, row in enumerate(rows):
            length, ends = encoded.lengths[place], encoded.ends[place]
            while length > most and row.sample.context:
                # A lower bound: ``ends`` counts from the first token, and so what a template writes before all turns.
                enough = (count for count, end in enumerate(ends[:-1], 1) if length - end - _BEHIND <= most)
                context = len(row.sample.context)
                count = min(next(enough, context), context) if self.context == "turns" else 1
                row = self._row(drop_context(row.sample, count), marks)
                again = self._encoded([row], marks)
                length, ends = again.lengths[0], again.ends[0]
            if length <= most:
                kept.append(row)
            elif self.too_long == "error":
                raise UsageError(
                    f"sample {row.sample.key}: the query alone is {length} tokens long, more than max_length={most}; "
                    'raise it, make pictures smaller with processor_kwargs=, or give too_long="drop"'
                )
        return kept

    def _row(self, sample: Sample, marks: Marks) -> _Row:
        conversation = messages(sample, context=self.context, clips=self.clips, system=self.system)
        plain, marked, answers = [], [], []
        for message in conversation:
            is_answer = message["role"] == "assistant"
            parts = [
                {**part, "text": self._words.clean(part["text"])} if part["type"] == "text" else part
                for part in message["content"]
            ]
            plain.append({**message, "content": parts})
            if is_answer:
                answers.append(parts[0]["text"].strip())
                parts = [{**parts[0], "text": marks.around(parts[0]["text"])}]
            marked.append({**message, "content": parts})
        text = self._rendered(sample, plain, marked, marks)
        if marks.answers(text) != answers:
            raise UsageError(f"sample {sample.key}: the chat template leaves out or changes an answer")
        shown = [part for message in conversation for part in message["content"]]
        videos = [part["video"] for part in shown if part["type"] == "video"]
        return _Row(
            sample=sample,
            text=marks.close(text, self._words.ends, self.processor.tokenizer.eos_token),
            answers=tuple(answers),
            images=[part["image"] for part in shown if part["type"] == "image"],
            videos=videos,
            metadata=[_metadata(media) for media in sample.media if media.kind == "video"] if videos else [],
        )

    def _rendered(self, sample: Sample, plain: list[Message], marked: list[Message], marks: Marks) -> str:
        """The text of ``marked``, which must be that of ``plain`` but for the marks."""
        try:
            for _ in range(_TRIES):  # a template may write the time of day
                text = self._render(marked)
                if marks.without(text) == self._render(plain):
                    return text
        except Exception as error:  # jinja's, and whatever else a template raises
            raise UsageError(f"sample {sample.key}: the chat template refuses it: {error}") from error
        raise UsageError(f"sample {sample.key}: the chat template changes an answer by what is in it")

    def _render(self, conversation: list[Message]) -> str:
        if self._texts_are_strings:
            conversation = [{**message, "content": _as_string(message["content"])} for message in conversation]
        text: str = self.processor.apply_chat_template(
            conversation, chat_template=self.chat_template, tokenize=False, **self.template_kwargs
        )
        return text

    @functools.cached_property
    def _words(self) -> Words:
        return Words(self.processor, self.chat_template)

    @functools.cached_property
    def _texts_are_strings(self) -> bool:
        """Whether the template takes texts only as strings: it prints a list of parts as Python does, or refuses it."""
        probe = [text_message("user", "one"), text_message("assistant", "two")]
        try:
            text = self.processor.apply_chat_template(probe, chat_template=self.chat_template, **self.template_kwargs)
        except Exception:  # whatever a template raises when it adds a list to a string
            return True
        return any(repr(message["content"]) in text for message in probe)

    def _clips_of(self, clips: Literal["auto", "video", "pictures"]) -> Literal["video", "pictures"]:
        if clips != "auto":
            return clips
        token = getattr(self.processor, "video_token", None)
        if token is None or getattr(self.processor, "video_processor", None) is None:
            return "pictures"
        try:
            shown = text_message("user", "one")
            text = self._render([{**shown, "content": [{"type": "video"}, *shown["content"]]}])
        except Exception:  # whatever a template raises if it knows no clips
            return "pictures"
        return "video" if token in text else "pictures"

    def _encoded(self, rows: Sequence[_Row], marks: Marks) -> _Encoded:
        tokenizer = MarkedTokenizer(self.processor.tokenizer, marks)
        processor = copy.copy(self.processor)
        processor.tokenizer = tokenizer
        arguments = {"text": [row.text for row in rows], **self._inputs(rows), **self._options(rows[0])}
        try:
            batch = processor(**arguments)
        except Exception as error:  # each family of processors, and what it calls, has errors of its own
            keys = ", ".join(row.sample.key for row in rows)
            raise UsageError(
                f"{type(self.processor).__name__} refuses the samples {keys}: {error}"
                + (_EQUAL_CLIPS if len({len(video) for row in rows for video in row.videos}) > 1 else "")
            ) from error
        ids = batch["input_ids"]
        if ids.tolist() != tokenizer.ids:
            raise UsageError(f"{type(self.processor).__name__} changes what its tokenizer gave; labels cannot be found")
        labelled, ends = [], []
        for place, row in enumerate(rows):
            spans, offsets = tokenizer.spans[place], tokenizer.offsets[place]
            wanted = spans[-1:] if self.answers == "query" else spans
            self._check(row, wanted, offsets, tokenizer.ids[place])
            labelled.append([any(_within(token, span.start, span.end) for span in wanted) for token in offsets])
            ends.append([sum(0 < stop <= span.end for _, stop in offsets) for span in spans])
        batch["labels"] = ids.masked_fill(ids.new_tensor(labelled) == 0, _IGNORED)
        return _Encoded(batch, batch["attention_mask"].sum(-1).tolist(), ends)

    def _inputs(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """Pictures and clips of the rows, a list for each; left out if no row has any."""
        inputs: dict[str, Any] = {}
        if any(row.images for row in rows):
            inputs["images"] = [row.images for row in rows]
        if any(row.videos for row in rows):
            inputs["videos"] = [video for row in rows for video in row.videos]
            inputs["video_metadata"] = [metadata for row in rows for metadata in row.metadata]
            inputs["do_sample_frames"] = False
        return inputs

    def _options(self, row: _Row) -> dict[str, Any]:
        options = {"padding": True, "padding_side": self.padding_side, "return_tensors": "pt", **self.processor_kwargs}
        begin = self.processor.tokenizer.bos_token
        if begin and row.text.startswith(begin):  # as `apply_chat_template` does when it tokenizes
            options["add_special_tokens"] = False
        return options

    def _check(self, row: _Row, spans: Sequence[Span], offsets: Sequence[tuple[int, int]], ids: Sequence[int]) -> None:
        """`UsageError` unless the tokens of each answer decode to it, and none is an image token."""
        tokenizer = self.processor.tokenizer
        for answer, span in zip(row.answers[-len(spans) :], spans, strict=True):
            own = [id for id, token in zip(ids, offsets, strict=True) if _within(token, span.start, span.words_end)]
            said = tokenizer.decode(own)
            if not _same(said, answer):  # the tokenizer may not give this answer back as it is
                there_and_back = tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"])
                if not _same(said, there_and_back):
                    raise UsageError(f"sample {row.sample.key}: labels decode to {said!r}, the answer is {answer!r}")
            if not self._words.shown_ids.isdisjoint(own):
                raise UsageError(f"sample {row.sample.key}: an image token is among those of the answer {answer!r}")


class _Encoded(NamedTuple):
    """A batch; the tokens of each row without padding; for each row and answer, how many tokens reach to its end."""

    batch: Any
    lengths: list[int]
    ends: list[list[int]]


def _check_choices(**options: tuple[str, ...]) -> None:
    for name, (given, *choices) in options.items():
        if given not in choices:
            raise UsageError(f"{name}={given!r}: choose one of {', '.join(map(repr, choices))}")


def _marks(samples: Sequence[Sample]) -> Marks:
    triplets = [triplet for sample in samples for triplet in sample.triplets]
    return choose_marks(words for triplet in triplets for words in (triplet.instruction, triplet.answer))


def _template(processor: Any, given: str | None) -> str:
    """The text of the chat template, chosen as `apply_chat_template` chooses it."""
    own = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    template = own.get(given or "default", given) if isinstance(own, Mapping) else given or own
    if not template:
        raise UsageError(f"{type(processor).__name__} has no chat template; give one as chat_template=")
    return str(template)


def _as_string(content: list[Message]) -> list[Message] | str:
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else content


def _metadata(media: Media) -> dict[str, Any]:
    """The times of a clip's frames as `transformers` wants them: frame numbers at a rate of `_TICKS` per second."""
    times = media.timestamps_s or tuple(map(float, range(len(media.files))))
    ticks = [round(time * _TICKS) for time in times]
    total = max(round((media.duration_s or 0.0) * _TICKS), ticks[-1] + 1)
    return {
        "total_num_frames": total,
        "fps": float(_TICKS),
        "frames_indices": ticks,
        "duration": total / _TICKS,
        "width": media.width,
        "height": media.height,
    }


def _same(said: str, answer: str) -> bool:
    """Whether two texts have the same words; decoders differ about the spaces around the first token."""
    return "".join(said.split()) == "".join(answer.split())


def _within(token: tuple[int, int], start: int, end: int) -> bool:
    """Whether ``token``, a range of characters, overlaps the characters from ``start`` to ``end``."""
    return token[0] < end and token[1] > start and token[1] > token[0]

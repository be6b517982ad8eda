"""``python -m otter_train.chat``: talk with a trained model in a terminal, or let a script do so through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from mimicit.errors import MimicitError, UsageError
from mimicit.options import click_options, configured
from otter_train.config.command_line import HELP, Program, calm_threads, errors_on_one_line, importing
from otter_train.inference import AnswerOptions, ModelOptions

if TYPE_CHECKING:
    from mimicit.records import Media, Sample
    from otter_train.data.question import Turn

_HELP_TEXT = "/image PATH, /video PATH show something; /reset forgets everything; /quit ends (or Ctrl-D)"

Say = Callable[["Sample", Callable[[str], None]], str]
"""Answers a sample: passes on the answer piece by piece, and returns it whole."""


class Chat:
    """A conversation: the turns so far, and the media that the next question is about."""

    def __init__(self, answer: Say, read_media: Callable[[Path, str], Media]) -> None:
        self._answer = answer
        self._read_media = read_media
        self.turns: list[Turn] = []
        self.shown: list[Media] = []

    def show(self, path: Path, kind: str) -> None:
        """Show the picture or the clip in ``path`` with the next question."""
        self.shown.append(self._read_media(path, kind))

    def reset(self) -> None:
        """Forget everything."""
        self.turns.clear()
        self.shown.clear()

    def ask(self, words: str, hand_over: Callable[[str], None]) -> None:
        """Ask ``words`` after everything said before, and pass on the answer piece by piece."""
        from otter_train.data.question import Turn, asking_sample

        turn = Turn(instruction=words, media=tuple(self.shown))
        sample = asking_sample([*self.turns, turn], relation="conversation", origin="chat")
        answer = self._answer(sample, hand_over)
        self.turns.append(replace(turn, answer=answer))
        self.shown.clear()


def converse(chat: Chat, lines: Iterable[str], out: TextIO, *, note: Callable[[str], None]) -> int:
    """Carry out ``lines`` until they or ``/quit`` end it; answers go to ``out``, remarks to ``note``.

    Returns how many lines could not be carried out; each is noted, and the conversation continues.
    """
    failures = 0
    for line in lines:
        words = line.strip()
        if words == "/quit":
            break
        try:
            if words:
                _carry_out(chat, words, out, note)
        except MimicitError as error:
            failures += 1
            note(f"otter_train: {' '.join(str(error).split())}")
    return failures


def _carry_out(chat: Chat, words: str, out: TextIO, note: Callable[[str], None]) -> None:
    command, _, argument = words.partition(" ")
    match command:
        case "/image" | "/video" if argument.strip():
            chat.show(Path(argument.strip()).expanduser(), command.removeprefix("/"))
            note(f"{argument.strip()} is shown with the next question")
        case "/reset":
            chat.reset()
            note("everything is forgotten")
        case "/help":
            note(_HELP_TEXT)
        case _ if command.startswith("/"):
            raise UsageError(f"{command}: no such command, or no path with it; there are: {_HELP_TEXT}")
        case _:
            chat.ask(words, lambda piece: _write(out, piece))
            _write(out, "\n")


def _write(out: TextIO, text: str) -> None:
    out.write(text)
    out.flush()


@click.command(cls=Program, context_settings=HELP)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Run folder, or one checkpoint.")
@click_options(AnswerOptions, only=("max_new_tokens", "temperature", "top_p", "seed"))
@click.option("--frames", type=click.IntRange(min=1), default=8, help="Frames taken from a clip.")
@click_options(ModelOptions)
def main(checkpoint: Path, frames: int, **given: Any) -> None:
    """Talk with a trained model about pictures and clips.

    Show them with /image PATH and /video PATH; /reset forgets everything, /quit ends. Through a pipe, each line of
    the input is a question or a command, and each answer a line of the output; the exit code is 1 if any failed.
    """
    with errors_on_one_line():
        calm_threads()
        with importing():
            from mimicit.media import MediaOptions
            from otter_train.data.question import media_from_file
            from otter_train.inference.answering import load_trained_model, stream_answers

        options = configured(AnswerOptions, given)
        trained = load_trained_model(checkpoint, **asdict(configured(ModelOptions, given)))

        def answer(sample: Sample, hand_over: Callable[[str], None]) -> str:
            text = ""
            prompt = trained.encoder.encode(sample, with_answer=False)
            if cut := prompt.cut.in_words(trained.encoder.max_tokens):
                note(cut)
            for piece in stream_answers(trained, [prompt], [options]):
                text += piece.text
                hand_over(piece.text)
            return text

        def read_media(path: Path, kind: str) -> Media:
            return media_from_file(path, "video" if kind == "video" else "image", MediaOptions(frames=frames))

        interactive = sys.stdin.isatty()
        note = _note_on_terminal if interactive else _note
        if interactive:
            note(_HELP_TEXT)
        lines = _typed_lines() if interactive else sys.stdin
        sys.exit(1 if converse(Chat(answer, read_media), lines, sys.stdout, note=note) and not interactive else 0)


def _typed_lines() -> Iterable[str]:
    """What a person types, with the line editing of the terminal; Ctrl-D ends it."""
    import readline  # noqa: F401 - importing it gives `input` its history

    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _note(text: str) -> None:
    click.echo(text, err=True)


def _note_on_terminal(text: str) -> None:
    click.secho(text, err=True, dim=True)


if __name__ == "__main__":
    main()

"""What a page of the documentation holds: its blocks, headings and links, and the commands named in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import click

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+?) -->\n+)?```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"!?\[(?:[^\]\\]|\\.)*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+?)(?: \{ *#([\w-]+) *\})?$", re.MULTILINE)
_EXIT = re.compile(r"\(exit code (\d)\)")
_PROGRAM = re.compile(r"(?:python -m |-m )?(mimicit|otter_train(?:\.\w+)?)\s")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``why_not_run`` is what the comment before it says, ``title`` the file that it shows."""

    language: str
    title: str
    text: str
    why_not_run: str


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a console block, and what is shown of its output."""

    command: str
    shown: tuple[str, ...]
    exit_code: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        title = re.search(r'title="([^"]+)"', match["info"])
        found.append(Block(match["language"], title[1] if title else "", match["text"], match["why"] or ""))
    return found


def prose(text: str) -> str:
    """The page without its blocks."""
    return _BLOCK.sub("", text)


def steps(block: str) -> Iterator[Step]:
    """The commands of a console block; a line that ends in a backslash goes on in the next."""
    for part in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        code = _EXIT.search(part)
        lines = (" ".join(line.split()) for line in shown if not _EXIT.search(line))
        yield Step(command, tuple(line for line in lines if line not in ("", "…")), int(code[1]) if code else 0)


def links(text: str) -> list[str]:
    """The targets of all links and pictures outside of blocks."""
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """The anchors of all headings, as mkdocs makes them."""
    return {given or _slug(title) for title, given in _HEADING.findall(prose(text))}


def _slug(title: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def unknown_options(text: str, programs: dict[str, click.Command]) -> list[str]:
    """``PROGRAM --option`` for each option in ``text`` that the program named before it on the line does not have."""
    wrong = []
    for line in text.replace("\\\n", " ").splitlines():
        for match in _PROGRAM.finditer(line):
            words = re.split(r"[|;&`)]", line[match.end() :])[0].split()
            if match[1] not in programs:
                continue
            command: click.Command = programs[match[1]]
            name = match[1]
            if isinstance(command, click.Group):
                found = command.commands.get(words[0]) if words else None
                if found is None:
                    continue
                command, name = found, f"{name} {words[0]}"
            wrong += [f"{name} {option}" for option in _options(words) if option not in known_options(command)]
    return wrong


def known_options(command: click.Command) -> set[str]:
    """All that may be given to ``command`` as an option."""
    own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own | {"--help", "--version"}


def _options(words: list[str]) -> Iterator[str]:
    for word in words:
        match = re.match(r"\[?(--[a-z][a-z0-9-]*)", word)
        if match:
            yield match[1]


def words_of(command: str) -> list[str]:
    """The words of a command line without its comment."""
    return shlex.split(command, comments=True)

"""One search for the file that a record's path means, by the steps that `mimicit.sources.files.finding` lists."""

from __future__ import annotations

import operator
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Final, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from mimicit.errors import RejectedError
from mimicit.sources.files.frame_folders import frames_of_folder
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.paths import UNREADABLE, check_name, is_absolute, joined, spellings
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, MediaRef

Way = Literal["media_root", "beside", "src", "absolute", "usual_folder", "suffix", "name", "extension"]
"""The ways in which a file is found, in the order of the steps; ``name`` is a suffix that is the name alone."""

_USUAL: Final = ("images", "image", "videos", "video")
_SPLITS: Final = ("train", "training", "val", "valid", "validation", "dev", "test")
_IN_MANY_SETS: Final = (*_SPLITS, "data", "media", "img", "imgs", "pics", "pictures", "photos", "frames", "clips")
"""Names of folders that, like numbers, do not tell one set from another."""
_IN_ANY_SET: Final = frozenset((*_USUAL, *_IN_MANY_SETS, "dataset", "datasets", "files", "raw"))
_NAME_OF_MANY: Final = re.compile("(?:image|img|im|picture|pic|photo|figure|fig|page|frame|video|clip)?[_-]?[0-9]*")
_MATCHES: Final = 2  # that are named if several fit
_Found = TypeVar("_Found", str, MediaRef)
_NUMBER: Final = re.compile("[0-9]+")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_BETWEEN: Final = re.compile(r"\s*[,;|]\s*|\s+")


@dataclass(frozen=True, slots=True)
class WrittenPath:
    """A path as a record ``says`` it.

    ``relative`` are the spellings to try from a folder, ``absolute`` those that are absolute on this machine, and
    ``paths`` all spellings, without a drive or host. With ``is_hinted``, the record wrote the name, but not the folder.
    """

    says: str
    paths: tuple[str, ...]
    relative: tuple[str, ...] = ()
    absolute: tuple[str, ...] = ()
    is_url: bool = False
    escapes: bool = False
    is_hinted: bool = False

    @property
    def ends(self) -> tuple[tuple[str, ...], ...]:
        """The steps of each path, with ``..`` resolved; without duplicates and empty paths."""
        steps = (tuple(step for step in posixpath.normpath(f"/{path}").split("/") if step) for path in self.paths)
        return tuple(dict.fromkeys(one for one in steps if one))


def parsed(path: str, beside: str) -> WrittenPath:
    """What ``path`` may mean in the folder ``beside``; `RejectedError` ``malformed`` if no file can be called so."""
    check_name(path)
    if "://" in path[:16]:
        return _parsed_url(path)
    plain = path.replace("\\", "/")
    spelled = tuple(one for one in _spelled(plain) if one)
    if is_absolute(path):
        absolute = () if _DRIVE.match(plain) else spelled
        return WrittenPath(path, tuple(_DRIVE.sub("", one, 1) for one in spelled), absolute=absolute)
    try:  # what ``..`` leads to depends on where the path begins
        paths = tuple(joined(beside, one) if ".." in one else one for one in spelled)
    except RejectedError:
        return WrittenPath(path, (), relative=spelled, escapes=True)
    return WrittenPath(path, paths, relative=spelled)


class Search:
    """One search: ``extensions`` are added to names that lack one, or with ``replaced`` replace that of each name.

    With ``must_agree``, whatever is written must lead to the same file.
    """

    def __init__(
        self,
        root: Root,
        beside: str,
        extensions: tuple[str, ...],
        *,
        replaced: bool = False,
        must_agree: bool,
    ) -> None:
        self._root = root
        self._beside = beside
        self._extensions = extensions
        self._replaced = replaced
        self._must_agree = must_agree
        self._looked_at: dict[str, None] = {}

    def find_in_places(self, written: Sequence[WrittenPath]) -> tuple[Way, str] | None:
        """The way and the file by the first of the steps that look in given places; None if none finds it."""
        for way, places in self._places(written):
            for _, tried in groupby(places, operator.itemgetter(0)):
                there = (self._at(folder, path) for folder, path in tried)
                found = self._chosen(((way, file) for file in there if file is not None), written)
                if found is not None:
                    return found
        return None

    def find_frames(self, written: Sequence[WrittenPath], frames_per_second: float) -> tuple[Way, MediaRef] | None:
        """The way and the clip by the same steps, for a folder of frames."""
        for way, places in self._places(written):
            for folder, tried in groupby(places, operator.itemgetter(0)):
                there = (
                    frames_of_folder(self._root, path, beside=(folder,), frames_per_second=frames_per_second)
                    for _, path in tried
                    if not named_kind(path)
                )
                found = self._chosen(((way, clip) for clip in there if clip is not None), written)
                if found is not None:
                    return found
        return None

    def find_by_end(self, written: Sequence[WrittenPath]) -> tuple[Way, str] | None:
        """The file whose path has the longest end in common with what is ``written``.

        `RejectedError` ``malformed`` for a list of paths in one text: its end is that of the last one alone.
        """
        for one in written:
            named = _BETWEEN.split(one.says.strip())
            if len(named) > 1 and all(map(named_kind, named)):
                raise RejectedError("malformed", f"{one.says[:200]!r} names {len(named)} files; write a list of paths")
        ended = (self._by_end(one) for one in written if not one.escapes)
        return self._chosen((one for one in ended if one is not None), written)

    def fault(self, written: WrittenPath) -> RejectedError:
        """Why nothing was found."""
        says = repr(written.says[:200])
        if written.escapes:
            return RejectedError("outside_root", f"{says} leads out of the source folder")
        nearest = self._root.names.nearest("/".join(written.ends[0])) if written.ends else None
        hint = "write paths relative to it, or to the file that names them"
        if nearest is not None:
            hint = f"the nearest name there is {nearest!r}"
        if written.is_url:
            detail = f"{says} is a URL; nothing is fetched, download it beforehand"
            return RejectedError("missing_file", detail if nearest is None else f"{detail} ({hint})")
        looked_at = " and ".join(map(repr, list(self._looked_at)[:2]))
        ends = f"no path there ends with {'/'.join(written.ends[0][-1:])!r}" if written.ends else "it names no file"
        if self._extensions:
            ends += f" and any of {', '.join(self._extensions)}"
        if not written.relative:
            detail = (
                f"{says} is absolute and outside of the source folder, and {ends}; {hint}, or map it by --media-root"
            )
            return RejectedError("missing_file" if "://" in says[:17] else "outside_root", detail)
        return RejectedError(
            "missing_file", f"{says} is not in the source folder: looked for as {looked_at}, and {ends}; {hint}"
        )

    def _places(self, written: Sequence[WrittenPath]) -> Iterator[tuple[Way, Iterator[tuple[str, str]]]]:
        """The steps that look in given places, each with the (folder, path) pairs that it tries."""
        relative = [path for one in written for path in one.relative]
        yield "media_root", (("", path) for one in written for path in _mapped(self._root, one.says))
        yield "beside", ((self._beside, path) for path in relative)
        if self._beside:
            yield "src", (("", path) for path in relative)
        inside = (self._root.relative(path) for one in written for path in one.absolute)
        yield "absolute", (("", path) for path in inside if path is not None)
        folders = _usual_folders(self._root, self._beside)
        yield "usual_folder", ((folder, path) for folder in folders for path in relative if ".." not in path)

    def _at(self, folder: str, path: str) -> str | None:
        """The file at ``path`` in ``folder``, with any of the extensions; None if there is none."""
        found = []
        for candidate in self._candidates(path):
            try:
                clean = joined(folder, candidate)
            except RejectedError:
                return None
            self._looked_at[clean] = None
            try:
                self._root.check_there(clean)
            except RejectedError as fault:
                if fault.reason == "outside_root" or fault.detail.endswith(UNREADABLE):
                    raise  # it is there, so no other file is meant
                continue
            if candidate == path:
                return clean
            found.append(clean)
        return self._only(found, path) if found else None

    def _chosen(self, found: Iterator[tuple[Way, _Found]], written: Sequence[WrittenPath]) -> tuple[Way, _Found] | None:
        """The first of ``found``; where all must agree, `RejectedError` ``ambiguous_path`` if they do not."""
        first = next(found, None)
        if first is not None and self._must_agree:
            files = {_first_file(first[1]), *(_first_file(one) for _, one in found)}
            self._only(list(files), written[0].says)
        return first

    def _by_end(self, written: WrittenPath) -> tuple[Way, str] | None:
        """The file whose path has the longest end in common with ``written``, if that holds the folder of a hint."""
        names = self._root.names
        ends = [end for end in written.ends if self._ending_with(end[-1:])]
        longest = max(map(len, ends), default=0)
        least = longest if written.is_hinted else 2 if written.is_url else 1
        for length in range(min(longest, names.depth), least - 1, -1):
            for end in ends:
                if len(end) >= length and (found := self._ending_with(end[-length:])):
                    only = self._only(found, written.says)
                    self._check_folder(only, written)
                    self._check_name(only, written)
                    return "suffix" if length > 1 else "name", only
        return None

    def _check_folder(self, found: str, written: WrittenPath) -> None:
        """Raise `RejectedError` if some folder of media fits the ``written`` path better than the folder of ``found``.

        Then the picture is missing from that folder, and ``found`` is another picture of the same name. So it is if
        their folders differ by a number alone (``train/2/image.png``, ``train/1/image.png``).
        """
        own = folder_of(found).rpartition("/")[2]
        for *folders, _ in written.ends:
            if folders and _differ_by_a_number(folders[-1], own):
                raise RejectedError(
                    "missing_file",
                    f"{written.says[:200]!r} is not in the source folder; {found!r} is called the same, and lies in "
                    f"{own!r} instead of {folders[-1]!r}: if it is meant, map the folder by --media-root",
                )
        for steps, is_whole in self._folders(found, written):
            folder = self._root.names.media_folder(steps, is_whole=is_whole)
            inside = [
                found.split("/")[start : start + len(steps)] for start in range(1 if is_whole else found.count("/"))
            ]
            if folder is not None and steps not in inside:
                raise RejectedError(
                    "missing_file",
                    f"{written.says[:200]!r} is not in {folder!r}, where others are; {found!r} is called the same, and "
                    "lies elsewhere: write its own path, or map the folder by --media-root",
                )

    def _check_name(self, found: str, written: WrittenPath) -> None:
        """Raise `RejectedError` if nothing but names that many sets use, such as a number, lead to ``found``.

        It is called so, and lies in the folders of another set: ``ocr_vqa/images/9.jpg``, ``coco/train2017/9.jpg``.
        """
        if not _NAME_OF_MANY.fullmatch(posixpath.splitext(found.rpartition("/")[2])[0].lower()):
            return
        own = set(_telling(folder_of(found))) - set(_telling(self._beside))
        for *folders, _ in written.ends:
            told = _telling("/".join(folders))
            if told and own and not any(one in other or other in one for one in told for other in own):
                raise RejectedError(
                    "missing_file",
                    f"{written.says[:200]!r} is not in the source folder; {found!r} is called the same, as files of "
                    "many sets are: if it is meant, map the folder by --media-root",
                )

    def _folders(self, found: str, written: WrittenPath) -> Iterator[tuple[list[str], bool]]:
        """(steps, whether these are the whole path) of the folders that would fit ``written`` better.

        That to which a media root maps the path. Next to the record: the folder that the path names, or for a bare name
        the usual ones, if ``found`` lies in the folder of another set. Anywhere: a folder with one more step in common
        with the path than the folder of ``found``. If that step alone is a name that many sets use (``train``), a
        second one is asked for, or that the folder lies in one that holds ``found``; if it is a usual name
        (``images``), there is none.
        """
        for path in _mapped(self._root, written.says):
            if folder := folder_of(posixpath.normpath(path)):
                yield folder.split("/"), True
        is_elsewhere = not found.startswith(f"{self._beside}/" if self._beside else "")
        for path in written.relative:
            folder = folder_of(path)
            is_like_it = not folder or f"/{folder_of(found)}".endswith(f"/{folder}")
            if ".." not in folder and (is_elsewhere or not is_like_it):
                for name in [folder] if folder else _USUAL:
                    yield [step for step in f"{self._beside}/{name}".split("/") if step not in ("", ".")], True
        around = found.split("/")[:-1]
        for *folders, _ in written.ends:
            named = folders[::-1]
            common = sum(accumulate((a == b for a, b in zip(named, around[::-1], strict=False)), operator.and_))
            if common == len(named) or (common == 0 and named[0].lower() in _USUAL):
                continue
            if common == 0 and (named[0].lower() in _IN_MANY_SETS or named[0].isdecimal()):
                yield from (([*around[:depth], named[0]], True) for depth in range(len(around) + 1))
                common = 1
            if common < len(named):
                yield folders[-common - 1 :], False

    def _ending_with(self, steps: tuple[str, ...]) -> list[str]:
        *folders, name = steps
        found: list[str] = []
        for candidate in self._candidates(name):
            ending = self._root.names.ending_with((*folders, candidate), _MATCHES)
            if candidate == name and ending:
                return ending
            found += ending
        return found

    def _candidates(self, path: str) -> list[str]:
        if not self._extensions:
            return [path]
        if self._replaced:
            stem = path[: -len(posixpath.splitext(path)[1])] if named_kind(path) else path
            return [stem + extension for extension in self._extensions]
        return [*([path] if named_kind(path) else []), *(path + extension for extension in self._extensions)]

    def _only(self, found: list[str], says: str) -> str:
        """The file that all of ``found`` are; `RejectedError` ``ambiguous_path`` if they are different files."""
        first, *others = sorted(found)
        for other in others:
            if not self._root.is_same_file(first, other):
                detail = (
                    f"{says[:200]!r} may be {first!r} or {other!r}; write more of the path, or map it by --media-root"
                )
                raise RejectedError("ambiguous_path", detail)
        return first


def _telling(folder: str) -> list[str]:
    """The steps of the path ``folder`` that may tell one set from another, in lower case."""
    steps = folder.lower().split("/")
    return [step for step in steps if len(step) > 1 and not (step.isdecimal() or step in _IN_ANY_SET)]


def _differ_by_a_number(one: str, other: str) -> bool:
    """Whether two names are equal but for the values of their numbers: ``scene_2`` and ``scene_10``."""
    if _NUMBER.sub("0", one) != _NUMBER.sub("0", other):
        return False
    return [*map(int, _NUMBER.findall(one))] != [*map(int, _NUMBER.findall(other))]


def _first_file(found: str | MediaRef) -> str:
    """The file, or the first frame of a clip that lies in a folder."""
    if isinstance(found, str):
        return found
    frame = found.parts[0]
    assert isinstance(frame, InFile)
    return frame.path


def _parsed_url(url: str) -> WrittenPath:
    try:
        parts = urlsplit(url)
    except ValueError:
        return WrittenPath(url, (), is_url=True)
    spelled = tuple(one for one in _spelled(parts.path) if "\0" not in one)
    if parts.scheme.lower() == "file":
        return WrittenPath(url, spelled, absolute=spelled)
    return WrittenPath(url, spelled, is_url=True)


def _spelled(path: str) -> Iterator[str]:
    """``path`` as written, in the other forms of Unicode, then percent-decoded, then without white space around it."""
    yield from spellings(path)
    if "%" in path:
        plain = unquote(path)
        if plain != path and "\0" not in plain:
            yield from spellings(plain.replace("\\", "/"))
    if path != path.strip():
        yield path.strip()


def _mapped(root: Root, says: str) -> Iterator[str]:
    """``says`` with its beginning replaced as `Root.media_roots` maps it, the longest beginning first."""
    plain = says.replace("\\", "/")
    for old, new in sorted(root.media_roots.items(), key=lambda pair: (-len(pair[0]), pair)):
        start = old.replace("\\", "/").rstrip("/")
        if plain.startswith(f"{start}/") or (not start and not is_absolute(says)):
            yield from (f"{new}/{rest}" for rest in _spelled(plain[len(start) :].lstrip("/")) if rest)


def _usual_folders(root: Root, beside: str) -> list[str]:
    """The folder above ``beside``, and the usual folders there, in ``beside`` and in the root, if they exist."""
    bases = dict.fromkeys((beside, folder_of(beside), ""))
    inner = dict.fromkeys(f"{base}/{name}".strip("/") for base in bases for name in ("", *_USUAL))
    return [folder for folder in inner if folder not in (beside, "") and root.has_folder(folder)]

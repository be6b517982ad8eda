"""How a path in a record becomes a file under ``--src``: one way for all formats, in steps that are tried in order.

1. with a beginning that ``--media-root`` maps, in the folder that it is mapped to;
2. as written, from the folder of the file that holds the record;
3. as written, from ``--src``;
4. an absolute path that lies in ``--src``;
5. the usual folders (``images``, ``videos``, ...) next to that file, in the folder above it, and in ``--src``;
6. the longest end of the path with which the path of exactly one file ends: whole steps, at least the whole name. So
   absolute paths of other machines, prefixes of published sets and pictures in another folder are found. If there is a
   folder of media that fits the written path better, however, the picture is missing from that folder;
7. a clip under another extension, and a name without one with that of any picture or clip, by the same steps.

If several files fit a step equally well, the record is rejected and two of them are named: no picture is ever guessed.
Paths may be those of Windows, or ``file://`` addresses, and may be percent-encoded. What a URL names is never fetched;
the end of its path counts if it has at least one folder in common with a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from mimicit.errors import RejectedError
from mimicit.records import MediaKind
from mimicit.sources.files.media_names import DEFAULT_RATE, clip_times, frame_rate, named_kind
from mimicit.sources.files.paths import is_absolute
from mimicit.sources.files.root import Root
from mimicit.sources.files.search import Search, Way, WrittenPath, parsed
from mimicit.sources.items import InFile, MediaRef
from mimicit.sources.records.text import shown

CLIP_EXTENSIONS: Final = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts")
PICTURE_EXTENSIONS: Final = (".jpg", ".png", ".webp", ".jpeg")
ANY_EXTENSION: Final = (*PICTURE_EXTENSIONS, ".gif", *CLIP_EXTENSIONS)
_LONGEST_PLAIN: Final = 1024
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*+/)*+[A-Za-z0-9_-][A-Za-z0-9_.-]*+")
"""A relative path that is spelled in one way only."""


def find_file(
    root: Root,
    names: str | Sequence[str],
    *,
    beside: str,
    hints: Sequence[str] = (),
    extensions: Sequence[str] = (),
    kind: MediaKind | None = None,
) -> str:
    """The file that a record means, as a relative POSIX path under ``root``; `Root.found` counts the way.

    ``names`` is the path as written, or several names that the file may have, the most likely first. ``beside`` is
    the folder of the file that holds the record; ``hints`` are folders that the picture probably lies in, wherever they
    are. With ``extensions``, the path may lack its own; if one of them is empty, the file may, where no other is found.
    A clip is also found under another extension.

    `RejectedError`: ``missing_file`` (says where it was looked for, and the nearest name that there is),
    ``ambiguous_path`` (several files fit), ``outside_root`` (``..`` past ``--src``, a link that is not followed, an
    absolute path whose end fits no file in ``--src``) or ``malformed`` (a name that no file can have).
    """
    found = _found(root, names, beside, tuple(hints), tuple(extensions), kind or "image", None)
    assert isinstance(found, str)  # a medium is returned only for a frame rate
    return found


def _found(
    root: Root,
    names: str | Sequence[str],
    beside: str,
    hints: tuple[str, ...],
    extensions: tuple[str, ...],
    kind: MediaKind | None,
    frames_per_second: float | None,
    must_agree: bool = False,
) -> str | MediaRef:
    """As `media_ref`; without ``frames_per_second``, as `find_file`.

    What was found in a scanned root is cached, because records mostly name the same files again.
    """
    called = names if isinstance(names, str) else tuple(names)
    key = (called, beside, hints, extensions, kind, frames_per_second, must_agree)

    def look_up() -> tuple[Way, str | MediaRef]:
        every = (called,) if isinstance(called, str) else called
        way, found = _looked_up(root, every, beside, hints, extensions, kind, frames_per_second, must_agree)
        if frames_per_second is not None and isinstance(found, str):
            found = MediaRef(kind=kind or named_kind(found) or "image", parts=(InFile(found),), origin=found)
        return way, found

    way, found = root.kept(key, look_up)
    root.found[way] += 1
    return found


def _looked_up(
    root: Root,
    called: Sequence[str],
    beside: str,
    hints: Sequence[str],
    extensions: Sequence[str],
    kind: MediaKind | None,
    frames_per_second: float | None,
    must_agree: bool,
) -> tuple[Way, str | MediaRef]:
    if not (extensions or must_agree) and (there := _first_of_places(root, called[0], beside, hints)) is not None:
        return "beside", there
    written = [
        replace(parsed(f"{hint}/{name}", beside), is_hinted=True)
        for name in called
        for hint in hints
        if not is_absolute(name)
    ]
    first, *others = (parsed(name, beside) for name in called)
    written += [first, *others]
    search = Search(root, beside, tuple(filter(None, extensions)), must_agree=must_agree)
    found: tuple[Way, str | MediaRef] | None = search.find_in_places(written)
    if found is None and frames_per_second is not None and kind != "image":
        found = search.find_frames(written, frames_per_second)
    found = found or search.find_by_end(written)
    if found is None and not extensions and "video" in (kind, named_kind(called[0])):
        found = _with_extension(Search(root, beside, CLIP_EXTENSIONS, replaced=True, must_agree=must_agree), written)
        if found is None and frames_per_second is not None:
            found = search.find_frames([parsed(_stem(name), beside) for name in called], frames_per_second)
    elif found is None and not extensions and named_kind(called[0]) is None:
        found = _with_extension(Search(root, beside, ANY_EXTENSION, must_agree=must_agree), written)
    if found is None and "" in extensions:
        bare = Search(root, beside, (), must_agree=must_agree)
        found = bare.find_in_places(written) or bare.find_by_end(written)
    if found is None:
        raise search.fault(first)
    return found


def _with_extension(search: Search, written: Sequence[WrittenPath]) -> tuple[Way, str] | None:
    found = search.find_in_places(written) or search.find_by_end(written)
    return found and ("extension", found[1])


def _first_of_places(root: Root, name: str, beside: str, hints: Sequence[str]) -> str | None:
    """The file in the very first place, if the scan alone shows that it is there; most files are found like this."""
    path = f"{hints[0]}/{name}" if hints else name
    if root.media_roots or len(path) > _LONGEST_PLAIN or not (_PLAIN.fullmatch(path) and _PLAIN.match(name)):
        return None
    clean = f"{beside}/{path}" if beside else path
    return clean if root.has_scanned(clean) else None


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if named_kind(name) == "video" else name


def media_ref(
    root: Root,
    names: str | Sequence[str],
    *,
    beside: str,
    kind: MediaKind | None = None,
    hints: Sequence[str] = (),
    extensions: Sequence[str] = (),
    frames_per_second: float = DEFAULT_RATE,
    must_agree: bool = False,
) -> MediaRef:
    """The medium that lies where `find_file` finds it; without a ``kind``, its name decides, else it is a picture.

    Unless ``kind`` is ``image``, it may also be a folder of frames (see `frame_folders`), which is looked for in the
    same places, before the ends of paths are compared. With ``must_agree``, no name is likelier than the others:
    ``ambiguous_path`` if several of them lead to different files of one folder, or by their ends.
    """
    found = _found(root, names, beside, tuple(hints), tuple(extensions), kind, frames_per_second, must_agree)
    assert isinstance(found, MediaRef)
    return found


def media_refs(
    root: Root, paths: Iterable[object], *, beside: str, kind: MediaKind | None = None, hints: Sequence[str] = ()
) -> tuple[MediaRef, ...]:
    """The media that a record names by ``paths``; see `media_ref`.

    A clip may also be given by its frames, as ``{"frames": [paths], "timestamps_s": [seconds], "duration_s":
    seconds}``; the duration may be absent. `RejectedError` as `find_file`, or ``malformed`` for what is no text.
    """
    refs = []
    for path in paths:
        if isinstance(path, dict) and "frames" in path:
            refs.append(_frames_ref(root, path, beside))
        elif isinstance(path, str):
            refs.append(media_ref(root, path, beside=beside, kind=kind, hints=hints))
        else:
            raise RejectedError("malformed", f"a medium must be named by its path, not {shown(path)}")
    return tuple(refs)


def _frames_ref(root: Root, clip: Mapping[str, object], beside: str) -> MediaRef:
    frames = clip.get("frames")
    if isinstance(frames, str) and not named_kind(frames):
        folder = media_ref(root, frames, beside=beside, kind="video", frames_per_second=frame_rate(clip))
        if folder.timestamps_s is None:
            raise RejectedError(
                "malformed", f"the frames of a clip must be their folder or a list, not {shown(frames)}"
            )
        return folder
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, str) for frame in frames):
        raise RejectedError("malformed", f"the frames of a clip must be a list of paths, not {shown(frames)}")
    times_s, duration_s = clip_times(clip, len(frames))
    parts = tuple(InFile(find_file(root, frame, beside=beside)) for frame in frames)
    return MediaRef(kind="video", parts=parts, origin=parts[0].path, timestamps_s=times_s, duration_s=duration_s)

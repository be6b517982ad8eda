"""``llava``: a folder per source with ``llava.json`` and ``media/``, as LLaVA-Instruct is published.

A conversation (context of relation ``conversation``) is one record of several turns again; any other query is a record
by itself, because the format has no other context. Pictures are paths under ``image``; a clip is an object with its
frames and their times under ``video``, which `mimicit build` reads (other tools know clips as files only).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from mimicit.exporting.base import Written, write_array
from mimicit.exporting.files import gather, media_value
from mimicit.exporting.triplets import GatheredTriplet, Shown, TripletStore
from mimicit.prompt import IMAGE, without_tokens
from mimicit.records import Sample

# Fields that readers of the format do not read as free text.
_TAKEN: Final = frozenset(("id", "conversations", "messages", "image", "images", "video", "videos", "audio", "audios"))


def export_llava(samples: Iterable[Sample], folder: Path, scratch: Path) -> Written:
    """See `mimicit.exporting.base.Exporter`."""
    written = Written()
    with TripletStore(scratch) as store:
        written.media = gather(_counted(samples, written), store, folder)
        for source in store.sources():
            written.records += write_array(
                folder / source / "llava.json", _records(store.conversations(source), written)
            )
    return written


def _counted(samples: Iterable[Sample], written: Written) -> Iterator[Sample]:
    for sample in samples:
        lost = sum(triplet.relation not in ("conversation", "document") for triplet in sample.context)
        if lost:
            written.lost["context triplets"] += lost
        yield sample


def _records(conversations: Iterable[list[GatheredTriplet]], written: Written) -> Iterator[dict[str, Any]]:
    for turns in conversations:
        if turns[0].parts:
            written.lost["documents"] += 1
        elif not any(turn.is_query for turn in turns):
            written.lost["triplets that are context alone"] += len(turns)
        else:
            yield _record(turns)


def _record(turns: Sequence[GatheredTriplet]) -> dict[str, Any]:
    media: list[Shown] = []
    last: tuple[Shown, ...] = ()
    conversations: list[dict[str, str]] = []
    for turn in turns:
        new = turn.media if turn.media != last else ()
        last = turn.media or last
        media += new
        conversations.append({"from": "human", "value": f"{IMAGE}\n" * len(new) + turn.instruction})
        conversations.append({"from": "gpt", "value": turn.answer.replace(IMAGE, without_tokens(IMAGE))})
    meta = next((turn.meta for turn in turns if turn.is_query), {})
    free = {name: value for name, value in meta.items() if name not in _TAKEN}
    record = {"id": _talk_id([turn.id for turn in turns]), **_media_fields(media), "conversations": conversations}
    return {**record, **free}


def _media_fields(media: Sequence[Shown]) -> dict[str, Any]:
    """One field for all media, so that their order stays that of the placeholders; a single one is not a list."""
    if not media:
        return {}
    values = [media_value(shown) for shown in media]
    name = "video" if all(shown.kind == "video" for shown in media) else "image"
    return {name: values[0] if len(values) == 1 else values}


def _talk_id(ids: Sequence[str]) -> str:
    """The id from which an importer makes the ids of the turns; the id of the first turn if there is none."""
    conversation = ids[0].removesuffix("_0")
    fits = len(ids) > 1 and conversation and list(ids) == [f"{conversation}_{number}" for number in range(len(ids))]
    return conversation if fits else ids[0]

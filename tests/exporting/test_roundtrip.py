"""What comes out can go in again: an export, built again, gives the samples that the format can hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings

from mimicit.records import FORMAT, Sample, sample_from_json
from tests.factories.exporting import (
    built_again,
    conversations,
    corpora,
    documents,
    exported,
    meaning,
)
from tests.factories.strategies import few
from tests.factories.strategies import samples as any_samples

# A build's worker leaves it to its end to close the files it has read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@given(samples=corpora())
@few
def test_files_come_back_exactly(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, written = exported(samples, "files", Path(name))
        found, manifest = built_again(folder, Path(name) / "again", context="related")
    assert [meaning(sample) for sample in found] == [meaning(sample) for sample in samples]
    assert written.records == sum(source["in"] for source in manifest["sources"])
    assert written.lost == {}
    assert manifest["totals"]["rejects"] == 0


@given(samples=corpora(documents=False))
@few
def test_mimicit_comes_back_exactly(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, written = exported(samples, "mimicit", Path(name))
        found, manifest = built_again(folder, Path(name) / "again", context="related")
    assert [meaning(sample) for sample in found] == [meaning(sample) for sample in samples]
    assert written.lost == {}
    assert manifest["totals"]["rejects"] == 0


@given(samples=conversations())
@few
def test_llava_conversations_come_back_exactly(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, written = exported(samples, "llava", Path(name))
        found, manifest = built_again(folder, Path(name) / "again", context="conversation")
    assert [meaning(sample) for sample in found] == [meaning(sample) for sample in samples]
    assert [[t.relation for t in sample.triplets] for sample in found] == [
        [t.relation for t in sample.triplets] for sample in samples
    ]
    assert written.records == sum(not sample.context for sample in samples)
    assert written.lost == {}
    assert manifest["totals"]["rejects"] == 0


@given(sample=any_samples())
@settings(deadline=None)
def test_datasets_holds_all_of_a_sample(sample: Sample) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, written = exported([sample], "datasets", Path(name))
        (row,) = pq.read_table(folder / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert sample_of_row(row) == sample
    assert (written.records, written.media) == (1, len(row["images"]))


@given(samples=documents())
@few
def test_mmc4_documents_come_back_exactly(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, written = exported(samples, "mmc4", Path(name))
        found, manifest = built_again(folder, Path(name) / "again", context="none")
    for sample in samples:  # the format's own field, which no reader may miss
        sample.meta["could_have_url_duplicate"] = 0  # type: ignore[index]
    key = lambda value: value["id"]  # noqa: E731
    assert sorted(map(meaning, found), key=key) == sorted(map(meaning, samples), key=key)
    assert written.lost == {}
    assert manifest["totals"]["rejects"] == 0


@given(samples=corpora(sources=1))
@few
def test_any_sample_comes_back_from_mmc4_as_a_document_of_its_pictures_and_texts(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, written = exported(samples, "mmc4", Path(name))
        assume(any(sample.media for sample in samples))
        found, manifest = built_again(folder, Path(name) / "again", context="none")
    again = {sample.id: sample for sample in found}
    assert written.records == sum(source["in"] for source in manifest["sources"])
    assert set(again) == {sample.id for sample in samples if sample.media}  # a document shows something
    for sample in samples:
        if sample.media:
            assert words_and_pictures(again[sample.id]) == words_and_pictures(sample)


@given(sample=any_samples())
@settings(deadline=None)
def test_mmc4_holds_texts_and_pictures_in_order(sample: Sample) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, _ = exported([sample], "mmc4", Path(name))
        place = folder / sample.source
        document = json.loads((place / f"{sample.source}.jsonl").read_text("utf-8"))
        found = list(stream_of_document(document, place / "images"))
    assert found == list(stream_of_sample(sample))
    assert [row.index(1.0) for row in document["similarity_matrix"]] == [
        image["matched_text_index"] for image in document["image_info"]
    ]


def sample_of_row(row: Mapping[str, Any]) -> Sample:
    """The inverse of the table's rows."""
    images = iter(row["images"])
    media: list[dict[str, Any]] = []
    data: list[list[bytes]] = []
    shown = iter(range(len(row["media"])))
    for medium in row["media"]:
        taken = [next(images) for _ in range(medium.pop("frames"))]
        start = sum(map(len, data))
        names = [image["path"].split(".") for image in taken]
        data.append([image["bytes"] for image in taken])
        media.append(
            {
                **{name: value for name, value in medium.items() if value is not None},
                "files": [f"{start + place:03d}.{extension}" for place, (_, extension) in enumerate(names)],
                "sha256": [digest for digest, _ in names],
            }
        )
    triplets = [
        {
            "id": id,
            "role": "query" if place == len(row["ids"]) - 1 else "context",
            "media": [next(shown) for _ in range(row["shows"][place])],
            "instruction": row["texts"][place]["user"],
            "answer": row["texts"][place]["assistant"],
            "relation": row["relations"][place],
            "score": row["scores"][place],
        }
        for place, id in enumerate(row["ids"])
    ]
    value = {"format": FORMAT, "id": row["id"], "source": row["source"], "media": media, "triplets": triplets}
    return sample_from_json({**value, "meta": json.loads(row["meta"])}, data)


def stream_of_document(document: Mapping[str, Any], images: Path) -> Iterator[str | bytes]:
    for place, text in enumerate(document["text_list"]):
        for image in document["image_info"]:
            if image["matched_text_index"] == place:
                yield (images / image["image_name"]).read_bytes()
        yield text


def stream_of_sample(sample: Sample) -> Iterator[str | bytes]:
    """The pictures and texts of ``sample`` in reading order."""
    for triplet in sample.triplets:
        for index in triplet.media:
            yield from sample.media[index].data
        yield from (text for text in (triplet.instruction, triplet.answer) if text)


def words_and_pictures(sample: Sample) -> list[str | bytes]:
    """As `stream_of_sample`, with texts that follow each other as one, which is how a document joins them."""
    pieces: list[str | bytes] = []
    for piece in stream_of_sample(sample):
        if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += f" {piece}"
        else:
            pieces.append(piece)
    return pieces

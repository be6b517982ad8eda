"""`from_datasets`, and builds of what `datasets` writes: rows to shards, by the real library."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import mimicit
from mimicit.errors import SourceError, UsageError
from mimicit.inspecting.summary import iterate_samples
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.mixture import build_config
from mimicit.records import Sample
from tests.factories.engines import InProcess
from tests.factories.exporting import meaning
from tests.factories.raw import picture

datasets = pytest.importorskip("datasets", reason="comes with the extra 'hub'")

# Its tables are closed by the garbage collector, those of a build's worker at its end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def questions(count: int = 6) -> Any:
    rows = [
        {"image": {"bytes": picture(n), "path": f"{n}.jpg"}, "question": f"What is {n}?", "answer": f"thing {n}"}
        for n in range(count)
    ]
    features = {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def built(rows: Any, out: Path, **options: Any) -> dict[str, Sample]:
    mimicit.from_datasets(rows, out, engine=InProcess(), **options)
    assert not [path for path in out.parent.iterdir() if path.name.endswith(".rows")]
    return {sample.id: sample for _, sample in iterate_samples(out)}


def answers(found: dict[str, Sample]) -> list[str]:
    return sorted(sample.query.answer for sample in found.values())


def test_rows_in_memory_with_what_was_done_to_them(tmp_path: Path) -> None:
    rows = questions().filter(lambda row: not row["answer"].endswith("3")).select([0, 2, 4])
    rows = rows.map(lambda row: {"answer": row["answer"].upper()})
    found = built(rows, tmp_path / "out")
    assert answers(found) == ["THING 0", "THING 2", "THING 5"]
    assert all(len(sample.media[0].data[0]) > 100 for sample in found.values())


def test_a_dictionary_of_splits_and_streams(tmp_path: Path) -> None:
    splits = questions().train_test_split(2, shuffle=False)
    found = built(splits, tmp_path / "out")
    assert {sample.source for sample in found.values()} == {"train", "test"}
    streamed = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in splits.items()})
    again = built(streamed, tmp_path / "streamed")
    assert {key: meaning(sample) for key, sample in again.items()} == {key: meaning(s) for key, s in found.items()}


def test_a_file_on_disk_and_class_labels(tmp_path: Path) -> None:
    """As `load_dataset("imagefolder")` gives them: paths of pictures, and a folder's name as the label."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "a.jpg").write_bytes(picture(number))
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "pictures"), cache_dir=str(tmp_path / "hf"))
    assert answers(built(rows, tmp_path / "out")) == ["cat", "dog"]


def test_what_datasets_writes_is_built_as_it_is(tmp_path: Path) -> None:
    rows = questions(4)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    (tmp_path / "table").mkdir()
    rows.to_parquet(tmp_path / "table" / "train.parquet")
    (tmp_path / "folder").mkdir()
    for number in range(4):
        (tmp_path / "folder" / f"{number}.jpg").write_bytes(picture(number))
    told = [{"file_name": f"{n}.jpg", "question": f"What is {n}?", "answer": f"thing {n}"} for n in range(4)]
    (tmp_path / "folder" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    wanted = answers(built(rows, tmp_path / "wanted"))
    assert wanted == [f"thing {n}" for n in range(4)]
    for name, splits in (("saved", 2), ("table", 1), ("folder", 1)):
        build_shards(tmp_path / name, tmp_path / f"{name}-out", BuildConfig(), engine=InProcess())
        samples = [sample for _, sample in iterate_samples(tmp_path / f"{name}-out")]
        assert sorted(sample.query.answer for sample in samples) == sorted(wanted * splits)


def test_there_and_back_gives_the_same_samples(tmp_path: Path) -> None:
    built(questions(), tmp_path / "first", config=build_config({"shots": 2, "context": "random", "size": 0}))
    first = [meaning(sample) for _, sample in iterate_samples(tmp_path / "first")]
    related = build_config({"shots": 2, "context": "related", "size": 0})
    for embed in (False, True):
        rows = mimicit.to_datasets(tmp_path / "first", embed=embed)
        built(rows, tmp_path / f"again-{embed}", config=related)
        assert [meaning(sample) for _, sample in iterate_samples(tmp_path / f"again-{embed}")] == first
    built(mimicit.to_datasets(tmp_path / "first", streaming=True), tmp_path / "streamed", config=related)
    assert [meaning(sample) for _, sample in iterate_samples(tmp_path / "streamed")] == first


def test_the_same_rows_are_recognised(tmp_path: Path) -> None:
    config = BuildConfig()
    once = mimicit.from_datasets(questions(), tmp_path / "out", config, engine=InProcess())
    again = mimicit.from_datasets(questions(), tmp_path / "out", config, engine=InProcess())
    assert (once.was_finished, again.was_finished) == (False, True)
    assert again.manifest["shards"] == once.manifest["shards"]


def test_pil_pictures_and_numbers_are_rows_too(tmp_path: Path) -> None:
    from PIL import Image

    rows = datasets.Dataset.from_dict({"image": [Image.open(io.BytesIO(picture(1)))], "text": ["A thing."]})
    assert answers(built(rows, tmp_path / "out", name="mine")) == ["A thing."]


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes a data set of datasets"):
        mimicit.from_datasets([{"a": 1}], tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="no row"):
        mimicit.from_datasets(questions().select([]), tmp_path / "out")
    gone = datasets.Dataset.from_dict({"image": [str(tmp_path / "gone.jpg")], "text": ["x"]})
    with pytest.raises(SourceError, match=r"gone\.jpg"):
        mimicit.from_datasets(gone.cast_column("image", datasets.Image()), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))

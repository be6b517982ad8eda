"""`to_datasets`: what people do with a data set of `datasets`, by the real library, and exact resumption of streams."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings

import mimicit
from mimicit.errors import ChangedShardError, UsageError
from mimicit.hub.clips import clip_file
from mimicit.records import Sample
from mimicit.sample_table import embedded_pictures, row_of_sample, sample_of_row, table_schema
from tests.factories.raw import picture
from tests.factories.shards import picture_sample, write_shards
from tests.factories.strategies import samples as any_samples

ROOT = Path(__file__).parents[2]
datasets = pytest.importorskip("datasets", reason="comes with the extra 'hub'")
torch = pytest.importorskip("torch", reason="comes with the extra 'train'")

# Its tables are closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    yield
    gc.collect()


@pytest.fixture(scope="module")
def wanted() -> list[Sample]:
    shared = picture(99)
    return [picture_sample(n, [picture(n), shared]) for n in range(20)]


@pytest.fixture(scope="module", params=[False, True], ids=["inline", "links"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wanted: list[Sample]) -> Path:
    return write_shards(tmp_path_factory.mktemp("hub") / "shards", wanted, per_shard=7, links=request.param)


def undecoded(table: Any) -> Any:
    return table.cast_column("media", datasets.List(datasets.Image(decode=False)))


def ids(rows: Any) -> list[str]:
    return [row["id"] for row in rows]


@given(sample=any_samples())
@settings(deadline=None)
def test_a_row_holds_all_of_a_sample(sample: Sample) -> None:
    row = row_of_sample(sample, embedded_pictures(sample))
    (again,) = pa.Table.from_pylist([row], schema=table_schema()).to_pylist()
    assert sample_of_row(again) == sample


def test_features_are_typed_and_pictures_decoded(shards: Path, wanted: list[Sample]) -> None:
    table = mimicit.to_datasets(shards)
    assert isinstance(table, datasets.Dataset)
    assert len(table) == len(wanted)
    assert table.features["media"] == datasets.List(datasets.Image())
    assert table.features["triplets"].feature["score"] == datasets.Value("float64")
    first = table[0]["media"][0]
    assert first.tobytes() == wanted[0].media[0].to_pil().tobytes()
    assert table[3]["triplets"][-1]["answer"] == wanted[3].query.answer


@pytest.mark.parametrize("embed", [False, True])
def test_every_row_is_its_sample(shards: Path, wanted: list[Sample], embed: bool) -> None:
    rows = mimicit.to_datasets(shards, embed=embed).map(lambda row: {"more": 1})
    filled = rows.with_format("arrow").map(datasets.table.embed_table_storage, batched=True).with_format(None)
    assert [sample_of_row(row) for row in undecoded(filled)] == wanted


def test_nothing_of_the_pictures_is_copied(shards: Path, tmp_path: Path) -> None:
    data = picture(3)
    table = mimicit.to_datasets(shards)
    changed = table.map(lambda row: {"count": len(row["triplets"])}).filter(lambda row: row["count"] == 2)
    assert len(changed) == 20
    assert changed[3]["media"][0].size == (48, 32)
    written = [path.read_bytes() for path in (tmp_path / "cache").rglob("*.arrow")]
    assert len(written) >= 2
    assert not any(data in content for content in written)
    held = mimicit.to_datasets(shards, embed=True)
    assert data in Path(held.cache_files[0]["filename"]).read_bytes()


def test_a_second_call_finds_the_table(shards: Path) -> None:
    once = mimicit.to_datasets(shards)
    written = Path(once.cache_files[0]["filename"]).stat()
    again = mimicit.to_datasets(shards)
    assert again._fingerprint == once._fingerprint
    assert Path(again.cache_files[0]["filename"]).stat().st_ino == written.st_ino


def test_rows_come_in_the_order_of_the_loader(shards: Path) -> None:
    samples = mimicit.load(shards, shuffle="full", seed=5, where={"source": "made"})
    assert ids(mimicit.to_datasets(samples).select_columns("id")) == [sample.id for sample in samples]
    assert ids(mimicit.to_datasets(samples, streaming=True)) == [sample.id for sample in samples]


def test_map_filter_shuffle_and_torch(shards: Path, wanted: list[Sample]) -> None:
    table = mimicit.to_datasets(shards)
    assert ids(table.filter(lambda row: row["id"].endswith("1"))) == ["sample-1", "sample-11"]
    shuffled = ids(table.shuffle(seed=1))
    assert shuffled != ids(table) and sorted(shuffled) == sorted(ids(table))
    assert table.map(lambda row: {"width": row["media"][0].width})[2]["width"] == 48
    assert table.with_format("torch")[0]["media"][0].shape == (3, 32, 48)
    loader = torch.utils.data.DataLoader(table, batch_size=3, num_workers=2, collate_fn=ids)
    assert [id for batch in loader for id in batch] == [sample.id for sample in wanted]


def test_files_made_of_it_are_read_again(shards: Path, wanted: list[Sample], tmp_path: Path) -> None:
    table = mimicit.to_datasets(shards, embed=True)
    table.to_parquet(tmp_path / "t.parquet")
    table.save_to_disk(tmp_path / "saved")
    again = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "t.parquet"), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert again.features == table.features
    for rows in (again, datasets.load_from_disk(tmp_path / "saved")):
        assert [sample_of_row(row) for row in undecoded(rows)] == wanted


def test_a_shard_that_is_another_now_is_an_error(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", [picture_sample(n, [picture(n)]) for n in range(3)])
    table = mimicit.to_datasets(folder)
    write_shards(folder, [picture_sample(n, [picture(n + 50)]) for n in range(3)])
    with pytest.raises(ChangedShardError, match=r"shard-000\.tar: byte \d+ is not the picture .*to_datasets"):
        table[1]
    (folder / "shard-000.tar").unlink()
    fresh = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import mimicit.hub.in_shards as s; s.register(); import fsspec; fsspec.open({url(table)!r}).open()",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "FileNotFoundError" in fresh.stderr and "shard-000.tar" in fresh.stderr


def url(table: Any) -> str:
    found: str = undecoded(table)[0]["media"][0]["path"]
    return found


def test_a_stream_resumes_at_every_sample(shards: Path, wanted: list[Sample]) -> None:
    samples = mimicit.load(shards, shuffle="window", seed=3)
    order = [sample.id for sample in samples]
    for stop in range(len(wanted)):
        stream = mimicit.to_datasets(samples, streaming=True).map(lambda row: {"seen": row["media"][0].size})
        ahead = iter(stream)
        assert [next(ahead)["id"] for _ in range(stop)] == order[:stop]
        again = mimicit.to_datasets(samples, streaming=True).map(lambda row: {"seen": row["media"][0].size})
        again.load_state_dict(stream.state_dict())
        assert ids(again) == order[stop:]


def test_a_resumed_stream_reads_only_what_is_left(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = mimicit.load(shards)
    stream = mimicit.to_datasets(samples, streaming=True)
    ahead = iter(stream)
    for _ in range(17):
        next(ahead)
    read: list[int] = []
    whole = type(samples.store).read
    monkeypatch.setattr(type(samples.store), "read", lambda self, row: (read.append(row), whole(self, row))[1])
    again = mimicit.to_datasets(samples, streaming=True)
    again.load_state_dict(stream.state_dict())
    list(again)
    assert read[-3:] == [17, 18, 19]
    assert len(read) <= 5  # `datasets` goes back to before its last batch


def test_a_state_of_other_samples_is_refused(shards: Path) -> None:
    stream = mimicit.to_datasets(mimicit.load(shards, shuffle="full", seed=1), streaming=True)
    next(iter(stream))
    other = mimicit.to_datasets(mimicit.load(shards, shuffle="full", seed=2), streaming=True)
    other.load_state_dict(stream.state_dict())
    with pytest.raises(UsageError, match="state is of other samples"):
        next(iter(other))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_nodes_get_equal_shares_and_resume_in_them(shards: Path, wanted: list[Sample], world: int) -> None:
    from datasets.distributed import split_dataset_by_node

    stream = mimicit.to_datasets(shards, streaming=True)
    parts = [ids(split_dataset_by_node(stream, rank, world)) for rank in range(world)]
    assert sorted(id for part in parts for id in part) == sorted(sample.id for sample in wanted)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    mine = split_dataset_by_node(stream, world - 1, world)
    ahead = iter(mine)
    next(ahead)
    again = split_dataset_by_node(mimicit.to_datasets(shards, streaming=True), world - 1, world)
    again.load_state_dict(mine.state_dict())
    assert ids(again) == parts[-1][1:]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 with new torch
def test_workers_share_a_stream_and_resume(shards: Path, wanted: list[Sample]) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> Any:
        stream = mimicit.to_datasets(shards, streaming=True).select_columns(["id"])
        return StatefulDataLoader(stream, batch_size=None, num_workers=2)

    whole = ids(loader())
    assert sorted(whole) == sorted(sample.id for sample in wanted)
    first = loader()
    ahead = iter(first)
    begun = [next(ahead)["id"] for _ in range(5)]
    state = first.state_dict()
    del ahead
    second = loader()
    second.load_state_dict(state)
    assert begun + ids(second) == whole


def test_a_stream_has_the_formats_and_epochs_of_others(shards: Path, wanted: list[Sample]) -> None:
    stream = mimicit.to_datasets(shards, streaming=True)
    assert next(iter(stream.with_format("torch")))["media"][0].shape == (3, 32, 48)
    assert next(iter(stream.with_format("arrow"))).schema.names == list(table_schema().names)
    assert len(ids(stream.filter(lambda row: row["id"].endswith("1")))) == 2
    assert ids(stream.skip(3).take(2)) == ["sample-3", "sample-4"]
    shuffled = stream.shuffle(seed=0, buffer_size=4)
    first = ids(shuffled)
    shuffled.set_epoch(1)
    second = ids(shuffled)
    assert sorted(first) == sorted(second) == sorted(ids(stream))
    assert len({tuple(first), tuple(second), tuple(ids(stream))}) == 3


def test_a_process_that_never_imports_mimicit_reads_the_pictures(shards: Path, tmp_path: Path) -> None:
    """As a spawned worker: by the entry point of pyproject.toml, which is installed here as pip would."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fsspec.specs"]
    info = tmp_path / "site" / "declared-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 0\n")
    lines = [f"{name} = {place}" for name, place in declared.items()]
    (info / "entry_points.txt").write_text("\n".join(["[fsspec.specs]", *lines]))
    table = mimicit.to_datasets(shards).cache_files[0]["filename"]
    code = f"import datasets; print(datasets.Dataset.from_file({table!r})[0]['media'][0].size)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(48, 32)", done.stderr


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a int"):
        mimicit.to_datasets(3)  # type: ignore[arg-type]


def test_without_the_extra_the_message_names_it(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", [picture_sample(0, [picture(0)])])
    code = """
import sys
from click.testing import CliRunner
for name in ("datasets", "huggingface_hub", "fsspec"):
    sys.modules[name] = None
import mimicit
from mimicit.cli import main
folder = sys.argv[1]
for use in (
    lambda: mimicit.to_datasets(folder),
    lambda: mimicit.to_datasets(folder, streaming=True),
    lambda: mimicit.from_datasets(None, folder),
    lambda: mimicit.load("hf://datasets/a/b"),
):
    try:
        use()
    except mimicit.MimicitError as error:
        print(error)
for command in (
    ["export", folder, "--to", "hub", "--out", "hf://datasets/a/b"],
    ["build", "--src", "hf://datasets/a/b", "--out", folder + "-x"],
):
    print(CliRunner().invoke(main, command).output)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install 'mimicit[hub]'") == 6, done.stdout


def test_files_of_clips_without_pyav_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'mimicit\[video\]'"):
        clip_file([b"\xff\xd8\xff"], [0.0], 1.0)

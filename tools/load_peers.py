"""One measurement of one loader, in the environment of that loader; `bench_load` runs this file and reads its JSON.

``python load_peers.py PEER TASK CORPUS`` prints ``{"cpu_us", "wall_us", "rss_mb", ...}``. Every peer reads the
same samples, each of three members: a JSON and two pictures.
"""

from __future__ import annotations

import importlib
import io
import json
import pickle
import random
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

SIZE = 224
BATCH = 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Reader(Protocol):
    """One way to read the corpus. A peer without random access raises `UnsupportedError` from `get`."""

    def __len__(self) -> int:
        """Samples."""

    def __iter__(self) -> Iterator[Any]:
        """Raw samples in stored order."""

    def get(self, row: int) -> Any:
        """One raw sample."""

    def pictures(self, sample: Any) -> list[bytes]:
        """The stored pictures of a raw sample."""


class UnsupportedError(Exception):
    """The peer cannot do this; the message says why."""


class _Mimicit:
    """`mimicit.loading.storage.store.Store`: the bytes of the members."""

    def __init__(self, corpus: Path) -> None:
        from mimicit.loading.storage.store import Store

        self.store = Store(corpus / "shards")

    def __len__(self) -> int:
        return len(self.store)

    def __iter__(self) -> Iterator[list[bytes]]:
        return map(self.store.raw, range(len(self.store)))

    def get(self, row: int) -> list[bytes]:
        return self.store.raw(row)

    def pictures(self, sample: list[bytes]) -> list[bytes]:
        return sample[1:]


class _Webdataset:
    """`webdataset.WebDataset`, undecoded."""

    def __init__(self, corpus: Path) -> None:
        webdataset = importlib.import_module("webdataset")  # another environment may have it

        urls = [str(path) for path in sorted((corpus / "shards").glob("*.tar"))]
        self.dataset = webdataset.WebDataset(urls, shardshuffle=False)
        self.count = json.loads((corpus / "shards" / "manifest.json").read_bytes())["totals"]["samples"]

    def __len__(self) -> int:
        return int(self.count)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.dataset)

    def get(self, row: int) -> Any:
        raise UnsupportedError("reads in order only")

    def pictures(self, sample: dict[str, Any]) -> list[bytes]:
        return [value for key, value in sample.items() if key.endswith(".jpg")]


class _Wids:
    """`wids.ShardListDataset`, undecoded; part of webdataset before 1.0."""

    def __init__(self, corpus: Path) -> None:
        wids = importlib.import_module("wids")  # another environment may have it

        manifest = json.loads((corpus / "shards" / "manifest.json").read_bytes())
        shards = [
            {"url": str(corpus / "shards" / shard["name"]), "nsamples": shard["samples"]}
            for shard in manifest["shards"]
        ]
        self.dataset = wids.ShardListDataset(shards, transformations=[], keep=True)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        return (self.get(row) for row in range(len(self)))

    def get(self, row: int) -> Any:
        sample = self.dataset[row]
        return {key: value.read() if hasattr(value, "read") else value for key, value in sample.items()}

    def pictures(self, sample: Any) -> list[bytes]:
        return [value for key, value in sample.items() if key.endswith(".jpg")]


def _copies(corpus: Path) -> Iterator[dict[str, bytes]]:
    """The samples as dictionaries, to be written in the format of a peer."""
    for path in sorted((corpus / "shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            group: dict[str, bytes] = {}
            for member in archive:
                suffix = member.name.partition(".")[2].replace(".", "_")
                if suffix == "json" and group:
                    yield group
                    group = {}
                group[suffix] = archive.extractfile(member).read()  # type: ignore[union-attr]
            yield group


def _same(sample: dict[str, bytes]) -> dict[str, bytes]:
    return sample


class _Litdata:
    """`litdata.StreamingDataset` over chunks that `litdata.optimize` has written."""

    def __init__(self, corpus: Path) -> None:
        litdata = importlib.import_module("litdata")  # another environment may have it

        folder = corpus / "litdata"
        if not (folder / "index.json").exists():
            samples = list(_copies(corpus))
            litdata.optimize(
                fn=_same, inputs=samples, output_dir=str(folder), chunk_bytes="32MB", num_workers=1, verbose=False
            )
        self.dataset = litdata.StreamingDataset(str(folder), shuffle=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)

    def get(self, row: int) -> Any:
        return self.dataset[row]

    def pictures(self, sample: Any) -> list[bytes]:
        return [value for key, value in sample.items() if key.endswith("jpg")]


class _Mosaic:
    """`streaming.StreamingDataset` over MDS shards."""

    def __init__(self, corpus: Path) -> None:
        streaming = importlib.import_module("streaming")  # another environment may have it

        folder = corpus / "mds"
        if not (folder / "index.json").exists():
            columns = {"json": "bytes", "000_jpg": "bytes", "001_jpg": "bytes"}
            with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=1 << 25) as out:
                for sample in _copies(corpus):
                    out.write(sample)
        self.dataset = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=BATCH)

    def __len__(self) -> int:
        return int(self.dataset.num_samples)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)

    def get(self, row: int) -> Any:
        return self.dataset[row]

    def pictures(self, sample: Any) -> list[bytes]:
        return [sample["000_jpg"], sample["001_jpg"]]


class _Grain:
    """`grain.MapDataset` over our own reader: what its machinery adds."""

    def __init__(self, corpus: Path) -> None:
        grain = importlib.import_module("grain")  # another environment may have it

        self.own = _Mimicit(corpus)
        self.dataset = grain.MapDataset.source(_Source(self.own))

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset.to_iter_dataset())

    def get(self, row: int) -> Any:
        return self.dataset[row]

    def pictures(self, sample: Any) -> list[bytes]:
        return self.own.pictures(sample)


class _Source:
    """The protocol of grain's random-access sources."""

    def __init__(self, own: _Mimicit) -> None:
        self.own = own

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, row: int) -> list[bytes]:
        return self.own.get(int(row))


class _Energon:
    """Megatron-Energon's loader over the same shards, undecoded and unshuffled."""

    def __init__(self, corpus: Path) -> None:
        folder = corpus / "energon"
        if not (folder / ".nv-meta" / "split.yaml").exists():
            folder.mkdir(exist_ok=True)
            for path in (corpus / "shards").glob("*.tar"):
                (folder / path.name).hardlink_to(path)
            prepare = ["prepare", str(folder), "--non-interactive", "--split-ratio", "1,0,0", "--num-workers", "1"]
            command = [sys.executable, "-m", "megatron.energon.cli.main", *prepare, "--sample-type", "CrudeWebdataset"]
            subprocess.run(command, check=True, capture_output=True)
        self.folder = folder
        self.count = json.loads((corpus / "shards" / "manifest.json").read_bytes())["totals"]["samples"]

    def loader(self) -> Any:
        energon = importlib.import_module("megatron.energon")  # another environment may have it

        class Raw(energon.DefaultTaskEncoder):  # type: ignore[misc, name-defined]
            cookers = (energon.Cooker(energon.stateless(_same)),)
            decoder = None

        dataset = energon.get_train_dataset(
            self.folder,
            worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
            batch_size=None,
            shuffle_buffer_size=None,
            max_samples_per_sequence=None,
            parallel_shard_iters=1,
            shuffle_over_epochs_multiplier=None,
            repeat=False,
            task_encoder=Raw(),
        )
        return energon.get_savable_loader(dataset)

    def __len__(self) -> int:
        return int(self.count)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader())

    def get(self, row: int) -> Any:
        raise UnsupportedError("reads in order only")

    def pictures(self, sample: Any) -> list[bytes]:
        return [sample["000.jpg"], sample["001.jpg"]]


PEERS: dict[str, Callable[[Path], Reader]] = {
    "mimicit": _Mimicit,
    "webdataset": _Webdataset,
    "wids": _Wids,
    "litdata": _Litdata,
    "mosaicml": _Mosaic,
    "grain": _Grain,
    "energon": _Energon,
}


def stock_transform() -> Callable[[bytes], Any]:
    """Pillow and torchvision, as open_clip prepares a picture, to a normalised tensor."""
    import torch
    from PIL import Image

    transforms = importlib.import_module("torchvision.transforms")
    torch.set_num_threads(1)
    prepare = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return lambda data: prepare(Image.open(io.BytesIO(data)).convert("RGB"))


def decoder(reader: Reader) -> Callable[[int, Any], object]:
    """What turns sample ``row`` into training arrays."""
    if isinstance(reader, _Mimicit):
        from mimicit.loading.decode import decode_pictures

        store = reader.store
        return lambda row, _: decode_pictures(store.read(row), SIZE)
    transform = stock_transform()
    return lambda _, sample: [transform(data) for data in reader.pictures(sample)]


def timed(work: Callable[[], int]) -> dict[str, float]:
    """CPU and wall time for each of the samples that ``work`` says it has handled."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = work()
    return {
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
        "wall_us": (time.perf_counter() - wall) / count * 1e6,
    }


def measure(peer: str, task: str, corpus: Path) -> dict[str, float]:
    """One result; `UnsupportedError` where the peer cannot do it."""
    reader = PEERS[peer](corpus)
    count = len(reader)
    if task == "first":
        started = time.process_time(), time.perf_counter()
        opened = PEERS[peer](corpus)
        list(islice(iter(opened), BATCH))
        return {
            "cpu_us": (time.process_time() - started[0]) * 1e6,
            "wall_us": (time.perf_counter() - started[1]) * 1e6,
        }
    for _ in islice(iter(reader), count):  # the page cache, and what is done once
        pass
    if task == "sequential":
        return timed(lambda: sum(1 for _ in islice(iter(reader), count)))
    if task == "random":
        rows = random.Random(0).sample(range(count), count)
        return timed(lambda: sum(1 for row in rows if reader.get(row) is not None))
    if task == "decode":
        decode = decoder(reader)
        wanted = min(count, 100)
        samples = list(islice(iter(reader), wanted))
        decode(0, samples[0])
        result = timed(lambda: sum(1 for row, sample in enumerate(samples) if decode(row, sample) is not None))
        raw = timed(lambda: sum(1 for _ in islice(iter(reader), wanted)))
        return {name: result[name] + (0 if peer == "mimicit" else raw[name]) for name in result}
    share = {"resume1": 0.01, "resume50": 0.5, "resume99": 0.99}[task]
    return resume(peer, corpus, int(share * count))


def resume(peer: str, corpus: Path, position: int) -> dict[str, float]:
    """The cost of the first sample after an interruption at ``position``."""
    if peer == "mimicit":
        return _resume_mimicit(corpus, position)
    reader = PEERS[peer](corpus)
    if isinstance(reader, _Energon):
        return _resume_energon(reader, position)
    if peer == "webdataset":  # no state: what was seen is read again
        return timed(lambda: len([next(islice(iter(reader), position, None))]))
    return timed(lambda: len([reader.get(position)]))


def _resume_mimicit(corpus: Path, position: int) -> dict[str, float]:
    from mimicit.loading import load
    from mimicit.loading.torch import Loader

    def loader() -> Any:
        samples = load(corpus / "shards", shuffle="window", seed=0)
        return Loader(samples, batch_size=1, num_workers=0)

    state = {**loader().state_dict(), "batches": position}
    size = len(json.dumps(state))
    resumed = loader()
    resumed.load_state_dict(state)
    return {**timed(lambda: len([next(iter(resumed))])), "state_bytes": size}


def _resume_energon(reader: _Energon, position: int) -> dict[str, float]:
    before = reader.loader()
    for _ in islice(iter(before), position):
        pass
    state = before.save_state_rank()
    resumed = reader.loader()
    resumed.restore_state_rank(state)
    return {**timed(lambda: len([next(iter(resumed))])), "state_bytes": len(pickle.dumps(state))}


def main() -> None:
    """Print the JSON of one measurement."""
    peer, task, corpus = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    try:
        result: dict[str, Any] = measure(peer, task, corpus)
    except (ImportError, UnsupportedError) as error:
        result = {"skipped": str(error)}
    result["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()

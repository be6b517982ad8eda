"""The card of a data set on the Hub: the fields for its pages, its search and `load_dataset`, and a description."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from mimicit.hub import needed
from mimicit.sample_table import table_schema

Layout = Literal["parquet", "shards"]
"""What is pushed: tables that `load_dataset` reads with typed features, or the tars as they are."""

_MARK: Final = "<!-- Written by mimicit export, and written anew by the next; without this line the text is kept. -->"
_TAG: Final = "mimicit"
_LICENSE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER: Final = (
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
DATA_FILES: Final[Mapping[Layout, str]] = {"parquet": "data/train-*.parquet", "shards": "shard-*.tar"}
"""Where the data lie in a repository; tars that others made keep their names."""


@dataclass(slots=True, kw_only=True)
class Written:
    """The number of data files of a push, their bytes, those of tables before compression, and how many were sent."""

    files: int = 0
    bytes: int = 0
    table_bytes: int = 0
    sent: int = 0


def card_text(
    repo: str, manifest: Mapping[str, Any], layout: Layout, written: Written, *, videos: bool, before: str | None
) -> str:
    """The ``README.md`` of ``repo``, which holds the samples of ``manifest``, some of which show ``videos``.

    ``before`` is the card that is there: its own fields stay, and its text if no export wrote it.
    """
    hub = needed("huggingface_hub", "export --to hub")
    card = hub.DatasetCard(before) if before is not None else None
    data = card.data if card is not None else hub.DatasetCardData()
    for name, value in _fields(repo, manifest, layout, written, videos=videos, known=data.to_dict()).items():
        setattr(data, name, value)
    text = card.text.strip("\n") if card is not None and _MARK not in card.text else _text(repo, manifest, layout)
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def is_of_export(card: str) -> bool:
    """Whether an export has written fields of this ``card``, whoever wrote its text."""
    tags = needed("huggingface_hub", "export --to hub").DatasetCard(card).data.to_dict().get("tags")
    return isinstance(tags, list) and _TAG in tags


def _fields(
    repo: str, manifest: Mapping[str, Any], layout: Layout, written: Written, *, videos: bool, known: Mapping[str, Any]
) -> dict[str, Any]:
    license = str(manifest["config"].get("license", "unknown"))
    is_known = _LICENSE.fullmatch(license) is not None
    samples = manifest["totals"]["samples"]
    tasks = ["image-text-to-text", "visual-question-answering", *["video-text-to-text"] * videos]
    tags = ["in-context", _TAG, *["webdataset"] * (layout == "shards")]
    pattern = "*.tar" if layout == "shards" and manifest["layout"] == "foreign" else DATA_FILES[layout]
    fields: dict[str, Any] = {
        "pretty_name": known.get("pretty_name") or repo.rpartition("/")[2],
        "task_categories": _joined(known.get("task_categories"), tasks),
        "tags": _joined(known.get("tags"), tags),
        "size_categories": [next((name for most, name in (*_SIZES, *_LARGER) if samples < most), "n>1T")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": pattern}]},
        ],
    }
    if "license" not in known or license != "unknown":
        fields["license"] = license if is_known else "other"
        if not is_known:
            fields["license_name"] = license
    return {**fields, "dataset_info": _info(samples, written) if layout == "parquet" else None}


def _joined(known: Any, more: list[str]) -> list[str]:
    return list(dict.fromkeys([*(known if isinstance(known, list) else []), *more]))


def _info(samples: int, written: Written) -> Any:
    """The description of the tables by `datasets` itself, so that pages and readers need not open a table for it."""
    library = needed("datasets", "export --to hub")
    features = library.Features.from_arrow_schema(table_schema())
    split = library.SplitInfo(name="train", num_bytes=written.table_bytes, num_examples=samples)
    info = library.DatasetInfo(
        features=features,
        splits=library.SplitDict({"train": split}),
        download_size=written.bytes,
        dataset_size=written.table_bytes,
    )
    data = needed("huggingface_hub", "export --to hub").DatasetCardData()
    library.info.DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data.to_dict()["dataset_info"]


def _text(repo: str, manifest: Mapping[str, Any], layout: Layout) -> str:
    totals = manifest["totals"]
    lines = [
        _MARK,
        "",
        f"# {totals['samples']:,} in-context samples",
        "",
        f"{totals['triplets']:,} triplets of an instruction, an answer and what they are about: each sample is a query"
        f" after the triplets that are its context. They show {totals['media']:,} pictures and clips.",
        "",
    ]
    if "contact-sheet.jpg" in manifest["files"]:
        lines += ["![contact sheet](contact-sheet.jpg)", ""]
    lines += ["```python", *_USE[layout], "```", "", "## Sources", "", "| source | samples |", "| --- | ---: |"]
    lines += [f"| {source['name']} | {source['out']:,} |" for source in manifest["sources"]]
    lines += ["", "Each source keeps its own licence; `license` above is what the builder stated.", ""]
    lines += ["## Context", "", "| relation | triplets |", "| --- | ---: |"]
    lines += [f"| {name} | {count:,} |" for name, count in totals["relations"].items()] or ["| none | 0 |"]
    return "\n".join(lines).replace(_REPO, repo)


_REPO: Final = "{ORG/NAME}"
_USE: Final[Mapping[Layout, tuple[str, ...]]] = {
    "parquet": (
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("{_REPO}", split="train")',
        'rows[0]["media"]  # pictures, and the frames of clips',
        'rows[0]["triplets"][-1]  # the query; its context comes before, and "media" are places in the list above',
    ),
    "shards": (
        "import mimicit",
        "",
        f'samples = mimicit.load("hf://datasets/{_REPO}")',
        "print(mimicit.render(samples[0]))",
    ),
}

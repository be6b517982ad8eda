from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import SourceError
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import RawTriplet
from tests.factories.sources import base64_jpeg, put, triplets_of

LIST = """
IMAGE_TEXT: # Group name should be in [IMAGE_TEXT, TEXT_ONLY, VIDEO_TEXT, IMAGE_TEXT_IN_CONTEXT]
  LADD: # Dataset name can be assigned at any name you want
    mimicit_path: /data/azure_storage/json/LA/LADD_instructions.json # Path of the instruction json file
    images_path: /data/azure_storage/json/LA/LA.json
    num_samples: -1 # Number of samples you want to use, -1 means use all samples
  M3IT_CAPTIONING:
    mimicit_path: M3IT/coco_instructions.json
    images_path: M3IT/coco.json
    num_samples: 20000
TEXT_ONLY:
  LIMA:
    mimicit_path: text/lima_instructions.json
    num_samples: 1
VIDEO_TEXT:
  DC:
    mimicit_path: ../json/DC/DC_instructions.json
    images_path: ../json/DC/DC.json
    train_config_path: ../json/DC/DC_train.json
    task_description: Describe the changes.
"""
PAIR = {"instruction": "What?", "answer": "This.", "image_ids": ["A_IMG_1", "A_IMG_2"]}


def put_set(root: Path, path: str, *, pictures: str = "", train: bool = False) -> None:
    put(root, f"{path}_instructions.json", {"meta": {}, "data": {"A_INS_1": PAIR, "A_INS_2": PAIR}})
    if pictures:
        put(root, pictures, {"A_IMG_1": base64_jpeg(1), "A_IMG_2": base64_jpeg(2)})
    if train:
        put(root, f"{path}_train.json", {"A_INS_1": ["A_INS_2"]})


def put_raw(root: Path) -> None:
    put(root, "lists/train.yaml", LIST)
    put_set(root, "LA/LADD", pictures="LA/LA.json")
    put_set(root, "M3IT/coco", pictures="M3IT/coco.json")
    put_set(root, "text/lima")
    put_set(root, "json/DC/DC", pictures="json/DC/DC.json", train=True)


def sources_of(root: Path) -> dict[str, SourceSpec]:
    return {spec.name: spec for spec in detect(Root(root)).sources}


def read(root: Path, spec: SourceSpec) -> list[RawTriplet]:
    return triplets_of(SOURCES[spec.format].read(spec, Root(root)))


def test_every_set_of_the_list_is_a_source(tmp_path: Path) -> None:
    put_raw(tmp_path)
    put_set(tmp_path, "SD/SD", pictures="SD/SD.json")  # not in the list
    found = sources_of(tmp_path)
    assert {name: (spec.format, spec.part, spec.limit, spec.files) for name, spec in found.items()} == {
        "ladd": ("mimicit", "IMAGE_TEXT", None, ("LA/LADD_instructions.json", "LA/LA.json", "lists/train.yaml")),
        "m3it_captioning": (
            "mimicit",
            "IMAGE_TEXT",
            20000,
            ("M3IT/coco_instructions.json", "M3IT/coco.json", "lists/train.yaml"),
        ),
        "lima": ("mimicit", "TEXT_ONLY", 1, ("text/lima_instructions.json", "lists/train.yaml")),
        "dc": (
            "mimicit",
            "VIDEO_TEXT",
            None,
            ("json/DC/DC_instructions.json", "json/DC/DC_train.json", "json/DC/DC.json", "lists/train.yaml"),
        ),
        "sd": ("mimicit", "", None, ("SD/SD_instructions.json", "SD/SD.json")),
    }
    assert detect(Root(tmp_path)).unused == ()


def test_the_group_says_what_several_pictures_are(tmp_path: Path) -> None:
    put_raw(tmp_path)
    kinds = {
        name: [[(medium.kind, len(medium.parts)) for medium in triplet.media] for triplet in read(tmp_path, spec)]
        for name, spec in sources_of(tmp_path).items()
    }
    assert kinds == {
        "ladd": [[("image", 1), ("image", 1)]] * 2,
        "m3it_captioning": [[("image", 1), ("image", 1)]] * 2,
        "lima": [[]] * 2,
        "dc": [[("video", 2)]] * 2,
    }


def test_a_folder_of_parts_and_a_list_beside_its_files(tmp_path: Path) -> None:
    put_set(tmp_path, "a/LA")
    for number in range(2):
        put(tmp_path, f"a/LA.parquet/part.{number}.json", {f"A_IMG_{number}": base64_jpeg()})
    put(
        tmp_path,
        "a/list.yml",
        "IMAGE_TEXT:\n  x:\n    mimicit_path: LA_instructions.json\n    images_path: LA.parquet\n",
    )
    (spec,) = detect(Root(tmp_path)).sources
    assert spec.files == (
        "a/LA_instructions.json",
        "a/LA.parquet/part.0.json",
        "a/LA.parquet/part.1.json",
        "a/list.yml",
    )


def one(**fields: Any) -> str:
    rows = {"mimicit_path": "LA/LADD_instructions.json", "images_path": "LA/LA.json"} | fields
    return "IMAGE_TEXT:\n  A:\n" + "".join(f"    {key}: {value}\n" for key, value in rows.items())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (one(images_path="LA/none.json"), r"images_path 'LA/none\.json' is not under"),
        (one(mimicit_path="''"), "no mimicit_path"),
        (one(mimicit_path="../../../../etc/passwd"), "not under"),
        (one(mimicit_path="LA/note.json"), "no file of MIMIC-IT"),
        (one(num_samples="many"), "no whole number"),
        (one(num_samples="0"), "leave the set out"),
        (one(images_path="[LA/LA.json]"), "single value"),
        (one() + one(), "twice"),
        (one().replace("IMAGE_TEXT", "PICTURES"), "no group 'PICTURES'"),
        ("- mimicit_path: x\n", "must be a mapping"),
        ("mimicit_path: {", "not valid YAML"),
        ("mimicit_path: \x00", "not valid YAML"),
        ("mimicit_path: x\nA: &a [x]\nB: [*a, *a]\n", "aliases"),
        ("mimicit_path: " + "[" * 5000, "deep"),
        ("mimicit_path: x\n" + "# " + "x" * (1 << 20), "bytes is refused"),
        ("IMAGE_TEXT: !!python/object/apply:os.system [id]\nmimicit_path: x\n", "must be a mapping"),
    ],
)
def test_what_cannot_be_used_is_a_fault_that_names_the_list(tmp_path: Path, text: str, fault: str) -> None:
    put_set(tmp_path, "LA/LADD", pictures="LA/LA.json")
    put(tmp_path, "LA/note.json", {"note": "mine"})
    put(tmp_path, "list.yaml", text)
    spec = next(spec for spec in sources_of(tmp_path).values() if spec.files == ("list.yaml",))
    with pytest.raises(SourceError, match=rf"^list\.yaml: .*{fault}"):
        read(tmp_path, spec)


def test_other_yaml_files_are_no_lists(tmp_path: Path) -> None:
    put(tmp_path, "config.yaml", "model:\n  size: 1\n")
    assert detect(Root(tmp_path)).sources == ()
    assert detect(Root(tmp_path)).unused == ("config.yaml",)

"""Small files with the names of published ones: VQAv2 and COCO captions in two splits, and two pretrained models."""

from __future__ import annotations

from pathlib import Path

from tests.factories import raw as make
from tests.factories.formats import coco, coco_image, put, put_vqa, vqa_annotation, vqa_question
from tests.factories.pretrained import pretrained_folders

_QUESTIONS = 6
_PICTURES = 3


def write_study(folder: Path) -> None:
    """``vqav2/``, ``coco/``, ``tiny-llama/`` and ``tiny-clip/`` of docs/study.md in ``folder``."""
    for start, split in ((0, "train"), (100, "val")):
        numbers = range(start, start + _QUESTIONS)
        pictures = [start + number % _PICTURES for number in range(_QUESTIONS)]
        pairs = list(zip(numbers, pictures, strict=True))
        put_vqa(
            folder,
            "vqav2",
            [vqa_question(number, picture) for number, picture in pairs],
            [vqa_annotation(number, picture) for number, picture in pairs],
            f"{split}2014",
        )
        captions = [{"image_id": picture, "id": number, "caption": f"Caption {number}."} for number, picture in pairs]
        images = [coco_image(picture, f"{picture:012d}.jpg") for picture in sorted(set(pictures))]
        put(folder, f"coco/annotations/captions_{split}2017.json", coco(images, captions))
        for picture in set(pictures):
            put(folder, f"vqav2/{split}2014/COCO_{split}2014_{picture:012d}.jpg", make.picture(picture))
            put(folder, f"coco/{split}2017/{picture:012d}.jpg", make.picture(50 + picture))
    models = pretrained_folders(folder / "models")
    Path(models["language_model"]).rename(folder / "tiny-llama")
    Path(models["vision_model"]).rename(folder / "tiny-clip")

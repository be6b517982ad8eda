"""Folders of frames: which are clips, when their frames are shown, and how records name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicit.errors import RejectedError
from mimicit.sources import detect
from mimicit.sources.files.finding import media_refs
from mimicit.sources.files.frame_folders import MAX_FRAMES, frames_in, frames_ref
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, Reject
from tests.factories.sources import items_of, jpeg, one_source, put, reasons_of, triplets_of


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        (["f_10.jpg", "f_9.jpg", "f_8.jpg"], ["f_8.jpg", "f_9.jpg", "f_10.jpg"]),
        (["0000.png", "0030.png", "0060.png", "notes.md"], ["0000.png", "0030.png", "0060.png"]),
        (["a.0001.jpg", "a.0002.jpg", "a.0004.jpg"], ["a.0001.jpg", "a.0002.jpg", "a.0004.jpg"]),
        (["1.jpg"], []),
        (["1.jpg", "1.png"], []),
        (["1.jpg", "2.png"], []),
        (["cat1.jpg", "dog2.jpg"], []),
        (["1.jpg", "2.jpg", "cover.jpg"], []),
        (["1.jpg", "2.jpg", "sound.mp4"], []),
        (["01.jpg", "1.jpg", "2.jpg"], []),
        (["17.jpg", "204.jpg", "999.jpg", "1000.jpg"], []),
        ([], []),
    ],
)
def test_numbered_pictures_and_nothing_else_are_frames(names: list[str], frames: list[str]) -> None:
    assert frames_in(names) == frames


@pytest.mark.parametrize(
    ("names", "rate", "times"),
    [
        (["1.jpg", "2.jpg", "3.jpg"], 1.0, (0.0, 1.0, 2.0)),
        (["30.jpg", "60.jpg", "120.jpg"], 2.0, (0.0, 0.5, 1.5)),  # 90 is missing
        (["0.jpg", "33.jpg", "67.jpg", "100.jpg"], 1.0, (0.0, 1.0, 2.0, 3.0)),  # milliseconds
    ],
)
def test_a_frame_that_is_missing_leaves_its_gap(names: list[str], rate: float, times: tuple[float, ...]) -> None:
    assert frames_ref("clip", names, rate).timestamps_s == times


def test_a_clip_of_too_many_frames_is_refused() -> None:
    with pytest.raises(RejectedError) as caught:
        frames_ref("clip", [f"{number}.jpg" for number in range(MAX_FRAMES + 1)])
    assert caught.value.reason == "too_many_frames"


def put_frames(root: Path, folder: str, count: int = 3) -> tuple[InFile, ...]:
    paths = [f"{folder}/frame_{number:04d}.jpg" for number in range(1, count + 1)]
    for path in paths:
        put(root, path, jpeg())
    return tuple(map(InFile, paths))


def test_a_path_may_name_a_folder_of_frames(tmp_path: Path) -> None:
    parts = put_frames(tmp_path, "data/clips/run")
    root = Root(tmp_path)
    for path in ("clips/run", "clips/run/", "./clips//run", "clips/../clips/run"):
        (clip,) = media_refs(root, [path], beside="data")
        assert (clip.kind, clip.parts, clip.origin) == ("video", parts, "data/clips/run")
        assert clip.timestamps_s == (0.0, 1.0, 2.0)
    (clip,) = media_refs(root, [{"frames": "data/clips/run", "fps": 4}], beside="")
    assert clip.timestamps_s == (0.0, 0.25, 0.5)
    (clip,) = media_refs(root, [{"frames": [part.path for part in parts], "fps": 0.5}], beside="")
    assert clip.timestamps_s == (0.0, 2.0, 4.0)


@pytest.mark.parametrize("fps", [0, -1, "4", True, float("inf"), float("nan"), 1e9])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, fps: object) -> None:
    put_frames(tmp_path, "run")
    with pytest.raises(RejectedError, match="fps must be") as caught:
        media_refs(Root(tmp_path), [{"frames": "run", "fps": fps}], beside="")
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("path", ["other", "..", "../outside", "/run", "run\0", "one"])
def test_what_is_no_folder_of_frames_is_refused(tmp_path: Path, path: str) -> None:
    put_frames(tmp_path, "outside")
    put_frames(tmp_path, "src/run")
    put_frames(tmp_path, "src/one", 1)
    with pytest.raises(RejectedError) as caught:
        media_refs(Root(tmp_path / "src"), [path], beside="")
    assert caught.value.reason in ("missing_file", "outside_root", "malformed")


def test_a_picture_is_no_clip(tmp_path: Path) -> None:
    put_frames(tmp_path, "run")
    with pytest.raises(RejectedError):
        media_refs(Root(tmp_path), ["run"], beside="", kind="image")


def test_a_folder_of_frames_with_a_sidecar_is_a_clip(tmp_path: Path) -> None:
    parts = put_frames(tmp_path, "clips/run")
    put(tmp_path, "clips/run.txt", "Somebody runs.")
    put_frames(tmp_path, "clips/jump")
    put(tmp_path, "clips/jump.json", {"instruction": "What?", "answer": "A jump.", "fps": 2})
    put_frames(tmp_path, "clips/alone")
    put(tmp_path, "clips/lost.txt", "There is no such clip.")
    assert one_source(tmp_path).name == "clips"
    items = items_of(tmp_path)
    jump, run = triplets_of(items)
    assert (run.id, run.place, run.answer) == ("clips/run", "clips/run.txt", "Somebody runs.")
    assert (run.media[0].kind, run.media[0].parts, run.media[0].timestamps_s) == ("video", parts, (0.0, 1.0, 2.0))
    assert (jump.instruction, jump.answer, jump.media[0].timestamps_s) == ("What?", "A jump.", (0.0, 0.5, 1.0))
    rejects = [item for item in items if isinstance(item, Reject)]
    assert [(reject.reason, reject.locator) for reject in rejects] == [
        ("missing_sidecar", "clips/alone"),
        ("missing_file", "clips/lost.txt"),
    ]


def test_frames_at_the_top_are_a_clip_too(tmp_path: Path) -> None:
    put_frames(tmp_path, "run")
    put(tmp_path, "run.txt", "Somebody runs.")
    (run,) = triplets_of(items_of(tmp_path))
    assert run.media[0].origin == "run"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.txt", "frame_0001\nframe_0002\n"),
        ("train.txt", "train/frame_0002.jpg 1\n"),
        ("train.json", [{"image_id": 1, "question": "What?", "answer": "This."}]),
        ("train.json", {"image": "frame_0001.jpg", "answer": "This."}),
    ],
)
def test_a_list_of_pictures_beside_their_folder_makes_no_clip_of_them(
    tmp_path: Path, name: str, content: object
) -> None:
    put_frames(tmp_path, "train")
    put(tmp_path, name, content)
    assert "folder" not in [spec.format for spec in detect(Root(tmp_path)).sources]


def test_pictures_with_captions_of_their_own_are_no_frames(tmp_path: Path) -> None:
    put_frames(tmp_path, "set", 2)
    put(tmp_path, "set.txt", "All about the set.")
    for number in (1, 2):
        put(tmp_path, f"set/frame_{number:04d}.txt", f"picture {number}")
    triplets = triplets_of(items_of(tmp_path))
    assert [triplet.answer for triplet in triplets] == ["picture 1", "picture 2"]


def test_a_clip_wins_over_a_folder_of_its_name(tmp_path: Path) -> None:
    put_frames(tmp_path, "run")
    put(tmp_path, "run.mp4", b"clip")
    put(tmp_path, "run.txt", "Somebody runs.")
    items = items_of(tmp_path)
    (run,) = triplets_of(items)
    assert run.media[0].parts == (InFile("run.mp4"),)
    assert reasons_of(items) == []


def test_published_clips_may_be_folders_of_frames(tmp_path: Path) -> None:
    put_frames(tmp_path, "videos/v_1")
    put(tmp_path, "qa.json", [{"q": "What?", "a": "A run.", "video_id": "v_1"}])
    (run,) = triplets_of(items_of(tmp_path))
    assert (run.media[0].kind, run.media[0].origin) == ("video", "videos/v_1")

"""Clips: the chosen frames are those of a full sequential decode at the stated times, or the clip is a reject."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mimicit.errors import RejectedError, UsageError
from mimicit.media import MediaOptions, packets, read_av, video
from mimicit.media.clip_file import VideoHeader, open_clip
from mimicit.media.frames import evenly_spaced
from mimicit.media.video import encode_video
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.schema import schema
from tests.factories import raw
from tests.factories.engines import InProcess
from tests.factories.media import (
    MATRIX_FOR,
    STORED_FOR,
    all_frames,
    copy_from_key,
    difference,
    hide_start,
    number_of,
    numbered,
    pixels,
    set_display_width,
    set_matrix,
    write_clip,
    write_sound,
    x264,
)

EXACT = MediaOptions(size=0, image_format="png")
BY_DECORD = replace(EXACT, video_reader="decord")
REASONS = set(schema("reject")["properties"]["reason"]["enum"])
Maker = Callable[[Path], Path]

CLOSED = x264(keyint=12, bframes=3, **{"b-pyramid": "normal", "b-adapt": 0})
OPEN = x264(keyint=12, bframes=3, **{"open-gop": 1, "b-pyramid": "none", "b-adapt": 0, "scenecut": 0})
TIMES = list(itertools.accumulate(itertools.islice(itertools.cycle((1, 3, 1, 1, 7, 2)), 39), initial=0))


def named(name: str, **options: Any) -> Maker:
    return lambda folder: write_clip(folder / name, **options)


def x265(**options: object) -> dict[str, str]:
    parameters = {"keyint": 12, "bframes": 3, "log-level": "none", "pools": "none", "frame-threads": 1, **options}
    return {"preset": "ultrafast", "x265-params": ":".join(f"{key}={value}" for key, value in parameters.items())}


def cut_edit_list(folder: Path) -> Path:
    """An MP4 that begins 7 frames after its first key frame, as ``ffmpeg -ss ... -c copy`` leaves it."""
    return hide_start(write_clip(folder / "cut.mp4", options=CLOSED), 7 * 512)


def cut_transport_stream(folder: Path) -> Path:
    """An MPEG-TS that begins within a packet, between two key frames, and ends anywhere."""
    path = write_clip(folder / "cut.ts", options=CLOSED)
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 4 + 77 : -100])
    return path


def begins_with_leading_pictures(folder: Path) -> Path:
    """A Matroska file whose first key frame is followed by pictures that are shown, and were predicted, before it."""
    source = write_clip(folder / "whole.mkv", codec="mpeg4", options={"g": "12", "bf": "2"})
    return copy_from_key(source, folder / "leading.mkv", 1)


def lying_keys(folder: Path) -> Path:
    """An MP4 whose index calls every frame a key frame."""
    path = write_clip(folder / "lying.mp4", options={"g": "12", "bf": "0"}, codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    return path


# Plain clips: decord can be trusted with them as long as they are not damaged.
PLAIN: dict[str, Maker] = {
    "constant rate, no B-frames": named("plain.mp4", options=x264(keyint=12, bframes=0)),
    "B-frames": named("b.mp4", options=CLOSED),
    "B-frames in Matroska": named("b.mkv", options=CLOSED),
    "one long group": named("long.mp4", options=x264(keyint=250, bframes=5)),
    "variable rate": named("variable.mp4", times=TIMES, options=CLOSED),
    "variable rate in Matroska": named("variable.mkv", times=TIMES, options=CLOSED),
    "does not start at zero": named("late.mkv", times=range(37, 77), options=CLOSED),
    "fragmented": named("pieces.mp4", options=CLOSED, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "odd size": named("odd.mp4", size=(65, 49), pixel_format="yuv444p"),
    "one frame": named("one.mp4", frames=1),
    "three frames": named("three.mp4", frames=3),
    "VP9": named("vp9.webm", codec="libvpx-vp9", options={"g": "12", "cpu-used": "8"}),
    "VP8": named("vp8.webm", codec="libvpx", options={"g": "12", "cpu-used": "8"}),
}
# Clips that mislead decord, or that it cannot read.
OTHER: dict[str, Maker] = {
    "open groups": named("open.mp4", options=OPEN),
    "open groups in Matroska": named("open.mkv", options=OPEN),
    "gradual refresh": named("refresh.mp4", options=x264(keyint=12, bframes=0, **{"intra-refresh": 1})),
    "interlaced": named("lines.mp4", size=(64, 64), options=x264(keyint=12, interlaced=1)),
    "10 bit": named("deep.mp4", pixel_format="yuv420p10le", options=CLOSED),
    "HEVC": named("hevc.mp4", codec="libx265", size=(128, 96), options=x265(**{"open-gop": 0})),
    "HEVC, open groups": named("open-hevc.mp4", codec="libx265", size=(128, 96), options=x265(**{"open-gop": 1})),
    "open groups that refer across": named("pyramid.mp4", options=x264(keyint=12, **{"open-gop": 1, "b-adapt": 0})),
    "begins with leading pictures": begins_with_leading_pictures,
    "edit list": cut_edit_list,
    "MPEG-TS": named("whole.ts", options=CLOSED),
    "MPEG-TS, open groups": named("open.ts", options=OPEN),
    "MPEG-TS cut between key frames": cut_transport_stream,
    "MPEG-2 in MPEG-TS": named("mpeg2.ts", codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "MPEG-PS": named("program.mpg", codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "MPEG-4 in MP4 with B-frames": named("mpeg4.mp4", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "AVI with B-frames": named("b.avi", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "AVI without B-frames": named("plain.avi", codec="msmpeg4v2", options={"g": "12"}),
    "WMV": named("old.wmv", codec="wmv2", options={"g": "12"}),
    "Flash": named("old.flv", options=CLOSED),
    "GIF": named("moving.gif", codec="gif", pixel_format="rgb8"),
    "ProRes": named("intra.mov", codec="prores_ks", pixel_format="yuv422p10le"),
    "every frame called a key frame": lying_keys,
}
CLIPS = PLAIN | OTHER


def probe_video(path: Path, options: MediaOptions) -> VideoHeader:
    with open_clip(path, options) as clip:
        return clip.header


def assert_true(path: Path, options: MediaOptions = EXACT) -> None:
    """The stored frames equal, pixel by pixel, those of a full decode at the stated times, evenly spaced."""
    truth = all_frames(path)
    stored = encode_video(path, options)
    expected = [truth[index] for index in evenly_spaced(len(truth), options.frames)]
    assert stored.timestamps_s == tuple(time_s for time_s, _ in expected)
    for data, (time_s, picture) in zip(stored.files, expected, strict=True):
        assert np.array_equal(pixels(data), picture), f"the frame at {time_s} s is frame {number_of(pixels(data))}"
    assert stored.duration_s is not None and stored.duration_s >= truth[-1][0]


@pytest.mark.parametrize("name", CLIPS)
def test_chosen_frames_are_those_of_a_full_decode(tmp_path: Path, name: str) -> None:
    path = CLIPS[name](tmp_path)
    for frames in (1, 5, 8, 1_000):
        assert_true(path, MediaOptions(size=0, image_format="png", frames=frames))


@pytest.mark.parametrize("name", ["variable rate", "edit list", "AVI with B-frames", "open groups"])
def test_the_numbers_in_the_frames_fit_their_times(tmp_path: Path, name: str) -> None:
    stored = encode_video(CLIPS[name](tmp_path), EXACT)
    numbers = [number_of(pixels(data)) for data in stored.files]
    hidden = 7 if name == "edit list" else 0
    times = TIMES if name == "variable rate" else range(-hidden, 40)
    assert stored.timestamps_s == tuple(round(times[number] / 25, 6) for number in numbers)
    assert (numbers[0], numbers[-1]) == (hidden, 39)


@pytest.mark.parametrize("name", PLAIN)
def test_decord_is_right_about_plain_clips(tmp_path: Path, name: str) -> None:
    assert_true(PLAIN[name](tmp_path), BY_DECORD)


def test_decord_reads_only_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", options=CLOSED)
    monkeypatch.setattr(video, "read_with_decord", lambda *_: pytest.fail("decord was asked"))
    assert len(encode_video(path, EXACT).files) == 8


def test_decord_that_is_asked_for_and_absent_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    path = write_clip(source / "a.mp4", options=CLOSED)
    (source / "a.txt").write_text("Numbers.")
    monkeypatch.setitem(sys.modules, "decord", None)  # as Python notes a module that is not there
    with pytest.raises(UsageError, match=r"pip install 'mimicit\[decord\]'"):
        encode_video(path, BY_DECORD)
    with pytest.raises(UsageError, match=r"pip install 'mimicit\[decord\]'"):
        build_shards(source, tmp_path / "out", BuildConfig(media=BY_DECORD))
    assert build_shards(source, tmp_path / "out", BuildConfig(), engine=InProcess()).manifest["totals"]["samples"] == 1


@pytest.mark.parametrize("name", CLIPS)
def test_plain_clips_and_only_those_go_through_decord(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("the wrong reader")

    path = CLIPS[name](tmp_path)
    wrong = ("read_by_seeking", "read_in_order") if name in PLAIN else ("read_with_decord",)
    for reader in wrong:
        monkeypatch.setattr(video, reader, unexpected)
    encode_video(path, BY_DECORD)


@pytest.mark.parametrize(
    "name",
    [
        *("open groups", "open groups that refer across", "begins with leading pictures", "edit list", "HEVC"),
        *("HEVC, open groups", "MPEG-TS", "MPEG-TS, open groups", "MPEG-TS cut between key frames"),
    ],
)
def test_clips_with_times_are_not_decoded_whole(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = OTHER[name](tmp_path)
    monkeypatch.setattr(video, "read_in_order", lambda *_: pytest.fail("all frames were decoded"))
    assert len(encode_video(path, EXACT).files) == 8


@pytest.mark.parametrize("name", PLAIN)
def test_all_readers_give_the_same_pixels(tmp_path: Path, name: str) -> None:
    path = PLAIN[name](tmp_path)
    table = packets.scan_packets(path, EXACT)
    indices = evenly_spaced(len(table.pts), EXACT.frames)
    by_decord = video.read_with_decord(path, table, indices, lambda picture: picture.tobytes())
    assert by_decord is not None
    assert by_decord == read_av.read_by_seeking(path, EXACT, table, indices, lambda picture: picture.tobytes())
    assert by_decord == read_av.read_in_order(path, EXACT, table, lambda picture: picture.tobytes()).stored


@pytest.mark.parametrize("lost", ["decord fails", "seeking fails"])
def test_a_reader_that_gives_up_is_followed_by_the_next(
    tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", options=CLOSED)
    expected = encode_video(path, EXACT)
    monkeypatch.setattr(video, "read_with_decord", lambda *_: None)
    if lost == "seeking fails":
        monkeypatch.setattr(video, "read_by_seeking", lambda *_: None)
    assert encode_video(path, BY_DECORD) == expected


def test_h264_in_avi_keeps_the_order_in_which_frames_are_shown(tmp_path: Path) -> None:
    """AVI has no timestamps, and ffmpeg's guesses swap those of B-frames; order and rate are certain."""
    stored = encode_video(write_clip(tmp_path / "b.avi", options=CLOSED), EXACT)
    numbers = [number_of(pixels(data)) for data in stored.files]
    assert numbers == evenly_spaced(40, 8)
    assert stored.timestamps_s == tuple(number / 25 for number in numbers)


@pytest.mark.parametrize("orientation", STORED_FOR)
def test_the_display_matrix_is_applied(tmp_path: Path, orientation: int) -> None:
    path = set_matrix(write_clip(tmp_path / "turned.mp4", 3), MATRIX_FOR[orientation])
    stored = encode_video(path, EXACT)
    upright = numbered(0, 64, 48)
    # EXIF's rule for turning a picture upright, written once more with numpy.
    shown = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright),
    }[orientation]
    assert (stored.width, stored.height) == shown.shape[1::-1]
    assert difference(pixels(stored.files[0]), shown) < 6


SQUARED = {
    # (stored size, sample aspect ratio) to the size that a player shows
    ((160, 128), Fraction(64, 45)): (228, 128),  # PAL, 16:9
    ((160, 96), Fraction(2)): (320, 96),
    ((180, 120), Fraction(8, 9)): (160, 120),  # NTSC, 4:3: narrower than stored
    ((160, 96), Fraction(1)): (160, 96),
}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts", "a.mov", "a.avi"])
@pytest.mark.parametrize(("size", "ratio"), SQUARED)
def test_pixels_that_are_not_square_are_made_so(
    tmp_path: Path, name: str, size: tuple[int, int], ratio: Fraction
) -> None:
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    path = write_clip(tmp_path / name, 3, size=size, codec=codec, sample_aspect_ratio=ratio)
    if name == "a.webm":
        set_display_width(path, SQUARED[size, ratio][0])
    for options in (EXACT, BY_DECORD):
        stored = encode_video(path, options)
        width, height = pixels(stored.files[2]).shape[1::-1]
        assert (stored.width, stored.height) == (stored.original_width, stored.original_height) == (width, height)
        assert (width, height) == SQUARED[size, ratio]
        assert number_of(pixels(stored.files[2])) == 2


@pytest.mark.parametrize("orientation", STORED_FOR)
def test_pixels_are_made_square_before_the_clip_is_turned(tmp_path: Path, orientation: int) -> None:
    made = write_clip(tmp_path / "turned.mp4", 3, size=(160, 96), sample_aspect_ratio=Fraction(2))
    stored = encode_video(set_matrix(made, MATRIX_FOR[orientation]), EXACT)
    assert (stored.width, stored.height) == ((320, 96) if orientation < 5 else (96, 320))
    small = encode_video(made, replace(EXACT, size=80))
    assert (small.width, small.height) == ((80, 24) if orientation < 5 else (24, 80))


def test_a_ratio_that_makes_a_picture_too_large_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "wide.mp4", 3, size=(160, 96), sample_aspect_ratio=Fraction(2))
    data = path.read_bytes()
    place = data.index(b"pasp") + 4
    path.write_bytes(data[:place] + struct.pack(">2I", 65_000, 1) + data[place + 8 :])
    with pytest.raises(RejectedError, match="the limit is") as caught:
        encode_video(path, EXACT)
    assert caught.value.reason == "too_many_pixels"


def test_frames_are_shrunk_and_stored_as_asked(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", size=(160, 90), options=CLOSED)
    for image_format in ("jpg", "png", "webp"):
        options = MediaOptions(size=80, frames=3, image_format=image_format)
        stored = encode_video(path, options)
        assert (stored.kind, stored.extension, stored.width, stored.height) == ("video", image_format, 80, 45)
        assert [number_of(pixels(data)) for data in stored.files] == [0, 20, 39]
        assert (stored.original_width, stored.original_height) == (160, 90)
        assert stored.timestamps_s == (0.0, 0.8, 1.56)
        assert stored.duration_s == 1.6
        assert stored == encode_video(path, options)


def test_a_clip_is_found_under_any_name(tmp_path: Path) -> None:
    made = write_clip(tmp_path / "a.mp4", 3)
    for name in (b"http:..mp4", b"concat:a|b.mp4", b"\xff\xfe.mp4", "köttur 🎬.mp4".encode(), b"%03d.mp4", b"-i.mp4"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(made.read_bytes())
        assert len(encode_video(path, EXACT).files) == 3


# What is refused


def reason_of(path: Path, options: MediaOptions = EXACT) -> str:
    with pytest.raises(RejectedError) as caught:
        encode_video(path, options)
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_media"),
        (b"<!DOCTYPE html><html>not found</html>", "unsupported_media"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n", "unsupported_media"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "unsupported_media"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "undecodable_video"),
        (b"RIFF\0\0\0\0AVI " + bytes(100), "undecodable_video"),
        (b"\x1aE\xdf\xa3" + bytes(100), "undecodable_video"),
        (b"GIF89a" + bytes(20), "undecodable_video"),
    ],
)
def test_what_is_no_clip_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    assert reason_of(path) == reason


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "none.mp4") == "missing_file"


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.mp4")
    with pytest.raises(RejectedError, match="no video stream, only: audio"):
        encode_video(path, EXACT)


@pytest.mark.parametrize("flags", ["", "faststart"])
def test_a_truncated_mp4_is_refused(tmp_path: Path, flags: str) -> None:
    path = write_clip(tmp_path / "a.mp4", options=CLOSED, container_options={"movflags": flags} if flags else {})
    data = path.read_bytes()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(part * len(data))])
        assert reason_of(path) == "undecodable_video"


BROKEN_OFF: dict[str, Maker] = {
    "WebM": CLIPS["VP9"],
    "VP8 in WebM": CLIPS["VP8"],
    "Matroska": CLIPS["B-frames in Matroska"],
    "Matroska of one group": named("long.mkv", options=x264(keyint=250)),
    "recorded live": named("live.webm", codec="libvpx", container_options={"live": "1"}),
    "AVI": CLIPS["AVI without B-frames"],
    "fragmented MP4": CLIPS["fragmented"],
}


@pytest.mark.parametrize("name", BROKEN_OFF)
def test_a_file_that_ends_before_the_length_it_declares_is_refused(tmp_path: Path, name: str) -> None:
    path = BROKEN_OFF[name](tmp_path)
    data = path.read_bytes()
    assert_true(path)
    for part in (0.3, 0.5, 0.7, 0.9):
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(RejectedError, match=r"ends early|cannot be decoded") as caught:
            encode_video(path, EXACT)
        assert caught.value.reason == "undecodable_video"
    if name != "recorded live":  # where the end has no place, what follows it belongs to it
        path.write_bytes(data + b"what somebody added" * 10)
        assert_true(path)


def test_a_truncated_stream_gives_the_frames_that_are_whole(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", options=CLOSED)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    truth = dict(all_frames(path))
    stored = encode_video(path, EXACT)
    assert stored.timestamps_s is not None
    for time_s, frame in zip(stored.timestamps_s, stored.files, strict=True):
        assert np.array_equal(pixels(frame), truth[time_s])


def test_limits_are_checked_in_the_header(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options=CLOSED)
    header = probe_video(path, MediaOptions())
    assert (header.format, header.codec, header.width, header.height) == ("mp4", "h264", 64, 48)
    assert (header.frames, header.duration_s) == (40, 1.6)
    assert probe_video(path, MediaOptions(max_pixels=2**40)) == header
    for options, reason in (
        (MediaOptions(max_pixels=3_000), "too_many_pixels"),
        (MediaOptions(max_duration_s=1.5), "too_long"),
        (MediaOptions(max_video_frames=39), "too_many_frames"),
    ):
        with pytest.raises(RejectedError) as caught:
            probe_video(path, options)
        assert caught.value.reason == reason == reason_of(path, options)


def test_limits_hold_where_the_header_says_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", options=CLOSED)
    assert probe_video(path, MediaOptions()).frames is None
    assert reason_of(path, MediaOptions(max_video_frames=39)) == "too_many_frames"
    assert reason_of(path, MediaOptions(max_duration_s=1.5)) == "too_long"


def test_frames_larger_than_the_container_says_are_not_decoded(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", size=(320, 240))
    data = bytearray(path.read_bytes())
    place = data.index(b"avc1", data.index(b"stsd")) + 28
    data[place : place + 4] = (16).to_bytes(2, "big") * 2
    path.write_bytes(data)
    assert reason_of(path, MediaOptions(max_pixels=20_000)) in ("too_many_pixels", "undecodable_video")


def test_a_clip_whose_size_changes_is_refused(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "small.ts", options=CLOSED)
    large = write_clip(tmp_path / "large.ts", size=(128, 96), times=range(40, 80), options=CLOSED)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(RejectedError, match="size of the picture changes"):
        encode_video(path, EXACT)


def damaged(path: Path, seed: int) -> Path:
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 4, 16))):
        data[rng.randrange(len(data) // 8, len(data))] = rng.randrange(256)
    copy = path.with_name(f"damaged{path.suffix}")
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize("name", ["HEVC", "MPEG-TS", "AVI with B-frames", "H.264 in AVI", "open groups"])
def test_damage_never_shows_in_a_frame_that_is_not_of_the_full_decode(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    makers = OTHER | {"H.264 in AVI": named("a.avi", options=CLOSED)}
    path = makers[name](tmp_path)
    for seed in range(12):
        copy = damaged(path, seed)
        with contextlib.suppress(RejectedError, av.FFmpegError):  # the full decode can fail elsewhere in the file
            stored = encode_video(copy, EXACT)
            truth = [picture.tobytes() for _, picture in all_frames(copy)]
            assert all(pixels(data).tobytes() in truth for data in stored.files)
    assert capfd.readouterr().err == ""


def damaged_inside(path: Path, seed: int) -> Path:
    """A copy of an MP4 or Matroska with bytes changed, wiped or exchanged among the frames, and nothing else."""
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    start, end = len(data) // 8, len(data)
    if path.suffix == ".mp4":
        start = data.index(b"mdat") + 4
        end = start - 8 + int.from_bytes(data[start - 8 : start - 4], "big")
    length = rng.choice((1, 16, 256))
    first, second = (rng.randrange(start, max(start + 1, end - length)) for _ in range(2))
    match seed % 3:
        case 0:
            for _ in range(rng.choice((1, 4, 16))):
                data[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
        case 1:
            data[first : min(end, first + length)] = bytes(min(end, first + length) - first)
        case _:
            data[first : first + length], data[second : second + length] = (
                data[second : second + length],
                data[first : first + length],
            )
    copy = path.with_name(f"damaged{path.suffix}")
    copy.write_bytes(data)
    return copy


def all_that_comes_out(path: Path) -> dict[int, bytes]:
    """The pixels of a full sequential decode by their time, past the packets that cannot be decoded."""
    frames: dict[int, bytes] = {}
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):
                frames |= {frame.pts: frame.to_ndarray(format="rgb24").tobytes() for frame in packet.decode()}
    return frames


@pytest.mark.parametrize("name", PLAIN)
def test_damage_inside_a_plain_clip_is_a_reject_or_shows_what_a_full_decode_shows(tmp_path: Path, name: str) -> None:
    path = PLAIN[name](tmp_path)
    for seed in range(12):
        copy = damaged_inside(path, seed)
        try:
            stored = encode_video(copy, EXACT)
        except RejectedError:
            assert reason_of(copy) == "undecodable_video"
            continue
        assert encode_video(copy, EXACT) == stored
        truth = all_that_comes_out(copy)
        table = packets.scan_packets(copy, EXACT)
        shown = {
            round(time_s / table.time_base_s): pixels(data).tobytes()
            for time_s, data in zip(stored.timestamps_s or (), stored.files, strict=True)
        }
        starts = {table.pts[0], *truth}  # the first frame may be one of those that do not come out
        assert any(shown.items() <= {pts - start: frame for pts, frame in truth.items()}.items() for start in starts)


def test_damage_is_noticed_where_decord_conceals_it(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", size=(320, 240), options=CLOSED)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 3
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    assert reason_of(path) == "undecodable_video"
    assert len(encode_video(path, BY_DECORD).files) == 8


def test_a_build_without_pyav_says_what_clips_need(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    raw.clip(tmp_path / "raw" / "walk.mp4")
    (tmp_path / "raw" / "walk.txt").write_text("Somebody walks a dog.")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "av.py").write_text("raise ImportError('not installed')")
    command = [sys.executable, "-m", "mimicit", "build", "--src", "raw", "--out", "shards", "--workers", "1"]
    here = os.pathsep.join((str(tmp_path / "site"), os.getcwd()))
    for path, code in ((here, 2), (os.getcwd(), 0)):  # the same command goes on once it is there
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert ("pip install 'mimicit[video]'" in done.stderr) == (code == 2) and "Traceback" not in done.stderr

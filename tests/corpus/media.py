"""Pictures and clips of all kinds."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pillow_heif
from PIL import Image

from tests.corpus.case import BLUE, GREEN, RED, YELLOW, Case, Colour, Says, picture
from tests.factories.media import MATRIX_FOR, oriented, set_matrix

pillow_heif.register_heif_opener()  # so that HEIC can be written


def clip(
    path: Path,
    colour: Colour,
    *,
    size: tuple[int, int] = (160, 96),
    codec: str = "libx264",
    ratio: Fraction | None = None,
    frames: int = 10,
) -> Path:
    """A clip of one colour whose pixels are ``ratio`` times as wide as high."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), colour, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def caption(root: Path, name: str, text: str, data: bytes | None = None) -> None:
    if data is not None:
        (root / name).write_bytes(data)
    (root / name).with_suffix(".txt").write_text(text)


def pixels_that_are_not_square(root: Path) -> None:
    for name, ratio in (("pal.mp4", Fraction(64, 45)), ("tape.mkv", Fraction(8, 9)), ("old.avi", Fraction(2))):
        codec = "mpeg4" if name.endswith(".avi") else "libx264"
        clip(root / name, RED, size=(160, 128), ratio=ratio, codec=codec)
        caption(root, name, f"{name} is red")


def turned_clips_whose_pixels_are_not_square(root: Path) -> None:
    for orientation, name in ((1, "upright.mp4"), (3, "upside-down.mp4"), (6, "right.mp4"), (8, "left.mov")):
        set_matrix(clip(root / name, BLUE, ratio=Fraction(2)), MATRIX_FOR[orientation])
        caption(root, name, name)


def clips_that_are_cut(root: Path) -> None:
    for name, codec in (("a.webm", "libvpx"), ("b.webm", "libvpx-vp9"), ("c.mkv", "libx264"), ("d.mp4", "libx264")):
        clip(root / f"whole-{name}", GREEN, codec=codec)
        data = clip(root / name, GREEN, codec=codec, frames=40).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])
        caption(root, f"whole-{name}", f"whole {name}")
        caption(root, name, f"half of {name}")


def phone_pictures(root: Path) -> None:
    for name, format, colour in (("a.avif", "AVIF", RED), ("b.heic", "HEIF", GREEN), ("c.HEIC", "HEIF", BLUE)):
        caption(root, name, name, picture(colour, format))
    caption(root, "called.jpg", "an AVIF by another name", picture(YELLOW, "AVIF"))
    caption(root, "turned.heic", "turned", oriented(Image.new("RGB", (64, 48), RED), "HEIF", 6))
    caption(root, "cut.avif", "cut", picture(RED, "AVIF")[:-20])


def turned_pictures(root: Path) -> None:
    for orientation in range(1, 9):
        for name, format in ((f"{orientation}.jpg", "JPEG"), (f"{orientation}-w.webp", "WEBP")):
            caption(root, name, name, oriented(Image.new("RGB", (64, 48), GREEN), format, orientation))


def deep_pictures(root: Path) -> None:
    for name, value in (("white", 65535), ("half", 0x6666), ("black", 0)):
        stream = io.BytesIO()
        Image.fromarray(np.full((48, 64), value, np.uint16)).save(stream, "PNG")
        caption(root, f"{name}.png", name, stream.getvalue())


def printed_pictures(root: Path) -> None:
    for format, suffix in (("JPEG", "jpg"), ("TIFF", "tif")):
        stream = io.BytesIO()
        Image.new("CMYK", (64, 48), (0, 255, 255, 0)).save(stream, format)
        caption(root, f"ink-{suffix}.{suffix}", f"red ink in {suffix}", stream.getvalue())


def animations(root: Path) -> None:
    for format, suffix in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("AVIF", "avif")):
        stream = io.BytesIO()
        first, second = Image.new("RGB", (64, 48), BLUE), Image.new("RGB", (64, 48), RED)
        first.save(stream, format, save_all=True, append_images=[second])
        caption(root, f"moving-{suffix}.{suffix}", f"the first frame of {suffix}", stream.getvalue())


def clear_pictures(root: Path) -> None:
    for mode, fill in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        stream = io.BytesIO()
        Image.new(mode, (64, 48), fill).save(stream, "PNG")
        caption(root, f"{mode}.png", f"nothing in {mode}", stream.getvalue())


def clips_named_by_a_table(root: Path) -> None:
    clip(root / "a.webm", RED, codec="libvpx-vp9")
    clip(root / "b.mov", GREEN)
    (root / "c.gif").write_bytes(picture(BLUE, "GIF"))
    (root / "manifest.csv").write_text("video,image,instruction,answer\na.webm,,Which?,red\nb.mov,c.gif,Which?,two\n")


def frames(root: Path, folder: str, colour: Colour, count: int = 3) -> None:
    (root / folder).mkdir(parents=True)
    for number in range(count):
        (root / folder / f"frame-{8 + number}.png").write_bytes(picture(colour if number == 0 else BLACK))


def folders_of_frames(root: Path) -> None:
    frames(root, "clips/run", RED)
    (root / "clips/run.txt").write_text("somebody runs")
    frames(root, "clips/jump", GREEN, 12)
    (root / "clips/jump.json").write_text('{"instruction": "What is it?", "answer": "a jump", "fps": 4}')
    frames(root, "clips/unknown", BLUE)
    frames(root, "pictures", YELLOW)
    for number in (8, 9, 10):
        (root / f"pictures/frame-{number}.txt").write_text(f"a picture by itself, {number}")


def folders_of_frames_in_a_manifest(root: Path) -> None:
    frames(root, "media/run", RED)
    frames(root, "media/jump", GREEN)
    frames(root, "media/swim", BLUE)
    (root / "manifest.jsonl").write_text(
        '{"video": "media/run", "instruction": "Which?", "answer": "run"}\n'
        '{"media": [{"frames": "media/jump", "fps": 2}], "instruction": "Which?", "answer": "jump"}\n'
        '{"video": "/old/swim.mp4", "instruction": "Which?", "answer": "lost"}\n'
        '{"video": "media/swim.mp4", "instruction": "Which?", "answer": "swim"}\n'
        '{"video": "media/none", "instruction": "Which?", "answer": "none"}\n'
    )


WHITE, BLACK = (255, 255, 255), (0, 0, 0)

CASES: list[Case] = [
    Case(
        name="pixels-that-are-not-square",
        write=pixels_that_are_not_square,
        says=(
            Says("pal.mp4 is red", (RED,), sizes=((228, 128),)),
            Says("tape.mkv is red", (RED,), sizes=((142, 128),)),
            Says("old.avi is red", (RED,), sizes=((320, 128),)),
        ),
    ),
    Case(
        name="turned-clips-whose-pixels-are-not-square",
        write=turned_clips_whose_pixels_are_not_square,
        says=(
            Says("upright.mp4", (BLUE,), sizes=((320, 96),)),
            Says("upside-down.mp4", (BLUE,), sizes=((320, 96),)),
            Says("right.mp4", (BLUE,), sizes=((96, 320),)),
            Says("left.mov", (BLUE,), sizes=((96, 320),)),
        ),
    ),
    Case(
        name="clips-that-are-cut",
        write=clips_that_are_cut,
        says=tuple(Says(f"whole {name}", (GREEN,)) for name in ("a.webm", "b.webm", "c.mkv", "d.mp4")),
        rejects={"undecodable_video": 4},
    ),
    Case(
        name="pictures-of-phones",
        write=phone_pictures,
        says=(
            Says("a.avif", (RED,)),
            Says("b.heic", (GREEN,)),
            Says("c.HEIC", (BLUE,)),
            Says("an AVIF by another name", (YELLOW,)),
            Says("turned", (RED,), sizes=((64, 48),)),
        ),
        rejects={"truncated_image": 1},
    ),
    Case(
        name="turned-pictures",
        write=turned_pictures,
        says=tuple(
            Says(f"{orientation}{suffix}", (GREEN,), sizes=((64, 48),))
            for orientation in range(1, 9)
            for suffix in (".jpg", "-w.webp")
        ),
    ),
    Case(
        name="pictures-of-16-bits",
        write=deep_pictures,
        says=(Says("white", (WHITE,)), Says("half", ((102, 102, 102),)), Says("black", (BLACK,))),
    ),
    Case(
        name="pictures-for-print",
        write=printed_pictures,
        says=(Says("red ink in jpg", (RED,)), Says("red ink in tif", (RED,))),
    ),
    Case(
        name="animations",
        write=animations,
        says=tuple(Says(f"the first frame of {suffix}", (BLUE,)) for suffix in ("gif", "webp", "png", "avif")),
    ),
    Case(
        name="clear-pictures",
        write=clear_pictures,
        says=(Says("nothing in RGBA", (WHITE,)), Says("nothing in LA", (WHITE,))),
    ),
    Case(
        name="folders-of-frames",
        write=folders_of_frames,
        says=(
            Says("somebody runs", (RED,)),
            Says("a jump", (GREEN,), "What is it?"),
            Says("a picture by itself, 8", (YELLOW,)),
            Says("a picture by itself, 9", (BLACK,)),
            Says("a picture by itself, 10", (BLACK,)),
        ),
        rejects={"missing_sidecar": 1},
    ),
    Case(
        name="folders-of-frames-in-a-manifest",
        write=folders_of_frames_in_a_manifest,
        says=(*(Says(name, (shown,), "Which?") for name, shown in (("run", RED), ("jump", GREEN), ("swim", BLUE))),),
        rejects={"missing_file": 1, "outside_root": 1},
    ),
    Case(
        name="clips-named-by-a-table",
        write=clips_named_by_a_table,
        says=(Says("red", (RED,), "Which?"), Says("two", (BLUE, GREEN), "Which?")),
    ),
]

"""Pictures and clips: probe the header, decode within limits, shrink, encode."""

from mimicit.media.clip_file import VideoHeader, probe_video
from mimicit.media.frames import encode_frames, evenly_spaced
from mimicit.media.image import encode_image
from mimicit.media.image_file import ImageHeader, probe_image
from mimicit.media.options import EncodedMedia, ImageFormat, MediaOptions
from mimicit.media.sniff import HEAD_BYTES, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind_of, looks_like, sniff
from mimicit.media.video import encode_video

__all__ = [
    "HEAD_BYTES",
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "EncodedMedia",
    "ImageFormat",
    "ImageHeader",
    "MediaOptions",
    "VideoHeader",
    "encode_frames",
    "encode_image",
    "encode_video",
    "evenly_spaced",
    "kind_of",
    "looks_like",
    "probe_image",
    "probe_video",
    "sniff",
]

"""Pictures and clips: probe the header, decode within limits, shrink, encode."""

from mimicit.media.options import EncodedMedia, ImageFormat, MediaOptions

__all__ = ["EncodedMedia", "ImageFormat", "MediaOptions"]

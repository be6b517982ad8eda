"""Paths of pretrained models, which may as well be names on the Hub or architectures of open_clip."""

from __future__ import annotations

import os

__all__ = ["absolute_path", "path_in", "same_place"]


def absolute_path(source: str) -> str:
    """``source`` as an absolute path where something lies there, else as it is: a name on the Hub, a URL.

    Weights of open_clip may name a file behind their architecture (``ViT-L-14:FILE``).
    """
    architecture, colon, file = source.partition(":")
    if os.path.exists(source):
        return os.path.abspath(source)
    return f"{architecture}:{os.path.abspath(file)}" if colon and os.path.isfile(file) else source


def same_place(one: str | None, other: str | None) -> bool:
    """Whether both name the same folder, file or model."""
    if one is None or other is None:
        return one is other
    return os.path.realpath(absolute_path(one)) == os.path.realpath(absolute_path(other))


def path_in(source: str) -> str:
    """The path of ``source``, which may follow the architecture of open_clip."""
    _, colon, file = source.partition(":")
    return file if colon and not os.path.exists(source) else source

"""Rewriting weights from one layout into another; ``python -m otter_train.convert`` is its command line."""

from otter_train.conversion.rewrite import Frozen, Report, convert

__all__ = ["Frozen", "Report", "convert"]

"""The one fault of a transfer that is worth another attempt."""

from __future__ import annotations

__all__ = ["TransferError"]


class TransferError(Exception):
    """Bytes did not arrive, or too few, or too slowly; asking again may help. Never leaves `RemoteFolder`."""

"""What makes a folder or a repository load with ``trust_remote_code``: one file that imports this package.

The model itself is not copied into the folder: it would be a second implementation, which no test ever sees. The file
needs the package, and says so where it is not installed.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Final

from mimicit.shards.files import write_atomically

__all__ = ["AUTO_MAP", "PROCESSOR_MAP", "Portable"]

_MODULE: Final = "otter_mimicit"
AUTO_MAP: Final = {
    "AutoConfig": f"{_MODULE}.OtterConfig",
    "AutoModelForImageTextToText": f"{_MODULE}.OtterForConditionalGeneration",
    "AutoProcessor": f"{_MODULE}.OtterProcessor",
}
"""The ``auto_map`` of a ``config.json``."""
PROCESSOR_MAP: Final = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
"""The ``auto_map`` of a ``processor_config.json``."""

# transformers looks for packages that an import outside of ``try`` needs, and would advise to install "otter_train".
_CODE: Final = '''"""Otter, for transformers' ``trust_remote_code``: the model is the one of the package mimicit."""

try:
    from otter_train.pretrained import OtterConfig, OtterForConditionalGeneration, OtterProcessor
except ImportError as error:
    raise ImportError(
        f"this model needs the package mimicit ({error}); install it: pip install 'mimicit[train]'"
    ) from None

__all__ = ["OtterConfig", "OtterForConditionalGeneration", "OtterProcessor"]
'''


class Portable:
    """A base that comes before that of transformers: whatever folder is saved can be loaded by those who trust it."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: transformers would copy the source of this class alone into every folder that it saves."""

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with the file that `AUTO_MAP` names."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{_MODULE}.py", [_CODE.encode()])
        saved: Any = super()
        return saved.save_pretrained(save_directory, *args, **kwargs)

"""What the server of worker processes imports before it forks one, so that no worker has to.

Whatever cannot be imported, such as what another package adds, is the build's to say: it imports the same.
"""

from __future__ import annotations

import contextlib

with contextlib.suppress(Exception):
    import mimicit.pipeline.run  # noqa: F401
with contextlib.suppress(Exception):
    import pandas  # noqa: F401

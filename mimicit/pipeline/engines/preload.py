"""What the server of worker processes imports before it forks one, so that no worker has to.

Import errors, such as those of another package's plugins, are ignored here; the build imports the same and reports
them.
"""

from __future__ import annotations

import contextlib

with contextlib.suppress(Exception):
    import mimicit.pipeline.run  # noqa: F401
with contextlib.suppress(Exception):
    import pandas  # noqa: F401

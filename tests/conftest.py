"""Settings for all tests: Hypothesis without deadlines (timing decides no test) and the same examples on every run."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

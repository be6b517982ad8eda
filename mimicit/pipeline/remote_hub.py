"""``hf://datasets/ORG/NAME[@REVISION][/FOLDER]``: a data set of the Hugging Face Hub, and the commit that it is at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from mimicit.errors import BuildError, UsageError

__all__ = ["HubPlace", "hub_place", "is_on_hub", "pinned"]

_SCHEME: Final = "hf://"
_PLACE: Final = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<path>.*))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A data set ``repo`` (``ORG/NAME``), a branch, tag or commit where one is named, and a folder in it or ``""``."""

    repo: str
    revision: str | None
    path: str

    def at(self, commit: str) -> str:
        """The URL of the same place at ``commit``."""
        return f"{_SCHEME}datasets/{self.repo}@{quote(commit, safe='')}{f'/{self.path}' if self.path else ''}"


def is_on_hub(location: str) -> bool:
    """Whether ``location`` is a URL of the Hub."""
    return location.startswith(_SCHEME)


def hub_place(location: str) -> HubPlace:
    """What ``location`` names; `UsageError` where it is no data set."""
    found = _PLACE.fullmatch(location)
    if found is None:
        raise UsageError(f"{location}: is no data set of the Hub; hf://datasets/ORG/NAME[@REVISION] is one")
    revision = found["revision"]
    return HubPlace(found["repo"], unquote(revision) if revision else None, (found["path"] or "").strip("/"))


def pinned(location: str) -> tuple[str, str]:
    """(the same URL at a commit, that commit): a branch may move while it is read.

    `UsageError` where the extra is missing or there is no such place; `BuildError` where the Hub does not answer.
    """
    place = hub_place(location)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    except ModuleNotFoundError:
        raise UsageError(f"{location}: needs huggingface_hub: pip install 'mimicit[hub]'") from None
    try:
        commit = HfApi().dataset_info(place.repo, revision=place.revision).sha
    except RevisionNotFoundError:
        raise UsageError(f"{location}: {place.repo} has no revision {place.revision!r}") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"{location}: no such data set, or a private one; log in with hf auth login, or set HF_TOKEN"
        ) from None
    except Exception as error:  # the libraries beneath have errors of their own; all mean that it did not answer
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BuildError(f"{location}: {said}; fix this and run the same command again") from error
    if commit is None:
        raise BuildError(f"{location}: the Hub does not say at which commit it is")
    return place.at(commit), commit

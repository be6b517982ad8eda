"""What of the `Findings` deserves a second look before training, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mimicit.inspecting.findings import Findings

__all__ = ["Warned", "warnings_of"]

_FEW: Final = 10
"""Of fewer samples than this, no share says anything."""

_SHARE_OF_ONE_ANSWER: Final = 0.2
_SHARE_OF_ONE_SOURCE: Final = 0.8
_SHARE_OF_ONE_CONTEXT: Final = 0.05
_SHARE_WITHOUT_CONTEXT: Final = 0.5
_SHARE_OF_UNHELPFUL: Final = 0.1
_SHARE_OF_REPEATED_TRIPLETS: Final = 0.05
_SHARE_OF_REJECTS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Warned:
    """What was found, and what may come of it or mend it."""

    what: str
    why: str


def warnings_of(findings: Findings) -> list[Warned]:
    """The warnings, none for a folder of a few samples but those about damage."""
    found = []
    if findings.unreadable:
        found.append(Warned(f"{findings.unreadable:,} samples cannot be read", "mimicit verify says what is wrong"))
    if findings.samples >= _FEW:
        found += [*_about_answers(findings), *_about_context(findings), *_about_sources(findings)]
    return found


def _about_answers(findings: Findings) -> Iterator[Warned]:
    if findings.repeated_answers:
        first = findings.repeated_answers[0]
        share = first.count / findings.samples
        if share >= _SHARE_OF_ONE_ANSWER:
            yield Warned(
                f"{share:.0%} of the queries have the answer “{first.words}”",
                "a model may learn to say it without looking; compare its accuracy with this share",
            )
    repeated = 1 - findings.distinct_triplets / findings.samples
    if repeated >= _SHARE_OF_REPEATED_TRIPLETS:
        yield Warned(
            f"{repeated:.0%} of the queries repeat another: the same pictures, instruction and answer",
            "they weigh more than the others in training, and leak from training into evaluation",
        )


def _about_context(findings: Findings) -> Iterator[Warned]:
    share = findings.without_context / findings.samples
    if share >= _SHARE_WITHOUT_CONTEXT:
        yield Warned(f"{share:.0%} of the samples have no context", "build with --shots and --context for some")
    context = findings.triplets - findings.samples
    for what, count in findings.unhelpful.most_common():
        if context and count / context >= _SHARE_OF_UNHELPFUL:
            yield Warned(
                f"{count / context:.0%} of the context triplets: {what}",
                "such context teaches nothing, or gives the answer away; see --min-score and --context",
            )
    if findings.repeated_contexts:
        first = findings.repeated_contexts[0]
        share = first.count / findings.samples
        if share >= _SHARE_OF_ONE_CONTEXT and first.count > _FEW:
            yield Warned(
                f"{first.count:,} queries ({share:.0%}) share one context: {first.words}",
                "a model learns to ignore context that never changes",
            )


def _about_sources(findings: Findings) -> Iterator[Warned]:
    name, count = findings.sources.most_common(1)[0]
    share = count / findings.samples
    if len(findings.sources) > 1 and share >= _SHARE_OF_ONE_SOURCE:
        yield Warned(
            f"{share:.0%} of the samples are of the source {name}",
            "a mixture with weights, or --limit, balances the sources",
        )
    if findings.rejects is not None:
        lost = sum(group.count for group in findings.rejects.groups if group.scope == "record")
        if lost / (lost + findings.samples) >= _SHARE_OF_REJECTS:
            yield Warned(
                f"{lost:,} records were left out, {lost / (lost + findings.samples):.0%} of all",
                "the table of rejects below says why",
            )

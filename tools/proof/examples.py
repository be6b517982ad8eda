"""Right and wrong answers of the binding proof as one picture: each episode as it was shown.

    python -m tools.proof.examples --folder .proof/binding --out docs/binding.png

The first right and the first wrong episodes with held-out emoji, two ways and two shots, of the seed; passed over are
those with a drawing whose licence asks to share alike. What is drawn: Noto and FxEmojis (Apache-2.0), Fluent Emoji
(MIT), Twemoji and EmojiOne 2 (CC BY 4.0).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from mimicit.loading import load
from mimicit.records import Sample

_SHARE_ALIKE: Final = frozenset(("openmoji", "emojione-v1"))  # families to be shown under their own licence only
_SIDE: Final = 96


def main() -> None:
    """Read an evaluation and the shards it was made on, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/binding"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=4, help="how many right and how many wrong ones")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    name = "held-out-emoji-2x2"
    found = json.loads((options.folder / f"evaluation-{name}-shards-{options.seed}" / "evaluation.json").read_bytes())
    answers = {answer["id"]: answer for answer in found["results"][0]["answers"]}
    samples = {sample.id: sample for sample in load(options.folder / name)}
    shown = {
        is_right: list(chosen(answers, samples, is_right=is_right, count=options.each)) for is_right in (True, False)
    }
    draw([(samples[id], answers[id]["chosen"]) for ids in shown.values() for id in ids], options.out)


def chosen(
    answers: Mapping[str, Mapping[str, Any]], samples: Mapping[str, Sample], *, is_right: bool, count: int
) -> Iterator[str]:
    """The first ``count`` ids, in the order asked, whose choice ``is_right`` and whose drawings may be shown."""
    for id, answer in answers.items():
        if count and (answer["chosen"] == answer["truth"]) is is_right and may_be_shown(samples[id]):
            count -= 1
            yield id


def may_be_shown(sample: Sample) -> bool:
    """Whether no licence of the drawings of ``sample`` asks to share alike; a file is called after its family."""
    return _SHARE_ALIKE.isdisjoint(Path(media.origin).stem for media in sample.media)


def draw(episodes: Sequence[tuple[Sample, str]], path: Path) -> None:
    """A row for each episode with the name that was chosen: its context with names, then the picture asked about."""
    from matplotlib.figure import Figure

    most = max(len(sample.triplets) for sample, _ in episodes)
    figure = Figure(figsize=(1.1 * most + 1, 1.25 * len(episodes)), dpi=75, layout="constrained")
    rows = figure.subplots(len(episodes), most, squeeze=False)
    for axes, (sample, choice) in zip(rows, episodes, strict=True):
        for place, triplet in zip(axes, sample.triplets, strict=True):
            picture = sample.media[triplet.media[0]].to_pil()
            assert isinstance(picture, Image.Image)
            place.imshow(picture.resize((_SIDE, _SIDE)))
            place.set_xlabel(triplet.answer)
            place.set(xticks=[], yticks=[])
        is_right = choice == sample.query.answer
        words = f"{choice} (right)" if is_right else f"{choice} (truth: {sample.query.answer})"
        axes[-1].set_xlabel(words, color="green" if is_right else "red")
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()

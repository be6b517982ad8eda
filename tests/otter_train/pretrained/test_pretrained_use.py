"""An exported model as any other of transformers: in every dtype, with its trainer, adapters, devices, pipelines."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from mimicit.errors import UsageError
from otter_train.data.tokenizer import special_ids
from otter_train.model import PRESETS, ModelConfig, TokenIds
from otter_train.model.cross_attention import media_mask
from otter_train.model.language import Conditioning
from otter_train.pretrained import OtterConfig, OtterForConditionalGeneration, OtterProcessor
from tests.factories.otter import CONFIG, IDS, LANGUAGES, VISIONS, VOCABULARY, inputs, otter, with_language, with_vision
from tests.factories.train import TOKENIZER

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPECIAL = special_ids(TOKENIZER)
QUESTION = "which colour?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its processor as ``save_pretrained`` writes them, and the picture ``a.png``."""
    place = tmp_path_factory.mktemp("exported")
    ids = TokenIds(image=SPECIAL.image, endofchunk=SPECIAL.endofchunk, answer=SPECIAL.answer, pad=SPECIAL.pad)
    torch.manual_seed(0)
    config = OtterConfig.from_model_config(CONFIG, vocab_size=len(TOKENIZER), token_ids=ids)
    OtterForConditionalGeneration(config).save_pretrained(place)
    OtterProcessor(TOKENIZER, image_size=16).save_pretrained(place)
    Image.new("RGB", (20, 16), (200, 30, 30)).save(place / "a.png")
    return place


def chat(folder: Path, **picture: Any) -> list[dict[str, Any]]:
    shown = {"type": "image", **(picture or {"path": str(folder / "a.png")})}
    return [{"role": "user", "content": [shown, {"type": "text", "text": QUESTION}]}]


def batch_of(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder).apply_chat_template(
        chat(folder), tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )


def wrapped(config: ModelConfig) -> OtterForConditionalGeneration:
    made = OtterConfig.from_model_config(config, vocab_size=VOCABULARY, token_ids=IDS)
    return OtterForConditionalGeneration.around(otter(config, seed=3), made).eval()


@pytest.mark.parametrize(
    "config", [*map(with_language, LANGUAGES), *map(with_vision, VISIONS)], ids=[*LANGUAGES, *VISIONS]
)
def test_every_backbone_generates_in_half_precision(config: ModelConfig, tmp_path: Path) -> None:
    dtype = torch.bfloat16
    if config.vision.layout == "open_clip":
        pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    exact, batch = wrapped(config), inputs([[1, 1], [], [2]])
    exact.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    shown = {"vision_x": batch.vision_x, "vision_mask": batch.vision_mask}
    with torch.no_grad():
        found = model(batch.lang_x, attention_mask=batch.attention_mask, **shown).logits
        expected = exact(batch.lang_x, attention_mask=batch.attention_mask, **shown).logits
    torch.testing.assert_close(found, expected, atol=0.25, rtol=0.1)
    left = batch.to_left()
    options = {"attention_mask": left.attention_mask, "max_new_tokens": 3, "pad_token_id": IDS.pad}
    greedy = model.generate(left.lang_x, **shown, **options)
    assert greedy.shape == (3, left.lang_x.shape[1] + 3)


@pytest.mark.parametrize("dtype", [*DTYPES, "auto", None], ids=str)
def test_every_dtype_works_with_beams_and_a_static_cache(folder: Path, dtype: Any) -> None:
    given = {} if dtype is None else {"dtype": dtype}
    model = AutoModelForImageTextToText.from_pretrained(folder, **given)
    assert {one.dtype for one in model.parameters()} == {dtype if isinstance(dtype, torch.dtype) else torch.float32}
    batch = batch_of(folder)
    plain = model.generate(**batch, max_new_tokens=4)
    assert torch.equal(plain, model.generate(**batch, max_new_tokens=4, cache_implementation="static"))
    assert model.generate(**batch, max_new_tokens=4, num_beams=3).shape == plain.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_paper_s_model_computes_in_the_dtype_it_is_loaded_in(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its real size, on the meta device, which computes shapes and dtypes and refuses to mix the latter."""
    ids = TokenIds(endofchunk=32_000, image=32_001, answer=32_002, pad=32_003)
    config = OtterConfig.from_model_config(PRESETS["otter-9b"], vocab_size=32_004, token_ids=ids)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which does not know this device
    with torch.device("meta"), torch.no_grad():
        model = OtterForConditionalGeneration._from_config(config, dtype=dtype).model
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        media = model.perceiver(model.vision(torch.zeros(2, 3, 224, 224))[None, :, None])
        words = torch.zeros(1, 12, dtype=torch.long)
        looking = Conditioning(media.flatten(1, 2), media_mask(words, media_count=2, latents=media.shape[2]))
        hidden, _ = model.language(words, looking, attention_mask=torch.ones(1, 1, 12, 12, dtype=torch.bool))
        logits = model.language.logits(hidden)
    assert (logits.shape, logits.dtype) == ((1, 12, 32_004), dtype)


def test_parts_of_different_dtypes_work_together(folder: Path) -> None:
    """As after training, where frozen parts rest in bfloat16 and trained ones in float32."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    batch = batch_of(folder)
    for part in (model.model.vision, model.model.language.lm, model.model.perceiver):
        part.to(torch.bfloat16)
        loss = model(**batch, labels=batch["input_ids"]).loss
        assert torch.isfinite(loss)
        model.generate(**batch, max_new_tokens=2, num_beams=2)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers about the names of its own options
def test_transformers_trainer_trains_and_saves_it(folder: Path, dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the trainer of transformers needs accelerate")
    from transformers import Trainer, TrainingArguments

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    row = {name: value[0] for name, value in batch_of(folder).items()}
    options = TrainingArguments(
        str(tmp_path), max_steps=2, learning_rate=1e-2, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        save_steps=2, gradient_checkpointing=True, use_cpu=True, report_to=[], remove_unused_columns=False,
        disable_tqdm=True, warmup_steps=0, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Trainer(model, options, train_dataset=[row | {"labels": row["input_ids"]}] * 8)
    trainer.train()
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    assert saved.keys() == before.keys()
    assert not torch.equal(saved["model.perceiver.latents"], before["model.perceiver.latents"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_peft_adapts_it(folder: Path) -> None:
    peft = pytest.importorskip("peft", reason="checks peft itself")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    batch = batch_of(folder)
    plain = model.generate(**batch, max_new_tokens=4)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "to_q"], task_type="CAUSAL_LM"))
    assert torch.equal(adapted.generate(**batch, max_new_tokens=4), plain)  # adapters begin as nothing
    adapted(**batch, labels=batch["input_ids"]).loss.backward()
    trained = {name for name, one in adapted.named_parameters() if one.requires_grad}
    assert trained and all("lora" in name for name in trained)
    assert all(
        one.grad is not None for name, one in adapted.named_parameters() if name in trained and "vision" not in name
    )


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_weights_may_wait_on_the_disk(folder: Path, dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    batch = batch_of(folder)
    expected = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).generate(**batch, max_new_tokens=4)
    some = {"model.vision": "cpu", "model.perceiver": "disk", "model.language.lm": "disk"}
    for place in (
        "cpu",
        {"": "disk"},
        some | {"model.language.cross_attention": "cpu"},
        some | {"model.language.cross_attention": "disk"},
    ):
        offload = tmp_path / str(len(list(tmp_path.iterdir())))
        offload.mkdir()
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, device_map=place, offload_folder=str(offload)
        )
        assert torch.equal(model.generate(**batch, max_new_tokens=4), expected), place


def test_pictures_come_as_objects_paths_and_base64(folder: Path) -> None:
    path = folder / "a.png"
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    ways = (
        {"image": picture}, {"image": str(path)}, {"path": str(path)}, {"url": str(path)},
        {"base64": base64.b64encode(path.read_bytes()).decode()},
        {"url": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()},
    )  # fmt: skip
    processor = AutoProcessor.from_pretrained(folder)
    expected = batch_of(folder)["vision_x"]
    assert expected.shape == (1, 1, 1, 3, 16, 16)
    for way in ways:
        made = processor.apply_chat_template(chat(folder, **way), tokenize=True, return_dict=True)
        assert torch.equal(made["vision_x"], expected)
    for wrong in ({"path": str(folder / "b.png")}, {"base64": "!!"}, {"url": "http://127.0.0.1:9/a.png"}):
        with pytest.raises(UsageError, match="no picture") as error:
            processor.apply_chat_template(chat(folder, **wrong), tokenize=True)
        assert "\n" not in str(error.value)


def test_a_chat_template_writes_the_prompt_that_was_trained(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    asked = chat(folder)
    assert processor.apply_chat_template(asked) == "<image>User:which colour?"
    assert processor.apply_chat_template(asked, add_generation_prompt=True) == "<image>User:which colour? GPT:<answer>"
    answered = [*asked, {"role": "assistant", "content": "red"}]
    whole = "<image>User:which colour? GPT:<answer>red"
    assert processor.apply_chat_template(answered) == f"{whole}<|endofchunk|>"
    assert processor.apply_chat_template(answered, continue_final_message=True) == whole
    again = [{"role": "system", "content": "Be brief."}, *answered, {"role": "user", "content": "and?"}]
    assert processor.apply_chat_template([again], add_generation_prompt=True) == [
        "<image>User:Be brief.\nwhich colour? GPT:<answer>red<|endofchunk|>User:and? GPT:<answer>"
    ]
    assert processor.prompt(again).text.endswith("red<|endofchunk|>User:and? GPT:<answer>")
    with pytest.raises(UsageError, match="template 'otter'"):
        processor.apply_chat_template(asked, "{{ messages }}")
    with pytest.raises(UsageError, match="take turns"):
        processor.apply_chat_template([*answered, again[0]])


_TRUSTING = """
import sys
sys.modules["otter_train.pretrained"] = None
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline
try:
    AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
except ImportError as error:
    print(error)
del sys.modules["otter_train.pretrained"]
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__module__, type(processor).__module__)
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
ask = pipeline("image-text-to-text", model=sys.argv[2], trust_remote_code=True)
content = [{"type": "image", "path": sys.argv[1] + "/a.png"}, {"type": "text", "text": "which colour?"}]
turns = [{"role": "user", "content": content}]
(answer,) = ask(text=turns, max_new_tokens=3, return_full_text=False)
print(repr(answer["generated_text"]))
"""


def test_what_a_folder_names_for_those_who_trust_it_is_this_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    ours = {"OtterConfig": OtterConfig, "OtterForConditionalGeneration": OtterForConditionalGeneration,
            "OtterProcessor": OtterProcessor}  # fmt: skip
    named = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(named) == {"AutoConfig", "AutoModelForImageTextToText", "AutoProcessor"}
    assert json.loads((folder / "processor_config.json").read_text())["auto_map"].items() <= named.items()
    for name in named.values():
        assert get_class_from_dynamic_module(name, str(folder)) is ours[name.split(".")[1]]
    monkeypatch.setitem(sys.modules, "otter_train.pretrained", None)
    with pytest.raises(ImportError, match=r"needs the package mimicit .*pip install 'mimicit\[train\]'$"):
        get_class_from_dynamic_module(named["AutoConfig"], str(shutil.copytree(folder, tmp_path / "other")))


@pytest.mark.slow
def test_a_repository_loads_where_its_code_is_trusted(folder: Path, tmp_path: Path) -> None:
    """By a program that knows nothing of this package, and with one line where it is not installed."""
    command = [sys.executable, "-c", _TRUSTING, str(folder), str(tmp_path / "again")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    missing, modules, answer = done.stdout.splitlines()
    assert "needs the package mimicit" in missing and "pip install 'mimicit[train]'" in missing
    assert modules == "otter_train.pretrained.modeling otter_train.pretrained.processing"
    ask = pipeline("image-text-to-text", model=str(folder))
    (expected,) = ask(text=chat(folder), max_new_tokens=3, return_full_text=False)
    assert answer == repr(expected["generated_text"])
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == {"otter_mimicit.py"}


def test_the_pipeline_of_transformers_answers(folder: Path) -> None:
    ask = pipeline("image-text-to-text", model=str(folder))
    options = {"max_new_tokens": 3, "return_full_text": False}
    (chatted,) = ask(text=chat(folder), **options)
    prompt = "<image>User:which colour? GPT:<answer>"
    (direct,) = ask(images=str(folder / "a.png"), text=prompt, **options)
    assert chatted["generated_text"] == direct["generated_text"]
    both = ask(images=[str(folder / "a.png")] * 2, text=[prompt, "yes" + prompt], **options)
    assert both[0]["generated_text"] == direct["generated_text"]

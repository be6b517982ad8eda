"""Trainers of transformers and of TRL keep the loader's order, and resume exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")
pytest.importorskip("accelerate", reason="comes with the extra 'dev'")

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments

import mimicit
from mimicit.errors import UsageError
from mimicit.loading import Samples
from mimicit.loading.chat import ChatCollator
from mimicit.loading.order import Split
from mimicit.loading.torch import Loader
from mimicit.loading.trainer import OrderCallback, TrainerDataset
from tests.factories.loading import small_shards
from tests.factories.vision_language import family

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning"),  # among the libraries themselves
]
STEPS, BATCH = 10, 2


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return mimicit.load(small_shards(tmp_path_factory.mktemp("trainer"), 8), shuffle="full", seed=1)


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "train_sampling_strategy": "sequential",
        "save_steps": 6,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        **more,
    }


def trainer(kind: str, name: str, folder: Path, samples: Samples, begin: str = "", **more: Any) -> Trainer:
    """A trainer of ``kind`` for a model of the family ``name``, made from the checkpoint ``begin`` if there is one."""
    model, processor = family(name)
    if begin:
        model = type(model).from_pretrained(begin)
    data = TrainerDataset(samples, length=STEPS * BATCH)
    shared = {"data_collator": ChatCollator(processor), "callbacks": [OrderCallback()]}
    if kind == "Trainer":
        return Trainer(model, TrainingArguments(**options(folder, **more)), train_dataset=data, **shared)
    trl = pytest.importorskip("trl", reason="comes with the extra 'dev'")
    config = trl.SFTConfig(
        **options(folder, **more), remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}
    )
    return trl.SFTTrainer(model, config, train_dataset=data.to_datasets(), processing_class=processor, **shared)


def losses(made: Trainer) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("kind", "name"), [("Trainer", "idefics3"), ("SFTTrainer", "qwen2_5_vl")])
def test_ten_steps_and_an_exact_resume(kind: str, name: str, samples: Samples, tmp_path: Path) -> None:
    whole = trainer(kind, name, tmp_path, samples)
    whole.train()
    expected = losses(whole)
    assert len(expected) == STEPS and expected[-1] < 0.7 * expected[0]
    checkpoint = tmp_path / "checkpoint-6"
    again = trainer(kind, name, tmp_path, samples, begin=str(checkpoint))
    again.train(resume_from_checkpoint=str(checkpoint))
    assert losses(again) == expected
    saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["OrderCallback"]
    loader = Loader(samples, batch_size=BATCH)
    loader.load_state_dict(saved["attributes"]["loader"])
    assert loader.step == 6


def test_a_plain_loop_sees_the_same_batches(samples: Samples) -> None:
    data = TrainerDataset(samples, length=STEPS * BATCH)
    given = [[row.id for row in rows] for rows in DataLoader(data, batch_size=BATCH, collate_fn=list)]
    rows = DataLoader(data.to_datasets(), batch_size=BATCH, collate_fn=list)
    loader = Loader(samples, batch_size=BATCH, steps=STEPS)
    expected = [[sample.id for sample in batch.values if sample is not None] for batch in loader]
    assert given == expected == [[row["sample"].id for row in batch] for batch in rows]
    seen = [id for batch in expected for id in batch]
    assert len(set(seen[:8])) == len(set(seen[8:16])) == 8  # epochs flow into one another


@pytest.mark.parametrize("world", [2, 5])
def test_processes_take_the_slices_of_a_loader(world: int) -> None:
    sampler = BatchSampler(SequentialSampler(range(40)), batch_size=2, drop_last=False)
    for rank in range(world):
        split = Split(batch_size=2 * world, rank=rank, world_size=world)
        shard: Sequence[list[int]] = list(BatchSamplerShard(sampler, num_processes=world, process_index=rank))
        assert shard == [split.positions(step) for step in range(40 // (2 * world))]


def test_weights_that_the_trainer_did_not_find_stop_it(samples: Samples, tmp_path: Path) -> None:
    trainer("Trainer", "qwen2_5_vl", tmp_path, samples, max_steps=6).train()
    with pytest.raises(UsageError, match=r"weights are not those of the checkpoint.*from_pretrained"):
        trainer("Trainer", "qwen2_5_vl", tmp_path, samples).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_what_would_change_the_order_stops_the_trainer(samples: Samples, tmp_path: Path) -> None:
    def refused(message: str, samples: Samples = samples, resume: bool = False, **more: Any) -> None:
        made = trainer("Trainer", "idefics3", tmp_path, samples, **more)
        with pytest.raises(UsageError, match=message):
            made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6") if resume else None)

    refused('"sequential" alone', train_sampling_strategy="random")
    refused("11 steps of 2 samples are more than the 20 of the data set; give TrainerDataset length=22", max_steps=11)
    trainer("Trainer", "idefics3", tmp_path, samples, max_steps=6).train()
    refused("another batch_size", resume=True, per_device_train_batch_size=1)
    refused("ignore_data_skip", resume=True, ignore_data_skip=True)
    refused("another order", resume=True, samples=mimicit.load(samples.folder, shuffle="full", seed=2))
    model, processor = family("idefics3")
    other = Trainer(
        model,
        TrainingArguments(**options(tmp_path)),
        train_dataset=list(samples[:4]),
        data_collator=ChatCollator(processor),
        callbacks=[OrderCallback()],
    )
    with pytest.raises(UsageError, match="is no TrainerDataset"):
        other.train()


def test_a_length_is_that_of_an_epoch_unless_given(samples: Samples) -> None:
    assert (len(TrainerDataset(samples)), len(TrainerDataset(samples, 20).to_datasets())) == (8, 20)

"""Which language models can be an Otter's: every causal decoder of the installed transformers is tried at tiny size.

    python -m tools.model_families [FAMILY ...] [--rows rows.jsonl] [--write docs/models.md]

Each family is built from random weights and asked, in a process of its own, for what Otter promises: its logits are
those of the plain decoder while the gates are closed, it trains without noise, padding on either side changes nothing,
packed rows are the same as padded ones, cached answers are those of whole forward passes, and an export gives equal
logits. What fails is refused by name in `otter_train.model.families`; a row that says anything else is a fault. Takes
about a quarter of an hour; with ``--rows`` it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

CHECKS: Final = ("plain", "trains", "right", "left", "packs", "cached", "round-trips")
_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embedding_size": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "decoder_ffn_dim": 48, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "ffn_hidden_size": 48, "mlp_intermediate_size": 48,
    "num_hidden_layers": 4, "n_layers": 4, "n_layer": 4, "num_layers": 4, "decoder_layers": 4,
    "num_attention_heads": 4, "n_heads": 4, "n_head": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 8, "vocab_size": 40, "max_position_embeddings": 128,
    "n_positions": 128, "max_seq_len": 128, "seq_length": 128, "context_length": 128, "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "sliding_window": 64,
    "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "ssm_state_size": 8, "state_size": 8, "n_groups": 1, "mamba_n_groups": 1, "chunk_size": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 40, "global_head_dim": 8,
    "query_pre_attn_scalar": 8, "max_window_layers": 4, "lru_width": 32,
    "index_n_heads": 2, "index_head_dim": 8, "index_topk": 128, "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
"""What makes a configuration tiny; each family takes what it knows."""
_DROPPED: Final = object()
_SMALL: Final = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
_ROPE: Final = {"rope_type": "default", "rope_theta": 10_000.0}
_OWN_SIZES: Final[dict[str, dict[str, Any]]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"patcher_config": _SMALL, "encoder_config": _SMALL | {"hidden_size_global": 32}, "global_config": _SMALL,
            "decoder_config": _SMALL | {"hidden_size_global": 32}, "encoder_hash_byte_group_vocab": 64,
            "encoder_hash_byte_group_size": [3]},
    "cohere_compass": {"layer_types": ["sliding_attention", "full_attention"] * 2,
                       "rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), _ROPE)},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000.0},
             "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1},
    "dots3_note": {"num_key_value_heads": 4, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4,
                   "swa_q_lora_rank": 8, "swa_kv_lora_rank": 8, "swa_head_dim": 8, "swa_qk_nope_head_dim": 4,
                   "swa_v_head_dim": 8, "head_dim": 8, "layer_types": _DROPPED},
    "gemma3n": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
                "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": 48, "laurel_rank": 4},
    "gemma4": {"global_head_dim": 16},
    "git": {"vision_config": _SMALL | {"image_size": 16, "patch_size": 8}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hunyuan": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    "phi4_multimodal": {"vision_config": _SMALL | {"crop_size": 28, "image_size": 28},
                        "audio_config": {"hidden_size": 32, "intermediate_size": 48, "num_blocks": 1,
                                         "num_attention_heads": 4, "ext_pw_out_channel": 32, "nemo_conv_channels": 32}},
    "qwen4_exp": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 128,
                  "indexer_compress_ratio": 2, "hc_count": 2, "hc_lowrank": 8},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local"] * 4},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What some families need beside, by the beginning of their name; what is dropped keeps its default."""
_ATTENTION: Final = {"mamba": ["attention"], "linear_attention": ["full_attention"]}
_LARGEST: Final = 20_000_000
_REASON: Final = 400
_SECONDS: Final = 300
_LIVES: Final = 40


def families() -> list[str]:
    """Every ``model_type`` that transformers has a causal decoder of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def try_family(name: str) -> dict[str, str]:
    """What came of each of `CHECKS`: ``yes``, ``no`` or what went wrong; or one ``refused`` with its reason."""
    warnings.simplefilter("ignore")
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    from mimicit.errors import TrainError
    from otter_train.model.families import check_family

    try:
        check_family(name)
        try:
            architecture = tiny_architecture(name)
        except TrainError:
            raise
        except Exception as error:
            return {"refused": f"not tried: no tiny configuration ({_short(error)})"}
        try:
            model = _otter(architecture)
        except TrainError:
            raise
        except Exception as error:
            if fault := _fault_of_transformers(architecture):
                return {"refused": f"not tried: no tiny one runs in transformers itself ({fault})"}
            return {"refused": f"a traceback: {_short(error)}"}
        if fault := _fault_of_transformers(architecture):
            return {"refused": f"not tried: no tiny one runs in transformers itself ({fault})"}
    except TrainError as error:
        return {"refused": _short(error)}
    found = {}
    for check, carry_out in _CHECKS.items():
        try:
            found[check] = carry_out(model, architecture)
        except Exception as error:
            found[check] = _short(error)
    return found


def table(results: dict[str, dict[str, str]]) -> str:
    """The results as Markdown: first the families that work, then those that do not, each with the reason."""
    working = {name: found for name, found in results.items() if "refused" not in found}
    lines = [f"{len(working)} of {len(results)} families of transformers {version('transformers')} can be used.", ""]
    lines += [f"| family | {' | '.join(CHECKS)} |", "| --- |" + " --- |" * len(CHECKS)]
    lines += [f"| {name} | {' | '.join(found[check] for check in CHECKS)} |" for name, found in working.items()]
    lines += ["", "| family | why not |", "| --- | --- |"]
    lines += [f"| {name} | {found['refused']} |" for name, found in results.items() if "refused" in found]
    return "\n".join(lines) + "\n"


def tiny_architecture(name: str) -> Any:
    """The smallest architecture of the family ``name``, as `otter_train.model.config.LanguageConfig` holds it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from otter_train.model.build import architecture_of, text_config

    # A folder of a model that reads more than text gives its text part.
    default = text_config(AutoConfig.for_model(name), name)
    known = {key: value for key, value in _SIZES.items() if _takes(default, key)}
    known |= {name: 0 for name in ("pad_token_id", "bos_token_id", "eos_token_id") if hasattr(default, name)}
    if _takes(default, "num_key_value_heads", or_none=True):
        known["num_key_value_heads"] = 2
    if "kv_lora_rank" in known:  # latent attention: its heads follow from the ranks
        known.pop("head_dim", None)
        known["num_key_value_heads"] = 4
    for listed in ("layer_types", "layers_block_type"):
        kinds = vars(default).get(listed) or []
        # One that alternates must have attention: transformers keeps no cache for a state alone.
        added = [] if "hybrid" in kinds else _ATTENTION.get(next(iter(kinds), ""), [])
        distinct = list(dict.fromkeys([*kinds, *added]))
        if distinct:
            known[listed] = [distinct[place % len(distinct)] for place in range(4)]
    for family, own in _OWN_SIZES.items():
        if f"{name}_".startswith(f"{family}_"):
            known |= own
    config = type(default)(**{key: value for key, value in known.items() if value is not _DROPPED})
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    size = sum(one.numel() for one in lm.parameters())
    if size > _LARGEST:
        raise RuntimeError(f"{size / 1e6:.0f} million weights at its smallest")
    return architecture_of(config)


def _takes(config: Any, key: str, *, or_none: bool = False) -> bool:
    """Whether ``config`` has a number or a list called ``key`` that may be set."""
    if isinstance(getattr(type(config), key, None), property):
        return False
    try:
        return (or_none and hasattr(config, key)) or getattr(config, key, None) is not None
    except Exception:  # it differs from layer to layer
        return True


def _fault_of_transformers(architecture: Any) -> str:
    """What keeps the plain decoder from running, where its configuration does not allow such sizes."""
    import torch
    from transformers import AutoModelForCausalLM

    from otter_train.model.build import config_of

    try:
        lm = AutoModelForCausalLM.from_config(config_of(architecture)).eval()
        with torch.no_grad():
            lm(input_ids=torch.tensor([[1, 2, 3, 4, 5]]))
    except Exception as error:
        return _short(error)
    return ""


def _otter(architecture: Any, gate: float | None = 0.7) -> Any:
    from otter_train.model.config import LanguageConfig
    from tests.factories.otter import CONFIG, otter

    return otter(replace(CONFIG, language=LanguageConfig(architecture=architecture)), seed=2, gate=gate)


def _logits(model: Any, batch: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask).logits


def _batch() -> Any:
    from tests.factories.otter import inputs

    return inputs([[1, 1, 1], [], [2], [1]], seed=2)


def _plain(model: Any, architecture: Any) -> str:
    import torch

    from tests.factories.otter import inputs

    closed, batch = _otter(architecture, gate=None), inputs([[1, 1], [2, 1]])
    with _unconditioned(closed), torch.no_grad():
        expected = closed.language.lm(input_ids=batch.lang_x).logits.float()
    return _close(_logits(closed, batch), expected, 1e-6)


class _unconditioned:  # noqa: N801 - reads as the context manager it is
    """Lets a decoder run without what it looks at; the gates of its blocks must be closed."""

    def __init__(self, model: Any) -> None:
        self.layers = [layer for layer in model.language.lm.modules() if layer._forward_pre_hooks]

    def __enter__(self) -> None:
        self.hooks = [(layer, layer._forward_pre_hooks.copy()) for layer in self.layers]
        for layer in self.layers:
            layer._forward_pre_hooks.clear()

    def __exit__(self, *error: object) -> None:
        for layer, hooks in self.hooks:
            layer._forward_pre_hooks.update(hooks)


def _trains(model: Any, architecture: Any) -> str:
    import torch

    from otter_train.model import freeze

    trained = _otter(architecture).train()
    freeze(trained, embeddings="full")
    batch = _batch()
    given = (batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels)
    first, second = (trained(*given, vision_mask=batch.vision_mask).loss for _ in range(2))
    if not torch.equal(first, second):
        return "two passes differ"
    first.backward()
    without = [name for name, one in trained.named_parameters() if one.requires_grad and one.grad is None]
    return f"no gradient for {without[0]}" if without else "yes"


def _padded(model: Any, *, left: bool) -> str:
    batch = _batch()
    padded = batch.to_left() if left else batch
    together = _logits(model, padded)
    worst = 0.0
    for index in range(len(batch.lang_x)):
        real = padded.attention_mask[index].bool()
        alone = _logits(model, batch.row(index))[0]
        worst = max(worst, float((together[index][real] - alone).abs().max()))
    return "yes" if worst <= 1e-4 else f"logits differ by {worst:.1e}"


def _packs(model: Any, architecture: Any) -> str:
    if not model.language.can_pack:
        return "no"
    import torch

    from otter_train.model.packing import Document, lay_out
    from tests.factories.otter import IDS

    batch = _batch()
    documents: list[Any] = []
    frames: list[int] = []
    pictures: list[Any] = []
    for index in range(len(batch.lang_x)):
        row = batch.row(index)
        media = range(len(frames), len(frames) + row.vision_x.shape[1])
        for place in range(row.vision_x.shape[1]):
            shown = row.vision_x[0, place][row.vision_mask[0, place]]
            frames.append(len(shown))
            pictures.append(shown)
        documents.append(Document(row.lang_x[0].tolist(), row.labels[0].tolist(), list(media)))
    lang_x, packing = lay_out(documents, frames, image=IDS.image, pad=IDS.pad)
    with torch.no_grad():
        packed = model(torch.cat(pictures), lang_x, packing=packing).loss
        padded = model(batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask)
    return _close(packed, padded.loss, 1e-4)


def _cached(model: Any, architecture: Any) -> str:
    from tests.factories.otter import greedy

    left = _batch().to_left()
    answers = [greedy(model, left, 6, use_cache=use_cache) for use_cache in (True, False)]
    return "yes" if answers[0] == answers[1] else "cached answers differ"


def _round_trips(model: Any, architecture: Any) -> str:
    import torch

    from otter_train.model.config import LanguageConfig
    from otter_train.pretrained import OtterConfig, OtterForConditionalGeneration
    from tests.factories.otter import CONFIG, IDS, VOCABULARY

    config = replace(CONFIG, language=LanguageConfig(architecture=architecture))
    made = OtterConfig.from_model_config(config, vocab_size=VOCABULARY, token_ids=IDS)
    batch = _batch()
    with tempfile.TemporaryDirectory() as folder:
        OtterForConditionalGeneration.around(model, made).save_pretrained(folder)
        loaded = OtterForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        found = loaded(
            batch.lang_x, batch.vision_x, batch.attention_mask, vision_mask=batch.vision_mask
        ).logits  # fmt: skip
    return _close(found, _logits(model, batch), 1e-5)


def _close(found: Any, expected: Any, most: float) -> str:
    apart = float((found - expected).abs().max())
    return "yes" if apart <= most else f"off by {apart:.1e}"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()).replace("|", "/") or type(error).__name__
    prefix = "" if type(error).__name__ in ("TrainError", "RuntimeError") else f"{type(error).__name__}: "
    return f"{prefix}{text}"[:_REASON]


_CHECKS: Final[dict[str, Callable[[Any, Any], str]]] = {
    "plain": _plain,
    "trains": _trains,
    "right": lambda model, architecture: _padded(model, left=False),
    "left": lambda model, architecture: _padded(model, left=True),
    "packs": _packs,
    "cached": _cached,
    "round-trips": _round_trips,
}


class _Trier:
    """A process that tries families one after the other, and is replaced when one ends it or takes too long.

    Some leave torch in another state (a default dtype), so none lives for more than ``_LIVES`` of them.
    """

    def __init__(self) -> None:
        self._lives = 0

    def __enter__(self) -> _Trier:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def ask(self, name: str) -> dict[str, str]:
        if not self._lives:
            self._begin()
        self._lives -= 1
        self._pipe.send(name)
        try:
            if self._pipe.poll(_SECONDS):
                found: dict[str, str] = self._pipe.recv()
            else:
                self._end()
                found = {"refused": f"not tried: takes longer than {_SECONDS} seconds at tiny size"}
        except EOFError:
            self._end()
            found = {"refused": "not tried: it ends the process"}
        if not self._lives:
            self._end()
        return found

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._lives = _LIVES

    def _end(self) -> None:
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._lives = 0


def _answer(pipe: Connection) -> None:
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        pipe.send(try_family(name))


def _all(names: list[str], rows: Path | None) -> Iterator[tuple[str, dict[str, str]]]:
    """What came of each family, in order; those that ``rows`` has are not tried again, and the others are added."""
    known: dict[str, dict[str, str]] = {}
    if rows is not None and rows.exists():
        known = {row["family"]: row["found"] for row in map(json.loads, rows.read_text("utf-8").splitlines())}
    with _Trier() as trier:
        for name in names:
            if name not in known:
                found = trier.ask(name)
                print(name, found, flush=True)
                if rows is not None:
                    with rows.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"family": name, "found": found}) + "\n")
                known[name] = found
            yield name, known[name]


def main() -> None:
    """Print the table, and put it into the page after its marker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*")
    parser.add_argument("--rows", type=Path, help="JSON Lines of what was found; families in it are not tried again")
    parser.add_argument("--write", type=Path, help="page whose part after '<!-- families -->' is written anew")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = dict(_all(given.family or families(), given.rows))
    print(table(results))
    if given.write:
        head = given.write.read_text(encoding="utf-8").partition("<!-- families -->")[0]
        given.write.write_text(f"{head}<!-- families -->\n\n{table(results)}", encoding="utf-8")


if __name__ == "__main__":
    main()

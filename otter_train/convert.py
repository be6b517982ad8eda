"""``python -m otter_train.convert``: weights of OpenFlamingo, Otter and this package, each into the others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mimicit.errors import UsageError
from mimicit.schema import canonical_json
from otter_train.config.command_line import HELP, Program, calm_threads, errors_on_one_line

if TYPE_CHECKING:
    from otter_train.conversion import Report
    from otter_train.model import ModelConfig

_FOR_ADAPTERS = frozenset(("source", "target", "to", "dtype", "language_model", "as_json"))
_PATH = click.Path(path_type=Path)
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@click.command(cls=Program, context_settings=HELP)
@click.argument("source", type=_PATH)
@click.argument("target", type=_PATH)
@click.option(
    "--to", required=True, type=click.Choice(["ours", "openflamingo", "otter", "peft"]), help="Layout to write."
)
@click.option(
    "--from",
    "layout",
    type=click.Choice(["auto", "ours", "openflamingo", "otter"]),
    default="auto",
    help="Layout of the source; auto looks at the names of its weights.",
)
@click.option(
    "--with-frozen/--without-frozen",
    default=None,
    help="Write all weights of the frozen vision tower and language model, or none; by default what the source has.",
)
@click.option("--preset", help="Architecture of a source that does not state it, such as otter-9b.")
@click.option("--language-model", help="Folder of the frozen language model, for its shape and its weights.")
@click.option("--vision-model", help="Folder of the frozen vision tower, for its shape and its weights.")
@click.option("--cross-attention-every", type=click.IntRange(min=1), help="Decoder layers per cross-attention block.")
@click.option("--tokenizer", type=_PATH, help="Folder of a tokenizer; rows of special tokens move to its ids.")
@click.option("--source-tokenizer", type=_PATH, help="Folder of the tokenizer that the source was trained with.")
@click.option("--added-tokens", help="Added tokens of the source in the order of their rows, separated by commas.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Number format, else as stored.")
@click.option("--vision-layout", type=click.Choice(["transformers", "open_clip"]), help="Layout of the vision tower.")
@click.option(
    "--format", "file_format", type=click.Choice(["safetensors", "bin"]), default="safetensors", help="File format."
)
@click.option("--max-shard-size", help="Largest file, such as 5GB; beyond it weights are split into shards.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    source: Path,
    target: Path,
    to: str,
    layout: str,
    with_frozen: bool | None,
    preset: str | None,
    language_model: str | None,
    vision_model: str | None,
    cross_attention_every: int | None,
    tokenizer: Path | None,
    source_tokenizer: Path | None,
    added_tokens: str | None,
    dtype: str | None,
    vision_layout: str | None,
    file_format: str,
    max_shard_size: str | None,
    as_json: bool,
) -> None:
    """Rewrite the weights SOURCE (a file, a folder, or a training run) as TARGET (a file or a new folder).

    \b
    python -m otter_train.convert run/ exported/ --to ours        # for transformers' from_pretrained
    python -m otter_train.convert OTTER-9B/ otter.safetensors --to openflamingo

    Adapters of a run are added to the weights they belong to; --to peft writes them alone, for peft.
    """
    with errors_on_one_line():
        calm_threads()
        limit = _bytes(max_shard_size)
        import torch

        if to == "peft":
            from otter_train.conversion.model_folder import write_adapter

            _refuse_for_adapters(click.get_current_context())
            adapters = write_adapter(
                source, target, dtype=None if dtype is None else getattr(torch, dtype), language_model=language_model
            )
            if as_json:
                click.echo(canonical_json({"adapters": adapters.written, "left_out": list(adapters.left_out)}))
                return
            click.echo(f"{source} -> {target}: {adapters.written} adapters of the language model")
            if adapters.left_out:
                click.echo(f"trained beside them, and not in it: {', '.join(adapters.left_out)}")
            return
        from otter_train.conversion import convert

        report = convert(
            source,
            target,
            to=to,  # type: ignore[arg-type]
            layout=None if layout == "auto" else layout,  # type: ignore[arg-type]
            frozen="keep" if with_frozen is None else "require" if with_frozen else "drop",
            architecture=_architecture(preset, language_model, vision_model, cross_attention_every),
            tokenizer=tokenizer,
            source_tokenizer=source_tokenizer,
            added_tokens=[name.strip() for name in added_tokens.split(",")] if added_tokens else (),
            dtype=None if dtype is None else getattr(torch, dtype),
            file_format=file_format,  # type: ignore[arg-type]
            max_shard_bytes=limit,
            vision=vision_layout,  # type: ignore[arg-type]
            moved={"language_model": language_model, "vision_model": vision_model},
        )
    click.echo(canonical_json(report.to_json()) if as_json else _in_words(report))


def _refuse_for_adapters(context: click.Context) -> None:
    """`UsageError` if an option was given that means nothing to adapters alone."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in _FOR_ADAPTERS and context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise UsageError(f"--to peft writes the adapters alone; leave out {parameter.opts[0]}")


def _architecture(
    preset_name: str | None, language: str | None, vision: str | None, every: int | None
) -> ModelConfig | None:
    from dataclasses import replace

    from otter_train.model import preset, with_pretrained

    if preset_name is None and language is None and vision is None and every is None:
        return None
    config = with_pretrained(preset(preset_name or "otter-9b"), language=language, vision=vision)
    return config if every is None else replace(config, cross_attention_every=every)


def _bytes(size: str | None) -> int | None:
    if size is None:
        return None
    match = re.fullmatch(r"(\d+)\s*([KMG]i?B)?", size, re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"--max-shard-size {size}: write a number of bytes, or one such as 500MB or 5GB")
    return int(match[1]) * _UNITS[(match[2] or "").upper()]


def _in_words(report: Report) -> str:
    lines = [
        f"{report.source} ({report.layout}, {report.tensors_read} tensors) -> {report.target}: "
        f"{report.tensors_written} tensors, {report.bytes_written / 1e6:.1f} MB in {', '.join(report.files)}"
    ]
    lines += [f"left out: {count} {reason}" for reason, count in report.left_out.items()]
    if report.absent:
        lines.append(f"absent as a whole: {', '.join(part.rstrip('.') for part in report.absent)}")
    lines += [f"moved: {name} from row {old} to {new}" for name, (old, new) in report.moved_tokens.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

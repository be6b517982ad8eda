"""``python -m otter_train.generate``: ask a trained model about a picture or a clip."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mimicit.options import click_options, configured
from mimicit.schema import canonical_json
from otter_train.config.command_line import HELP, Program, calm_threads, errors_on_one_line, importing, run_and_leave
from otter_train.inference import AnswerOptions, ModelOptions

_FILE = click.Path(path_type=Path)


@click.command(cls=Program, context_settings=HELP)
@click.option("--checkpoint", type=_FILE, required=True, help="Run, checkpoint, or model of any layout.")
@click.option("--image", type=_FILE, multiple=True, help="Picture that the question is about; repeat for more.")
@click.option("--video", type=_FILE, help="Clip that the question is about, in place of pictures.")
@click.option("--prompt", required=True, help="The question.")
@click.option("--context-image", type=_FILE, multiple=True, help="Picture of an example; repeat for more examples.")
@click.option("--context-prompt", multiple=True, help="Question of an example.")
@click.option("--context-answer", multiple=True, help="Answer of an example.")
@click_options(AnswerOptions)
@click.option("--frames", type=click.IntRange(min=1), default=8, help="Frames taken from a clip.")
@click_options(ModelOptions)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    checkpoint: Path,
    image: tuple[Path, ...],
    video: Path | None,
    prompt: str,
    context_image: tuple[Path, ...],
    context_prompt: tuple[str, ...],
    context_answer: tuple[str, ...],
    frames: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Answer a question about a picture, after as many in-context examples as you give.

    \b
    python -m otter_train.generate --checkpoint run/ --image a.jpg --prompt "What is this?" \\
        --context-image x.jpg --context-prompt "What is this?" --context-answer "a cat"
    """
    with errors_on_one_line():
        calm_threads()
        with importing():
            from otter_train.data.question import pair_examples, question_sample
            from otter_train.inference.answering import answer_each, load_trained_model

        options = configured(AnswerOptions, given)
        examples = pair_examples(context_image, context_prompt, context_answer)
        sample = question_sample(prompt, images=image, video=video, examples=examples, frames=frames)
        trained = load_trained_model(checkpoint, **asdict(configured(ModelOptions, given)))
        cut = trained.encoder.encode(sample, with_answer=False).cut
        ((_, answer),) = answer_each(trained, [sample], options)
    if words := cut.in_words(trained.encoder.max_tokens):
        click.echo(words, err=True)
    if as_json:
        asked = {"checkpoint": str(trained.source), "step": trained.step, "prompt": prompt}
        left_out = {"examples": cut.context_triplets, "beginning_of_question": bool(cut.instructions)}
        click.echo(canonical_json({**asked, "answer": answer, "left_out": left_out}))
    else:
        click.echo(answer)
        if not answer:
            click.echo("the model ended its answer before the first word; train it longer?", err=True)


if __name__ == "__main__":
    run_and_leave(main)

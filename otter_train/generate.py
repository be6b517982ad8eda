"""``python -m otter_train.generate``: ask a trained model about a picture or a clip."""

from __future__ import annotations

from pathlib import Path

import click

from mimicit.schema import canonical_json
from otter_train.config.command_line import HELP, Program, calm_threads, errors_on_one_line, importing, run_and_leave

_FILE = click.Path(path_type=Path)


@click.command(cls=Program, context_settings=HELP)
@click.option("--checkpoint", type=_FILE, required=True, help="Run, checkpoint, or model of any layout.")
@click.option("--image", type=_FILE, multiple=True, help="Picture that the question is about; repeat for more.")
@click.option("--video", type=_FILE, help="Clip that the question is about, in place of pictures.")
@click.option("--prompt", required=True, help="The question.")
@click.option("--context-image", type=_FILE, multiple=True, help="Picture of an example; repeat for more examples.")
@click.option("--context-prompt", multiple=True, help="Question of an example.")
@click.option("--context-answer", multiple=True, help="Answer of an example.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, help="Longest answer, in tokens.")
@click.option("--temperature", type=float, default=0.0, help="Sampling temperature; 0: the likeliest token.")
@click.option("--top-p", type=float, default=1.0, help="Sample among the likeliest tokens of this total probability.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the sampling.")
@click.option("--beams", type=int, default=1, help="Beams of a beam search for the likeliest answer; 1 for none.")
@click.option("--frames", type=click.IntRange(min=1), default=8, help="Frames taken from a clip.")
@click.option("--language-model", help="Where the frozen language model lies now, if it was moved.")
@click.option("--vision-model", help="Where the frozen vision model lies now, if it was moved.")
@click.option("--device", default="auto", help="Device to run on: auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    checkpoint: Path,
    image: tuple[Path, ...],
    video: Path | None,
    prompt: str,
    context_image: tuple[Path, ...],
    context_prompt: tuple[str, ...],
    context_answer: tuple[str, ...],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    beams: int,
    frames: int,
    language_model: str | None,
    vision_model: str | None,
    device: str,
    as_json: bool,
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
            from otter_train.inference import AnswerOptions
            from otter_train.inference.answering import answer_each, load_trained_model

        options = AnswerOptions(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, beams=beams
        )
        examples = pair_examples(context_image, context_prompt, context_answer)
        sample = question_sample(prompt, images=image, video=video, examples=examples, frames=frames)
        trained = load_trained_model(
            checkpoint, device=device, language_model=language_model, vision_model=vision_model
        )
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

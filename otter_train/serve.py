"""``python -m otter_train.serve``: a trained model behind OpenAI's chat completions."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicit.errors import UsageError
from mimicit.options import click_options, configured
from mimicit.web import LOCAL_NAMES, is_local, listen, url
from otter_train.config.command_line import HELP, Program, calm_threads, errors_on_one_line
from otter_train.inference import ModelOptions
from otter_train.serving.limits import Limits

if TYPE_CHECKING:
    from otter_train.inference.answering import TrainedModel

_SWITCH_S = 0.0005  # the event loop waits this long for the model's thread to yield, ten times a question


@click.command(cls=Program, context_settings=HELP)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Run, checkpoint, or any model.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; beyond this machine only with --api-key.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, help="Port to listen on; 0 picks a free one.")
@click.option("--api-key", envvar="OTTER_API_KEY", help="Key that every request must carry.  [env: OTTER_API_KEY]")
@click.option("--model-name", help="Name of the model in requests.  [default: name of the run folder]")
@click_options(Limits)
@click_options(ModelOptions)
def main(checkpoint: Path, host: str, port: int, api_key: str | None, model_name: str | None, **given: Any) -> None:
    """Serve a trained model at http://HOST:PORT/v1, as OpenAI's chat completions are.

    Pictures come as data URLs; nothing is ever fetched. Answers are greedy unless a request gives a temperature.
    """
    with errors_on_one_line():
        local = is_local(host)
        if not local and not api_key:
            raise UsageError(f"--host {host} can be reached from other machines; give --api-key (or OTTER_API_KEY)")
        limits: Limits = configured(Limits, given)
        calm_threads()
        try:
            from mimicit.web.server import run_server
            from otter_train.serving.app import create_app
        except ModuleNotFoundError as error:
            raise UsageError(f"{error.name} is missing: pip install 'mimicit[serve]'") from None
        from otter_train.inference.answering import load_trained_model
        from otter_train.serving.worker import Worker

        trained = load_trained_model(checkpoint, **asdict(configured(ModelOptions, given)))
        longest = getattr(trained.model.language.lm.config, "max_position_embeddings", None) or limits.context
        name = model_name or _name_of(trained)
        with (
            listen(host, port) as listener,
            Worker(trained, replace(limits, context=min(limits.context, longest))) as worker,
        ):
            hosts = LOCAL_NAMES if local and not api_key else None
            app = create_app(worker, model=name, api_key=api_key, hosts=hosts)
            gc.freeze()  # or each full collection scans all of torch and the model, and every request waits
            sys.setswitchinterval(_SWITCH_S)
            click.echo(f"{name} answers at {url(host, listener)}/v1")
            ended_by = run_server(app, listener)
        os._exit(128 + ended_by)  # torch takes seconds to shut down


def _name_of(trained: TrainedModel) -> str:
    source = trained.source.resolve()
    return (source.stem if trained.step is None else source.parent.name) or "otter"


if __name__ == "__main__":
    main()

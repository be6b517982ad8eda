"""``report.html``: a run on one page, made from the files in its folder; it needs no network and runs no script.

Curves are drawn as SVG, held-out pictures are in the page. All text of data and options is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from mimicit.errors import TrainError
from mimicit.records import Media, Sample
from mimicit.shards.files import write_atomically
from otter_train.checkpoint.lineage import read_lineage
from otter_train.config.command_line import CONFIG_NAME, EVAL_NAME, GATES_NAME, GUARD_NAME, METRICS_NAME, SOURCES_NAME
from otter_train.reporting.metrics import EvalRow, GateRow, Row, SourceRow, duration, read_table

REPORT_NAME: Final = "report.html"
_WIDTH, _HEIGHT, _LEFT, _BELOW = 520, 200, 52, 22
_COLOURS: Final = ("#0b62a3", "#b34700", "#2a7a2a", "#8a2a8a", "#666", "#a02020", "#00787a", "#6b5b00")
_LONGEST_TEXT: Final = 600
_PICTURES: Final = 4
_BAD_STEPS: Final = 20
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse}td,th{padding:.15rem .9rem .15rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}figure{display:inline-block;margin:.5rem 1rem .5rem 0}
figcaption{font-size:.9rem}svg{max-width:100%;height:auto}article{border-top:1px solid #ddd;padding:.7rem 0}
img{max-height:9rem;max-width:100%;margin-right:.4rem}.q{font-weight:600}p{margin:.2rem 0;overflow-wrap:anywhere}
""".strip()


class _Curve(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]


class Shown(NamedTuple):
    """A held-out sample with the bytes of its media, and the model's answers by the number of examples shown."""

    sample: Sample
    answers: dict[int, str]


def write_report(run: Path, shown: Sequence[Shown] = ()) -> Path:
    """Write ``run/report.html`` from the tables of the run folder, with the answers ``shown``; returns its path.

    `TrainError` if one of the files is damaged.
    """
    path = run / REPORT_NAME
    write_atomically(path, (part.encode("utf-8", "replace") for part in _page(run, shown)))
    return path


def _page(run: Path, shown: Sequence[Shown]) -> Iterator[str]:
    rows = read_table(Row, run / METRICS_NAME)
    title = escape(f"Training run {run.name}")
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{_STYLE}</style></head><body><main><h1>{title}</h1>\n"
    yield _ancestors(run)
    yield _summary(rows)
    yield "<h2>Curves</h2>\n" + "\n".join(_curves(run, rows))
    yield _sources(read_table(SourceRow, run / SOURCES_NAME))
    yield from _bad_steps(run / GUARD_NAME)
    yield from _answers(shown)
    yield _settings(run / CONFIG_NAME)
    yield "</main></body></html>\n"


def _ancestors(run: Path) -> str:
    """The runs that this one continues, and what changed after each."""
    lines = (
        f"<li>{escape(one.run)}, left after step {one.step:,}; {escape(', '.join(one.changes) or 'no changes')}</li>"
        for one in read_lineage(run).ancestors
    )
    found = "".join(lines)
    return f"<h2>Goes on from</h2>\n<ol>{found}</ol>\n" if found else ""


def _summary(rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>Nothing has been logged.</p>\n"
    last = rows[-1]
    # The first line holds the start of everything: libraries, workers, memory.
    later = rows[1:] or rows
    seconds = later[-1].elapsed_s - (rows[0].elapsed_s if len(rows) > 1 else 0.0)
    waiting = _mean_over_time(rows, [row.data_wait for row in rows])
    facts = {
        "steps": f"{last.step:,}",
        "samples": f"{last.samples:,}",
        "last loss": f"{last.loss:.4f} nats per labelled token",
        "time": duration(last.elapsed_s),
        "speed": f"{(last.samples - (rows[0].samples if len(rows) > 1 else 0)) / max(seconds, 1e-9):.1f} samples/s, "
        f"{_mean_over_time(later, [row.tokens_per_s for row in later]):,.0f} tokens/s",
        "arithmetic used (MFU)": f"{_mean_over_time(later, [row.mfu for row in later]):.1%}",
        "waiting for data": f"{waiting:.1%} of the time",
        "peak memory": f"{last.peak_memory_bytes / 2**30:.2f} GiB",
        "steps left out by the guard": f"{sum(row.left_out for row in rows)}",
    }
    return _table((), ([name, value] for name, value in facts.items()))


def _mean_over_time(rows: Sequence[Row], values: Sequence[float]) -> float:
    spans = [row.elapsed_s - before for row, before in zip(rows, [0.0, *(row.elapsed_s for row in rows)], strict=False)]
    return sum(value * span for value, span in zip(values, spans, strict=True)) / max(sum(spans), 1e-9)


def _curves(run: Path, rows: Sequence[Row]) -> Iterator[str]:
    held_out = read_table(EvalRow, run / EVAL_NAME)
    yield _plot(
        "loss (nats per labelled token)",
        [
            _Curve("training", [(row.step, row.loss) for row in rows]),
            _Curve("held out", [(row.step, row.loss) for row in held_out]),
        ],
    )
    yield _plot("loss per source", list(_by_source(read_table(SourceRow, run / SOURCES_NAME))))
    yield _plot("gradient norm before clipping", [_Curve("norm", [(row.step, row.gradient_norm) for row in rows])])
    yield _plot("learning rate", [_Curve("rate", [(row.step, row.lr) for row in rows])])
    yield _plot("text tokens per second", [_Curve("tokens", [(row.step, row.tokens_per_s) for row in rows])])
    gates = read_table(GateRow, run / GATES_NAME)
    layers = sorted({row.layer for row in gates})
    yield _plot(
        "gates of the attention to pictures (tanh)",
        [_Curve(f"layer {one}", [(row.step, row.attention) for row in gates if row.layer == one]) for one in layers],
    )


def _by_source(rows: Sequence[SourceRow]) -> Iterator[_Curve]:
    for source in sorted({row.source for row in rows}):
        points = [(row.step, row.loss) for row in rows if row.source == source and row.labelled]
        yield _Curve(source, points)


def _plot(title: str, curves: Sequence[_Curve]) -> str:
    shown = [_Curve(name, [(x, y) for x, y in points if y - y == 0]) for name, points in curves]
    shown = [curve for curve in shown if curve.points][: len(_COLOURS)]
    if not shown:
        return ""
    xs = [x for curve in shown for x, _ in curve.points]
    ys = [y for curve in shown for _, y in curve.points]
    low, high = min(0.0, *ys), max(ys) if max(ys) > min(0.0, *ys) else min(ys) + 1
    first, last = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - first) / (last - first) * (_WIDTH - _LEFT - 8)
        return f"{across:.1f},{8 + (high - y) / (high - low) * (_HEIGHT - _BELOW - 8):.1f}"

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-size="11">',
        f'<path d="M{_LEFT} 8V{_HEIGHT - _BELOW}H{_WIDTH - 8}" fill="none" stroke="#888"/>',
        f'<text x="{_LEFT - 4}" y="14" text-anchor="end">{_scale(high)}</text>',
        f'<text x="{_LEFT - 4}" y="{_HEIGHT - _BELOW}" text-anchor="end">{_scale(low)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">step {first:.0f}</text>',
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">{last:.0f}</text>',
    ]
    for colour, curve in zip(_COLOURS, shown, strict=False):
        points = " ".join(place(x, y) for x, y in curve.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(curve.points) < 10:
            dots = (place(x, y).split(",") for x, y in curve.points)
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in dots]
    names = ", ".join(
        f'<span style="color:{colour}">{escape(curve.name)}</span>'
        for colour, curve in zip(_COLOURS, shown, strict=False)
    )
    legend = f": {names}" if len(shown) > 1 or shown[0].name not in title else ""
    return f"<figure>{''.join(parts)}</svg><figcaption>{escape(title)}{legend}</figcaption></figure>"


def _scale(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _sources(rows: Sequence[SourceRow]) -> str:
    samples: dict[str, int] = {}
    labelled: dict[str, int] = {}
    loss: dict[str, float] = {}
    for row in rows:
        samples[row.source] = samples.get(row.source, 0) + row.samples
        labelled[row.source] = labelled.get(row.source, 0) + row.labelled
        loss[row.source] = row.loss
    total = max(1, sum(labelled.values()))
    lines = (
        [
            source,
            f"{samples[source]:,}",
            f"{labelled[source]:,}",
            f"{labelled[source] / total:.1%}",
            f"{loss[source]:.4f}",
        ]
        for source in sorted(samples, key=lambda source: -labelled[source])
    )
    return "<h2>Data</h2>\n" + _table(("source", "samples", "labelled tokens", "share", "last loss"), lines)


def _bad_steps(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    with _damage(path):
        bad = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        lines = [
            [str(one["step"]), one["reason"], ", ".join(sample["id"] for sample in one["samples"])[:_LONGEST_TEXT]]
            for one in bad[:_BAD_STEPS]
        ]
    yield f"<h2>Steps left out ({len(bad)})</h2>\n"
    yield _table(("step", "gradient", "samples"), lines)


def _answers(shown: Sequence[Shown]) -> Iterator[str]:
    if shown:
        yield "<h2>Answers to held-out questions</h2>\n"
    for sample, answers in shown:
        query = sample.query
        own = [sample.media[number] for number in query.media] or list(sample.media[-1:])
        pictures = "".join(_picture(medium) for medium in own[:_PICTURES])
        lines = [[f"{shots} examples shown", answer] for shots, answer in answers.items()]
        yield (
            f"<article>{pictures}<p class=q>{_text(query.instruction)}</p>"
            f"{_table((), [*lines, ['truth', query.answer]])}<p>{_text(sample.id)} ({_text(sample.source)})</p>"
            "</article>\n"
        )


def _picture(medium: Media) -> str:
    """The picture, or the first frame of a clip, as it is stored."""
    if not medium.data:
        return ""
    kind = {"jpg": "jpeg", "png": "png", "webp": "webp"}[medium.files[0].rpartition(".")[2]]
    data = base64.b64encode(medium.data[0]).decode()
    return f'<img alt="{escape(medium.origin)}" src="data:image/{kind};base64,{data}">'


def _settings(path: Path) -> str:
    with _damage(path):
        settings: Mapping[str, object] = orjson.loads(path.read_bytes()) if path.exists() else {}
        lines = [[name, "" if value is None else str(value)] for name, value in sorted(settings.items())]
    return "<h2>Settings</h2>\n" + _table((), lines)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise TrainError(f"{path}: damaged ({error}); the report was not written; move the file away") from None


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if header and _is_number(cell) else ''}>{_text(cell)}</td>" for cell in line)
        + "</tr>\n"
        for line in lines
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}\n{body}</table>\n"


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").isdigit()


def _text(text: str) -> str:
    return escape(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…")

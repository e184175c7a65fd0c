"""`lengthwise bench calibration`: calibration on an LLM new to the predictor, answer by answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lengthwise_cli.extras import extra
from lengthwise_lab.drift.unknown_llm import MeasuredPrompt, Window, measure, read
from lengthwise_store.prediction_record import Quantiles


def calibration(
    data: Annotated[
        Path, typer.Option(help="JSONL, plain or gzipped: prompt, output_tokens, model.")
    ],
    llm: Annotated[str | None, typer.Option(help="Only rows of this LLM. Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=100, help="Most answers to use.")] = 1500,
    seed: Annotated[int, typer.Option(help="Seed of their order.")] = 1,
    model_dir: Annotated[
        Path | None, typer.Option(help="Folder of the model. Default: the bundled one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measure calibration on an LLM new to the predictor."""
    with extra("train"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import Ridge

        from lengthwise_predictor.model import LengthModel
        from lengthwise_predictor.settings import BUNDLED
    model = LengthModel(model_dir or BUNDLED)

    def predict(prompt: str, name: str) -> Quantiles:
        predicted = model.predict(prompt, name)
        return predicted.p10_tokens, predicted.p50_tokens, predicted.p90_tokens

    def bag_of_words(
        known: Sequence[MeasuredPrompt], unknown: Sequence[MeasuredPrompt]
    ) -> list[float]:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        ridge = Ridge(alpha=2.0).fit(
            words.fit_transform([one.prompt for one in known]),
            [math.log(one.tokens) for one in known],
        )
        found = ridge.predict(words.transform([one.prompt for one in unknown]))
        return [math.exp(x) for x in found]

    prompts = read(data, llm=llm, limit=limit, seed=seed)
    windows = measure(prompts, predict, bag_of_words)
    if as_json:
        typer.echo(json.dumps({"windows": [w.as_json() for w in windows]}, indent=2))
    else:
        _print(windows)


def _print(windows: Sequence[Window]) -> None:
    title = "An LLM new to the predictor, by the number of its answers so far"
    table = Table(title=title, box=box.SIMPLE)  # fits 80 columns
    for name in (
        *("answers", "MAE\nraw", "MAE\ncalib.", "MAE\nbag of\nwords"),
        *("p10-90\nraw", "p10-90\ncalib."),
        *("tau-b\nraw", "tau-b\ncalib.", "tau-b\nbag of\nwords"),
    ):
        table.add_column(name, justify="right")
    for w in windows:
        table.add_row(
            f"{w.first}-{w.end}",
            *(_cell(x, 0) for x in (w.raw_mae, w.calibrated_mae, w.bag_of_words_mae)),
            *(_cell(x, 2) for x in (w.raw_coverage, w.calibrated_coverage)),
            *(_cell(x, 3) for x in (w.tau_b, w.calibrated_tau_b, w.bag_of_words_tau_b)),
        )
    Console(highlight=False).print(table)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

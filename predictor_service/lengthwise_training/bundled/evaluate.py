"""Tables for one bundled model, beside the baselines and the ceiling.

`python -m lengthwise_training.bundled.evaluate --data DIR --model DIR` measures a folder that
serving could load, with serving's own code, on the validation prompts of the data. It refuses a
model that was trained on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise_predictor.model import LengthModel
from lengthwise_training.bundled import dataset_baselines
from lengthwise_training.bundled.dataset import (
    Dataset,
    build_dataset,
    read_records,
    validation_rows,
)
from lengthwise_training.bundled.dataset_scores import (
    DatasetScores,
    ceiling,
    many_sampled,
    score_dataset,
)

Array = NDArray[np.float64]


def predict(
    model: LengthModel, rows: Dataset, *, llm_name: Callable[[str], str] = str
) -> tuple[Array, Array, Array]:
    """Predict each row with a served model: p10, p50, p90, float64, (rows,), tokens.

    Args:
        model: Loaded by serving's own code.
        rows: What to predict.
        llm_name: Changes the LLM name of the request.
    """
    names = [llm_name(n) for n in rows.llms]
    out = np.zeros((len(rows.prompt_index), 3))
    by_prompt: dict[int, list[int]] = {}
    for row, prompt in enumerate(rows.prompt_index):
        by_prompt.setdefault(int(prompt), []).append(row)
    for prompt, members in tqdm(by_prompt.items(), desc="predict", disable=None):
        encoded = model.encode_for(
            rows.prompts[prompt], [names[rows.llm_index[r]] for r in members]
        )
        out[members] = np.exp(model.run(encoded)[:, :3])
    return out[:, 0], out[:, 1], out[:, 2]


def scores_table(scores: Mapping[str, DatasetScores]) -> str:
    """Format the scores as Markdown, one line a predictor."""
    lines = [
        "| predictor | rows | tau-b | pooled | vs mean | pairs | Spearman | MAE | p10-p90 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, s in scores.items():
        covered = "" if s.coverage is None else f"{s.coverage:.2f}"
        lines.append(
            f"| {name} | {s.rows:,} | {s.tau_b:.3f} | {s.tau_b_pooled:.3f} | {s.tau_b_mean:.3f} | "
            f"{s.pair_accuracy:.3f} | {s.spearman:.3f} | {s.mae_tokens:.1f} | {covered} |"
        )
    return "\n".join(lines)


def compare_with_baselines(
    train: Dataset,
    test: Dataset,
    model: LengthModel,
    *,
    baselines: bool = True,
    per_llm: bool = True,
) -> dict[str, DatasetScores]:
    """Score the model, the model without the LLM's name, the baselines, and the ceiling.

    Args:
        train: The rows that the baselines are fitted on.
        test: The rows that every predictor is scored on.
        model: The model.
        baselines: Whether to fit the baselines, which takes minutes.
        per_llm: Whether one of them is the bag of words fitted for each LLM.
    """
    p10, p50, p90 = predict(model, test)
    scores = {"this model": score_dataset(test, p50, (p10, p90))}
    p10, p50, p90 = predict(model, test, llm_name=lambda _: "?")
    scores["this model, LLM not named"] = score_dataset(test, p50, (p10, p90))
    if baselines:
        scores["constant"] = score_dataset(test, dataset_baselines.constant(train, test))
        scores["prompt length"] = score_dataset(test, dataset_baselines.prompt_length(train, test))
        scores["bag of words"] = score_dataset(test, dataset_baselines.bag_of_words(train, test))
    if baselines and per_llm:
        scores["bag of words, per LLM"] = score_dataset(
            test, dataset_baselines.bag_of_words_per_llm(train, test)
        )
    scores["ceiling: mean of the other samples"] = score_dataset(test, ceiling(test))
    return scores


def by_source(test: Dataset, predictions: Mapping[str, Array]) -> str:
    """Format tau-b within each source as Markdown, one column a predictor."""
    lines = [
        "| source | rows | " + " | ".join(predictions) + " |",
        "|---" * (2 + len(predictions)) + "|",
    ]
    sources = np.array(test.row_sources)
    for source in sorted(set(test.row_sources)):
        of_source = sources == source
        part = test.rows_where(of_source)
        cells = [f"{score_dataset(part, p[of_source]).tau_b:.3f}" for p in predictions.values()]
        lines.append(f"| {source} | {of_source.sum():,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables for one model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of length records")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.onnx")
    parser.add_argument("--no-baselines", action="store_true", help="skip the baselines (minutes)")
    parser.add_argument("--json", type=Path, help="write the scores here as well")
    options = parser.parse_args(arguments)

    model = LengthModel(options.model, provider="cpu")
    if not model.card.get("held_out_validation", False):
        print(  # noqa: T201
            f"{options.model} was trained on the validation prompts too; train a model with "
            "--hold-out and evaluate that",
            file=sys.stderr,
        )
        return 2
    dataset = build_dataset(read_records(options.data, sources=model.card["sources"]))
    held = validation_rows(dataset)
    train, test = dataset.rows_where(~held), dataset.rows_where(held)
    scores = compare_with_baselines(
        many_sampled(train) if options.no_baselines else train,
        many_sampled(test),
        model,
        baselines=not options.no_baselines,
    )
    print(scores_table(scores))  # noqa: T201
    print()  # noqa: T201
    predictions = {"this model": predict(model, test)[1], "ceiling": ceiling(test)}
    if not options.no_baselines:
        predictions["bag of words, per LLM"] = dataset_baselines.bag_of_words_per_llm(train, test)
    print(by_source(test, predictions))  # noqa: T201
    if options.json:
        options.json.write_text(
            json.dumps({k: asdict(v) for k, v in scores.items()}, indent=2) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

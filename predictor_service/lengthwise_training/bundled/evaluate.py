"""One table for a model: rank quality, error and coverage beside the rivals and the ceiling.

`python -m lengthwise_training.bundled.evaluate --data DIR --model DIR` measures a folder that serving could
load, with serving's own code, on the validation prompts of the data. It refuses a model that was
trained on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from tqdm import tqdm

from lengthwise_predictor.model import LengthModel
from lengthwise_training.bundled import baseline
from lengthwise_training.data.dataset import Dataset, build, read_records, split

Array = NDArray[np.float64]

#: An LLM or source with fewer rows than this says nothing about rank.
LEAST_ROWS = 20


@dataclass(frozen=True)
class Scores:
    """How good predictions are; those of rank are means over LLMs, since a queue holds one LLM.

    Attributes:
        rows: Rows scored.
        tau_b: Kendall's tau-b with one realised sample, mean over LLMs.
        tau_b_pooled: The same over all rows at once.
        tau_b_mean: Tau-b with the mean of the samples, mean over LLMs.
        pair_accuracy: Share of pairs of one LLM put in the right order, ties in truth left out.
        spearman: Spearman's rho with one sample, mean over LLMs.
        mae_tokens: Mean absolute error of the median, tokens.
        coverage: Share of samples within p10 to p90; None where there are no quantiles.
    """

    rows: int
    tau_b: float
    tau_b_pooled: float
    tau_b_mean: float
    pair_accuracy: float
    spearman: float
    mae_tokens: float
    coverage: float | None


def score(rows: Dataset, p50: Array, band: tuple[Array, Array] | None = None) -> Scores:
    """Score medians, and quantiles if there are any, against one sample a row, drawn by seed 0.

    Args:
        rows: What was predicted.
        p50: float64, (rows,), tokens; only its order matters for the rank scores.
        band: p10 and p90, float64, (rows,) each, tokens.
    """
    truth = one_sample(rows)
    mean = rows.samples.mean(axis=1)
    per_llm = []
    for llm in np.unique(rows.llm_index):
        mine = rows.llm_index == llm
        if mine.sum() < LEAST_ROWS:
            continue
        p, y = p50[mine], truth[mine]
        per_llm.append(
            (
                _tau(p, y),
                _tau(p, mean[mine]),
                pair_accuracy(p, y),
                0.0 if np.ptp(p) == 0 else float(spearmanr(p, y).statistic),
            )
        )
    means = np.mean(per_llm, axis=0) if per_llm else np.full(4, np.nan)
    coverage = None
    if band is not None:
        inside = (rows.samples >= band[0][:, None]) & (rows.samples <= band[1][:, None])
        coverage = float(inside.mean())
    return Scores(
        rows=len(truth),
        tau_b=float(means[0]),
        tau_b_pooled=_tau(p50, truth),
        tau_b_mean=float(means[1]),
        pair_accuracy=float(means[2]),
        spearman=float(means[3]),
        mae_tokens=float(np.abs(p50 - truth).mean()),
        coverage=coverage,
    )


def one_sample(rows: Dataset) -> Array:
    """One realised length a row, the same one whoever is scored: float64, (rows,), tokens."""
    rng = np.random.default_rng(0)
    column = rng.integers(0, rows.samples.shape[1], len(rows.samples))
    return rows.samples[np.arange(len(rows.samples)), column].astype(np.float64)


def ceiling(rows: Dataset) -> Array:
    """The mean of the samples other than the one scored against: no prompt says more.

    Rows with a single sample have no such ceiling; there it is the sample, and means nothing.
    """
    others = (rows.samples.sum(axis=1) - one_sample(rows)) / max(rows.samples.shape[1] - 1, 1)
    return np.asarray(others, dtype=np.float64)


def pair_accuracy(predicted: Array, truth: Array) -> float:
    """Share of pairs in the right order; a tie in `predicted` is half right."""
    gap = np.sign(truth[:, None] - truth[None, :])
    said = np.sign(predicted[:, None] - predicted[None, :])
    told = gap != 0
    if not told.any():
        return float("nan")
    return float(((said * gap)[told].mean() + 1.0) / 2.0)


def _tau(predicted: Array, truth: Array) -> float:
    if np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(kendalltau(predicted, truth).statistic)


def predict(
    model: LengthModel, rows: Dataset, *, llm_name: Callable[[str], str] = str
) -> tuple[Array, Array, Array]:
    """What a served model says of each row: p10, p50, p90, float64, (rows,), tokens.

    Args:
        model: Loaded by serving's own code.
        rows: What to predict.
        llm_name: Changes the name that the model is asked with.
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


def table(scores: Mapping[str, Scores]) -> str:
    """Markdown, one line a predictor."""
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


def compare(
    train: Dataset,
    test: Dataset,
    model: LengthModel,
    *,
    rivals: bool = True,
    per_llm: bool = True,
) -> dict[str, Scores]:
    """The model, the model not knowing the LLM, the rivals fitted on `train`, and the ceiling.

    Args:
        train: What the rivals are fitted on.
        test: What everybody is scored on.
        model: The model.
        rivals: Whether to fit the rivals, which takes minutes.
        per_llm: Whether one of them is the bag of words fitted anew for each LLM.
    """
    p10, p50, p90 = predict(model, test)
    scores = {"this model": score(test, p50, (p10, p90))}
    p10, p50, p90 = predict(model, test, llm_name=lambda _: "?")
    scores["this model, LLM not named"] = score(test, p50, (p10, p90))
    if rivals:
        scores["constant"] = score(test, baseline.constant(train, test))
        scores["prompt length"] = score(test, baseline.prompt_length(train, test))
        scores["bag of words"] = score(test, baseline.bag_of_words(train, test))
    if rivals and per_llm:
        scores["bag of words, per LLM"] = score(test, baseline.bag_of_words_per_llm(train, test))
    scores["ceiling: mean of the other samples"] = score(test, ceiling(test))
    return scores


def by_source(test: Dataset, predictions: Mapping[str, Array]) -> str:
    """Markdown: tau-b within each source, one column a predictor."""
    lines = [
        "| source | rows | " + " | ".join(predictions) + " |",
        "|---" * (2 + len(predictions)) + "|",
    ]
    sources = np.array(test.row_sources)
    for source in sorted(set(test.row_sources)):
        mine = sources == source
        part = test.rows_where(mine)
        cells = [f"{score(part, p[mine]).tau_b:.3f}" for p in predictions.values()]
        lines.append(f"| {source} | {mine.sum():,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def many_sampled(dataset: Dataset) -> Dataset:
    """Only rows of sources that were sampled several times, where a ceiling exists; all if none."""
    spread = np.ptp(dataset.samples, axis=1) > 0
    sources = np.array(dataset.row_sources)
    keep = [s for s in set(dataset.row_sources) if spread[sources == s].mean() > 0.5]
    return dataset.rows_where(np.isin(sources, keep)) if keep else dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables for one model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of length records")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.onnx")
    parser.add_argument("--no-rivals", action="store_true", help="skip the baselines (minutes)")
    parser.add_argument("--json", type=Path, help="write the scores here as well")
    options = parser.parse_args(arguments)

    model = LengthModel(options.model, provider="cpu")
    if not model.card.get("held_out_validation", False):
        print(  # noqa: T201
            f"{options.model} was trained on all prompts, those of the validation too; train one "
            "with --hold-out and evaluate that",
            file=sys.stderr,
        )
        return 2
    dataset = build(read_records(options.data, sources=model.card["sources"]))
    held = split(dataset)
    train, test = dataset.rows_where(~held), dataset.rows_where(held)
    scores = compare(
        many_sampled(train) if options.no_rivals else train,
        many_sampled(test),
        model,
        rivals=not options.no_rivals,
    )
    print(table(scores))  # noqa: T201
    print()  # noqa: T201
    predictions = {"this model": predict(model, test)[1], "ceiling": ceiling(test)}
    if not options.no_rivals:
        predictions["bag of words, per LLM"] = baseline.bag_of_words_per_llm(train, test)
    print(by_source(test, predictions))  # noqa: T201
    if options.json:
        options.json.write_text(
            json.dumps({k: asdict(v) for k, v in scores.items()}, indent=2) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

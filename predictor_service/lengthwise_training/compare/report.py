"""The report of a comparison: rows of scores, and a summary of them.

Called by `comparison`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.baselines import BAG_OF_WORDS, BAG_OF_WORDS_TOGETHER, CEILING
from lengthwise_training.scoring.scores import PredictedLengths, score

#: In a row: all LLMs, or all sources; rank is then the mean over LLMs.
ALL = "all"


ADAPTED = "+adapted"


@dataclass(frozen=True)
class Speed:
    """Speed of a predictor on this machine: one row at a time, and all rows at once."""

    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    throughput_per_s: float | None = None


@dataclass
class ComparisonReport:
    """The result of a comparison.

    Attributes:
        rows: One for each predictor and LLM (`source` all), each source (`llm` all), and all.
        held_out: The same, of fits that had not seen the row's LLM, or its source: one for each LLM
            or source, and `all`, the mean over them.
        summary: The comparison in a few numbers.
        notes: What a reader of the numbers must know.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`; what is not a number is null."""
        whole = {
            "rows": self.rows,
            "held_out": self.held_out,
            "summary": self.summary,
            "notes": self.notes,
        }
        cleaned: dict[str, Any] = _without_nan(whole)
        return cleaned


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def cells(
    table: LengthTable, name: str, predicted: PredictedLengths, speed: Speed
) -> list[dict[str, Any]]:
    """Return the rows of the report about one predictor."""
    out = []

    def add(llm: str, source: str, keep: NDArray[np.bool_]) -> None:
        scores = score(table.where(keep), predicted.where(keep))
        if scores is not None:
            out.append(
                {"predictor": name, "llm": llm, "source": source}
                | scores.as_json()
                | {
                    "latency_p50_ms": speed.latency_p50_ms,
                    "latency_p99_ms": speed.latency_p99_ms,
                    "throughput_per_s": speed.throughput_per_s,
                }
            )

    add(ALL, ALL, np.ones(len(table), dtype=bool))
    for llm in np.unique(table.llms):
        add(str(llm), ALL, table.llms == llm)
    for source in np.unique(table.sources):
        add(ALL, str(source), table.sources == source)
    return out


def held_out_cells(
    table: LengthTable, name: str, predicted: PredictedLengths, kind: str
) -> list[dict[str, Any]]:
    """Return the held-out rows about one predictor: one for each LLM or source, and their mean.

    Rank is scored among the rows of one LLM or source only. Different groups were predicted by
    different fits, each without the lengths of its group: ranked together, a constant had a tau-b
    of -0.27, and the bag of words hardly more than 0.

    Args:
        table: The rows to predict.
        name: Of the predictor.
        predicted: Its lengths, by fits that had not seen the row's LLM or source.
        kind: `llm` or `source`.
    """
    every = cells(table, name, predicted, Speed())
    other = "source" if kind == "llm" else "llm"
    parts = [r for r in every if r[kind] != ALL and r[other] == ALL]
    whole = next((r for r in every if r[kind] == r[other] == ALL), None)
    if whole is None:
        return []
    ranked = [r for r in parts if r["tau_b"] is not None]
    for key in ("tau_b", "tau_b_mean", "pair_accuracy", "spearman"):
        whole[key] = statistics.fmean(r[key] for r in ranked) if ranked else None
    whole["tau_b_pooled"] = None
    return [{"held_out": kind} | r for r in (whole, *parts)]


def summarise(
    rows: Iterable[Mapping[str, Any]],
    models: Sequence[str],
    table: LengthTable,
    predicted: Mapping[str, PredictedLengths],
) -> dict[str, Any]:
    """Return mean tau-b over LLMs, gains over the bag of words, and distances to the ceiling.

    Args:
        rows: Of the report.
        models: Names of the models that are compared with the bag of words and the ceiling.
        table: The rows to predict.
        predicted: Every predictor's lengths, by its name.
    """
    by_llm: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["source"] == ALL and row["llm"] != ALL and row["tau_b"] is not None:
            by_llm.setdefault(row["predictor"], {})[row["llm"]] = row["tau_b"]
    summary: dict[str, Any] = {
        "llms": max((len(v) for v in by_llm.values()), default=0),
        "tau_b_mean_over_llms": {p: statistics.fmean(v.values()) for p, v in by_llm.items()},
    }
    own_models = [n + suffix for n in models for suffix in ("", ADAPTED) if n + suffix in predicted]
    for baseline, key in (
        (BAG_OF_WORDS, "above_bag_of_words"),
        (BAG_OF_WORDS_TOGETHER, "above_bag_of_words_for_all_llms"),
    ):
        for name in own_models:
            gain = _mean_gain(by_llm.get(name, {}), by_llm.get(baseline, {}))
            if gain is not None:
                summary.setdefault(key, {})[name] = gain
    sampled = np.isfinite(predicted[CEILING].p50)
    among = table.where(sampled)
    top = _tau_by_llm(among, predicted[CEILING].where(sampled))
    for name in own_models if top else []:
        gain = _mean_gain(top, _tau_by_llm(among, predicted[name].where(sampled)))
        if gain is not None:
            summary.setdefault("below_ceiling", {})[name] = gain
            summary["below_ceiling_llms"] = len(top)
    return summary


def _mean_gain(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    both = sorted(one.keys() & other.keys())
    return statistics.fmean(one[m] - other[m] for m in both) if both else None


def _tau_by_llm(table: LengthTable, predicted: PredictedLengths) -> dict[str, float]:
    out = {}
    for llm in np.unique(table.llms):
        of_llm = table.llms == llm
        scores = score(table.where(of_llm), predicted.where(of_llm))
        if scores is not None and scores.tau_b is not None:
            out[str(llm)] = scores.tau_b
    return out

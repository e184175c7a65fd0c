"""Every predictor on the same rows: the table that `lengthwise evaluate` prints.

Models that serving could load, with serving's own code; the rivals fitted on the training rows; the
model adapted to these rows; and the ceiling, which is another sample of the same answer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise_predictor.model import LengthModel
from lengthwise_training.adapted import Adapted, NoView, Viewer
from lengthwise_training.dataset import fold_of
from lengthwise_training.devices import Device
from lengthwise_training.length_rows import LengthTable
from lengthwise_training.model_names import names_of
from lengthwise_training.rank_scores import LEAST_ROWS, Said, score
from lengthwise_training.rivals import BagOfWords, Constant, PromptLength

Array = NDArray[np.float64]

#: Stands in a row for "all of them"; rank is then the mean over LLMs.
ALL = "all"

CEILING = "ceiling: mean of the other samples"
BAG_OF_WORDS = "bag of words"
BAG_OF_WORDS_TOGETHER = "bag of words, one for all LLMs"
ADAPTED = "+adapted"

#: Single predictions that are timed, at most.
_TIMED = 200

#: Folds in which LLMs or sources are held out: each costs a fit.
_HELD_OUT_FOLDS = 4


class Predictor(Protocol):
    """What can be asked for the lengths of rows."""

    def predict(self, table: LengthTable) -> Said:
        """What it says of each row."""


class ServedModel:
    """A folder that serving could load, asked as serving asks it."""

    def __init__(self, directory: Path, device: Device = "cpu") -> None:
        """Load it.

        Raises:
            ModelUnusable: It cannot be loaded, or not onto that device.
        """
        self.directory = directory
        self.model = LengthModel(directory, provider=device)
        [self.name] = names_of([(directory, self.model.card)])

    def predict(self, table: LengthTable) -> Said:
        """p50, p10 and p90 of each row; LLMs that the model does not tell apart are asked once."""
        out = np.zeros((len(table), 3))
        by_prompt: dict[int, list[int]] = {}
        for row, prompt in enumerate(table.prompt_index):
            by_prompt.setdefault(int(prompt), []).append(row)
        bar = tqdm(by_prompt.items(), desc=self.name, disable=None if len(by_prompt) > 1 else True)
        for prompt, rows in bar:
            asked = {self.model.llm_row(str(table.llms[r])): str(table.llms[r]) for r in rows}
            encoded = self.model.encode_for(table.prompts[prompt], list(asked.values()))
            said = [self.model.prediction(x) for x in self.model.run(encoded)]
            place = {llm: i for i, llm in enumerate(asked)}
            for r in rows:
                p = said[place[self.model.llm_row(str(table.llms[r]))]]
                out[r] = p.p10_tokens, p.p50_tokens, p.p90_tokens
        return Said(p50=out[:, 1], p10=out[:, 0], p90=out[:, 2])


@dataclass(frozen=True)
class Speed:
    """What a prediction costs, on the machine as it is: one row at a time, and all at once."""

    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    throughput_per_s: float | None = None


@dataclass
class Report:
    """What was found.

    Attributes:
        rows: One for each predictor and LLM (`source` all), each source (`llm` all), and all.
        held_out: The same over all rows, of fits that had not seen the row's LLM, or its source.
        summary: The comparison in a few numbers.
        notes: What a reader of the numbers must know.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For `--json`; what is not a number is null."""
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


def compare(
    data: LengthTable,
    train: LengthTable | None,
    models: Sequence[Path],
    *,
    folds: int = 0,
    adapt: bool = True,
    held_out: bool = False,
    others: Mapping[str, Predictor] | None = None,
    device: Device = "cpu",
) -> Report:
    """Ask every predictor about the same rows, and score them.

    Args:
        data: The rows asked about.
        train: Rows of other prompts, for what must be fitted; see `without_prompts_of`.
        models: Folders of models.
        folds: Without `train`: fit on the data itself, each row by a fit that has not seen its
            prompt, in so many parts; 0 fits no bag of words.
        adapt: Whether the models are also adapted to the training rows.
        held_out: Whether LLMs and sources are held out as well; minutes.
        others: More predictors, by name.
        device: Where the models run.

    Raises:
        ModelUnusable: One of them cannot be loaded, or not onto that device.
    """
    served = [ServedModel(directory, device) for directory in dict.fromkeys(models)]
    cards = [(one.directory, one.model.card) for one in served]
    for one, unique in zip(served, names_of(cards), strict=True):
        one.name = unique
    said: dict[str, Said] = {}
    speed: dict[str, Speed] = {}
    report = Report()
    for name, predictor in ({m.name: m for m in served} | dict(others or {})).items():
        said[name], speed[name] = _asked(predictor, data, alone=name not in (others or {}))
    for one in served:
        learned = {str(d.get("source")) for d in one.model.card.get("training_data", [])}
        shared = sorted(learned & set(map(str, np.unique(data.sources))))
        if shared:
            report.notes.append(
                f"{one.name} was trained on prompts of {', '.join(shared)}: if these are among "
                "them, its rows flatter it"
            )
    viewers = _viewers(served, report) if adapt else {}
    if train is not None:
        for name, predictor in _fitted(train, viewers).items():
            said[name], speed[name] = _asked(predictor, data)
    elif folds > 1:
        said |= _cross_validated(data, folds, viewers)
        report.notes.append(
            f"no --train: what is fitted was fitted on the data itself, in {folds} parts by prompt"
        )
    else:
        said["constant"] = Constant(data).predict(data)
        said["prompt length"] = PromptLength(data).predict(data)
        report.notes.append(
            "no --train: the constant is the data's own median, and there is no bag of words"
        )
    said[CEILING] = ceiling(data)
    for name, answers in said.items():
        report.rows += cells(data, name, answers, speed.get(name, Speed()))
    if held_out and train is not None:
        report.held_out = _held_out(data, train, served, viewers)
    report.summary = summarise(report.rows, [m.name for m in served])
    return report


def ceiling(table: LengthTable) -> Said:
    """The mean of the samples other than the one scored against: no prompt says more."""
    column = table.one_sample()
    others = [
        (s.sum() - s[c]) / (len(s) - 1) if len(s) > 1 else math.nan
        for s, c in zip(table.samples, column, strict=True)
    ]
    return Said(np.array(others))


def cells(table: LengthTable, name: str, said: Said, speed: Speed) -> list[dict[str, Any]]:
    """The rows of the report about one predictor."""
    out = []

    def add(llm: str, source: str, keep: NDArray[np.bool_]) -> None:
        scores = score(table.where(keep), said.where(keep))
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


def summarise(rows: Iterable[Mapping[str, Any]], models: Sequence[str]) -> dict[str, Any]:
    """Mean over LLMs of tau-b, and what the models have more than the bag of words."""
    by_llm: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["source"] == ALL and row["llm"] != ALL and row["tau_b"] is not None:
            by_llm.setdefault(row["predictor"], {})[row["llm"]] = row["tau_b"]
    summary: dict[str, Any] = {
        "llms": max((len(v) for v in by_llm.values()), default=0),
        "tau_b_mean_over_llms": {p: statistics.fmean(v.values()) for p, v in by_llm.items()},
    }
    for name in [n + suffix for n in models for suffix in ("", ADAPTED)]:
        for rival, key, sign in (
            (BAG_OF_WORDS, "above_bag_of_words", 1.0),
            (BAG_OF_WORDS_TOGETHER, "above_bag_of_words_for_all_llms", 1.0),
            (CEILING, "below_ceiling", -1.0),
        ):
            mine, theirs = by_llm.get(name, {}), by_llm.get(rival, {})
            both = sorted(mine.keys() & theirs.keys())
            if both:
                gain = statistics.fmean(mine[m] - theirs[m] for m in both)
                summary.setdefault(key, {})[name] = sign * gain
    return summary


def _viewers(served: Sequence[ServedModel], report: Report) -> dict[str, Viewer]:
    viewers = {}
    for one in served:
        try:
            viewers[one.name] = Viewer(one.directory, one.model)
        except NoView as exc:
            report.notes.append(f"not adapted: {exc}")
    return viewers


@dataclass(frozen=True)
class _Together:
    """The bag of words' fit for all LLMs, as a predictor of its own."""

    words: BagOfWords

    def predict(self, table: LengthTable) -> Said:
        return self.words.predict_together(table)


def _fitted(train: LengthTable, viewers: Mapping[str, Viewer]) -> dict[str, Predictor]:
    """Everything that learns, from the same rows."""
    words = BagOfWords(train)
    out: dict[str, Predictor] = {
        "constant": Constant(train),
        "prompt length": PromptLength(train),
        BAG_OF_WORDS: words,
    }
    if len(np.unique(train.llms)) > 1:
        out[BAG_OF_WORDS_TOGETHER] = _Together(words)
    for name, viewer in viewers.items():
        out[name + ADAPTED] = Adapted(viewer, train)
    return out


def _cross_validated(
    data: LengthTable, folds: int, viewers: Mapping[str, Viewer]
) -> dict[str, Said]:
    part = np.array([fold_of(p, folds) for p in data.prompts])[data.prompt_index]
    p50: dict[str, Array] = {}
    for fold in tqdm(range(folds), desc="cross-validate", disable=None):
        asked = part == fold
        if not asked.any() or asked.all():
            continue
        for name, predictor in _fitted(data.where(~asked), viewers).items():
            said = predictor.predict(data.where(asked))
            p50.setdefault(name, np.full(len(data), math.nan))[asked] = said.p50
    return {name: Said(values) for name, values in p50.items()}


def _held_out(
    data: LengthTable,
    train: LengthTable,
    served: Sequence[ServedModel],
    viewers: Mapping[str, Viewer],
) -> list[dict[str, Any]]:
    out = []
    for kind in ("llm", "source"):
        mine, theirs = (data.llms, train.llms) if kind == "llm" else (data.sources, train.sources)
        names = np.unique(mine)
        p50: dict[str, Array] = {}
        for fold in tqdm(range(_HELD_OUT_FOLDS), desc=f"{kind} held out", disable=None):
            hidden = names[fold::_HELD_OUT_FOLDS]
            asked, known = np.isin(mine, hidden), ~np.isin(theirs, hidden)
            if not asked.any() or known.sum() < LEAST_ROWS:
                continue
            part = data.where(asked)
            for name, predictor in _fitted(train.where(known), viewers).items():
                p50.setdefault(name, np.full(len(data), math.nan))[asked] = predictor.predict(
                    part
                ).p50
        said = {name: Said(values) for name, values in p50.items()}
        if said and kind == "llm":
            said |= {m.name + ", LLM not named": m.predict(_unnamed(data)) for m in served}
        for name, one in said.items():
            scores = score(data, one)
            if scores is not None:
                out.append({"predictor": name, "held_out": kind} | scores.as_json())
    return out


def _unnamed(table: LengthTable) -> LengthTable:
    unnamed = LengthTable(table.rows)
    unnamed.llms = np.array(["?"] * len(table), dtype=np.str_)
    return unnamed


def _asked(predictor: Predictor, table: LengthTable, *, alone: bool = True) -> tuple[Said, Speed]:
    """What it says of all rows, and what that costs; `alone`: also one row at a time."""
    began = time.perf_counter()
    said = predictor.predict(table)
    per_s = len(table) / max(time.perf_counter() - began, 1e-9)
    if not alone:
        return said, Speed(throughput_per_s=per_s)
    some = np.random.default_rng(0).permutation(len(table))[:_TIMED]
    times = []
    for row in some:
        one = LengthTable([table.rows[row]])
        began = time.perf_counter()
        predictor.predict(one)
        times.append((time.perf_counter() - began) * 1000.0)
    return said, Speed(
        statistics.median(times), float(np.quantile(times, 0.99)), throughput_per_s=per_s
    )

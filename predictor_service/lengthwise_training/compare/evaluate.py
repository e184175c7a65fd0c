"""Every predictor on the same rows: the table that `lengthwise evaluate` prints.

Models that serving could load, with serving's own code; the rivals fitted on the training rows; the
model adapted to these rows; and the ceiling, which is another sample of the same answer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise_predictor.model import ANY_LLM, LengthModel
from lengthwise_training.adapt.adapted import Adapted, NoView, Viewer
from lengthwise_training.backbones.devices import Device
from lengthwise_training.compare.baselines import (
    LEAST_TRAINING_ROWS,
    BagOfWords,
    Constant,
    PromptLength,
)
from lengthwise_training.compare.model_names import names_of
from lengthwise_training.compare.report import (
    ADAPTED,
    BAG_OF_WORDS,
    BAG_OF_WORDS_TOGETHER,
    CEILING,
    Report,
    Speed,
    ceiling,
    cells,
    held_out_cells,
    summarise,
)
from lengthwise_training.compare.scores import LEAST_ROWS, Said
from lengthwise_training.data.dataset import fold_of
from lengthwise_training.data.rows import LengthTable

Array = NDArray[np.float64]

#: Single predictions that are timed, at most.
_TIMED = 200

#: Makes the parts of a cross-validation others than those of `dataset.split`.
_SALT = " (cross-validation)"

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
        report.notes += _unnamed_note(one, data)
    viewers = _viewers(served, report) if adapt else {}
    if train is not None:
        fitted = _fitted(train, viewers, data)
        report.notes += _untrained_note(fitted[BAG_OF_WORDS], data)
        for name, predictor in fitted.items():
            said[name], speed[name] = _asked(predictor, data)
    elif folds > 1:
        said |= _cross_validated(data, folds, viewers)
        report.notes.append(
            f"no --train: what is fitted was fitted on the data itself, in {folds} parts by prompt"
        )
    else:
        said |= {name: one.predict(data) for name, one in _one_number(data).items()}
        report.notes.append(
            "no --train: the constant is the data's own median, and there is no bag of words"
        )
    said[CEILING] = ceiling(data)
    for name, answers in said.items():
        report.rows += cells(data, name, answers, speed.get(name, Speed()))
    if held_out and train is not None:
        report.held_out = _held_out(data, train, served, viewers)
    report.summary = summarise(report.rows, [m.name for m in served], data, said)
    return report


def _unnamed_note(one: ServedModel, data: LengthTable) -> list[str]:
    names = [str(m) for m in np.unique(data.llms)]
    unnamed = [m for m in names if one.model.llm_row(m) == ANY_LLM]
    if not unnamed:
        return []
    return [
        f"{one.name} does not know {len(unnamed)} of the {len(names)} LLMs, and answers for them "
        f"as for the mean of those that it knows: {_some(unnamed)}"
    ]


def _untrained_note(words: Predictor, data: LengthTable) -> list[str]:
    names = [str(m) for m in np.unique(data.llms)]
    without = [m for m in names if isinstance(words, BagOfWords) and m not in words.own]
    if not without:
        return []
    return [
        f"{len(without)} of the {len(names)} LLMs have under {LEAST_TRAINING_ROWS} training rows: "
        f"their {BAG_OF_WORDS!r} is the one for all LLMs: {_some(without)}"
    ]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


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


def _one_number(train: LengthTable) -> dict[str, Predictor]:
    return {"constant": Constant(train), "prompt length": PromptLength(train)}


def _fitted(
    train: LengthTable, viewers: Mapping[str, Viewer], asked: LengthTable
) -> dict[str, Predictor]:
    """Everything that learns, from the same rows; `asked` is what it will be asked about."""
    words = BagOfWords(train, asked=set(map(str, asked.llms)))
    out = _one_number(train) | {BAG_OF_WORDS: words}
    if len(np.unique(train.llms)) > 1:
        out[BAG_OF_WORDS_TOGETHER] = _Together(words)
    for name, viewer in viewers.items():
        out[name + ADAPTED] = Adapted(viewer, train)
    return out


def _cross_validated(
    data: LengthTable, folds: int, viewers: Mapping[str, Viewer]
) -> dict[str, Said]:
    """What is fitted on the other parts says of each part; ranked together, so of one level.

    A part with long answers leaves short ones to learn from. Unmended, that alone gave the constant
    a tau-b of -0.14 on 300 rows, and took 0.014 from the bag of words. So the two that have one
    number to fit are fitted on everything, and the others' parts are brought to the level of all
    rows, LLM by LLM.
    """
    # Salted: of a file that was split by the hash itself, all prompts are in one part.
    part = np.array([fold_of(p + _SALT, folds) for p in data.prompts])[data.prompt_index]
    log_mean = data.log_mean()
    p50: dict[str, Array] = {}
    for fold in tqdm(range(folds), desc="cross-validate", disable=None):
        asked = part == fold
        if not asked.any() or asked.all():
            continue
        part_asked = data.where(asked)
        level = np.ones(len(data))
        for llm in np.unique(part_asked.llms):
            mine = data.llms == llm
            if (mine & ~asked).any():
                level[mine] = np.exp(log_mean[mine].mean() - log_mean[mine & ~asked].mean())
        for name, predictor in _fitted(data.where(~asked), viewers, part_asked).items():
            said = predictor.predict(part_asked)
            p50.setdefault(name, np.full(len(data), math.nan))[asked] = said.p50 * level[asked]
    found = {name: one.predict(data) for name, one in _one_number(data).items()}
    return {name: Said(values) for name, values in p50.items()} | found


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
            for name, predictor in _fitted(train.where(known), viewers, part).items():
                p50.setdefault(name, np.full(len(data), math.nan))[asked] = predictor.predict(
                    part
                ).p50
        said = {name: Said(values) for name, values in p50.items()}
        if said and kind == "llm":
            said |= {m.name + ", LLM not named": m.predict(_unnamed(data)) for m in served}
        for name, one in said.items():
            out += held_out_cells(data, name, one, kind)
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

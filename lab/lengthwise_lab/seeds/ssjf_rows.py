"""SSJF's rows of `lengthwise lab table`; docs/lab-seeds.md says how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lengthwise_lab.seeds import ssjf_slots, ssjf_sweeps
from lengthwise_lab.seeds.recorded import azure_ms, classified
from lengthwise_lab.seeds.ssjf_corrected import Served
from lengthwise_lab.seeds.ssjf_legacy import Batches
from lengthwise_lab.seeds.ssjf_sweeps import Point, Sweep
from lengthwise_lab.table import Row

_KINDS = ("poisson", "gamma", "trace")

#: What SSJF's code gives with its five-class predictions, for Poisson, gamma and the Azure trace:
#: how much less the mean completion time is than that of FCFS, %, and how many times the early
#: throughput, where that was looked at.
_THEIRS: tuple[tuple[str, Batches, tuple[float, ...], tuple[float, ...]], ...] = (
    ("no batching", Batches(size=1), (32.0, 28.0, 30.1), (3.05, 2.38, 1.36)),
    ("static, 2", Batches(size=2), (36.3, 35.4, 47.1), (2.54, 2.40, 1.33)),
    ("static, 2, FCFS not idling", Batches(size=2, wait_s=0), (36.6, 29.5, 29.5), ()),
    ("dynamic, 2", Batches(size=2, dynamic=True), (27.8, 30.5, 47.5), (2.35, 1.96, 1.11)),
    ("dynamic, 2, FCFS not idling", Batches(size=2, wait_s=0, dynamic=True), (28.2, 22, 17.8), ()),
    ("dynamic, 8", Batches(size=8, dynamic=True), (49.4, 68.8, 76.2), ()),
    ("dynamic, 8, FCFS not idling", Batches(size=8, wait_s=0, dynamic=True), (13.5, 9.3, 0.5), ()),
)

#: An independent simulation of a steady load (slots, load): the five-class predictions' cut of the
#: mean, %, and their p99 as a multiple of that of FCFS.
_STEADY = (
    (1, 0.7, 18.5, 59 / 47),
    (1, 0.9, 34.3, 179 / 100),
    (2, 0.9, 27.1, 78 / 47),
    (8, 0.9, 11.8, 20 / 15),
    (8, 1.2, 42.4, 516 / 148),
    (32, 0.9, 3.5, 11.7 / 10.8),
    (32, 1.2, 36.3, 145 / 48),
)

#: How far a reproduction may be off. With the recorded data the draws are the same: a digit.
#: Without, the lengths are others.
_CUT_PP, _EARLY = {True: 0.15, False: 6.0}, {True: 0.015, False: 0.7}
#: Five seeds of 2,000 jobs: at a load of 0.9 the line alone makes runs differ by a quarter.
_STEADY_PP, _STEADY_P99 = {True: 5.0, False: 8.0}, 0.6


def rows(data: Path | None) -> Sequence[Row]:
    """All of SSJF's rows; takes about half a minute."""
    answers, trace = classified(data), azure_ms(data)
    stand_in = "" if answers.recorded else "stand-in lengths; "
    found: list[Row] = []
    published_cuts, published_early = [], []
    for batching, batches, cuts, early in _THEIRS:
        old = ssjf_sweeps.legacy(answers, trace, batches)
        new = ssjf_sweeps.corrected(answers, trace, batches)
        for kind, cut in zip(_KINDS, cuts, strict=True):
            found.append(_cut_row(batching, kind, cut, old[kind], new[kind], stand_in))
        for kind, times in zip(_KINDS, early, strict=bool(early)):
            found.append(_early_row(batching, kind, times, old[kind], new[kind], stand_in))
        if early:  # the settings of the publication; the trace came after it
            for kind in _KINDS[:2]:
                fcfs, ssjf = old[kind]["fcfs"], old[kind]["ssjf5"]
                published_cuts.append(_cut(fcfs.mean_s, ssjf.mean_s))
                published_early.append(_early(ssjf) / _early(fcfs))
    found = _abstract(published_cuts, published_early) + found
    for slots, load, cut, tail in _STEADY:
        got = ssjf_slots.run(answers, slots=slots, load=load)
        found += _steady_rows(slots, load, cut, tail, got, recorded=answers.recorded)
    return found


def _abstract(cuts: Sequence[float], early: Sequence[float]) -> list[Row]:
    """The ranges of the abstract, beside those of the six settings that could be run."""
    note = (
        "their plots show the regression predictor, whose predictions are not published: a check "
        "of consistency, with the five-class one"
    )
    setting = "all settings of the publication, "
    found = []
    for what, name, unit, theirs, got in (
        ("least", "mean completion time, cut against FCFS", "%", 30.5, min(cuts)),
        ("most", "mean completion time, cut against FCFS", "%", 39.6, max(cuts)),
        ("least", "throughput at the first quarter of completions, to FCFS", "x", 2.2, min(early)),
        ("most", "throughput at the first quarter of completions, to FCFS", "x", 3.6, max(early)),
    ):
        found.append(
            Row(
                seed="SSJF",
                name=name,
                setting=setting + what,
                unit=unit,
                theirs=theirs,
                kind="paper",
                reproduced=got,
                note=note,
            )
        )
    found.append(
        Row(
            seed="SSJF",
            name="mean completion time by pairwise predictions, cut against FCFS",
            setting="as published",
            unit="%",
            theirs=3.0,
            kind="readme",
            note="the pairwise predictions are not published",
        )
    )
    return found


def _cut_row(batching: str, kind: str, theirs: float, old: Sweep, new: Sweep, stand_in: str) -> Row:
    recorded = not stand_in
    return Row(
        seed="SSJF",
        name="mean completion time, cut against FCFS",
        setting=f"{batching}, {kind}, five-class predictor",
        unit="%",
        theirs=theirs,
        kind="their code, run",
        reproduced=_cut(old["fcfs"].mean_s, old["ssjf5"].mean_s),
        corrected=_cut(new["fcfs"].mean_s, new["ssjf5"].mean_s),
        ours=_cut(new["fcfs"].mean_s, new["ours"].mean_s),
        tolerance=_CUT_PP[recorded],
        note=stand_in.rstrip("; "),
        details={"reproduced": _points(old), "corrected": _points(new)},
    )


def _early_row(
    batching: str, kind: str, theirs: float, old: Sweep, new: Sweep, stand_in: str
) -> Row:
    fcfs, ssjf, ours = new["fcfs"], new["ssjf5"], new["ours"]
    return Row(
        seed="SSJF",
        name="throughput at the first quarter of completions, to FCFS",
        setting=f"{batching}, {kind}, five-class predictor",
        unit="x",
        theirs=theirs,
        kind="their code, run",
        reproduced=_early(old["ssjf5"]) / _early(old["fcfs"]),
        corrected=ssjf.whole_per_s / fcfs.whole_per_s,
        ours=ours.whole_per_s / fcfs.whole_per_s,
        tolerance=_EARLY[not stand_in],
        note=stand_in + "corrected, ours: of the whole run",
        details={
            "whole run by their rules": old["ssjf5"].whole_per_s / old["fcfs"].whole_per_s,
        },
    )


def _steady_rows(
    slots: int,
    load: float,
    cut: float,
    tail: float,
    got: Mapping[str, Served],
    *,
    recorded: bool,
) -> list[Row]:
    fcfs = got["fcfs"]
    setting = f"steady Poisson load {load}, {slots} slots, continuous, five-class predictor"
    note = (
        "theirs, reproduced: shortest predicted first without aging, in two simulators; corrected: "
        "with their bound on waiting"
    )
    details = {name: asdict(one) for name, one in got.items()}
    return [
        Row(
            seed="SSJF",
            name="mean completion time, cut against FCFS",
            setting=setting,
            unit="%",
            theirs=cut,
            kind="third party",
            reproduced=_cut(fcfs.mean_s, got["plain5"].mean_s),
            corrected=_cut(fcfs.mean_s, got["ssjf5"].mean_s),
            ours=_cut(fcfs.mean_s, got["ours"].mean_s),
            tolerance=_STEADY_PP[recorded],
            note=note,
            details=details,
        ),
        Row(
            seed="SSJF",
            name="p99 completion time, to FCFS",
            setting=setting,
            unit="x",
            theirs=round(tail, 2),
            kind="third party",
            reproduced=got["plain5"].p99_s / fcfs.p99_s,
            corrected=got["ssjf5"].p99_s / fcfs.p99_s,
            ours=got["ours"].p99_s / fcfs.p99_s,
            tolerance=_STEADY_P99,
            note=note,
        ),
    ]


def _cut(fcfs: float, other: float) -> float:
    return 100 * (1 - other / fcfs)


def _early(point: Point) -> float:
    """Of a legacy run, which always has it."""
    return point.early_per_s or 0.0


def _points(sweep: Sweep) -> dict[str, Any]:
    return {name: asdict(point) for name, point in sweep.items()}

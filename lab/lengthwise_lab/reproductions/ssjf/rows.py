"""SSJF's rows of `lengthwise lab table`; docs/research/reproductions.md says how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise_lab.reproductions.recorded_lengths import azure_ms, classified
from lengthwise_lab.reproductions.ssjf import steady_load as ssjf_slots
from lengthwise_lab.reproductions.ssjf import sweeps
from lengthwise_lab.reproductions.ssjf.corrected import Served
from lengthwise_lab.reproductions.ssjf.legacy import Batches
from lengthwise_lab.reproductions.ssjf.sweeps import Sweep
from lengthwise_lab.reproductions.table.row import Absent, Row, of_requests

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

#: And how many times the throughput of the whole run; None: not kept.
_WHOLE: dict[str, tuple[float | None, ...]] = {
    "no batching": (1.00, 1.44, 1.00),
    "static, 2": (1.12, None, 1.06),
    "dynamic, 2": (1.10, None, 1.07),
}

#: Mean completion times of FCFS, and of other schedulers, s.
_FCFS_S = {
    "no batching": (83.47, 44.64, 20.51),
    "static, 2": (59.67, 35.32, 18.76),
    "dynamic, 2": (38.56, 24.72, 13.73),
}
_OTHERS = {
    "no batching": {"oracle": (47.98, 28.04, 12.55), "ssjf3": (61.11, 34.22, 15.31)},
    "static, 2": {"oracle": (25.58, 16.68, 8.14), "ssjf3": (43.26, 24.71, 10.79)},
    "dynamic, 2": {"oracle": (22.44, 14.48, 6.48), "ssjf3": (30.26, 18.57, 7.57)},
}
_SCHEDULERS = {
    "ssjf5": "five-class predictor",
    "ssjf3": "three-class predictor",
    "oracle": "shortest first, true lengths",
}

#: Runs of a steady load that have a column's name of their own.
_IN_ROW = ("fcfs", "plain5", "ssjf5")

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
    stand_in = "" if answers.recorded else "stand-in lengths"
    found: list[Row] = []
    published: list[_Setting] = []
    mended: dict[tuple[int, bool], dict[str, Sweep]] = {}
    for batching, batches, cuts, early in _THEIRS:
        old = sweeps.legacy(answers, trace, batches)
        # Corrected, nobody waits for a batch to fill: settings that differ in that are one.
        alike = (batches.size, batches.dynamic)
        if alike not in mended:
            mended[alike] = sweeps.corrected(answers, trace, batches)
        new = mended[alike]
        settings = [_Setting(batching, kind, old[kind], new[kind], stand_in) for kind in _KINDS]
        found += [one.cut("ssjf5", cut) for one, cut in zip(settings, cuts, strict=True)]
        if not early:
            continue
        for one, times, whole in zip(settings, early, _WHOLE[batching], strict=True):
            found += [one.early(times), one.whole(whole)]
        for scheduler, others in _OTHERS[batching].items():
            for one, seconds in zip(settings, others, strict=True):
                at = _KINDS.index(one.kind)
                found.append(one.cut(scheduler, _cut(_FCFS_S[batching][at], seconds)))
        published += settings[:2]  # the settings of the publication; the trace came after it
    found = _abstract(published) + found
    for slots, load, cut, tail in _STEADY:
        got = ssjf_slots.run(answers, slots=slots, load=load)
        found += _steady_rows(slots, load, cut, tail, got, recorded=answers.recorded)
    return found


@dataclass(frozen=True)
class _Setting:
    """One way of batching and one kind of arrivals, by their rules and corrected."""

    batching: str
    kind: str
    old: Sweep
    new: Sweep
    stand_in: str

    def cut(self, scheduler: str, theirs: float) -> Row:
        """How much less the mean is than that of FCFS."""
        return Row(
            seed="SSJF",
            name="mean completion time, cut against FCFS",
            setting=f"{self.batching}, {self.kind}, {_SCHEDULERS[scheduler]}",
            unit="%",
            theirs=round(theirs, 1),
            kind="their code, run",
            reproduced=self.cut_by(self.old, scheduler),
            corrected=self.cut_by(self.new, scheduler),
            ours=self.cut_by(self.new, "ours"),
            tolerance=_CUT_PP[not self.stand_in],
            note=self.stand_in,
            details=self.details(scheduler),
        )

    def early(self, theirs: float) -> Row:
        """Their throughput, which looks at the first quarter of the jobs."""
        return Row(
            seed="SSJF",
            name="throughput at the first quarter of completions, to FCFS",
            setting=f"{self.batching}, {self.kind}, five-class predictor",
            unit="x",
            theirs=theirs,
            kind="their code, run",
            reproduced=self.early_by(self.old),
            corrected=self.whole_by(self.new, "ssjf5"),
            ours=self.whole_by(self.new, "ours"),
            tolerance=_EARLY[not self.stand_in],
            note="; ".join(filter(None, (self.stand_in, "corrected, ours: of the whole run"))),
            details=self.details("ssjf5"),
        )

    def whole(self, theirs: float | None) -> Row:
        """The same of the whole run."""
        return Row(
            seed="SSJF",
            name="throughput of the whole run, to FCFS",
            setting=f"{self.batching}, {self.kind}, five-class predictor",
            unit="x",
            theirs=theirs,
            kind="their code, run",
            reproduced=self.whole_by(self.old, "ssjf5"),
            corrected=self.whole_by(self.new, "ssjf5"),
            ours=self.whole_by(self.new, "ours"),
            tolerance=_EARLY[not self.stand_in],
            note="; ".join(
                filter(None, (self.stand_in, "gains by a lost last job" * (self.kind == "gamma")))
            ),
            absent={} if theirs is not None else {"theirs": Absent.NOT_PUBLISHED},
            details=self.details("ssjf5"),
        )

    def details(self, scheduler: str) -> dict[str, Any]:
        """The runs behind a row."""
        return of_requests(
            f"{self.batching}, {self.kind}",
            baseline_reproduced=self.old["fcfs"].details,
            reproduced=self.old[scheduler].details,
            baseline=self.new["fcfs"].details,
            corrected=self.new[scheduler].details,
            ours=self.new["ours"].details,
            oracle=self.new["oracle"].details,
        )

    @staticmethod
    def cut_by(sweep: Sweep, scheduler: str) -> float:
        """How much less a scheduler's mean is than that of FCFS, %."""
        return _cut(sweep["fcfs"].mean_s, sweep[scheduler].mean_s)

    @staticmethod
    def early_by(sweep: Sweep) -> float:
        """Throughput at the first quarter, five classes over FCFS; of a legacy sweep."""
        return (sweep["ssjf5"].early_per_s or 0.0) / (sweep["fcfs"].early_per_s or 1.0)

    @staticmethod
    def whole_by(sweep: Sweep, scheduler: str) -> float:
        """Throughput of the whole run, over FCFS."""
        return sweep[scheduler].whole_per_s / sweep["fcfs"].whole_per_s


def _abstract(settings: Sequence[_Setting]) -> list[Row]:
    """The ranges of the abstract, beside those of the six settings that could be run."""
    note = (
        "their plots show the regression predictor, whose predictions are not published: a check "
        "of consistency, with the five-class one"
    )
    cut, early = (
        "mean completion time, cut against FCFS",
        ("throughput at the first quarter of completions, to FCFS"),
    )
    found = []
    for what, pick, name, unit, theirs in (
        ("least", min, cut, "%", 30.5),
        ("most", max, cut, "%", 39.6),
        ("least", min, early, "x", 2.2),
        ("most", max, early, "x", 3.6),
    ):
        if name == cut:
            figures = [
                (_Setting.cut_by(one.old, "ssjf5"), _Setting.cut_by(one.new, "ssjf5"),
                 _Setting.cut_by(one.new, "ours"))
                for one in settings
            ]  # fmt: skip
        else:
            figures = [
                (_Setting.early_by(one.old), _Setting.whole_by(one.new, "ssjf5"),
                 _Setting.whole_by(one.new, "ours"))
                for one in settings
            ]  # fmt: skip
        columns = list(zip(*figures, strict=True))
        at = [column.index(pick(column)) for column in columns]
        reproduced, corrected, ours = (settings[place] for place in at)
        found.append(
            Row(
                seed="SSJF",
                name=name,
                setting=f"all settings of the publication, {what}",
                unit=unit,
                theirs=theirs,
                kind="paper",
                reproduced=columns[0][at[0]],
                corrected=columns[1][at[1]],
                ours=columns[2][at[2]],
                note=note + ("" if name == cut else "; corrected, ours: of the whole run"),
                details=of_requests(
                    "the settings that have the "
                    + f"{what}: {_where(reproduced)} / {_where(corrected)} / {_where(ours)}",
                    baseline_reproduced=reproduced.old["fcfs"].details,
                    reproduced=reproduced.old["ssjf5"].details,
                    baseline=corrected.new["fcfs"].details,
                    corrected=corrected.new["ssjf5"].details,
                    ours=ours.new["ours"].details,
                ),
            )
        )
    return found


def _where(setting: _Setting) -> str:
    return f"{setting.batching}, {setting.kind}"


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
    where = f"{slots} slots" if slots > 1 else "1 slot"
    setting = f"steady Poisson load {load}, {where}, continuous, five-class predictor"
    common: dict[str, Any] = {
        "seed": "SSJF",
        "setting": setting,
        "kind": "third party",
        "note": "theirs, reproduced: shortest predicted first without aging, in two simulators; "
        "corrected: with their bound on waiting",
        "details": of_requests(
            f"steady load {load}, {where}",
            baseline=fcfs.details,
            reproduced=got["plain5"].details,
            corrected=got["ssjf5"].details,
            **{name: one.details for name, one in got.items() if name not in _IN_ROW},
        ),
    }
    return [
        Row(
            name="mean completion time, cut against FCFS",
            unit="%",
            theirs=cut,
            reproduced=_cut(fcfs.mean_s, got["plain5"].mean_s),
            corrected=_cut(fcfs.mean_s, got["ssjf5"].mean_s),
            ours=_cut(fcfs.mean_s, got["ours"].mean_s),
            tolerance=_STEADY_PP[recorded],
            **common,
        ),
        Row(
            name="p99 completion time, to FCFS",
            unit="x",
            theirs=round(tail, 2),
            reproduced=got["plain5"].p99_s / fcfs.p99_s,
            corrected=got["ssjf5"].p99_s / fcfs.p99_s,
            ours=got["ours"].p99_s / fcfs.p99_s,
            tolerance=_STEADY_P99,
            **common,
        ),
    ]


def _cut(fcfs: float, other: float) -> float:
    return 100 * (1 - other / fcfs)

"""The rows of SSJF; docs/research/reproductions.md explains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise_lab.reproductions.recorded_lengths import azure_ms, classified
from lengthwise_lab.reproductions.ssjf import sweeps
from lengthwise_lab.reproductions.ssjf.legacy import LegacyBatching
from lengthwise_lab.reproductions.ssjf.steady_load import cut_against, steady_rows
from lengthwise_lab.reproductions.ssjf.sweeps import SweepPoints
from lengthwise_lab.reproductions.table.row import Absent, TableRow, of_requests

_KINDS = ("poisson", "gamma", "trace")

#: The results of SSJF's code with its five-class predictions, for Poisson, gamma and the Azure
#: trace: by how much the mean completion time is less than that of FCFS, %, and the early
#: throughput over that of FCFS, where it was measured.
_PUBLISHED: tuple[tuple[str, LegacyBatching, tuple[float, ...], tuple[float, ...]], ...] = (
    ("no batching", LegacyBatching(size=1), (32.0, 28.0, 30.1), (3.05, 2.38, 1.36)),
    ("static, 2", LegacyBatching(size=2), (36.3, 35.4, 47.1), (2.54, 2.40, 1.33)),
    ("static, 2, FCFS not idling", LegacyBatching(size=2, wait_s=0), (36.6, 29.5, 29.5), ()),
    ("dynamic, 2", LegacyBatching(size=2, dynamic=True), (27.8, 30.5, 47.5), (2.35, 1.96, 1.11)),
    (
        "dynamic, 2, FCFS not idling",
        LegacyBatching(size=2, wait_s=0, dynamic=True),
        (28.2, 22, 17.8),
        (),
    ),
    ("dynamic, 8", LegacyBatching(size=8, dynamic=True), (49.4, 68.8, 76.2), ()),
    (
        "dynamic, 8, FCFS not idling",
        LegacyBatching(size=8, wait_s=0, dynamic=True),
        (13.5, 9.3, 0.5),
        (),
    ),
)

#: The throughput of the whole run over that of FCFS; None: not kept.
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

#: Tolerances with recorded data and without. With it the draws are the same, so one digit; without
#: it the lengths are substitutes.
_CUT_PP, _EARLY = {True: 0.15, False: 6.0}, {True: 0.015, False: 0.7}


def rows(data: Path | None) -> Sequence[TableRow]:
    """Return all of SSJF's rows; takes about half a minute."""
    answers, trace = classified(data), azure_ms(data)
    stand_in = "" if answers.recorded else "stand-in lengths"
    found: list[TableRow] = []
    in_publication: list[_SweepSetting] = []
    fixed: dict[tuple[int, bool], dict[str, SweepPoints]] = {}
    for batching, batches, cuts, early in _PUBLISHED:
        old = sweeps.legacy(answers, trace, batches)
        # Corrected, FCFS does not wait for a batch to fill: settings that differ in that are one.
        alike = (batches.size, batches.dynamic)
        if alike not in fixed:
            fixed[alike] = sweeps.corrected(answers, trace, batches)
        new = fixed[alike]
        settings = [
            _SweepSetting(batching, kind, old[kind], new[kind], stand_in) for kind in _KINDS
        ]
        found += [one.cut("ssjf5", cut) for one, cut in zip(settings, cuts, strict=True)]
        if not early:
            continue
        for one, times, whole in zip(settings, early, _WHOLE[batching], strict=True):
            found += [one.early(times), one.whole(whole)]
        for scheduler, others in _OTHERS[batching].items():
            for one, seconds in zip(settings, others, strict=True):
                at = _KINDS.index(one.kind)
                found.append(one.cut(scheduler, cut_against(_FCFS_S[batching][at], seconds)))
        in_publication += settings[:2]  # the settings of the publication; the trace came after it
    found = _abstract(in_publication) + found
    return found + steady_rows(answers)


@dataclass(frozen=True)
class _SweepSetting:
    """One way of batching and one kind of arrivals, by their rules and corrected."""

    batching: str
    kind: str
    old: SweepPoints
    new: SweepPoints
    stand_in: str

    def cut(self, scheduler: str, published: float) -> TableRow:
        """Make the row of the cut of the mean against FCFS."""
        return TableRow(
            system="SSJF",
            name="mean completion time, cut against FCFS",
            setting=f"{self.batching}, {self.kind}, {_SCHEDULERS[scheduler]}",
            unit="%",
            published=round(published, 1),
            kind="their code, run",
            reproduced=self.cut_by(self.old, scheduler),
            corrected=self.cut_by(self.new, scheduler),
            lengthwise=self.cut_by(self.new, "lengthwise"),
            tolerance=_CUT_PP[not self.stand_in],
            note=self.stand_in,
            details=self.details(scheduler),
        )

    def early(self, published: float) -> TableRow:
        """Make the row of their throughput, which counts the first quarter of the jobs."""
        return TableRow(
            system="SSJF",
            name="throughput at the first quarter of completions, to FCFS",
            setting=f"{self.batching}, {self.kind}, five-class predictor",
            unit="x",
            published=published,
            kind="their code, run",
            reproduced=self.early_by(self.old),
            corrected=self.whole_by(self.new, "ssjf5"),
            lengthwise=self.whole_by(self.new, "lengthwise"),
            tolerance=_EARLY[not self.stand_in],
            note="; ".join(
                filter(None, (self.stand_in, "corrected, lengthwise: of the whole run"))
            ),
            details=self.details("ssjf5"),
        )

    def whole(self, published: float | None) -> TableRow:
        """Make the row of the throughput of the whole run."""
        return TableRow(
            system="SSJF",
            name="throughput of the whole run, to FCFS",
            setting=f"{self.batching}, {self.kind}, five-class predictor",
            unit="x",
            published=published,
            kind="their code, run",
            reproduced=self.whole_by(self.old, "ssjf5"),
            corrected=self.whole_by(self.new, "ssjf5"),
            lengthwise=self.whole_by(self.new, "lengthwise"),
            tolerance=_EARLY[not self.stand_in],
            note="; ".join(
                filter(None, (self.stand_in, "gains by a lost last job" * (self.kind == "gamma")))
            ),
            absent={} if published is not None else {"published": Absent.NOT_PUBLISHED},
            details=self.details("ssjf5"),
        )

    def details(self, scheduler: str) -> dict[str, Any]:
        """Return the details of a row."""
        return of_requests(
            f"{self.batching}, {self.kind}",
            baseline_reproduced=self.old["fcfs"].details,
            reproduced=self.old[scheduler].details,
            baseline=self.new["fcfs"].details,
            corrected=self.new[scheduler].details,
            lengthwise=self.new["lengthwise"].details,
            oracle=self.new["oracle"].details,
        )

    @staticmethod
    def cut_by(sweep: SweepPoints, scheduler: str) -> float:
        """Return by how much a scheduler's mean is less than that of FCFS, %."""
        return cut_against(sweep["fcfs"].mean_s, sweep[scheduler].mean_s)

    @staticmethod
    def early_by(sweep: SweepPoints) -> float:
        """Return the throughput at the first quarter, five classes over FCFS, of a legacy sweep."""
        return (sweep["ssjf5"].early_per_s or 0.0) / (sweep["fcfs"].early_per_s or 1.0)

    @staticmethod
    def whole_by(sweep: SweepPoints, scheduler: str) -> float:
        """Return the throughput of the whole run over that of FCFS."""
        return sweep[scheduler].whole_per_s / sweep["fcfs"].whole_per_s


def _abstract(settings: Sequence[_SweepSetting]) -> list[TableRow]:
    """Make the rows of the abstract's ranges, from the six settings that could be run."""
    note = (
        "their plots show the regression predictor, whose predictions are not published: a check "
        "of consistency, with the five-class one"
    )
    cut, early = (
        "mean completion time, cut against FCFS",
        ("throughput at the first quarter of completions, to FCFS"),
    )
    found = []
    for what, pick, name, unit, published in (
        ("least", min, cut, "%", 30.5),
        ("most", max, cut, "%", 39.6),
        ("least", min, early, "x", 2.2),
        ("most", max, early, "x", 3.6),
    ):
        if name == cut:
            figures = [
                (_SweepSetting.cut_by(one.old, "ssjf5"), _SweepSetting.cut_by(one.new, "ssjf5"),
                 _SweepSetting.cut_by(one.new, "lengthwise"))
                for one in settings
            ]  # fmt: skip
        else:
            figures = [
                (_SweepSetting.early_by(one.old), _SweepSetting.whole_by(one.new, "ssjf5"),
                 _SweepSetting.whole_by(one.new, "lengthwise"))
                for one in settings
            ]  # fmt: skip
        columns = list(zip(*figures, strict=True))
        at = [column.index(pick(column)) for column in columns]
        reproduced, corrected, lengthwise = (settings[place] for place in at)
        found.append(
            TableRow(
                system="SSJF",
                name=name,
                setting=f"all settings of the publication, {what}",
                unit=unit,
                published=published,
                kind="paper",
                reproduced=columns[0][at[0]],
                corrected=columns[1][at[1]],
                lengthwise=columns[2][at[2]],
                note=note + ("" if name == cut else "; corrected, lengthwise: of the whole run"),
                details=of_requests(
                    "the settings that have the "
                    + f"{what}: {_where(reproduced)} / {_where(corrected)} / {_where(lengthwise)}",
                    baseline_reproduced=reproduced.old["fcfs"].details,
                    reproduced=reproduced.old["ssjf5"].details,
                    baseline=corrected.new["fcfs"].details,
                    corrected=corrected.new["ssjf5"].details,
                    lengthwise=lengthwise.new["lengthwise"].details,
                ),
            )
        )
    return found


def _where(setting: _SweepSetting) -> str:
    return f"{setting.batching}, {setting.kind}"
